"""Registries for the tests: more of the real one, and a proxy in front that counts and cuts."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a proxy does with a request: pass it on, lose it, or lose the registry's answer to it.
PASS, LOSE, LOSE_ANSWER = "pass", "lose", "lose answer"
Decide = Callable[[int, str, str], str]

_WAIT = 30
_session = requests.Session()
_session.trust_env = False  # to look for a proxy and a login takes a fifth of a request
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


class Proxy:
    """A proxy in front of a registry. `seen` are its requests; `decide` says what becomes of each.

    `edit` may alter the chunks of an answer's body; `refuse_mounts` makes a mount the start of an
    upload, as registries answer that cannot mount.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.seen: list[str] = []
        self.sent = self.received = 0
        self.refuse_mounts = False
        # Tags, as `/manifests/TAG`, that may not be set.
        self.immutable: tuple[str, ...] = ()
        self.decide: Decide = lambda *_: PASS
        self.edit: Callable[[str, bytes], bytes] = lambda _, chunk: chunk
        self.lock = threading.Lock()
        self.address = ""

    def forget(self) -> None:
        """Count from nothing again; what an earlier request is still sent counts no more."""
        with self.lock:
            self.seen, self.sent, self.received = [], 0, 0

    def methods(self, *wanted: str) -> list[str]:
        """The requests with one of these methods."""
        return [seen for seen in self.seen if seen.split()[0] in wanted]


@contextmanager
def proxy_of(upstream: str) -> Iterator[Proxy]:
    """A proxy that listens on a loopback port of its own (`address`)."""
    proxy = Proxy(upstream)

    class Handler(_Handler):
        front = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else each answer waits 40 ms for the other side to acknowledge its headers.
    disable_nagle_algorithm = True
    front: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(self.front.upstream, timeout=_WAIT)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def relay(self) -> None:
        with self.front.lock:
            self.counted = self.front.seen
            self.counted.append(f"{self.command} {self.path}")
            number = len(self.counted)
        fate = self.front.decide(number, self.command, self.path)
        if fate == LOSE:
            self._hang_up()
            return
        body = self._body()
        with self.front.lock:
            self.front.sent += len(body)
        if self.command == "PUT" and self.path.endswith(self.front.immutable):
            self._refuse()
            return
        path = self.path
        if self.front.refuse_mounts and self.command == "POST":
            path = path.partition("?")[0]
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        headers["Content-Length"] = str(len(body))
        self.upstream.request(self.command, path, body, headers)
        answer = self.upstream.getresponse()
        if fate == LOSE_ANSWER:
            answer.read()
            self._hang_up()
            return
        self._pass_on(answer)

    def _refuse(self) -> None:
        said = b'{"errors": [{"code": "TAG_INVALID", "message": "the tag is immutable"}]}'
        self.send_response_only(409)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _pass_on(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        while chunk := answer.read(1 << 16):
            edited = self.front.edit(self.path, chunk)
            # Counted before it is sent: the client can go on before this thread's next turn.
            with self.front.lock:
                if self.counted is self.front.seen:
                    self.front.received += len(edited)
            self.wfile.write(edited)
            if len(edited) < len(chunk):
                # Less than was promised: nothing more can come right on this connection.
                self._hang_up()
                return

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


for _method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.relay)


def upload(host: str, repository: str, blobs: dict[str, bytes], root: dict[str, Any]) -> None:
    """Push what `root` (a descriptor) leads to, with nothing of the program under test."""
    document = json.loads(blobs[root["digest"]])
    for child in document.get("manifests", ()):
        upload(host, repository, blobs, child)
    for leaf in [document.get("config"), *document.get("layers", ())]:
        if leaf:
            _upload_blob(host, repository, leaf["digest"], blobs[leaf["digest"]])
    put_manifest(host, repository, root["digest"], root["mediaType"], blobs[root["digest"]])


def _upload_blob(host: str, repository: str, digest: str, data: bytes) -> None:
    begun = _session.post(f"http://{host}/v2/{repository}/blobs/uploads/", timeout=_WAIT)
    begun.raise_for_status()
    done = _session.put(
        begun.headers["Location"], params={"digest": digest}, data=data, timeout=_WAIT
    )
    done.raise_for_status()


def put_manifest(host: str, repository: str, name: str, media_type: str, data: bytes) -> None:
    answer = _session.put(
        f"http://{host}/v2/{repository}/manifests/{name}",
        data=data,
        headers={"Content-Type": media_type},
        timeout=_WAIT,
    )
    assert answer.ok, answer.text


def fetch(host: str, repository: str, kind: str, name: str) -> bytes | None:
    """A blob's or manifest's bytes, None where it is not there."""
    accept = ", ".join(
        f"application/vnd.{family}+json"
        for family in (
            "oci.image.index.v1",
            "oci.image.manifest.v1",
            "docker.distribution.manifest.list.v2",
            "docker.distribution.manifest.v2",
        )
    )
    answer = _session.get(
        f"http://{host}/v2/{repository}/{kind}/{name}", headers={"Accept": accept}, timeout=_WAIT
    )
    if answer.status_code == 404:
        return None
    answer.raise_for_status()
    return answer.content
