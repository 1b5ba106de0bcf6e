"""Which vLLM is run in an image: one answer, however the image is reached.

From the config and the names in all layers: every copy on the path of some Python of the image is
looked at, for it may be imported; any other is named.
"""

from __future__ import annotations

import _imp
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from posixpath import basename, dirname, join, normpath

from patcher.errors import BadSource, BrokenImage, FileAbsent
from patcher.oci.installation import Copy, ImageFile, Installation
from patcher.oci.layer import parents
from patcher.oci.model import broken
from patcher.oci.rootfs.copies import FoundCopy, Unseen, find_copies
from patcher.oci.rootfs.filesystem import Filesystem, Layers
from patcher.oci.rootfs.installed import (
    PACKAGE,
    VERSION_FILE,
    bytecode_names,
    module_parts,
    parse_version,
)
from patcher.oci.rootfs.python import Loader, module_file
from patcher.oci.rootfs.scan import Wanted
from patcher.oci.rootfs.start import Start, started
from patcher.oci.rootfs.tree import Kind, real, real_folder, resolve

# A .pyc that is run whatever the source says (PEP 552), and the first Python (3.11) whose hash of
# a source is known here.
_UNCHECKED = b"\1\0\0\0"
_FIRST_MAGIC = 3450


def find_installation(
    scan: Callable[[Wanted], Layers],
    start: Start,
    targets: Sequence[str],
    *,
    root: str | None = None,
    mentions: Sequence[bytes] = (),
) -> Installation:
    """The vLLM that is run in an image, with the target files, and every other that may be.

    `scan` gives the layers' traces of what is wanted; it is called again only where a file is a
    link to a place of no other interest. `root` picks one copy, by the folder that holds the
    package. `mentions` picks the other Python files that are handed out.
    Raises `FileAbsent` where no vLLM is, `BadSource` where `root` is not one, `BrokenImage` where
    something else is run in a target's place, or a link or another hostile entry is there.
    """
    wanted = wanted_of(start, targets, mentions)
    while True:
        files = Filesystem(scan(wanted))
        try:
            return _installation(files, start, targets, wanted, root)
        except Unseen as unseen:
            wanted = unseen.wanted


def wanted_of(start: Start, targets: Sequence[str], mentions: Sequence[bytes]) -> Wanted:
    """What to look for in the layers of an image that starts so."""
    return Wanted((VERSION_FILE, *targets), scripts=start.scripts, mentions=tuple(mentions))


def _installation(
    files: Filesystem, start: Start, targets: Sequence[str], wanted: Wanted, root: str | None
) -> Installation:
    """The copy that runs or is asked for, with what is known of the others."""
    copies, notes = find_copies(files, start, targets, wanted)
    if not copies:
        raise FileAbsent(
            "; ".join(notes) or f"the image holds no vLLM: no {VERSION_FILE} in any folder",
            next_step="Take an image that vLLM was installed into.",
        )
    handed_out = _HandedOut(files, targets, wanted)
    picked = _picked(copies, root)
    main, *others = [handed_out.installation(copy) for copy in picked]
    idle: dict[str, Installation] = {}
    problems: dict[str, str] = {}
    for copy in copies if root is None else ():
        if copy not in picked:
            try:
                idle[copy.root] = handed_out.installation(copy)
            except BrokenImage as error:
                problems[copy.root] = error.problem
    looked_at = {*(copy.root for copy in picked), *idle}
    return replace(
        main,
        others=tuple(others),
        idle=tuple(idle.values()),
        followed=_is_followed(files, start),
        copies=tuple(_described(copy, looked_at, problems.get(copy.root)) for copy in copies),
        notes=tuple(dict.fromkeys(notes)),
        mentions=dict(sorted(files.mentions.items())),
    )


def _picked(copies: Sequence[FoundCopy], root: str | None) -> list[FoundCopy]:
    """The copies to look at: the one that is asked for, else all that a Python could import."""
    if root is not None:
        wanted = normpath(root)
        fitting = [c for c in copies if wanted in (c.root, *c.folders, *c.sites)]
        if not fitting:
            raise BadSource(
                f"there is no vLLM in {root}", next_step=f"There is one in: {_roots(copies)}."
            )
        return fitting[:1]
    likely = [copy for copy in copies if not copy.is_idle]
    if not likely and len(copies) > 1:
        raise BrokenImage(
            f"the image holds more than one vLLM, and no Python of it is seen to import any: "
            f"{_roots(copies)}",
            next_step=f"Say which is run: --root {copies[0].root}",
        )
    return likely or list(copies)


def _roots(copies: Iterable[FoundCopy]) -> str:
    return ", ".join(copy.root for copy in copies)


def _is_followed(files: Filesystem, start: Start) -> bool:
    """Is it known which Python the image's command starts, and how? A shell's script may do
    anything; without a command a Python is started by hand.
    """
    if not start.command:
        return True
    running = started(files, start)
    return running is not None and running.known


def _described(copy: FoundCopy, looked_at: set[str], problem: str | None) -> Copy:
    return Copy(
        copy.root,
        copy.why,
        runs=bool(copy.runs),
        looked_at=copy.root in looked_at,
        idle=copy.is_idle,
        problem=problem,
        python=next(iter(copy.imported_by), None),
    )


@dataclass(frozen=True, slots=True)
class _HandedOut:
    """What is handed out of a copy: its version, the targets, and what could run in their place."""

    files: Filesystem
    targets: Sequence[str]
    wanted: Wanted

    def installation(self, copy: FoundCopy) -> Installation:
        """The copy by itself. Raises `BrokenImage`, `Unseen`."""
        files: dict[str, ImageFile] = {}
        bytecode: dict[str, tuple[str, ...]] = {}
        stale: dict[str, str] = {}
        for target in self.targets:
            path = self._runs(copy, target)
            if path is None:
                continue
            files[target] = self._content(path)
            bytecode[target] = self._bytecode(path)
            old = [pyc for pyc in bytecode[target] if self._is_stale(pyc, files[target].data)]
            stale |= {target: old[0]} if old else {}
        version, commit, problem = self._version(copy)
        below = [
            *self._free(copy, files),
            *(file.path for file in files.values()),
            *(pyc for paths in bytecode.values() for pyc in paths),
        ]
        return Installation(
            copy.root,
            version,
            commit,
            files,
            bytecode,
            directories=tuple(map(self.files.directory, parents(below))),
            stale=stale,
            version_problem=problem,
        )

    def _free(self, copy: FoundCopy, there: Mapping[str, ImageFile]) -> list[str]:
        """Where a patch may put a file that is not there yet."""
        return [
            path
            for target in self.targets
            if target not in there and not target.endswith(".py")
            if self.files.kind(dirname(path := f"{copy.root}/{target}")) is Kind.FOLDER
        ]

    def _runs(self, copy: FoundCopy, target: str) -> str | None:
        """The path of a target's source, if that is what Python runs; None where there is none."""
        if not target.endswith(".py"):
            return self._data_file(copy, target)
        found = module_file(self.files, copy.folders, module_parts(target), copy.library)
        if found is None:
            self._check_nothing_odd(copy, target)
            return None
        loader, path = found
        if loader is not Loader.SOURCE or basename(path) != basename(target):
            raise BrokenImage(
                f"Python runs {path}, and not {copy.root}/{target}",
                next_step="Only a source file can be judged: take an image without the other one.",
            )
        # A layer that states a file below a link means another place in every runtime.
        for folder in parents([path]):
            self.files.directory(folder)
        return path

    def _data_file(self, copy: FoundCopy, target: str) -> str | None:
        """The path of a target that Python does not run but reads."""
        path = f"{copy.root}/{target}"
        if resolve(self.files, path)[1] is not Kind.FILE:
            self._check_nothing_odd(copy, target)
            return None
        for folder in parents([path]):
            self.files.directory(folder)
        return path

    def _check_nothing_odd(self, copy: FoundCopy, target: str) -> None:
        """Something that is there and that Python cannot run does not count as absent."""
        for folder in copy.folders:
            path = join(dirname(folder), target)
            for above in parents([path]):
                if above.startswith(dirname(folder)) and self.files.at(above) is not None:
                    there, kind = resolve(self.files, above)
                    if kind is Kind.FILE or (kind is None and self.files.kind(above)):
                        raise broken(f"{there} is not a directory, and vLLM's files are below it")
            if self.files.kind(path) is Kind.FOLDER:
                raise broken(f"{path} is not a regular file")

    def _content(self, path: str) -> ImageFile:
        """The file at a path, under that path though its bytes are where a link leads."""
        there, _ = resolve(self.files, path)
        entry = self.files.at(there)
        if isinstance(entry, ImageFile):
            return replace(entry, path=path)
        if there != path and there not in self.wanted.paths:
            raise Unseen(replace(self.wanted, paths=self.wanted.paths | {there}))
        if self.files.kind(path) is Kind.LINK:
            raise broken(f"{path} is a link to nothing, or in a circle")
        raise broken(f"{path} is not a regular file")

    def _bytecode(self, path: str) -> tuple[str, ...]:
        """Every .pyc that Python could run in a file's place. An empty one does not count: Python
        reads the source then, which is how the Dockerfile's way covers bytecode.
        """
        cache = real_folder(self.files, join(dirname(path), "__pycache__"))
        if cache is None:
            return ()
        if basename(cache) != "__pycache__" and cache not in self.wanted.paths:
            raise Unseen(replace(self.wanted, paths=self.wanted.paths | {cache}))
        there = [
            name for name in self.files.names(cache) if self.files.bytecode.get(f"{cache}/{name}")
        ]
        return tuple(f"{cache}/{name}" for name in bytecode_names(path, there))

    def _is_stale(self, pyc: str, source: bytes) -> bool:
        """Does Python run it without a look at the source, though that is another? (PEP 552)"""
        head = self.files.bytecode[pyc]
        if head[4:8] != _UNCHECKED:
            return False
        # importlib.util.source_hash, but for the Python that wrote it. Before 3.11 the hash was
        # another one: such bytecode cannot be held against the source.
        magic = int.from_bytes(head[:4], "little")
        same = _imp.source_hash(magic, source) == head[8:16]
        return magic & 0xFFFF < _FIRST_MAGIC or not same

    def _version(self, copy: FoundCopy) -> tuple[str, str | None, str | None]:
        """Version, commit, and why there is no version."""
        for folder in copy.folders:
            there, _ = resolve(self.files, join(folder, basename(VERSION_FILE)))
            data = self.files.read(there)
            if data is not None:
                try:
                    return (*parse_version(data), None)
                except BrokenImage as error:
                    return "", None, error.problem
        for site in [copy.root, *copy.sites]:
            for name in self.files.names(real(self.files, site) or site):
                if name.startswith(f"{PACKAGE}-") and name.endswith(".dist-info"):
                    return name[len(PACKAGE) + 1 : -len(".dist-info")], None, None
        return "", None, f"{copy.root} has no {VERSION_FILE} and no {PACKAGE}-*.dist-info"
