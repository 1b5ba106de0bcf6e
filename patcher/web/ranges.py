"""Parts of a file on a web server, by range requests (RFC 9110, section 14).

A wheel of vLLM has 250 to 500 MB; the file that is wanted has 20 KB. What the server answers is
checked: the range asked for, the file's size the same each time, every byte there.

A server that knows no ranges answers with the whole file. Up to 128 MiB of it are read into a
nameless temporary file, and hashed; a larger one is not read.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
import weakref
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from patcher.errors import Unreadable
from patcher.web.hops import check_hop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    from remotezip import PartialBuffer

# Seconds to connect, and seconds without a byte.
TIMEOUT = (10.0, 30.0)

# One part may have this many bytes. The largest that is needed is a central directory: 653 KB for
# vLLM 0.33.0, growing by 30 KB a release.
PART_LIMIT = 16 << 20

# The whole file, from a server without ranges. vLLM's wheels for CPUs and TPUs are below it; those
# with CUDA kernels, 230 to 510 MB, are not: 28 releases of them would be 9 GB.
WHOLE_LIMIT = 128 << 20

_ATTEMPTS = 3
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


class Ranges:
    """A remote file, read in parts. `bytes_read` and `size` are in bytes, bodies only.

    What was asked for at the file's end, or to be kept, is not asked for again. `origin` is the
    page that named the address, None for a person. `stated_size` and `sha256` (hex) are what that
    page says of the file: the size is always checked, the hash where the whole file is read.
    `pause` is the first wait between two attempts, in seconds; it doubles.
    """

    def __init__(
        self,
        url: str,
        session: requests.Session,
        *,
        origin: str | None = None,
        stated_size: int | None = None,
        sha256: str | None = None,
        pause: float = 0.5,
    ) -> None:
        check_hop(origin, url)
        self.url = url
        self.size: int | None = None
        self.bytes_read = 0
        self._session = session
        self._stated_size = stated_size
        self._sha256 = sha256
        self._pause = pause
        self._tail = b""
        self._kept = (0, b"")
        self._whole: IO[bytes] | None = None

    def fetch(self, span: tuple[int, int | None], stream: bool = False) -> PartialBuffer:  # noqa: ARG002
        """The bytes from `span[0]` to `span[1]`, both included; `(-n, None)` are the last n.

        This is the seam of remotezip's fetcher. A part never streams: it is bounded, and checked
        before it is handed out. Raises `Unreadable`.
        """
        import io

        from remotezip import PartialBuffer

        first, last = span
        if last is None:
            first, data = self._fetch_tail(-first)
        else:
            data = self._fetch_span(first, last)
        return PartialBuffer(io.BytesIO(data), first, len(data), False)

    def keep(self, first: int, last: int) -> None:
        """Fetch a span at once, of which parts will be asked for. It takes an earlier one's place.

        Raises `Unreadable`.
        """
        self._kept = (first, self._fetch_span(first, last))

    def _fetch_tail(self, length: int) -> tuple[int, bytes]:
        first, self._tail = self._ask(f"bytes=-{length}", None, length)
        if first + len(self._tail) != self.size:
            raise self._unreadable("the server sent another part than the file's end")
        return first, self._tail

    def _fetch_span(self, first: int, last: int) -> bytes:
        """A span; what the tail already holds of it does not cross the network again."""
        size = self.size or 0
        if not 0 <= first <= last < size:
            raise self._unreadable(f"a part outside its {size} bytes is wanted")
        tail_first = size - len(self._tail)
        for start, kept in (self._kept, (tail_first, self._tail)):
            if start <= first and last < start + len(kept):
                return kept[first - start : last + 1 - start]
        missing_last = min(last, tail_first - 1)
        if missing_last - first >= PART_LIMIT:
            raise self._unreadable(f"a part of more than {PART_LIMIT >> 20} MiB is wanted")
        _, data = self._ask(f"bytes={first}-{missing_last}", first, missing_last + 1 - first)
        return data + self._tail[: max(0, last + 1 - tail_first)]

    def _ask(self, header: str, first: int | None, length: int) -> tuple[int, bytes]:
        """One range from the server, tried again where the fault may pass."""
        import requests

        pauses = [self._pause * 2**attempt for attempt in range(_ATTEMPTS - 1)]
        while True:
            if self._whole is not None:
                return self._from_whole(self._whole, first, length)
            try:
                return self._ask_once(header, first, length)
            except requests.RequestException as error:
                if not pauses or not _may_pass(error):
                    raise self._unreadable(f"{type(error).__name__}: {error}") from error
            time.sleep(pauses.pop(0))

    def _ask_once(self, header: str, first: int | None, length: int) -> tuple[int, bytes]:
        headers = {"Range": header, "Accept-Encoding": "identity"}
        with self._session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            if response.status_code == 200:
                whole = self._spool(response)
                return self._from_whole(whole, first, length)
            start, size = self._checked_range(response, first, length)
            data = bytearray()
            for chunk in response.iter_content(1 << 16):
                self.bytes_read += len(chunk)
                data += chunk
                if len(data) > size:
                    break
        if len(data) != size:
            raise self._unreadable(f"{size} bytes were announced and {len(data)} or more came")
        return start, bytes(data)

    def _checked_range(
        self, response: requests.Response, first: int | None, length: int
    ) -> tuple[int, int]:
        """Where the answered part begins and how long it is, if it is what was asked for."""
        if response.status_code != 206:
            raise self._unreadable(
                f"the server does not answer range requests (HTTP {response.status_code})"
            )
        stated = response.headers.get("Content-Range", "")
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

    def _spool(self, response: requests.Response) -> IO[bytes]:
        """The whole file that the server sends, on disk, without a name."""
        stated = response.headers.get("Content-Length", "")
        if stated.isdecimal() and int(stated) > WHOLE_LIMIT:
            raise self._too_large()
        digest = hashlib.sha256()
        with self._disk():
            file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        weakref.finalize(self, file.close)
        for chunk in response.iter_content(1 << 16):
            self.bytes_read += len(chunk)
            digest.update(chunk)
            with self._disk():
                file.write(chunk)
            if file.tell() > WHOLE_LIMIT:
                raise self._too_large()
        with self._disk():
            file.flush()
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
            f"{self.url} cannot be read: {reason}",
            next_step="Check the network and the address, then try again.",
        )


def _may_pass(error: requests.RequestException) -> bool:
    """Whether a second attempt may succeed: a certificate or an address does not mend itself."""
    import requests

    if error.response is not None:
        return error.response.status_code in _TRY_AGAIN
    return not isinstance(
        error, (requests.exceptions.SSLError, requests.TooManyRedirects, ValueError)
    )
