"""The thin layer: a gzipped tar that sets a few files and removes their bytecode (OCI image-spec,
layer.md).
"""

from __future__ import annotations

import io
import itertools
import posixpath
import struct
import tarfile
import zlib
from typing import TYPE_CHECKING

from patcher.oci.installation import Change, ImageDirectory, ImageFile
from patcher.oci.model import broken

if TYPE_CHECKING:
    from collections.abc import Iterable

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

# RFC 1952: magic, deflate, no flags, no time, no hint, no system. A clock or a host in here
# would give every run another digest.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# A stored block states its size in 16 bits.
_MOST_STORED = 0xFFFF

Entry = ImageFile | ImageDirectory


def thin_layer(change: Change) -> bytes:
    """The tar of a change: the files, a whiteout for each bytecode path, and the directories
    above them as the base has them. Raises `BrokenImage` for a directory that is not given.
    """
    for file in change.files:
        if posixpath.basename(file.path).startswith(WHITEOUT):
            raise broken(f"{file.path!r} would be a whiteout")
    entries: list[Entry] = [*change.files, *map(_whiteout, change.bytecode)]
    known = {directory.path: directory for directory in change.directories}
    for path in parents(entry.path for entry in entries):
        if path not in known:
            raise broken(f"the owner and mode of {path} are not known")
        entries.append(known[path])
    return write_tar(entries)


def _whiteout(path: str) -> ImageFile:
    folder, name = posixpath.split(path)
    return ImageFile(f"{folder}/{WHITEOUT}{name}", b"", uid=0, gid=0, mode=0, mtime=0)


def parents(paths: Iterable[str]) -> list[str]:
    """Every directory above these absolute paths but the root, outermost first."""
    above: set[str] = set()
    for path in paths:
        while (path := posixpath.dirname(path)) not in ("/", ""):
            above.add(path)
    return sorted(above)


def write_tar(entries: Iterable[Entry]) -> bytes:
    """A tar whose bytes depend on the entries alone: sorted, owners as numbers, no clock.

    POSIX pax records are written only for what ustar cannot hold, so that the form too depends
    on nothing else. Raises `BrokenImage` for a path that is not absolute and plain, or twice.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    for before, entry in itertools.pairwise(ordered):
        if before.path == entry.path:
            raise broken(f"{entry.path!r} is written twice")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in ordered:
            data = entry.data if isinstance(entry, ImageFile) else b""
            tar.addfile(_header(entry, len(data)), io.BytesIO(data))
    return buffer.getvalue()


def _header(entry: Entry, size: int) -> tarfile.TarInfo:
    parts = [part for part in entry.path.split("/") if part not in ("", ".", "..")]
    if not parts or entry.path != "/" + "/".join(parts):
        raise broken(f"{entry.path!r} is not an absolute, plain path")
    header = tarfile.TarInfo(entry.path.lstrip("/"))
    header.type = tarfile.REGTYPE if isinstance(entry, ImageFile) else tarfile.DIRTYPE
    header.size = size
    header.mode = entry.mode
    header.uid, header.gid = entry.uid, entry.gid
    header.mtime = entry.mtime
    return header


def gzipped(data: bytes) -> bytes:
    """A gzip file of stored blocks (RFC 1951, section 3.2.4; RFC 1952): the same bytes everywhere.

    A layer's digest is that of its compressed bytes. zlib, zlib-ng and their releases compress the
    same data to other bytes, and Pythons ship either; a stored block leaves nothing to choose. The
    layer of a patched mla_attention.py (0.23.0) is 102 KB, where zlib would write 20 KB.
    """
    starts = range(0, len(data) or 1, _MOST_STORED)
    blocks = []
    for start in starts:
        block = data[start : start + _MOST_STORED]
        last = start == starts[-1]
        blocks += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([_GZIP_HEADER, *blocks, struct.pack("<II", zlib.crc32(data), len(data))])
