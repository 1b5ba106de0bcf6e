"""A layer's blob read as a tar: forward only, in bounded memory, whatever it is compressed with."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import re
import sys
import tarfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from patcher.errors import Unreadable
from patcher.oci.model import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from patcher.oci.blobs import Verified

# No Python source comes near it.
_MOST_BYTES = 16 * 1024 * 1024

# No name and no attribute of a real file comes near it (PATH_MAX is 4 KiB).
_MOST_HEADER = 64 * 1024

# Real layers shrink by 2 to 4 times. gzip can reach 1,032: a bomb, not a layer.
_MOST_RATIO = 200
_FREE_BYTES = 256 * 1024 * 1024

_ZSTD = ("compression.zstd", "backports.zstd")


class TarStream:
    """Forward over a tar. tarfile reads through this as through a file.

    `plain` is the tar's bytes; `consumed` tells how many packed ones they came from, where that
    is to be watched.
    """

    def __init__(self, plain: BinaryIO, consumed: Callable[[], int] | None = None) -> None:
        self._plain = plain
        self._consumed = consumed
        self._position = 0
        self._last = b""
        self.ended = False
        """Was the tar's end seen, and not only the stream's?"""

    @classmethod
    def of_layer(cls, blob: Verified) -> TarStream:
        """The tar in a layer's blob, whatever it is compressed with."""
        return cls(decompressed(blob), lambda: blob.consumed)

    @property
    def packed(self) -> int:
        """How many packed bytes were read so far; 0 where that is not watched."""
        return self._consumed() if self._consumed else 0

    def headers(self) -> Iterator[tarfile.TarInfo]:
        """Each entry's header, in the tar's order. Raises `BrokenImage` and tarfile's errors."""
        tar = tarfile.TarFile(fileobj=self, mode="r", tarinfo=_Header)  # type: ignore[arg-type]
        while (header := tar.next()) is not None:
            # tarfile keeps every header for random access: 1 KB for each.
            tar.members.clear()  # type: ignore[attr-defined]
            yield header
        self.ended = bool(self._last)
        # tarfile takes a damaged header for the end; a tar ends with zeros.
        if self._last.strip(b"\0"):
            raise broken(f"a layer's tar has a damaged header before byte {self._position}")

    def content(self, header: tarfile.TarInfo, most: int | None = None) -> bytes:
        """The bytes of the file whose header was read last, or its first `most` bytes."""
        if header.sparse is not None:
            raise broken(f"{header.name!r} is a sparse file")
        size = header.size if most is None else min(most, header.size)
        if size > _MOST_BYTES:
            raise broken(f"{header.name!r} has {size} bytes, where a few are expected")
        self.seek(header.offset_data)
        data = self._take(size)
        if len(data) != size:
            raise broken(f"{header.name!r} ends early")
        return data

    def read(self, size: int) -> bytes:
        """As a file's: what tarfile takes for a header. Its size may claim anything."""
        if size > _MOST_HEADER:
            raise broken(f"a layer's tar has a header of {size} bytes, where a few are expected")
        self._last = self._take(size)
        return self._last

    def _take(self, size: int) -> bytes:
        data = self._plain.read(size)
        self._position += len(data)
        if self._consumed and self._position > _FREE_BYTES + _MOST_RATIO * self._consumed():
            raise broken(f"a layer inflates to over {_MOST_RATIO} times its size")
        return data

    def seek(self, position: int) -> None:
        """As a file's, forward only."""
        if position < self._position:
            raise broken("a layer's tar has an entry of negative size")
        while self._position < position:
            self._last = self._take(min(position - self._position, 1 << 20))
            if not self._last:
                break

    def tell(self) -> int:
        """As a file's."""
        return self._position


class _Header(tarfile.TarInfo):
    """An entry whose pax header (POSIX.1-2017, pax, "Extended Header") is read in linear time.

    tarfile's own reader searches it for digits (CVE-2024-6232): 100,000 of them took 10 s.
    `_proc_member` and what it calls may be overridden, as tarfile says.
    """

    def _proc_pax(self, tar: Any) -> tarfile.TarInfo:
        payload = tar.fileobj.read(_blocks(self.size))[: self.size]
        # A global header is for nobody: docker and containerd pass over it.
        records = {} if self.type == tarfile.XGLTYPE else _records(payload)
        try:
            following = self.fromtarfile(tar)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        following.name = records.get("GNU.sparse.name", records.get("path", following.name))
        following.linkname = records.get("linkpath", following.linkname)
        following.uid = int(records.get("uid", following.uid))
        following.gid = int(records.get("gid", following.gid))
        following.mtime = float(records.get("mtime", following.mtime))
        if any(key.startswith("GNU.sparse.") for key in records):
            following.sparse = following.sparse or b""
        if "size" in records:
            following.size = int(records["size"])
            kept = following.isreg() or following.type not in tarfile.SUPPORTED_TYPES
            tar.offset = following.offset_data + (_blocks(following.size) if kept else 0)
        return following


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


_MOST_DIGITS = 64


def _records(payload: bytes) -> dict[str, str]:
    """The records of a pax header that are of use here. Raises `BrokenImage`."""
    found: dict[str, str] = {}
    place = 0
    while place < len(payload) and payload[place]:
        stated, blank, _ = payload[place : place + 8].partition(b" ")
        end = place + int(stated) if blank and stated.isdigit() else 0
        if end <= place or payload[end - 1 : end] != b"\n":
            raise broken("a layer's tar has a damaged pax header")
        record = payload[place + len(stated) + 1 : end - 1]
        key, _, value = record.decode("utf-8", "surrogateescape").partition("=")
        found[key] = value
        place = end
    for key in ("size", "mtime", "uid", "gid"):
        if len(found.get(key, "")) > _MOST_DIGITS:
            raise broken(f"a layer's tar has a {key} of {len(found[key])} characters")
    return found


# A dictionary of xz -9 takes 64 MiB; a header may ask for 4 GiB.
_XZ_MEMORY = 128 << 20


class _Xz(io.RawIOBase):
    """An xz file of any number of streams, in bounded memory: `lzma.LZMAFile` sets no limit."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__()
        self._packed = packed
        self._left = b""
        self._stream: lzma.LZMADecompressor | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if self._stream is None or self._stream.needs_input:
                self._left = self._left or self._packed.read(1 << 16)
                if not self._left:
                    if self._stream is not None:
                        raise EOFError("the xz stream ends early")
                    return 0
            if self._stream is None:
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)
            data = self._stream.decompress(self._left, len(view))
            self._left = b""
            if self._stream.eof:
                # Zeros may be between two streams.
                self._left = self._stream.unused_data.lstrip(b"\0")
                self._stream = None
            if data:
                view[: len(data)] = data
                return len(data)


# RFC 8878, 3.1.2: zstd:chunked and pzstd begin with one.
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


BZ2_DAMAGE = "Invalid data stream"
"""What bz2 says of damage, in an error of the kind that a disk's or a network's are of."""


def decompressed(blob: io.RawIOBase) -> BinaryIO:
    """The stream's tar. The first bytes tell the compression: media types are sometimes wrong."""
    buffered = io.BufferedReader(blob, 1 << 16)
    magic = buffered.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        # GzipFile reads on through any number of members, as pigz and eStargz write them.
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(buffered))
    if magic == b"\xfd7zXZ\0":
        return io.BufferedReader(_Xz(buffered), 1 << 16)
    if magic.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE.match(magic):
        stream: BinaryIO = _zstd().ZstdFile(buffered)
        return stream
    return buffered


def damage() -> tuple[type[Exception], ...]:
    """What the readers of a damaged or hostile tar raise: long chains of pax records and times
    without end among it.
    """
    known = (tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError, ValueError)
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
