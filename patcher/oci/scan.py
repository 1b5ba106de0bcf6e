"""One layer's tar, streamed once: what it says about the paths that matter, and nothing else.

A layer may hold 300,000 entries and 10 GB. What is kept are the wanted files, the directories
and symbolic links that can lie on the way to them, whiteouts, and eight bytes for any other.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import posixpath
import re
import tarfile
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from patcher.errors import Unreadable
from patcher.oci.blobs import Verified
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.installed import bytecode_names
from patcher.oci.layer import OPAQUE, WHITEOUT, parents
from patcher.oci.model import broken
from patcher.oci.tarball import TarStream, damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from patcher.oci.model import Descriptor

_SITE = re.compile(r".*/(?:dist|site)-packages/")

_MOST_NAMES = 1_000_000
_MOST_LINKS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: paths under any site-packages or dist-packages, and absolute paths."""

    targets: tuple[str, ...]
    paths: frozenset[str] = frozenset()

    def file(self, path: str) -> bool:
        """Is this one of the files?"""
        return _tail(path) in self.targets or path in self.paths

    def bytecode(self, path: str) -> bool:
        """Can Python run this in place of one of the files?"""
        folder, name = posixpath.split(_tail(path) or "")
        above, cache = posixpath.split(folder)
        return cache == "__pycache__" and any(
            posixpath.dirname(target) == above and bytecode_names(target, [name])
            for target in self.targets
        )

    def way(self, path: str) -> bool:
        """Can this directory or link lie above a file? All that is in no package can."""
        tail = _tail(path)
        return tail is None or f"/{tail}" in _above_targets(self.targets) or path in _above(self)


def _tail(path: str) -> str | None:
    match = _SITE.match(path)
    return path[match.end() :] if match else None


@functools.cache
def _above_targets(targets: tuple[str, ...]) -> frozenset[str]:
    folders = [posixpath.dirname(f"/{target}") for target in targets]
    return frozenset(parents(f"{folder}/__pycache__/any.pyc" for folder in folders))


@functools.cache
def _above(wanted: Wanted) -> frozenset[str]:
    return frozenset(parents(wanted.paths))


@dataclass(slots=True)
class Traces:
    """What one layer says. All paths are absolute; `links` maps to the text of the link."""

    files: dict[str, ImageFile] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    hard_links: dict[str, str] = field(default_factory=dict)
    directories: dict[str, ImageDirectory] = field(default_factory=dict)
    bytecode: set[str] = field(default_factory=set)
    whiteouts: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    # Every entry that is no directory, as sorted hashes: it only matters whether one is there.
    others: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        named = len(self.files) + len(self.links) + len(self.directories) + len(self.bytecode)
        return named + len(self.whiteouts) + len(self.opaque)

    def occupied(self, path: str) -> bool:
        """Does something that is no directory stand here?"""
        wanted = _hash(path)
        place = bisect.bisect_left(self.others, wanted)
        return place < len(self.others) and self.others[place] == wanted

    def forget(self, path: str) -> None:
        """A tar may hold a path twice; the last one counts."""
        for kept in (self.files, self.links, self.hard_links, self.directories):
            kept.pop(path, None)


def _hash(path: str) -> int:
    """The same in every process, as Python's own is not: traces are kept between runs."""
    name = path.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def scan_layer(open_blob: Callable[[], BinaryIO], descriptor: Descriptor, wanted: Wanted) -> Traces:
    """The traces of a layer, whose digest is proven on the way.

    A wanted file that is a hard link costs another pass: its bytes stand under the first name.
    Raises `BrokenImage` for hostile or damaged layers, `Unreadable` for zstd without a decoder.
    """
    for _ in range(_MOST_LINKS):
        with open_blob() as raw:
            traces = _scan(Verified(raw, descriptor), wanted)
        unseen = frozenset(traces.hard_links.values()) - wanted.paths - traces.files.keys()
        if not unseen:
            return _join_hard_links(traces)
        wanted = replace(wanted, paths=wanted.paths | unseen)
    raise broken(f"{descriptor.digest}: hard links lead nowhere")


def _join_hard_links(traces: Traces) -> Traces:
    for _ in range(_MOST_LINKS):
        for path, first in traces.hard_links.items():
            if first in traces.files:
                traces.files[path] = replace(traces.files[first], path=path)
    for path, first in traces.hard_links.items():
        if path not in traces.files:
            raise broken(f"{path} is a hard link to {first}, which is no file of the same layer")
    return traces


def _scan(blob: Verified, wanted: Wanted) -> Traces:
    traces = Traces()
    try:
        stream = TarStream(blob)
        for header in stream.headers():
            _note(traces, header, stream, wanted)
            if len(traces) > _MOST_NAMES:
                raise broken(f"a layer has over {_MOST_NAMES} directories, links and whiteouts")
    except damage() as error:
        raise broken(f"a layer cannot be read: {error}") from error
    except OSError as error:
        raise Unreadable(f"a layer cannot be read: {error}", next_step="Try again.") from error
    blob.finish()
    traces.others = array("Q", sorted(traces.others))
    return traces


def _note(traces: Traces, header: tarfile.TarInfo, stream: TarStream, wanted: Wanted) -> None:
    path = _absolute(header.name)
    folder, name = posixpath.split(path)
    if name == OPAQUE:
        traces.opaque.add(folder)
    elif name.startswith(f"{WHITEOUT}{WHITEOUT}"):
        pass  # Other marks of aufs, which image-spec reserves: they hide nothing.
    elif name.startswith(WHITEOUT):
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise broken(f"a layer has a whiteout named {header.name!r}")
        traces.whiteouts.add(posixpath.join(folder, hidden))
    else:
        traces.forget(path)
        _note_entry(traces, path, header, stream, wanted)


def _note_entry(
    traces: Traces, path: str, header: tarfile.TarInfo, stream: TarStream, wanted: Wanted
) -> None:
    owner = {"uid": header.uid, "gid": header.gid, "mode": header.mode & 0o7777}
    if header.isdir():
        if wanted.way(path) or wanted.file(path) or wanted.bytecode(path):
            traces.directories[path] = ImageDirectory(path, **owner, mtime=int(header.mtime))
        return
    traces.others.append(_hash(path))
    if wanted.bytecode(path):
        traces.bytecode.add(path)
    if header.issym() and (wanted.way(path) or wanted.file(path)):
        traces.links[path] = header.linkname
    elif header.islnk() and wanted.file(path):
        traces.hard_links[path] = _absolute(header.linkname)
    elif header.isreg() and wanted.file(path):
        data = stream.content(header)
        traces.files[path] = ImageFile(path, data, **owner, mtime=int(header.mtime))


def _absolute(name: str) -> str:
    """The path that a tar's name means. Real layers write `usr/lib`, `./usr/lib`, `usr/lib/`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or (name.startswith("/") and parts):
        raise broken(f"a layer has an entry named {name!r}")
    return "/" + "/".join(parts)
