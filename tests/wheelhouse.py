"""A package index of our own on loopback: wheels, pages, ranges, faults."""

from __future__ import annotations

import base64
import hashlib
import html
import http.server
import io
import json
import re
import ssl
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from tests.conftest import TARGET

NEEDED = b"def f(self):\n    return self.kv_b_proj.weight.dtype\n"
CLEAN = b"def f(self):\n    return 1\n"


def wheel(version: str, files: Mapping[str, bytes], *, lies: str = "") -> bytes:
    """A wheel of vLLM with these files; RECORD lies about the one that is named."""
    info = f"vllm-{version}.dist-info"
    rows = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for path, data in files.items():
            out.writestr(path, data)
            stated = hashlib.sha256(data + b"!" * (path == lies)).digest()
            digest = base64.urlsafe_b64encode(stated).decode().rstrip("=")
            rows.append(f"{path},sha256={digest},{len(data)}\n")
        out.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")
    return buffer.getvalue()


def name_of(version: str) -> str:
    """The wheel's file name."""
    return f"vllm-{version}-cp38-abi3-manylinux_2_28_x86_64.whl"


@dataclass
class Site:
    """A web site: what lies at each path, which paths know no ranges, and what was asked for.

    A redirect is a string; bytes are a file. Paths are as they are sent, still encoded.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    rangeless: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)

    def put_json(self, entries: list[dict[str, object]], path: str = "/simple/vllm/") -> None:
        """A project page by PEP 691."""
        page = {"meta": {"api-version": "1.1"}, "name": "vllm", "files": entries}
        self.files[path] = json.dumps(page).encode()
        self.types[path] = "application/vnd.pypi.simple.v1+json"

    def put_html(self, links: Mapping[str, str], path: str) -> None:
        """A project page by PEP 503, of texts and their addresses."""
        items = "".join(
            f'<a href="{html.escape(url)}">{html.escape(text)}</a><br/>\n'
            for text, url in links.items()
        )
        self.files[path] = f"<!DOCTYPE html><html><body>\n{items}</body></html>".encode()
        self.types[path] = "text/html"

    def put_wheel(
        self, version: str, content: bytes | None = CLEAN, **said: object
    ) -> dict[str, object]:
        """A wheel whose target holds `content`; what the index's page says of it."""
        files = {"vllm/__init__.py": b""} | ({} if content is None else {TARGET: content})
        return self.put_bytes(version, wheel(version, files), **said)

    def put_bytes(self, version: str, data: bytes, **said: object) -> dict[str, object]:
        """Bytes in a wheel's place."""
        name = name_of(version)
        self.files[f"/files/{quote(name)}"] = data
        return {
            "filename": name,
            "url": f"../../files/{quote(name)}",
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
            "size": len(data),
            **said,
        }

    def put_nightly(self, commit: str, version: str, content: bytes) -> None:
        """One commit's wheel and index, as vLLM publishes them: no digests, `+` encoded."""
        name = name_of(version)
        self.files[f"/{commit}/{quote(name)}"] = wheel(version, {TARGET: content})
        self.put_html({name: f"../../{commit}/{quote(name)}"}, f"/{commit}/vllm/")


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(self.path)
        found = site.files.get(self.path)
        if self.path in site.silent:
            site.reached.set()
            self.rfile.read()  # until the client goes away
        elif isinstance(found, str):
            self.send_response(302)
            self.send_header("Location", found)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif found is None:
            self.send_error(404)
        else:
            self._send(found)

    def _send(self, data: bytes) -> None:
        size = len(data)
        span = re.fullmatch(r"bytes=(\d*)-(\d+)", self.headers.get("Range", ""))
        if span and self.path not in self.site.rangeless:
            first = int(span[1]) if span[1] else max(0, size - int(span[2]))
            last = int(span[2]) if span[1] else size - 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Type", self.site.types.get(self.path, "binary/octet-stream"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(site: Site, certificate: Path | None = None) -> Iterator[str]:
    """The site's address, while it is served; by TLS with a file of key and certificate."""
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def wheels_asked(site: Site) -> set[str]:
    """The file names of the wheels of which anything was asked for."""
    names = (unquote(path).rpartition("/")[2] for path in site.asked)
    return {name for name in names if name.endswith(".whl")}
