"""Writing a file so that a reader sees the old bytes or the new ones, never a part."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from patcher.errors import Unwritable


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` into `path` in one step, with an existing file's mode and owner.

    The new bytes go to a temporary file beside it, reach the disk, and take its name. A symbolic
    link is followed to the file it names. A hard link is cut, not written through: package
    managers link site-packages to a cache that other environments share.
    Raises `Unwritable`; then, and on an interrupt, the old file is whole and no other is left.
    """
    try:
        # The first of these is all that a symlink loop raises before Python 3.13.
        _replace(path.resolve(), data)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unwritable(
            f"{path} cannot be written: {reason}",
            next_step="Check its permissions and the free space, or write elsewhere.",
        ) from error


def make_directory(path: Path) -> None:
    """Make a directory and those above. Raises `Unwritable`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be made: {error.strerror}", next_step="Give another directory."
        ) from error


def _replace(real: Path, data: bytes) -> None:
    old = _stat(real)
    partial = real.with_name(f".{real.name[:100]}.{secrets.token_hex(8)}.tmp")
    # Not tempfile: it knows only mode 600, and a new file's mode is the umask's to say.
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                _copy_owner_and_mode(file.fileno(), old)
            os.fsync(file.fileno())
        partial.replace(real)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(real.parent)


def _stat(real: Path) -> os.stat_result | None:
    """What is there; None for nothing. Only a regular file may be replaced."""
    try:
        old = real.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(old.st_mode):
        raise OSError("it is not a regular file")
    return old


def _copy_owner_and_mode(descriptor: int, old: os.stat_result) -> None:
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    # After the owner: a change of owner clears set-user-id.
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _sync_directory(directory: Path) -> None:
    """Make the new name survive a power cut, not only the new bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def data_path(name: str) -> Path:
    """A file or folder at the top of the checkout, or inside the installed wheel."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.exists() else package.parent / name
