"""The originals of files that were patched in place, and which of them still belong to a file.

They are in the folder `.vllm-patcher` beside the package, `site-packages/.vllm-patcher`, under the
file's path and the hash of what it became: `vllm/a.py.<16 digits>.orig` holds the original's bytes
as they were, and one that ends in `.absent` says that there was no file. In the package itself they
would outlive `pip uninstall`, and what is left of a package can still be imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from patcher.errors import Unreadable, Unwritable
from patcher.files import clear_killed, is_file, is_there, read_file, unreadable, write_atomically
from patcher.oci.rootfs.installed import PACKAGE
from patcher.rules.source import MOST_BYTES
from patcher.sources.path import FileSource, PathSource

FOLDER = ".vllm-patcher"

_NAME = re.compile(r"(?P<file>.+)\.(?P<after>[0-9a-f]{16})\.(?P<kind>orig|absent)")


@dataclass(frozen=True, slots=True)
class Backup:
    """One original: where it is kept, whose it is, and the hash of what that file became."""

    kept: Path
    path: Path
    after: str

    @property
    def original(self) -> bytes | None:
        """The original's bytes; None where there was no file. Raises `Unreadable`."""
        return None if self.kept.suffix == ".absent" else content(self.kept)

    def fits(self, data: bytes | None) -> bool:
        """Is this what the file became when the original was kept?"""
        return data is not None and _hash(data) == self.after

    def drop(self) -> None:
        """Remove it, and the folders that held it alone. Raises `Unwritable`."""
        try:
            self.kept.unlink(missing_ok=True)
        except OSError as error:
            raise Unwritable(
                f"{self.kept}, which is not needed any more, cannot be removed: {error.strerror}",
                next_step="Remove it by hand.",
            ) from error
        folder = self.kept.parent
        while FOLDER in folder.parts:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # there is another original in it
                return
            folder = folder.parent


def backups_in(source: PathSource) -> tuple[Backup, ...]:
    """Every original that is kept of a file or a tree."""
    if isinstance(source, FileSource):
        return _backups_of(source.path)
    return tuple(each for home in _homes(source) for each in _listed(home))


def clear_backups(source: PathSource) -> None:
    """Remove the folders that a killed run has left without an original."""
    for home in _homes(source):
        clear_killed(home / FOLDER)


def _homes(source: PathSource) -> list[Path]:
    if isinstance(source, FileSource):
        return [_home(source.path)]
    return sorted({Path(folder).resolve().parent for folder in source.folders})


@contextlib.contextmanager
def keeping(edits: Mapping[Path, tuple[bytes | None, bytes]], *, wanted: bool) -> Iterator[None]:
    """Keep the original of each file, which the block changes from the first bytes to the second.

    Where one is kept already, of what the file is now, it stays the original: also for a run that
    is not `wanted` to keep any. If the block fails, nothing is left. Raises `Unwritable`.
    """
    outdated = []
    with contextlib.ExitStack() as undo:
        for path, (before, after) in edits.items():
            earlier = next((each for each in _backups_of(path) if each.fits(before)), None)
            if earlier is None and not wanted:
                continue
            original = earlier.original if earlier else before
            new = _backup(path, after, absent=original is None)
            if new == earlier:
                continue
            undo.callback(_drop_unless_needed, new)
            # As private as the file itself.
            like = None if before is None else path
            write_atomically(new.kept, original or b"", within=_home(path), like=like)
            outdated += [earlier] if earlier else []
        yield
        undo.pop_all()
    for each in outdated:
        each.drop()


def _drop_unless_needed(backup: Backup) -> None:
    """An interrupt may come when the file is new already, and then the original must stay."""
    try:
        needed = backup.fits(content(backup.path))
    except Unreadable:
        return
    if not needed:
        backup.drop()


def content(path: Path) -> bytes | None:
    """A file's bytes; None for no file. Raises `Unreadable`."""
    try:
        return read_file(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def _backup(path: Path, after: bytes, *, absent: bool) -> Backup:
    home, digest = _home(path), _hash(after)
    inside = _real(path).relative_to(home)
    kind = "absent" if absent else "orig"
    kept = home / FOLDER / inside.with_name(f"{inside.name}.{digest}.{kind}")
    return Backup(kept, home / inside, digest)


def _backups_of(path: Path) -> tuple[Backup, ...]:
    return tuple(each for each in _listed(_home(path)) if each.path == _real(path))


def _listed(home: Path) -> Iterator[Backup]:
    """What is kept of the files below a folder. No link on the way is followed, neither to an
    original nor to its file: others' originals would be dropped, or others' files overwritten.
    """
    kept = home / FOLDER
    for each in sorted(kept.rglob("*")):
        if (found := _NAME.fullmatch(each.name)) and not os.path.islink(each) and is_file(each):  # noqa: PTH114
            inside = each.relative_to(kept).with_name(found["file"])
            path = home / inside
            if _real(each) == each and _real(path) == path:
                yield Backup(each, path, found["after"])


def _home(path: Path) -> Path:
    """The folder that holds the package which a file is of; the file's own where it is of none."""
    folder = _real(path).parent
    for each in (folder, *folder.parents):
        if each.name == PACKAGE and any(is_there(each / n) for n in ("__init__.py", "_version.py")):
            return each.parent
    return folder


def _real(path: Path) -> Path:
    """A file's one path, however it was named. A file that is a link is meant itself."""
    return path.parent.resolve() / path.name


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
