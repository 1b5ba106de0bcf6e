"""The connections under `Http`: one TLS context, and no wait without a bound.

requests and urllib3 limit the time between two bytes, and nothing else: a server that sends a
byte a minute keeps a client for years. So a thread waits on its sockets with a `Patience`.
Importing this loads requests: do it late.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import InvalidHeader

if TYPE_CHECKING:
    import requests
    from urllib3 import HTTPResponse

# As many connections to one host as a survey has threads, and some.
_POOL = 16

_turn = threading.local()


class Patience:
    """The seconds that may still be waited for bytes.

    Each byte that comes gives `per_byte` seconds back, up to what there was at first: so a stream
    may last for hours, but not at a trickle. Time that passes between two reads does not count.
    """

    def __init__(self, seconds: float, per_byte: float = 0.0) -> None:
        self._most = self.left = seconds
        self._per_byte = per_byte

    def spend(self, seconds: float, received: int) -> None:
        """Take off the seconds that were waited, and give back for the bytes that came."""
        self.left = min(self._most, self.left - seconds + received * self._per_byte)


@contextmanager
def waiting(patience: Patience) -> Iterator[None]:
    """Within this, the thread waits for bytes with this patience; then comes a TimeoutError."""
    before = getattr(_turn, "patience", None)
    _turn.patience = patience
    try:
        yield
    finally:
        _turn.patience = before


class _Bounded(socket.socket):
    def recv_into(self, *args: Any) -> int:
        """See `socket.socket`."""
        patience: Patience | None = getattr(_turn, "patience", None)
        if patience is None:
            return super().recv_into(*args)
        usual = self.gettimeout()
        # 0 would mean not to wait at all, and raises another error.
        least = max(patience.left, 0.001)
        self.settimeout(least if usual is None else min(usual, least))
        start, received = time.monotonic(), 0
        try:
            received = super().recv_into(*args)
        finally:
            patience.spend(time.monotonic() - start, received)
            self.settimeout(usual)
        return received


class _BoundedTls(_Bounded, ssl.SSLSocket):
    pass


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        # Before TLS: a proxy's answer to CONNECT comes earlier.
        return _bounded(super()._new_conn())

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        """See `HTTPConnection`. urllib3 forgets a response whose Content-Length it refuses: its
        socket would be open until Python looks for cycles.
        """
        made: list[http.client.HTTPResponse] = []

        def make(*args: Any, **options: Any) -> http.client.HTTPResponse:
            made.append(http.client.HTTPResponse(*args, **options))
            return made[-1]

        self.response_class = make  # type: ignore[assignment]
        try:
            return super().getresponse()
        except InvalidHeader:
            made[-1].close()
            raise


class _Tls(_Plain, HTTPSConnection):
    pass


def _bounded(sock: socket.socket) -> _Bounded:
    usual = sock.gettimeout()
    bounded = _Bounded(fileno=sock.detach())
    bounded.settimeout(usual)
    return bounded


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


_POOLS = {"http": _PlainPool, "https": _TlsPool}


class Adapter(HTTPAdapter):
    """Bounded connections; every server is verified by one context, which the first TLS connection
    asks for, and by nothing else that requests would add.
    """

    def __init__(self, trust: Callable[[], ssl.SSLContext]) -> None:
        self._trust = trust
        super().__init__(pool_maxsize=_POOL)

    def _context(self) -> ssl.SSLContext:
        context = self._trust()
        context.sslsocket_class = _BoundedTls
        return context

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        manager = super().proxy_manager_for(proxy, **options, ssl_context=self._context())
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: bool | str, cert: Any = None
    ) -> Any:
        """See `HTTPAdapter`. `verify` may be a bundle from the environment: the context has it."""
        del verify
        host, pool = super().build_connection_pool_key_attributes(request, True, cert)
        if host["scheme"] == "https":
            pool["ssl_context"] = self._context()
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """See `HTTPAdapter`."""
        del url, verify, cert
        conn.cert_reqs = "CERT_REQUIRED"
