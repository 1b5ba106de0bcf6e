"""HTTP as a registry needs it: bounded, patient where patience helps, secrets kept at home."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from patcher import __version__
from patcher.errors import RegistryFailed
from patcher.oci.reference import DEFAULT_REGISTRY
from patcher.web.addresses import host_of, is_loopback, origin
from patcher.web.faults import Fault, end_of, fault_of, faults, wanted_pause
from patcher.web.keyring import Keyring

if TYPE_CHECKING:
    from pathlib import Path

    import requests

_Result = TypeVar("_Result")

# Seconds to connect, and seconds without a byte. To close an upload, a registry may first have
# to copy some GB from one place of its storage to another.
_CONNECT = 10.0
_SILENCE = 60.0
_SILENCE_AFTER_UPLOAD = 600.0

# The waits between attempts, in seconds, where the server asks for none.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_LONG_PAUSE = 4.0

# Docker Hub answers under another name than the one that its images bear.
_DOCKER_HUB = "https://registry-1.docker.io"

_MOST_HOPS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

# The distribution specification asks registries to take manifests of 4 MiB at least.
_MOST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How to reach registries.

    `ca_file` is a PEM file of certificates to trust besides the usual ones. `plain_http` are the
    hosts (`host` or `host:port`) to speak to without TLS; loopback needs no asking.
    """

    ca_file: Path | None = None
    plain_http: frozenset[str] = frozenset()


class Body(Protocol):
    """A stream to send, of known length."""

    def __len__(self) -> int:
        """The bytes in all."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `authorization` goes to this host alone, whatever it redirects to."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: bytes | Body | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


class Opened:
    """A response whose body is a stream; it is the caller's to close."""

    def __init__(self, response: requests.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    def read(self, size: int) -> bytes:
        """The next bytes as they were sent; none at the end. Raises `Fault`."""
        with faults():
            data: bytes = self._response.raw.read(size)
        return data

    def close(self) -> None:
        """Give the connection back, or cut it off."""
        self._response.close()


class Http:
    """One session for all registries of a run: connections and credentials are shared.

    `wait` sleeps for seconds between two attempts; `say` is told where a person would wonder.
    """

    def __init__(
        self,
        settings: HttpSettings | None = None,
        wait: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings = settings or HttpSettings()
        self.keyring = Keyring()
        self._wait = wait
        self._say = say
        self._said: set[str] = set()
        self._bases: dict[str, str] = {}
        self._trust, self._session = _open_session(self.settings)

    def base(self, registry: str) -> str:
        """The address of a registry's API, without a slash at its end."""
        if registry not in self._bases:
            self._bases[registry] = self._find_base(registry)
        return self._bases[registry]

    def ask(self, request: Request) -> Answer:
        """The whole, small answer, whatever its status; `persist` tries again.

        Raises `RegistryFailed`.
        """
        return self.persist(request.url, lambda: self.ask_once(request))

    def open_once(self, request: Request) -> Opened:
        """As `ask_once`, for an answer that is a stream."""
        return Opened(self._exchange(request))

    def ask_once(self, request: Request) -> Answer:
        """As `ask`, in one attempt. Raises `Fault` for one that failed."""
        with self._exchange(request) as response, faults():
            body = response.raw.read(_MOST_BYTES + 1, decode_content=True)
        if len(body) > _MOST_BYTES:
            raise self.failure(request.url, f"its answer has over {_MOST_BYTES} bytes")
        return Answer(response.status_code, response.headers, body)

    def persist(self, url: str, once: Callable[[], _Result]) -> _Result:
        """Do something with the host of `url` until it works, or until more makes no sense.

        What broke, 429 and passing server errors are tried again, after the pause that the server
        asks for, if it is not too long. Raises `RegistryFailed` where `once` ends with a `Fault`.
        """
        pauses = list(_PAUSES)
        while True:
            try:
                return once()
            except Fault as fault:
                pause = wanted_pause(fault, pauses)
                if pause is None:
                    tries = 1 + len(_PAUSES)
                    raise end_of(fault, host_of(url), tries, self.keyring.hide) from None
                self._tell(f"{host_of(url)}: {self.keyring.hide(fault.reason)}", pause)
            self._wait(pause)

    def _tell(self, what: str, pause: float) -> None:
        """Once of each: several threads meet the same."""
        said = f"{what}; trying again in {pause:.0f} s"
        if pause >= _LONG_PAUSE and said not in self._said:
            self._said.add(said)
            self._say(said)

    def failure(self, url: str, reason: str) -> RegistryFailed:
        """The error of a host, with no secret in it."""
        return RegistryFailed(
            f"{host_of(url)}: {self.keyring.hide(reason)}",
            next_step="Check the name of the registry and the network, then try again.",
        )

    def _find_base(self, registry: str) -> str:
        if registry == DEFAULT_REGISTRY:
            return _DOCKER_HUB
        asked = {registry, urlsplit(f"//{registry}").hostname} & self.settings.plain_http
        plain = asked or (is_loopback(registry) and not self._speaks_tls(registry))
        return f"{'http' if plain else 'https'}://{registry}"

    def _speaks_tls(self, registry: str) -> bool:
        """Does it answer a TLS handshake? A certificate that is not trusted is an answer too."""
        address = urlsplit(f"https://{registry}")
        host = address.hostname or ""
        try:
            with socket.create_connection((host, address.port or 443), _CONNECT) as connection:
                self._trust.wrap_socket(connection, server_hostname=host).close()
        except ssl.SSLCertVerificationError:
            return True
        except OSError:
            return False
        return True

    def _exchange(self, request: Request) -> requests.Response:
        """One request, and where it is redirected to. Raises `Fault` for what may pass."""
        for _ in range(_MOST_HOPS):
            response = self._send(request)
            there = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or there is None:
                fault = fault_of(response)
                if fault is not None:
                    raise fault
                return response
            response.close()
            request = self._redirected(request, response.status_code, there)
        raise self.failure(request.url, "it redirects without end")

    def _send(self, request: Request) -> requests.Response:
        host = urlsplit(request.url).hostname or ""
        headers = dict(request.headers)
        if request.authorization:
            headers["Authorization"] = request.authorization
        uploading = _is_stream(request.body) or request.method == "PUT"
        # urllib3 holds the sending of a body to the limit for connecting, and a registry that
        # flushes to its storage may take nothing for half a minute.
        connect = _SILENCE if _is_stream(request.body) else _CONNECT
        with faults():
            return self._session.request(
                request.method,
                request.url,
                headers=headers,
                data=request.body,
                stream=True,
                allow_redirects=False,
                timeout=(connect, _SILENCE_AFTER_UPLOAD if uploading else _SILENCE),
                # As in Go: no proxy can reach this machine's own loopback.
                proxies={"no_proxy": host} if is_loopback(host) else None,
            )

    def _redirected(self, request: Request, status: int, there: str) -> Request:
        """The request that a redirect means (RFC 9110, section 15.4), no secret in it for others.

        Raises `RegistryFailed` where it would leave TLS, or lead from elsewhere to this machine.
        """
        url = urljoin(request.url, there)
        if status < 307 and request.method not in ("GET", "HEAD"):
            raise self.failure(request.url, f"it redirects a {request.method} (HTTP {status})")
        if _is_stream(request.body):
            raise self.failure(request.url, "it redirects an upload that has begun")
        if not self._may_follow(request.url, url):
            raise self.failure(request.url, f"it redirects to {host_of(url)}, which is not safe")
        same = origin(url) == origin(request.url)
        if request.body is not None and not same:
            # A token server's form holds a secret.
            raise self.failure(request.url, f"it redirects a {request.method} to {host_of(url)}")
        return replace(request, url=url, authorization=request.authorization if same else None)

    def may_send_to(self, url: str) -> bool:
        """May a secret go to this address: by TLS, to this machine, or where plain http was asked
        for?
        """
        parts = urlsplit(url)
        asked = {host_of(url), parts.hostname} & self.settings.plain_http
        return parts.scheme == "https" or (
            parts.scheme == "http" and (bool(asked) or is_loopback(host_of(url)))
        )

    def _may_follow(self, here: str, there: str) -> bool:
        """No redirect leaves TLS, or leads from elsewhere to this machine's own services."""
        inwards = is_loopback(host_of(there)) and not is_loopback(host_of(here))
        return self.may_send_to(there) and not inwards


def _open_session(settings: HttpSettings) -> tuple[ssl.SSLContext, requests.Session]:
    import requests

    from patcher.web.trust import TrustingAdapter, trusted

    trust = trusted(settings.ca_file)
    session = requests.Session()
    session.mount("https://", TrustingAdapter(trust))
    session.headers["User-Agent"] = f"vllm-patcher/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    # No cookies: Harbor takes a request that brings its own back for a browser's, and refuses it.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    # Else requests looks into ~/.netrc, and into addresses, for a password to send.
    session.auth = _no_auth
    return trust, session


def _is_stream(body: object) -> bool:
    return body is not None and not isinstance(body, bytes)


def _no_auth(request: Any) -> Any:
    return request
