"""What was established of an image once, small enough to be written into a lock: where its vLLM is,
and from where in which layer the files inflate.

An image that is pinned by digest never changes, so neither does this. That no other vLLM is run is
believed of whoever wrote it down, as the digest is; the files themselves are held against their own
digests. Only the plain case has this: one vLLM that holds nothing odd.
Whatever else is asked, or does not fit, is read from the layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from posixpath import join, normpath, split
from typing import TYPE_CHECKING, Protocol

from patcher.errors import BrokenImage, DaemonFailed, Unreadable
from patcher.oci.installation import BaseImage, Copy, ImageDirectory, ImageFile, Installation
from patcher.oci.layer import parents
from patcher.oci.rootfs.installed import PACKAGE, bytecode_names, is_about_vllm
from patcher.oci.rootfs.point import Point, find_point, read_at

if TYPE_CHECKING:
    from patcher.oci.blobs import Blobs
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform
    from patcher.oci.rootfs.scan import Traces

FORM = 1
"""Raise it when other rules say which vLLM is the one that runs: what was written down before is
then looked for in the layers again.
"""


@dataclass(frozen=True, slots=True)
class LocatedFile:
    """A target in an image: its entry without the bytes, their SHA-256 (hex), and the point in the
    layer of digest `layer` that they inflate from. `bytecode` is as in `Installation`.
    """

    target: str
    path: str
    uid: int
    gid: int
    mode: int
    mtime: int
    size: int
    sha256: str
    layer: str
    point: Point
    bytecode: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """The one vLLM in an image, its files, and every folder above them.

    `searched` are texts that no package beside vLLM which has to do with it has in a Python file.
    """

    root: str
    why: str
    runs: bool
    version: str
    commit: str | None
    searched: tuple[str, ...]
    files: tuple[LocatedFile, ...]
    folders: tuple[ImageDirectory, ...]


def locate(
    found: Installation,
    layers: Sequence[tuple[Descriptor, Traces]],
    blobs: Blobs,
    mentions: Sequence[bytes],
) -> Located | None:
    """What can be written down of an installation; None where it is not the plain case.

    `layers` are those that it was found in, the topmost first. Of each file some hundred KB are
    read once more.
    """
    if not _is_plain(found) or not _fits_a_text(found):
        return None
    located_files = (_locate(found, target, layers, blobs) for target in found.files)
    files = [file for file in located_files if file is not None]
    if not files:
        return None
    [copy] = found.copies
    located = Located(
        root=found.root,
        why=copy.why,
        runs=copy.runs,
        version=found.version,
        commit=found.commit,
        searched=tuple(sorted(text.decode() for text in mentions)),
        files=tuple(files),
        folders=_above(found.directories, files),
    )
    return None if fault(located) else located


def fault(located: Located) -> str | None:
    """What no single, plain vLLM can have; None for nothing.

    These paths become those of our layer: an altered lock must not replace or hide what is not
    vLLM's.
    """
    paths: list[str] = []
    for file in located.files:
        if file.path != join(located.root, file.target) or normpath(file.path) != file.path:
            return f"{file.path} is not {file.target} in {located.root}"
        folder, name = split(file.path)
        for pyc in file.bytecode:
            where, called = split(pyc)
            beside = where in (folder, join(folder, "__pycache__"))
            if not beside or not bytecode_names(name, [called]):
                return f"{pyc} is not bytecode of {file.path}"
        paths += [file.path, *file.bytecode]
    if len({file.target for file in located.files}) != len(located.files):
        return "it has a file twice"
    above = set(parents(paths))
    for entry in located.folders:
        if entry.path not in above or entry.mode & ~0o1777:
            return f"{entry.path}, of mode {entry.mode:o}, is not a folder above vLLM's files"
    return None


def _is_plain(found: Installation) -> bool:
    """Is there one vLLM, with nothing odd about it, and no plugin of it beside it?"""
    own = f"{join(found.root, PACKAGE)}/"
    beside = any(
        is_about_vllm(path, file.data)
        for path, file in found.mentions.items()
        if not path.startswith(own)
    )
    odd = found.notes or found.stale or found.version_problem or beside
    return len(found.copies) == 1 and not odd


def _fits_a_text(found: Installation) -> bool:
    """Can it be written into a lock, which is text, and holds no time before 1970?"""
    texts = [found.root, found.copies[0].why, *(folder.path for folder in found.directories)]
    texts += [path for paths in found.bytecode.values() for path in paths]
    times = [folder.mtime for folder in found.directories]
    times += [file.mtime for file in found.files.values()]
    return all(text.isprintable() for text in texts) and min(times, default=0) >= 0


def _locate(
    found: Installation,
    target: str,
    layers: Sequence[tuple[Descriptor, Traces]],
    blobs: Blobs,
) -> LocatedFile | None:
    """One file in the topmost layer that has it; None where no range of that gives it."""
    file = found.files[target]
    for layer, traces in layers:
        if traces.files.get(file.path) == file and file.path in traces.read:
            point = find_point(partial(_range, blobs, layer), *traces.read[file.path], file.data)
            if point is None:
                return None
            return LocatedFile(
                target,
                file.path,
                file.uid,
                file.gid,
                file.mode,
                file.mtime,
                len(file.data),
                hashlib.sha256(file.data).hexdigest(),
                layer.digest,
                point,
                found.bytecode.get(target, ()),
            )
    return None


def _above(
    folders: Sequence[ImageDirectory], files: Sequence[LocatedFile]
) -> tuple[ImageDirectory, ...]:
    below = [path for file in files for path in (file.path, *file.bytecode)]
    wanted = set(parents(below))
    return tuple(folder for folder in folders if folder.path in wanted)


def _range(blobs: Blobs, layer: Descriptor, start: int, size: int) -> bytes:
    with blobs.open(layer, start, size) as stream:
        parts = []
        while size > 0 and (part := stream.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Locatable(BaseImage, Protocol):
    """An image out of which one file can be read, once it is known where it is."""

    def read(self, file: LocatedFile) -> bytes | None:
        """The file's bytes, not proven to be right; None where it is not there.

        Raises `BrokenImage`, `DaemonFailed`, `Unreadable`.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """An image of which it is written down where its vLLM is."""

    image: Locatable
    located: Located

    @property
    def digest(self) -> str:
        """See `BaseImage`."""
        return self.image.digest

    @property
    def platform(self) -> Platform:
        """See `BaseImage`."""
        return self.image.platform

    @property
    def labels(self) -> Mapping[str, str]:
        """See `BaseImage`."""
        return self.image.labels

    def installation(
        self, targets: Sequence[str], root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """See `BaseImage`: by what is written down if it answers this and fits, else by looking."""
        known = {file.target: file for file in self.located.files}
        texts = {text.decode() for text in mentions}
        if (
            root in (None, self.located.root)
            and known.keys() >= set(targets)
            and texts <= set(self.located.searched)
        ):
            files = {target: self._file(known[target]) for target in targets}
            there = {target: file for target, file in files.items() if file is not None}
            if len(there) == len(files):
                return self._installation(there, [known[target] for target in targets])
        return self.image.installation(targets, root, mentions)

    def _file(self, file: LocatedFile) -> ImageFile | None:
        try:
            data = self.image.read(file)
        except (BrokenImage, DaemonFailed, Unreadable):
            return None  # to read the layers tells what is wrong
        if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
            return None
        return ImageFile(file.path, data, file.uid, file.gid, file.mode, file.mtime)

    def _installation(
        self, files: Mapping[str, ImageFile], known: Sequence[LocatedFile]
    ) -> Installation:
        located = self.located
        return Installation(
            located.root,
            located.version,
            located.commit,
            files,
            {file.target: file.bytecode for file in known},
            _above(located.folders, known),
            copies=(Copy(located.root, located.why, runs=located.runs, looked_at=True),),
        )


def read_located(blobs: Blobs, layers: Sequence[Descriptor], file: LocatedFile) -> bytes | None:
    """The bytes of a located file, out of a range of one of these layers; None where none has it.

    They are not proven to be the file's.
    """
    layer = next((each for each in layers if each.digest == file.layer), None)
    if layer is None or file.point.start + file.point.packed > layer.size:
        return None  # else a registry would be asked again and again for what it cannot have
    return read_at(partial(_range, blobs, layer), file.point, file.size)
