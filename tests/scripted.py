"""A web server that answers as a test tells it to: for the faults that no real registry shows."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer. `sent` is what goes out of `body` before the connection is cut; None: all.

    Content-Length is the body's, unless `headers` say something else; None leaves it out.
    """

    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None


# Nothing is answered at all.
HANG_UP = Reply(0)

Script = Callable[[Seen], Reply]


class Server:
    """What came, and where to ask."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.host = ""
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"


@contextmanager
def serving(
    script: Script, certificate: Path | None = None, clients: Path | None = None
) -> Iterator[Server]:
    """A server on a loopback port; with TLS where a file of key and certificate is given.

    `clients` is the authority of the certificates that it then wants from whoever asks.
    """
    state = Server(script)

    class Handler(_Handler):
        server_state = state

    server = _Quiet(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        # The handshake is each thread's own: a client that refuses it must not end the server.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        state.scheme = "https"
    state.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(*replies: Reply) -> Script:
    """These answers one after the other; the last one from then on."""
    left = chain(replies, repeat(replies[-1]))
    return lambda _: next(left)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A handshake that a client breaks off is what a test wanted."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server_state: Server

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        self.server_state.seen.append(seen)
        reply = self.server_state.script(seen)
        with contextlib.suppress(OSError):
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.close_connection = reply.sent is not None or reply is HANG_UP
        if reply is HANG_UP:
            return
        self.send_response(reply.status)
        stated: dict[str, str | None] = {"Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in stated.items():
            if value is not None:
                self.send_header(name, value)
        if stated["Content-Length"] is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: reply.sent])


for _method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.answer)
