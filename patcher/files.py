"""Writing files: a reader sees the old bytes or the new ones, and no other file is touched.

Every write goes through a descriptor of its folder, into a new file beside the old one, which then
takes its name. A symbolic link at that name is replaced, never written through: the file that it
leads to may be shared, or be one that an attacker wants overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from types import EllipsisType
from typing import BinaryIO

from patcher.errors import Unreadable, Unwritable

# A partial file without a writer is removed when it is older than this, in seconds: a new one is
# for a moment not locked yet.
_ORPHANED = 600.0

_RIGHTS = 0o777

# For `expected`: whatever is there is replaced.
ANYTHING = ...

_NEXT = "Check its permissions and the free space, or write elsewhere."


def write_atomically(
    path: Path,
    data: bytes,
    *,
    within: Path | None = None,
    expected: bytes | EllipsisType | None = ANYTHING,
    like: Path | None = None,
    synced: bool = True,
) -> None:
    """Put `data` into `path` in one step. See `replacing`."""
    with replacing(path, within=within, expected=expected, like=like, synced=synced) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(
    path: Path,
    *,
    within: Path | None = None,
    expected: bytes | EllipsisType | None = ANYTHING,
    like: Path | None = None,
    synced: bool = True,
) -> Iterator[BinaryIO]:
    """A new file that takes the name `path` when the block ends without an error.

    An existing file's owner, mode, ACL and other extended attributes are kept; those of the file
    `like`, where one is named. What has the name as a symbolic or hard link is cut loose: package
    managers link site-packages to a cache that other environments share. Below the folder `within`
    no symbolic link is followed at all, and missing folders are made. `expected` are the bytes
    that the name must still have at the end, None for a name that must still be free. What is not
    `synced` may be cut off, or gone, after a power cut: for files that are checked when read.
    Raises `Unwritable`; then, and on an interrupt, the name leads to what it led to before and
    no other file is left.
    """
    folder = -1
    try:
        folder = _open_folder(path.parent, within)
        # A folder of ours holds no partial file but ours.
        _clear_orphans(folder, None if within else path.name)
        with _partial(folder, path.name) as (partial, file):
            yield file
            file.flush()
            # By its whole path, `like` is not looked for in the folder.
            _keep_attributes(folder, str(like.absolute()) if like else path.name, file.fileno())
            if synced:
                os.fsync(file.fileno())
            if not (isinstance(expected, EllipsisType) or _stands(folder, path.name, expected)):
                raise OSError("it was changed meanwhile")
            os.rename(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        # Makes the new name survive a power cut. FUSE, CIFS and 9p mounts refuse it; the write
        # is done all the same.
        if synced:
            with contextlib.suppress(OSError):
                os.fsync(folder)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if folder >= 0:
            os.close(folder)


def look(path: Path) -> os.stat_result | None:
    """What a path leads to, links followed; None for nothing. Raises `Unreadable`, as for a folder
    that may not be looked into: `Path.exists` gives that on as the system says it.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return None
        raise unreadable(path, error) from error


def unreadable(path: Path, reason: Exception | str) -> Unreadable:
    """The error for a path that is there and cannot be read."""
    reason = getattr(reason, "strerror", None) or str(reason)
    return Unreadable(f"{path} cannot be read: {reason}", next_step="Check the path's permissions.")


def is_there(path: Path) -> bool:
    """Does the path lead to anything? Raises `Unreadable`; see `look`."""
    return look(path) is not None


def is_file(path: Path) -> bool:
    """Does the path lead to a regular file? Raises `Unreadable`; see `look`."""
    found = look(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Does the path lead to a folder? Raises `Unreadable`; see `look`."""
    found = look(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def open_file(path: Path) -> BufferedReader:
    """A regular file to read. Raises `OSError`, also for a pipe, which may never be written to, and
    for a device, which may have no end: in a folder that somebody else made, any name can be a
    link to one.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(opened, "rb")


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file. Raises `OSError`, also for one of over `most` bytes."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB")
    return data


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder, among those that ask. Raises `OSError` for no folder.

    The lock is on the folder: a file in it is replaced, and cannot carry a lock that lasts.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """An empty folder next to a path, removed at the end; those of killed runs go too.

    Raises `Unwritable`.
    """
    with new_folder(beside.parent):
        _clear_scratch(beside)
        path = beside.with_name(f".{_short(beside.name)}.{secrets.token_hex(8)}.tmp")
        make_directory(path)
        try:
            with locked(path):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _clear_scratch(beside: Path) -> None:
    for path in beside.parent.iterdir():
        if _orphan(beside.name).fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError), _unused(os.open(path, os.O_RDONLY)) as left:
                if time.time() - os.fstat(left).st_mtime > _ORPHANED:
                    shutil.rmtree(path, ignore_errors=True)


def make_directory(path: Path) -> None:
    """Make a directory and those above. Raises `Unwritable`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be made: {error.strerror}", next_step="Give another directory."
        ) from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """A folder and those above it, made where they are missing; see `no_folder_left`.

    Raises `Unwritable`.
    """
    with no_folder_left(path):
        make_directory(path)
        yield


@contextlib.contextmanager
def no_folder_left(path: Path) -> Iterator[None]:
    """Where the block fails, the folders that it made on the way to `path`, and left empty, go."""
    missing = [each for each in (path, *path.parents) if not is_there(each)]
    try:
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):  # it holds something by now, or was never made
                each.rmdir()
        raise


@contextlib.contextmanager
def all_or_none() -> Iterator[Callable[[Path, str], None]]:
    """What writes a text to a free name, or over its own; where the block fails, none is left.

    A file of that name that somebody else puts there meanwhile stays. Raises `Unwritable`.
    """
    # Each before it is written: an interrupt can come right after.
    written: list[tuple[Path, bytes]] = []

    def write(path: Path, text: str) -> None:
        before, data = dict(written).get(path), text.encode()
        written.append((path, data))
        try:
            write_atomically(path, data, expected=before)
        except Unwritable:
            written.pop()  # what is there is another's, be it equal
            raise

    try:
        yield write
    except BaseException:
        for path, data in written:
            with contextlib.suppress(OSError):  # it has gone, or is another's and longer
                if read_file(path, len(data)) == data:
                    path.unlink()
        raise


def unwritable(path: Path, error: OSError) -> Unwritable:
    """The error for what the system would not write, with the next step."""
    return Unwritable(f"{path} cannot be written: {error.strerror or error}", next_step=_NEXT)


def _open_folder(path: Path, within: Path | None) -> int:
    """A descriptor of a folder, which stays the same one whatever its path becomes."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if within is None:
        return os.open(path, flags)
    here = os.open(within, flags)
    for part in path.relative_to(within).parts:
        above = here
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=above)
            here = os.open(part, flags | os.O_NOFOLLOW, dir_fd=above)
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISLNK(os.stat(part, dir_fd=above, follow_symlinks=False).st_mode):
                    raise OSError(f"{part} is a symbolic link") from error
            raise
        finally:
            os.close(above)
    return here


@contextlib.contextmanager
def _partial(folder: int, name: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new file beside `name`, locked while it is written; removed after an error.

    Not `tempfile`: that knows only mode 600, and a new file's mode is the umask's to say.
    """
    partial = f".{_short(name)}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(partial, flags, 0o666, dir_fd=folder), "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield partial, file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise


# The folders that were looked through, by device and inode, and for which name.
_cleared: set[tuple[int, int, str | None]] = set()


def _clear_orphans(folder: int, name: str | None) -> None:
    """Remove the partial files of this name that a killed run has left; of any name for None.

    Once in a process: in a cache of 10,000 entries that was 1.2 s of CPU for 256 more.
    """
    found = os.fstat(folder)
    key = found.st_dev, found.st_ino, name
    if key in _cleared:
        return
    _cleared.add(key)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for partial in filter(_orphan(name).fullmatch, os.listdir(folder)):
        with (
            contextlib.suppress(OSError),
            _unused(os.open(partial, flags, dir_fd=folder)) as left,
        ):
            if time.time() - os.fstat(left).st_mtime > _ORPHANED:
                os.unlink(partial, dir_fd=folder)


def _short(name: str) -> str:
    """As much of a name as leaves room for more: a system counts its bytes, 255 at most."""
    return os.fsencode(name)[:100].decode("utf-8", "ignore")


def _orphan(name: str | None) -> re.Pattern[str]:
    return re.compile(
        rf"\.{'.{1,100}' if name is None else re.escape(_short(name))}\.[0-9a-f]{{16}}\.tmp"
    )


def clear_killed(folder: Path) -> None:
    """Remove what killed runs left in a folder of ours some time ago: partial files, and folders
    that hold nothing, itself too. No link is followed, and what cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        aged: set[str] = set()  # to empty a folder makes it a new one
        for path, _, _, here in os.fwalk(folder):
            if time.time() - os.fstat(here).st_mtime > _ORPHANED:
                aged.add(path)
            _clear_orphans(here, None)
        for path, folders, _, here in os.fwalk(folder, topdown=False):
            for name in folders:
                if os.path.join(path, name) in aged:  # noqa: PTH118 - fwalk gives texts
                    with contextlib.suppress(OSError):  # it holds something
                        os.rmdir(name, dir_fd=here)
        if str(folder) in aged:
            folder.rmdir()


@contextlib.contextmanager
def _unused(left: int) -> Iterator[int]:
    """What a killed run has left, opened. Raises `OSError` while it is still being written."""
    try:
        fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield left
    finally:
        os.close(left)


def _keep_attributes(folder: int, name: str, new: int) -> None:
    """Give the new file what an old one of the name has: owner, mode, ACL, SELinux label."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            _copy_mode(new, os.stat(name, dir_fd=folder), _RIGHTS)
            return
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    # Owner first: changing it clears set-user-id. The ACL last: with one, the mode's group bits
    # are its mask, and on their own would give the group what the ACL denies.
    _copy_mode(new, found, 0o7777)
    old = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        # By /proc: a descriptor that may not read the file can still tell its attributes.
        _copy_extended(f"/proc/self/fd/{old}", new)
    finally:
        os.close(old)


def _copy_mode(new: int, old: os.stat_result, bits: int) -> None:
    own = os.fstat(new)
    if (own.st_uid, own.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(new, old.st_uid, old.st_gid)
    os.fchmod(new, stat.S_IMODE(old.st_mode) & bits)


def _copy_extended(old: str, new: int) -> None:
    try:
        names = os.listxattr(old)
    except OSError:
        return  # a file system without them, or no /proc
    for name in names:
        value = os.getxattr(old, name)
        if _has(new, name, value):
            continue
        os.setxattr(new, name, value)


def _has(new: int, name: str, value: bytes) -> bool:
    """A security module may have given the new file the same label, and refuse another write."""
    try:
        return os.getxattr(new, name) == value
    except OSError:
        return False


def _stands(folder: int, name: str, expected: bytes | None) -> bool:
    """Has the file of this name these bytes; for None, is the name free?

    A pipe or a device that was put there meanwhile may have no end.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return is_file and expected is not None and file.read(len(expected) + 1) == expected
    except FileNotFoundError:
        return expected is None


def data_path(name: str) -> Path:
    """A file or folder at the top of the checkout, or inside the installed wheel."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.exists() else package.parent / name
