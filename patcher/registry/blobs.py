"""A blob's way into a registry (distribution specification, "Pushing blobs").

One PUT takes the whole blob, which every registry takes. Chunks are for the registry, or the
proxy before it, that answers 413 to a long body: registries agree on them the least. ghcr.io
takes 4 MiB in one. A chunk that broke off is sent again where the registry has kept what came
before. docker-registry 2.8 does not go on with an upload that was cut off (seen): then, and where
the whole blob went in one, it begins again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode, urlsplit

from patcher.oci.blobs import Verified
from patcher.oci.model import Descriptor, broken
from patcher.web.faults import Fault

if TYPE_CHECKING:
    from patcher.registry.session import Calls
    from patcher.web.http import Answer

_CHUNK = 4 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}

# What a registry says of an upload that it will not go on with.
_LOST = frozenset({400, 404, 416})
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")

# 413: too long a body. 416 is what ghcr.io says instead.
_TOO_LONG = frozenset({413, 416})


def start_upload(calls: Calls) -> str:
    """Open an upload; gives the address where it goes on."""
    return place_of(calls, calls.ask("POST", "/blobs/uploads/", {202}), calls.root)


def place_of(calls: Calls, answer: Answer, url: str) -> str:
    """Where an upload goes on."""
    place = calls.place(answer, url)
    if place is None:
        raise calls.failure("the registry names no place for an upload")
    return place


@dataclass(slots=True)
class Sending:
    """One blob on its way. `attempt` is called until it returns; see `Http.persist`.

    `place` is an upload that is already open. `progress` is told the bytes that went out.
    """

    calls: Calls
    descriptor: Descriptor
    read_from: Callable[[int], BinaryIO]
    progress: Callable[[int], None]
    there: Callable[[], bool]
    place: str | None = None
    in_chunks: bool = False
    sent: int = 0
    attempts: int = 0

    def attempt(self) -> None:
        """Send the blob from its start. Raises `Fault` where it may work the next time."""
        self.attempts += 1
        self.progress(-self.sent)
        self.sent = 0
        # The last answer may have been lost, and not the bytes.
        if self.attempts > 1 and self.there():
            return
        place = self.place or start_upload(self.calls)
        self.place = None
        with self.read_from(0) as raw:
            stream = Verified(raw, self.descriptor)
            if self.in_chunks:
                self._send_chunks(stream, place)
            else:
                self._send_whole(stream, place)

    def _send_whole(self, stream: Verified, place: str) -> None:
        body = _Body(stream, self.descriptor.size, self._count)
        good = {201, 204, 401, *_TOO_LONG}
        answer = self.calls.ask_once("PUT", self._closing(place), good, _OCTETS, body)
        if answer.status == 401:
            raise Fault("the registry's token ended during an upload")
        if answer.status in _TOO_LONG:
            self.in_chunks = True
            raise Fault(f"a blob of {self.descriptor.size} bytes is too long (HTTP 413)")
        stream.finish()

    def _send_chunks(self, stream: Verified, place: str) -> None:
        while data := stream.read(_CHUNK):
            chunk = _Chunk(self.calls, place, data, self.sent)
            there = self.calls.http.persist(self.calls.root, chunk.attempt)
            if there is None:
                raise Fault(f"an upload was lost after {self.sent} bytes")
            place = there
            self._count(len(data))
        stream.finish()
        self.calls.ask_once("PUT", self._closing(place), {201, 204}, _OCTETS)

    def _closing(self, place: str) -> str:
        glue = "&" if urlsplit(place).query else "?"
        return f"{place}{glue}{urlencode({'digest': self.descriptor.digest})}"

    def _count(self, step: int) -> None:
        self.sent += step
        self.progress(step)


@dataclass(slots=True)
class _Chunk:
    """A part of a blob on its way, `first` bytes from its start."""

    calls: Calls
    place: str
    data: bytes
    first: int
    again: bool = False

    def attempt(self) -> str | None:
        """Send it; gives the address of the next, None where the upload is lost. See `persist`."""
        after = self.first + len(self.data)
        kept = self._kept() if self.again else self.first
        self.again = True
        if kept != self.first:
            # The last answer may have been lost, and not the bytes.
            return self.place if kept == after else None
        headers = {**_OCTETS, "Content-Range": f"{self.first}-{after - 1}"}
        answer = self.calls.ask_once("PATCH", self.place, {202, 204} | _LOST, headers, self.data)
        return None if answer.status in _LOST else self._next(answer)

    def _kept(self) -> int | None:
        """How many bytes the registry has of the upload; None where it knows nothing of it."""
        answer = self.calls.ask_once("GET", self.place, {200, 204} | _LOST)
        last = _RANGE.fullmatch(answer.headers.get("Range", ""))
        if answer.status in _LOST or last is None:
            return None
        self.place = self._next(answer)
        # Of nothing, registries say 0-0: there is no way to say it.
        return int(last[1]) + 1 if int(last[1]) else 0

    def _next(self, answer: Answer) -> str:
        return self.calls.place(answer, self.place) or self.place


class _Body:
    """A stream as the body of a request. Its last bytes go out only if all of them are right."""

    def __init__(self, stream: Verified, size: int, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._left = size
        self._size = size
        self._count = count

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left:
            raise broken(f"a blob ended {self._left} bytes early")
        self._left -= len(data)
        if data and not self._left:
            self._stream.finish()
        self._count(len(data))
        return data
