"""The thin layer: a tar that sets a few files, and removes their bytecode (OCI image-spec,
layer.md).
"""

from __future__ import annotations

import io
import itertools
import posixpath
import tarfile
from typing import TYPE_CHECKING

from patcher.oci.descriptor import broken
from patcher.oci.installation import Change, ImageDirectory, ImageFile

if TYPE_CHECKING:
    from collections.abc import Iterable

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

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
        raise broken(f"{entry.path!r} is no absolute, plain path")
    header = tarfile.TarInfo(entry.path.lstrip("/"))
    header.type = tarfile.REGTYPE if isinstance(entry, ImageFile) else tarfile.DIRTYPE
    header.size = size
    header.mode = entry.mode
    header.uid, header.gid = entry.uid, entry.gid
    header.mtime = entry.mtime
    return header
