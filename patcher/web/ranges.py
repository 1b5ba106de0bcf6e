"""Parts of a file on a web server, by range requests (RFC 9110, section 14).

A wheel of vLLM has 250 to 500 MB; the file that is wanted has 20 KB. remotezip asks for the parts,
by `fetch`. Its own fetcher is not used: for the target and the folder of models of vLLM 0.23.0 it
makes 305 requests where this makes 3 (27 s and 0.9 s), it takes 1.47 MB of 0.33.0 where this takes
0.94 MB, for what the end of the file holds is fetched again, and it reads nothing at all from a
server without ranges.

A server that knows no ranges answers with the whole file. Up to 128 MiB of it are read into a
nameless temporary file, and hashed; a larger one is not read.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import weakref
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from patcher.errors import RegistryFailed, Unreadable
from patcher.web.http import Fault, Request
from patcher.web.trust import host_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotezip import PartialBuffer

    from patcher.web.http import Answer, Http

# One part may have this many bytes. The largest that is needed is a central directory: 653 KB for
# vLLM 0.33.0, growing by 30 KB a release.
PART_LIMIT = 16 << 20

# The whole file, from a server without ranges. vLLM's wheels for CPUs and TPUs are below it; those
# with CUDA kernels, 230 to 510 MB, are not: 28 releases of them would be 9 GB.
WHOLE_LIMIT = 128 << 20

_CHUNK = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


class Ranges:
    """A remote file, read in parts. `bytes_read` and `size` are in bytes, bodies only.

    What was asked for at the file's end, or to be kept, is not asked for again. `url` is one that
    `http` has checked. `stated_size` and `sha256` (hex) are what an index says of the file: the
    size is always checked, the hash where the whole file is read. Every method raises `Unreadable`.
    """

    def __init__(
        self, url: str, http: Http, *, stated_size: int | None = None, sha256: str | None = None
    ) -> None:
        self.url = url
        self.size: int | None = None
        self.bytes_read = 0
        self._http = http
        self._stated_size = stated_size
        self._sha256 = sha256
        # Where a part that is here begins, and its bytes: the file's end, and what is to be kept.
        self._tail = (0, b"")
        self._kept = (0, b"")
        self._whole: IO[bytes] | None = None

    def fetch(self, span: tuple[int, int | None], stream: bool = False) -> PartialBuffer:  # noqa: ARG002
        """The bytes from `span[0]` to `span[1]`, both included; `(-n, None)` are the last n.

        A part never streams: it is bounded, and checked before it is handed out.
        """
        import io

        from remotezip import PartialBuffer

        first, last = span
        if last is None:
            first, data = self._tail = self._ask(None, -first)
            if first + len(data) != self.size:
                raise self._unreadable("the server sent another part than the file's end")
        else:
            data = self._fetch_span(first, last)
        return PartialBuffer(io.BytesIO(data), first, len(data), False)

    def keep(self, first: int, last: int) -> None:
        """Fetch a span at once, parts of which will be asked for. It replaces an earlier one."""
        self._kept = (first, self._fetch_span(first, last))

    def _fetch_span(self, first: int, last: int) -> bytes:
        """A span; what the tail already holds of it does not cross the network again."""
        size = self.size or 0
        if not 0 <= first <= last < size:
            raise self._unreadable(f"a part outside its {size} bytes is wanted")
        for start, kept in (self._kept, self._tail):
            if start <= first and last < start + len(kept):
                return kept[first - start : last + 1 - start]
        tail_first, tail = self._tail
        missing_last = min(last, tail_first - 1)
        if missing_last - first >= PART_LIMIT:
            raise self._unreadable(f"a part of more than {PART_LIMIT >> 20} MiB is wanted")
        _, data = self._ask(first, missing_last + 1 - first)
        return data + tail[: max(0, last + 1 - tail_first)]

    def _ask(self, first: int | None, length: int) -> tuple[int, bytes]:
        """Where the part begins that the server sends, and its bytes; the file's end for None."""
        if self._whole is not None:
            return self._from_whole(self._whole, first, length)
        try:
            return self._http.persist(self.url, lambda: self._ask_once(first, length))
        except RegistryFailed as error:
            raise Unreadable(
                f"it cannot be read: {error.problem}", next_step=error.next_step
            ) from error

    def _ask_once(self, first: int | None, length: int) -> tuple[int, bytes]:
        span = f"-{length}" if first is None else f"{first}-{first + length - 1}"
        request = Request("GET", self.url, {"Range": f"bytes={span}"})
        answer = self._http.send(request, stream=True)
        try:
            if answer.status == 200:
                return self._from_whole(self._spool(answer), first, length)
            start, size = self._checked_range(answer, first, length)
            data = bytearray()
            while len(data) <= size and (chunk := answer.read(_CHUNK)):
                self.bytes_read += len(chunk)
                data += chunk
        finally:
            answer.close()
        if len(data) != size:
            raise self._unreadable(f"{size} bytes were announced and {len(data)} or more came")
        return start, bytes(data)

    def _checked_range(self, answer: Answer, first: int | None, length: int) -> tuple[int, int]:
        """Where the part begins and how long it is, if it is what was asked for."""
        if answer.status != 206:
            raise self._unreadable(f"the server answers HTTP {answer.status}")
        stated = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(stated)
        if match is None:
            raise self._unreadable(f"the server answered the range {stated!r}")
        start, last, total = (int(number) for number in match.groups())
        wanted = min(length, total) if first is None else length
        if last + 1 - start != wanted or last >= total or first not in (None, start):
            raise self._unreadable(f"the server answered another range: {stated!r}")
        self._check_size(total)
        return start, wanted

    def _check_size(self, total: int) -> None:
        for stated in (self.size, self._stated_size):
            if stated not in (None, total):
                raise self._unreadable(f"it has {total} bytes, and {stated} were stated before")
        self.size = total

    def _spool(self, answer: Answer) -> IO[bytes]:
        """The whole file that the server sends, on disk, without a name."""
        stated = answer.length or 0
        if stated > WHOLE_LIMIT:
            raise self._too_large()
        digest = hashlib.sha256()
        with self._disk():
            file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        weakref.finalize(self, file.close)
        while chunk := answer.read(_CHUNK):
            self.bytes_read += len(chunk)
            digest.update(chunk)
            with self._disk():
                file.write(chunk)
            if file.tell() > WHOLE_LIMIT:
                raise self._too_large()
        with self._disk():
            file.flush()
        if file.tell() < stated:
            raise Fault(f"the file ended after {file.tell()} bytes")
        self._check_size(file.tell())
        if self._sha256 not in (None, digest.hexdigest()):
            raise self._unreadable("its sha256 is not the one that the index states")
        self._whole = file
        return file

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unreadable(f"no room for it: {error.strerror}") from error

    def _from_whole(self, whole: IO[bytes], first: int | None, length: int) -> tuple[int, bytes]:
        start = max(0, (self.size or 0) - length) if first is None else first
        whole.seek(start)
        return start, whole.read(length)

    def _too_large(self) -> Unreadable:
        return self._unreadable(
            "the server does not answer range requests, and the whole file has more than "
            f"{WHOLE_LIMIT >> 20} MiB"
        )

    def _unreadable(self, reason: str) -> Unreadable:
        return Unreadable(
            f"it cannot be read from {host_of(self.url)}: {reason}",
            next_step="Check the address, or choose another version or index.",
        )
