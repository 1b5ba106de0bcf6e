"""This machine's files, as a `Tree`, and read in bounds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from patcher.errors import FileAbsent
from patcher.files import look, read_file, unreadable
from patcher.oci.rootfs.tree import Kind
from patcher.rules.source import MOST_BYTES


class _Disk:
    """This machine's files, as a `Tree`."""

    def kind(self, path: str) -> Kind | None:
        """See `Tree`. Raises `Unreadable`."""
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise unreadable(Path(path), error) from error
        if stat.S_ISLNK(mode):
            return Kind.LINK
        return Kind.FOLDER if stat.S_ISDIR(mode) else Kind.FILE

    def link(self, path: str) -> str:
        """See `Tree`."""
        return str(Path(path).readlink())

    def names(self, folder: str) -> list[str]:
        """See `Tree`."""
        return names(Path(folder))

    def read(self, path: str) -> bytes | None:
        """See `Tree`."""
        try:
            return read(Path(path))
        except FileAbsent:
            return None


DISK = _Disk()


def read(path: Path) -> bytes:
    """A regular file's bytes. Raises `FileAbsent`, `Unreadable`."""
    found = look(path)
    if found is None:
        raise FileAbsent(f"there is no {path}", next_step="Check the path and vLLM's version.")
    try:
        return read_file(path, MOST_BYTES)
    except OSError as error:
        raise unreadable(path, error) from error


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder. Raises `Unreadable`."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
