"""A blob's bytes as they come from a registry, through connections that break."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from patcher.oci.model import Descriptor, broken
from patcher.web.faults import Fault

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from patcher.registry.session import Calls
    from patcher.web.http import Opened

_Result = TypeVar("_Result")

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)")

# A layer of 9 GB over a bad line may take some. A server that cuts every answer short must end.
_MOST_CONNECTIONS = 50


class BlobStream(io.RawIOBase):
    """A blob from byte `start` on. Where the connection breaks, the rest is asked for by Range.

    Raises `BrokenImage` where the server's lengths contradict the descriptor, and what `Calls`
    raises. The digest is not judged here: see `Verified`.
    """

    def __init__(self, calls: Calls, descriptor: Descriptor, start: int = 0) -> None:
        super().__init__()
        self._calls = calls
        self._descriptor = descriptor
        self._place = start
        self._connections = 0
        # Python closes what was half made, too.
        self._opened: Opened | None = None
        # A blob that is not there must be known before its first byte is asked for.
        self._opened = self._persist(self._connect)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(len(view)) if len(view) else b""
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        self._drop()
        super().close()

    def _next(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        if self._place >= self._descriptor.size:
            return b""
        return self._persist(lambda: self._read(size))

    def _persist(self, once: Callable[[], _Result]) -> _Result:
        return self._calls.http.persist(self._calls.root, once)

    def _read(self, size: int) -> bytes:
        """Some bytes, from a new connection where the last one broke. Raises `Fault`."""
        if self._opened is None:
            self._opened = self._connect()
        try:
            data = self._opened.read(size)
        except Fault:
            self._drop()
            raise
        if not data:
            self._drop()
            raise Fault(f"{self._descriptor.digest} ended after {self._place} bytes")
        return data

    def _connect(self) -> Opened:
        """A connection that goes on at the present place."""
        self._connections += 1
        if self._connections > _MOST_CONNECTIONS:
            raise self._calls.failure(f"{self._descriptor.digest} broke off too often")
        headers = {"Range": f"bytes={self._place}-"} if self._place else {}
        good = {200, 206} if self._place else {200}
        opened = self._calls.open_once(f"/blobs/{self._descriptor.digest}", good, headers)
        try:
            self._align(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    def _align(self, opened: Opened) -> None:
        """Check the lengths that are stated, and pass over what a server sends from the start."""
        whole, digest = self._descriptor.size, self._descriptor.digest
        first = 0 if opened.status == 200 else self._place
        match = _CONTENT_RANGE.match(opened.headers.get("Content-Range", ""))
        if opened.status == 206 and (match is None or int(match[1]) != first):
            raise broken(f"{digest}: the registry sent another part than was asked for")
        stated = opened.headers.get("Content-Length", "")
        if stated.isdecimal() and int(stated) != whole - first:
            raise broken(f"{digest}: the registry states {stated} bytes, not {whole - first}")
        while first < self._place:
            passed = len(opened.read(min(self._place - first, 1 << 20)))
            if not passed:
                raise Fault(f"{digest} ended after {first} bytes")
            first += passed

    def _drop(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None
