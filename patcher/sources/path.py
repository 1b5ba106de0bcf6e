"""vLLM on this machine: one file, or the tree that holds the installed package.

A tree may be named by its site-packages, by the virtual environment or prefix around it, by a
checkout, or by the package folder itself.
"""

from __future__ import annotations

import importlib.util
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import BadSource, BrokenImage, FileAbsent, Unreadable
from patcher.oci.installed import VERSION_FILE, bytecode_names, parse_version

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

PACKAGE = "vllm"

# Where site-packages lies under a virtual environment or a prefix: POSIX, 64-bit Fedora, Windows;
# dist-packages is Debian's name, and that of the official images.
_LIBRARIES = (
    "lib/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib64/python3*/site-packages",
    "lib64/python3*/dist-packages",
    "Lib/site-packages",
)

# vLLM's largest Python file has under 1 MB.
_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class FileSource:
    """One Python file, which answers for every target: the caller says what it is."""

    path: Path

    @property
    def label(self) -> str:
        """The path."""
        return str(self.path)

    def locate(self, target: str) -> Path:  # noqa: ARG002
        """Where the target lies on this machine."""
        return self.path

    def read(self, target: str) -> bytes:
        """The file's bytes. Raises `FileAbsent` where it has gone since, `Unreadable`."""
        return _read(self.locate(target))

    def version(self) -> str | None:
        """None: a file alone states no version."""
        return None


@dataclass(frozen=True, slots=True)
class TreeSource:
    """An installed vLLM. `path` is what was named; `root` is the folder that holds `vllm/`."""

    path: Path
    root: Path

    @property
    def label(self) -> str:
        """The path that was named."""
        return str(self.path)

    def locate(self, target: str) -> Path:
        """Where the target lies on this machine."""
        return self.root / target

    def read(self, target: str) -> bytes:
        """A file by its path under site-packages. Raises `FileAbsent`, `Unreadable`."""
        return _read(self.locate(target))

    def version(self) -> str | None:
        """What vllm/_version.py states; None without one, as in a checkout that was never built."""
        try:
            return parse_version(self.read(VERSION_FILE))[0]
        except (FileAbsent, BrokenImage):
            return None


PathSource = FileSource | TreeSource


def open_path(path: Path) -> PathSource:
    """The source at a path. Raises `BadSource` where nothing of vLLM is there, `Unreadable`."""
    found = _stat(path)
    if found is None:
        raise BadSource(f"there is no {path}", next_step="Check the path.")
    if not stat.S_ISDIR(found.st_mode):
        return _open_file(path, found)
    roots = tuple(_roots(path))
    if not roots:
        raise BadSource(
            f"{path} holds no installed vLLM (no {PACKAGE}/__init__.py)",
            next_step="Name a site-packages folder, a virtual environment, or one .py file.",
        )
    if len(roots) > 1:
        raise BadSource(
            f"{path} holds vLLM more than once: {' and '.join(map(str, roots))}",
            next_step="Name the one you mean.",
        )
    return TreeSource(path, roots[0])


def _open_file(path: Path, found: os.stat_result) -> FileSource:
    if not (stat.S_ISREG(found.st_mode) and path.suffix == ".py"):
        raise BadSource(
            f"{path} is neither a Python file nor a folder",
            next_step="Name a .py file, a site-packages folder or a virtual environment.",
        )
    return FileSource(path)


def _roots(path: Path) -> Iterator[Path]:
    """Each folder here that holds vLLM's package, once: lib64 is often a link to lib."""
    here = path.resolve()
    candidates = [here.parent] if here.name == PACKAGE else []
    candidates += [here, *(root for library in _LIBRARIES for root in sorted(here.glob(library)))]
    seen = set()
    for root in candidates:
        package = _stat(root / PACKAGE / "__init__.py")
        if package is not None and (package.st_dev, package.st_ino) not in seen:
            seen.add((package.st_dev, package.st_ino))
            yield root


def _stat(path: Path) -> os.stat_result | None:
    """What lies at a path, links followed; None for nothing. Raises `Unreadable`."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> bytes:
    """A regular file's bytes. A pipe is not opened: nobody may ever write to it."""
    found = _stat(path)
    if found is None:
        raise FileAbsent(f"there is no {path}", next_step="Check the path and vLLM's version.")
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT:
        raise _unreadable(path, f"it is not a regular file of up to {_LIMIT >> 20} MiB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, reason: Exception | str) -> Unreadable:
    reason = getattr(reason, "strerror", None) or str(reason)
    return Unreadable(f"{path} cannot be read: {reason}", next_step="Check the path's permissions.")


def stale_bytecode(path: Path) -> tuple[Path, ...]:
    """Every .pyc that Python could run in place of a source file.

    Looked for beside the path and, where it is a link, beside the real file: Python goes by the
    path it imports. Also under PYTHONPYCACHEPREFIX, as far as this process knows it.
    Raises `Unreadable`.
    """
    found: set[Path] = set()
    for source in {path.absolute(), path.resolve()}:
        prefixed = Path(importlib.util.cache_from_source(str(source))).parent
        for folder in {source.parent / "__pycache__", prefixed}:
            found.update(folder / name for name in bytecode_names(source.name, _names(folder)))
    return tuple(sorted(found))


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
