"""The thin layer: what it changes, and the gzipped tar that does so (OCI image-spec, layer.md)."""

from __future__ import annotations

import io
import itertools
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage
from patcher.oci.installation import ImageDirectory, ImageFile
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

_SET_ID = 0o6000
_MOST_MODE = 0o7777
_MOST_SECONDS = 2**63  # a time_t
_MOST_ID = 2**32 - 2  # chown(2) takes the last one for "leave it"

Entry = ImageFile | ImageDirectory


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What one thin layer does: new contents, bytecode that must not win, labels.

    `files` carry the original's owner and mode. `bytecode` are absolute paths of existing .pyc
    files. `directories` are those of the installation. `labels` are set over inherited ones.
    Raises `BrokenImage` for a set-user-id or set-group-id file, and for an owner beyond 32 bits, a
    mode beyond 12 or a time beyond 64.
    """

    files: tuple[ImageFile, ...]
    bytecode: tuple[str, ...]
    directories: tuple[ImageDirectory, ...]
    labels: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse what no installer gives a source file, and nobody should publish anew."""
        for file in self.files:
            if not 0 <= file.mode <= _MOST_MODE:
                raise _not_ours(f"{file.path} has mode {file.mode:o}, which no file can have")
            if file.mode & _SET_ID:
                raise _not_ours(f"{file.path} has mode {file.mode:o}: it would run as its owner")
        entries: tuple[Entry, ...] = (*self.files, *self.directories)
        for entry in entries:
            if not (0 <= entry.uid <= _MOST_ID and 0 <= entry.gid <= _MOST_ID):
                raise _not_ours(f"{entry.path} belongs to a user or group that Linux cannot have")
            if abs(entry.mtime) >= _MOST_SECONDS:
                raise _not_ours(f"{entry.path} was changed at a time that Linux cannot tell")


def _not_ours(problem: str) -> BrokenImage:
    return BrokenImage(problem, next_step="Take a base whose vLLM was installed by pip or uv.")


def thin_layer(change: LayerChange) -> bytes:
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
