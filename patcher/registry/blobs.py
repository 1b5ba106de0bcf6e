"""Blobs out of a registry and into it, through connections that break.

Up (distribution specification, "Pushing blobs"): one PUT takes the whole blob, which every
registry takes. Chunks are for the registry, or the proxy before it, that answers 413 to a long
body: registries agree on them the least. ghcr.io takes 4 MiB in one. A chunk that broke off is
sent again where the registry has kept what came before. docker-registry 2.8 does not go on with
an upload that was cut off (seen): then, and where the whole blob went in one, it begins again.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode, urlsplit

from patcher.oci.blobs import Verified
from patcher.oci.model import Descriptor, broken
from patcher.web.http import Fault

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from patcher.registry.session import Session
    from patcher.web.http import Answer

# What was written by us is there, though a registry may say 404 for some seconds (GHCR, Docker
# Hub, ACR). Seconds between the questions, 31 in all.
SETTLING = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)")

# A layer of 9 GB over a bad line may take some. A server that cuts every answer short must end.
_MOST_CONNECTIONS = 50

# A chunk is held in memory, so that it can be sent again.
_CHUNK = 4 << 20
_LONGEST_CHUNK = 256 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}

# What a registry says of an upload that it will not go on with.
_LOST = frozenset({400, 404, 416})
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")

# 413: too long a body. 416 is what ghcr.io says instead.
_TOO_LONG = frozenset({413, 416})


class BlobStream(io.RawIOBase):
    """A blob from byte `start` to `end`; where the connection breaks, the rest comes by Range.

    `written` tells that we have put it there ourselves. Raises `BrokenImage` where the server's
    lengths contradict the descriptor, and what `Session` raises. The digest is not judged here:
    see `Verified`.
    """

    def __init__(
        self,
        session: Session,
        descriptor: Descriptor,
        start: int,
        end: int,
        *,
        written: bool,
    ) -> None:
        super().__init__()
        self._session = session
        self._descriptor = descriptor
        self._place = start
        self._end = end
        self._written = written
        self._connections = 0
        # Python closes what was half made, too.
        self._opened: Answer | None = None
        # Whether the blob is there must be known before its first byte is asked for.
        pauses = SETTLING if written else None
        self._opened = session.http.persist(session.root, self._connect, pauses)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), self._end - self._place)
        if size <= 0:
            return 0
        data = self._session.http.persist(self._session.root, lambda: self._read(size))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        self._drop()
        super().close()

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

    def _connect(self) -> Answer:
        """A connection that goes on at the present place, its lengths checked."""
        self._connections += 1
        whole, digest = self._descriptor.size, self._descriptor.digest
        if self._connections > _MOST_CONNECTIONS:
            raise self._session.failure(f"{digest} broke off too often")
        is_part = self._place > 0 or self._end < whole
        last = self._end - 1 if self._end < whole else ""
        headers = {"Range": f"bytes={self._place}-{last}"} if is_part else {}
        good = {200, 206} if is_part else {200}
        url = f"{self._session.root}/blobs/{digest}"
        late = {404} if self._written else set()
        opened = self._session.send("GET", url, good | late, headers, stream=True)
        try:
            if opened.status == 404:
                raise Fault(f"{digest} was stored, and is not to be seen (HTTP 404)")
            first = 0 if opened.status == 200 else self._place
            match = _CONTENT_RANGE.match(opened.headers.get("Content-Range", ""))
            if opened.status == 206 and (match is None or int(match[1]) != first):
                raise broken(f"{digest}: the registry sent another part than was asked for")
            stated = opened.length
            length = (whole if opened.status == 200 else self._end) - first
            if stated not in (None, length):
                raise broken(f"{digest}: the registry states {stated} bytes, not {length}")
            # A server without ranges sends it from the start.
            while first < self._place:
                passed = len(opened.read(min(self._place - first, 1 << 20)))
                if not passed:
                    raise Fault(f"{digest} ended after {first} bytes")
                first += passed
        except BaseException:
            opened.close()
            raise
        return opened

    def _drop(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that the registry has opened: where its bytes go, and in what chunks at least.

    `least` is OCI-Chunk-Min-Length, in bytes; 0 where the registry states none.
    """

    place: str
    least: int = 0


def start_upload(session: Session) -> Upload:
    """Open an upload."""
    return opened_upload(session, session.ask("POST", "/blobs/uploads/", {202}))


def opened_upload(session: Session, answer: Answer) -> Upload:
    """The upload that a 202 has opened. Raises `RegistryFailed`."""
    place = session.place(answer)
    if place is None:
        raise session.failure("the registry names no place for an upload")
    stated = answer.headers.get("OCI-Chunk-Min-Length", "")
    least = int(stated) if stated.isdecimal() and len(stated) < 20 else 0
    if least > _LONGEST_CHUNK:
        raise session.failure(f"it wants chunks of {stated} bytes at least: too many to hold")
    session.uploads.add(place)
    return Upload(place, least)


@dataclass(slots=True)
class Sending:
    """One blob on its way. `attempt` is called until it returns; see `Http.persist`.

    `progress` is called with the bytes that went out, `there` says whether the blob has arrived.
    `upload` is one that is open already.
    """

    session: Session
    descriptor: Descriptor
    read_from: Callable[[int], BinaryIO]
    progress: Callable[[int], None]
    there: Callable[[], bool]
    upload: Upload | None = None
    in_chunks: bool = False
    sent: int = 0
    attempts: int = 0
    ended: threading.Event = field(init=False)

    def __post_init__(self) -> None:
        self.ended = self.session.ended

    def attempt(self) -> None:
        """Send the blob from its start. Raises `Fault` where it may work the next time.

        An upload that comes to nothing is cancelled, so that the registry need not keep it.
        """
        self.attempts += 1
        self.progress(-self.sent)
        self.sent = 0
        # The bytes may have arrived and only the response been lost.
        if self.attempts > 1 and self.there():
            return
        if self.ended.is_set():
            raise self.session.failure("the publication was ended")
        upload, self.upload = self.upload or start_upload(self.session), None
        places = [upload.place]
        try:
            with self.read_from(0) as raw:
                stream = Verified(raw, self.descriptor)
                if self.in_chunks:
                    self._send_chunks(stream, upload, places)
                else:
                    self._send_whole(stream, upload.place)
        except BaseException:
            self.session.cancel(places[-1])
            raise
        finally:
            self.session.uploads.discard(upload.place)

    def _send_whole(self, stream: Verified, place: str) -> None:
        body = _Body(stream, self.descriptor.size, self._count)
        good = {201, 204, 401, *_TOO_LONG}
        answer = self.session.send("PUT", self._closing(place), good, _OCTETS, body)
        answer.close()
        if answer.status == 401:
            raise Fault("the registry's token ended during an upload")
        if answer.status in _TOO_LONG:
            self.in_chunks = True
            said = f"a blob of {self.descriptor.size} bytes is too long for one request"
            raise Fault(f"{said} (HTTP {answer.status})")
        stream.finish()

    def _send_chunks(self, stream: Verified, upload: Upload, places: list[str]) -> None:
        size = max(_CHUNK, upload.least)
        while data := stream.read(size):
            if len(data) < upload.least and self.sent + len(data) == self.descriptor.size:
                # The last one may be shorter, and yet be refused as a chunk: it closes the upload.
                break
            chunk = _Chunk(self.session, places[-1], data, self.sent)
            there = self.session.http.persist(self.session.root, chunk.attempt)
            if there is None:
                raise Fault(f"an upload was lost after {self.sent} bytes")
            places.append(there)
            self._count(len(data))
        stream.finish()
        url = self._closing(places[-1])
        self.session.send("PUT", url, {201, 204}, _OCTETS, data or None).close()
        self._count(len(data))

    def _closing(self, place: str) -> str:
        glue = "&" if urlsplit(place).query else "?"
        return f"{place}{glue}{urlencode({'digest': self.descriptor.digest})}"

    def _count(self, step: int) -> None:
        self.sent += step
        self.progress(step)


@dataclass(slots=True)
class _Chunk:
    """A part of a blob on its way, `first` bytes from its start."""

    session: Session
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
            # The bytes may have arrived and only the response been lost.
            return self.place if kept == after else None
        headers = {**_OCTETS, "Content-Range": f"{self.first}-{after - 1}"}
        answer = self.session.send("PATCH", self.place, {202, 204} | _LOST, headers, self.data)
        answer.close()
        return None if answer.status in _LOST else self.session.place(answer) or self.place

    def _kept(self) -> int | None:
        """How many bytes the registry has of the upload; None where it knows nothing of it."""
        answer = self.session.send("GET", self.place, {200, 204} | _LOST)
        answer.close()
        last = _RANGE.fullmatch(answer.headers.get("Range", ""))
        if answer.status in _LOST or last is None:
            return None
        self.place = self.session.place(answer) or self.place
        # A registry that has received nothing answers `0-0`: an empty range cannot be expressed.
        return int(last[1]) + 1 if int(last[1]) else 0


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
