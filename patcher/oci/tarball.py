"""A layer's blob read as a tar: forward only, in bounded memory, whatever it is compressed with."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import tarfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from patcher.errors import Unreadable
from patcher.oci.model import broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from patcher.oci.blobs import Verified

# No Python source, tar header or pax record comes near it.
_MOST_BYTES = 16 * 1024 * 1024

# Real layers shrink by 2 to 4 times. gzip can reach 1,032: a bomb, not a layer.
_MOST_RATIO = 200
_FREE_BYTES = 256 * 1024 * 1024

_ZSTD = ("compression.zstd", "backports.zstd")


class TarStream:
    """Forward over a layer's tar. tarfile reads through this as through a file."""

    def __init__(self, blob: Verified) -> None:
        self._blob = blob
        self._plain = decompressed(blob)
        self._position = 0
        self._last = b""

    def headers(self) -> Iterator[tarfile.TarInfo]:
        """Each entry's header, in the tar's order. Raises `BrokenImage` and tarfile's errors."""
        tar = tarfile.TarFile(fileobj=self, mode="r")  # type: ignore[arg-type]
        while (header := tar.next()) is not None:
            # tarfile keeps every header for random access: 1 KB for each.
            tar.members.clear()  # type: ignore[attr-defined]
            yield header
        # tarfile takes a damaged header for the end; a tar ends with zeros.
        if self._last.strip(b"\0"):
            raise broken(f"a layer's tar has a damaged header before byte {self._position}")

    def content(self, header: tarfile.TarInfo) -> bytes:
        """The bytes of the file whose header was read last."""
        if header.sparse is not None:
            raise broken(f"{header.name!r} is a sparse file")
        self.seek(header.offset_data)
        data = self.read(header.size)
        if len(data) != header.size:
            raise broken(f"{header.name!r} ends early")
        return data

    def read(self, size: int) -> bytes:
        """As a file's. A pax record may claim any size, and tarfile would believe it."""
        if size > _MOST_BYTES:
            raise broken(f"a layer's tar has {size} bytes where a few are expected")
        self._last = self._plain.read(size)
        self._position += len(self._last)
        if self._position > _FREE_BYTES + _MOST_RATIO * self._blob.consumed:
            raise broken(f"a layer inflates to over {_MOST_RATIO} times its size")
        return self._last

    def seek(self, position: int) -> None:
        """As a file's, forward only."""
        if position < self._position:
            raise broken("a layer's tar has an entry of negative size")
        while self._position < position and self.read(min(position - self._position, 1 << 20)):
            pass

    def tell(self) -> int:
        """As a file's."""
        return self._position


def decompressed(blob: io.RawIOBase) -> BinaryIO:
    """The stream's tar. The first bytes tell the compression: media types are sometimes wrong."""
    buffered = io.BufferedReader(blob, 1 << 16)
    magic = buffered.peek(4)[:4]
    if magic.startswith(b"\x1f\x8b"):
        # GzipFile reads on through any number of members, as pigz and eStargz write them.
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if magic == b"\x28\xb5\x2f\xfd":
        stream: BinaryIO = _zstd().ZstdFile(buffered)
        return stream
    return buffered


def damage() -> tuple[type[Exception], ...]:
    """What the readers of a damaged or hostile tar raise: long chains of pax records and times
    without end among it.
    """
    known = (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError)
    zstd = [sys.modules[name].ZstdError for name in _ZSTD if name in sys.modules]
    return (*known, OverflowError, RecursionError, *zstd)


def _zstd() -> Any:
    for name in _ZSTD:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Unreadable(
        "a layer is compressed with zstd, which this Python cannot read",
        next_step="pip install backports.zstd, or use Python 3.14.",
    )
