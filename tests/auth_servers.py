"""Registries that want a login: the real one with htpasswd, or behind a token server, by TLS."""

from __future__ import annotations

import base64
import json
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.certificates import ISSUER, signed_token
from tests.conftest import real_registry
from tests.scripted import Reply, Seen, Server, serving

USER = "tester"
PASSPHRASE = "correct-horse"  # noqa: S105
IDENTITY = "identity-t0k3n-0123456789"

# bcrypt of PASSPHRASE, the only kind that docker-registry takes.
_HTPASSWD = f"{USER}:$2a$04$GR0mAZ6/0K63H.fwH0LbJuVAJl7S/gMPd2xajk19XDjuway7Lqi6u\n"


@contextmanager
def registry_with_login(root: Path, certificate: Path, auth: str) -> Iterator[str]:
    """`127.0.0.1:PORT` of docker-registry by TLS; `auth` is that section of its config."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "htpasswd").write_text(_HTPASSWD)
    folder = certificate.parent
    tls = f"{{certificate: {folder}/ca.pem, key: {folder}/key.pem}}"
    with real_registry(root, tls=tls, auth=auth) as address:
        yield address


def basic_auth(root: Path) -> str:
    """The config's section for names and passwords."""
    return f"{{htpasswd: {{realm: tests, path: {root}/htpasswd}}}}"


def token_auth(realm: str, service: str, folder: Path) -> str:
    """The config's section for tokens from `realm`."""
    inside = f"realm: '{realm}', service: '{service}', issuer: {ISSUER}"
    return f"{{token: {{{inside}, rootcertbundle: {folder}/ca.pem}}}}"


@dataclass
class TokenServer:
    """A token server, as the distribution project's documents have it.

    Anybody may pull from repositories that begin with `public/` or `library/`; who logs in may do
    all. `life` is that of a token in seconds.
    """

    folder: Path
    life: float = 300
    given: list[str] = field(default_factory=list)

    def answer(self, seen: Seen) -> Reply:
        """GET with or without basic authentication, or POST with a refresh token."""
        query = parse_qs(seen.body.decode() if seen.method == "POST" else urlsplit(seen.path).query)
        if seen.method == "POST":
            known = query["refresh_token"] == [IDENTITY]
            scopes = query["scope"][0].split()
        else:
            known = seen.headers.get("authorization") == _basic()
            scopes = query.get("scope", [])
        if not known and (seen.method == "POST" or "authorization" in seen.headers):
            said = {"errors": [{"code": "UNAUTHORIZED", "message": f"bad login {seen.headers}"}]}
            return Reply(401, body=json.dumps(said).encode())
        token = signed_token(self.folder, query["service"][0], _grants(scopes, known), self.life)
        self.given.append(token)
        key = "access_token" if seen.method == "POST" else "token"
        return Reply(body=json.dumps({key: token, "expires_in": self.life}).encode())


def _basic() -> str:
    return "Basic " + base64.b64encode(f"{USER}:{PASSPHRASE}".encode()).decode()


def _grants(scopes: list[str], known: bool) -> list[dict[str, object]]:
    grants: list[dict[str, object]] = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        public = name.startswith(("public/", "library/"))
        granted = actions.split(",") if known else ["pull"] if public else []
        grants.append({"type": kind, "name": name, "actions": granted})
    return grants


@contextmanager
def token_server(certificate: Path) -> Iterator[tuple[TokenServer, Server]]:
    """A token server by TLS; what it was asked is in `seen` of the second."""
    tokens = TokenServer(certificate.parent)
    with serving(tokens.answer, certificate) as server:
        yield tokens, server


@contextmanager
def tunnels(places: dict[str, str]) -> Iterator[None]:
    """The environment's proxy leads CONNECT to `host:443` to loopback, and nowhere else."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            target = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            if target not in places:
                return
            host, port = places[target].split(":")
            with suppress(OSError), socket.create_connection((host, int(port))) as there:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                _relay(self.connection, there)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            for name in ("HTTPS_PROXY", "https_proxy"):
                patched.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
            for name in ("NO_PROXY", "no_proxy"):
                patched.delenv(name, raising=False)
            yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _relay(one: socket.socket, other: socket.socket) -> None:
    pairs = {one: other, other: one}
    while True:
        for ready in select.select(list(pairs), [], [])[0]:
            data = ready.recv(1 << 16)
            if not data:
                return
            pairs[ready].sendall(data)


def docker_config(folder: Path, registry: str, **entry: str) -> None:
    """Write docker's config.json with one entry: `auth` of USER, or what is given."""
    login = {"auth": base64.b64encode(f"{USER}:{PASSPHRASE}".encode()).decode()}
    folder.mkdir(parents=True, exist_ok=True)
    config = {"auths": {registry: entry or login}}
    (folder / "config.json").write_text(json.dumps(config))
