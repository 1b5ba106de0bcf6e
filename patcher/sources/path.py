"""vLLM on this machine: one file, or the tree that holds the installed package.

A tree may be named by its site-packages, by the virtual environment or prefix around it, by a
checkout, or by the package folder itself.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from patcher.errors import BadSource, BrokenImage, FileAbsent, Unreadable
from patcher.files import is_there, look, unreadable
from patcher.oci.rootfs.installed import PACKAGE, SITES, VERSION_FILE, module_parts, parse_version
from patcher.oci.rootfs.python import (
    Loader,
    Place,
    find_package,
    module_file,
    redirections,
    site_places,
)
from patcher.rules.source import MOST_BYTES
from patcher.rules.verdict import Status, judge
from patcher.sources.disk import DISK, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from patcher.rules.patch import Patch
    from patcher.rules.source import Source

# Where site-packages is under a virtual environment or a prefix: POSIX, 64-bit Fedora, Windows;
# dist-packages is Debian's name, and that of the official images.
_LIBRARIES = (
    "lib/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib64/python3*/site-packages",
    "lib64/python3*/dist-packages",
    "Lib/site-packages",
)

_LIBRARY = re.compile(r"python(3\.\d+t?)")


@dataclass(frozen=True, slots=True)
class FileSource:
    """One Python file, which answers for every target: the caller says what it is.

    `own`: only for these. `data` is what it holds, where that came from elsewhere, as from standard
    input; None for what is at the path.
    """

    path: Path
    own: frozenset[str] | None = None
    data: bytes | None = None

    @property
    def label(self) -> str:
        """The path."""
        return str(self.path)

    def locate(self, target: str) -> Path:  # noqa: ARG002
        """Where the target is on this machine."""
        return self.path

    def read(self, target: str) -> bytes:
        """The file's bytes. Raises `FileAbsent` where it has gone since, `Unreadable`."""
        if self.own is not None and target not in self.own:
            raise FileAbsent(f"{self.path} is not {target}", next_step="Name the whole tree.")
        return read(self.path) if self.data is None else self.data

    def version(self) -> str | None:
        """None: a file alone states no version."""
        return None


@dataclass(frozen=True, slots=True)
class TreeSource:
    """An installed vLLM. `path` is what was named; `root` is the folder that holds `vllm/`.

    `folders` are the package's own, several for one without `__init__.py`; `library` is the
    version of the Python that it is installed for, None where that is not seen.
    """

    path: Path
    root: Path
    folders: tuple[str, ...]
    library: str | None = None

    @property
    def label(self) -> str:
        """The path that was named."""
        return str(self.path)

    def locate(self, target: str) -> Path:
        """Where the target is on this machine: the file that Python runs for it.

        Raises `Unreadable` where that is not a source file.
        """
        found = module_file(DISK, self.folders, module_parts(target), self.library)
        if found is None:
            return self.root / target
        loader, path = found
        if loader is not Loader.SOURCE or Path(path).name != Path(target).name:
            raise Unreadable(
                f"Python runs {path}, and not {self.root / target}",
                next_step="Only a source file can be judged: remove the other one.",
            )
        return Path(path)

    def read(self, target: str) -> bytes:
        """A file by its path under site-packages. Raises `FileAbsent`, `Unreadable`."""
        return read(self.locate(target))

    def notes(self) -> tuple[str, ...]:
        """What may lead the import of vLLM elsewhere. Raises `Unreadable`."""
        is_site = self.root.name in SITES
        return tuple(redirections(DISK, site_places(DISK, str(self.root)))) if is_site else ()

    def version(self) -> str | None:
        """What vllm/_version.py states; None without one, as in a checkout that was never built."""
        try:
            return parse_version(read(self.root / VERSION_FILE))[0]
        except (FileAbsent, BrokenImage):
            return None


PathSource = FileSource | TreeSource


def open_path(path: Path) -> PathSource:
    """The source at a path. Raises `BadSource` where nothing of vLLM is there, `Unreadable`."""
    found = look(path)
    if found is None:
        raise BadSource(f"there is no {path}", next_step=_if_no_path(str(path)))
    if not stat.S_ISDIR(found.st_mode):
        return _open_file(path, found)
    found_here = tuple(_trees(path))
    if not found_here:
        from patcher.oci.layout import if_layout

        raise BadSource(
            f"{path} holds no installed vLLM (no {PACKAGE}/__init__.py)",
            next_step=if_layout(path)
            or "Name a site-packages folder, a virtual environment, or one .py file.",
        )
    if len(found_here) > 1:
        roots = " and ".join(str(tree.root) for tree in found_here)
        raise BadSource(
            f"{path} holds vLLM more than once: {roots}", next_step="Name the one you mean."
        )
    return found_here[0]


def _if_no_path(name: str) -> str:
    """What to do where something else than a path was named."""
    from patcher.versions import parsed

    if parsed(name) is not None or re.match(r"(pypi|git|oci|docker|registry|https?):", name):
        return "Name a file or folder here; `vllm-patcher image` patches an image."
    return "Check the path."


def as_typed(path: Path, typed: Path) -> Path:
    """A path at, in or beside the one that a person typed, as they would go on typing it; any other
    stays as it is.
    """
    for near in (typed, typed.parent):
        for real in (near.absolute(), near.parent.resolve() / near.name, near.resolve()):
            if path.is_relative_to(real):
                return near / path.relative_to(real)
    return path


def named(source: PathSource, target: str) -> Path:
    """Where a target is, as `as_typed`. Raises as `locate` does."""
    return as_typed(source.locate(target), source.path)


def given_file(name: str, stream: BinaryIO) -> FileSource:
    """A Python file that is read from a stream, under the name that it is said to have.

    Raises `BadSource` for a name that is not a Python file's, `Unreadable`.
    """
    path = Path(name)
    if path.suffix != ".py":
        raise BadSource(
            f"{name} is not the name of a Python file",
            next_step="Name it as it is called in vLLM: vllm/.../name.py.",
        )
    try:
        data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > MOST_BYTES:
        raise unreadable(path, f"it has more than {MOST_BYTES >> 20} MiB")
    return FileSource(path, data=data)


def concerned(source: Source, patches: Sequence[Patch]) -> tuple[Source, Sequence[Patch]]:
    """Of a source that is one file, the patches that are about it, and what answers for them.

    Those with a target of the file's name, and of its folders' as far as that tells two of them
    apart; for any other name those of one target that find their code in it, or all of these. Of
    every other source, all patches. Raises `BadSource`.
    """
    if not isinstance(source, FileSource):
        return source, patches
    path = str(source.path.absolute())
    targets = {target for patch in patches for target in patch.targets}
    own = _likest(path, [each for each in targets if _known_by(each) == _known_by(path)])
    if own:
        return replace(source, own=own), [patch for patch in patches if own & {*patch.targets}]
    single = [patch for patch in patches if len(patch.targets) == 1]
    if not single:
        raise BadSource(
            f"{source.path} is one file, and {patches[0].name} is about several",
            next_step="Name the folder that holds vLLM, as a virtual environment.",
        )
    found = [patch for patch in single if judge(patch, source).status is not Status.ABSENT]
    return source, found or single


def _likest(path: str, targets: Sequence[str]) -> frozenset[str]:
    """The targets that share the most names with a file's path, from its end upwards."""

    def alike(target: str) -> int:
        pairs = zip(reversed(path.split("/")), reversed(target.split("/")), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(alike, targets), default=0)
    return frozenset(each for each in targets if alike(each) == most)


def _known_by(path: str) -> str:
    """What tells a file from others: its name, and its folder's where all have that name."""
    *_, folder, name = ["", *path.split("/")]
    return f"{folder}/{name}" if name == "__init__.py" else name


def _open_file(path: Path, found: os.stat_result) -> FileSource:
    if not (stat.S_ISREG(found.st_mode) and path.suffix == ".py"):
        raise BadSource(
            f"{path} is neither a Python file nor a folder",
            next_step="Name a .py file, a site-packages folder or a virtual environment.",
        )
    return FileSource(path)


def _trees(path: Path) -> Iterator[TreeSource]:
    """Each vLLM that is imported here, once: lib64 is often a link to lib. Editable installs are
    followed to where they lead.
    """
    here = path.resolve()
    if here.name == PACKAGE and is_there(here / "__init__.py"):
        yield TreeSource(path, here.parent, (str(here),))
        return
    sites = [here, *(site for library in _LIBRARIES for site in sorted(here.glob(library)))]
    seen = set()
    for site in sites:
        library = _LIBRARY.fullmatch(site.parent.name)
        version = library[1] if library else None
        is_site = site.name in SITES
        places = site_places(DISK, str(site)) if is_site else [Place(str(site), "")]
        found = find_package(DISK, places, version)
        if found is None:
            continue
        if found.module is not None:
            raise BadSource(
                f"{site}: `import vllm` takes {found.module}, which is not vLLM",
                next_step="Name the folder that vLLM is in.",
            )
        folders = found.folders
        if found.is_namespace and not any(map(_has_version, folders)):
            continue
        if folders not in seen:
            seen.add(folders)
            yield TreeSource(path, Path(folders[0]).parent, folders, version)


def _has_version(folder: str) -> bool:
    return is_there(Path(folder) / Path(VERSION_FILE).name)
