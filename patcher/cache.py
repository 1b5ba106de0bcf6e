"""What was learnt of content that never changes, kept in the user's cache directory.

An entry is found by the hash of its key, so no third-party text becomes a path, and begins with a
checksum over key and content: one that is damaged, cut off or moved is ignored, and what it held is
read again. Entries appear in one step, so two processes can share the folder.

What an entry says is believed, also for a file that is then patched, since a layer's digest cannot
be computed again without the layer. So the cache is where only the user can write: the folders
belong to the user, nobody else may write to them, and neither they nor the entries are symbolic
links. A folder that is otherwise, or that cannot be used, is left alone, with one warning.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from patcher.errors import Unwritable
from patcher.files import write_atomically
from patcher.talk import say
from patcher.text import printable

# A verdict with its evidence has under 2 KB.
_MOST_VERDICT = 1 << 20

_CHECKSUM = 32


def default_folder() -> Path:
    """The folder of this user's entries, with a folder for each kind."""
    from platformdirs import user_cache_path

    return user_cache_path("vllm-patcher")


@functools.cache
def _warn(text: str) -> None:
    """Say it on stderr, the first time."""
    say(text)


class Cache:
    """Bytes by key in a folder, which is made with the first entry.

    `say` is called once when the folder cannot be used; from then on nothing is kept or found. An
    entry of more than `most` bytes is ignored. Any number of threads may share it.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], object] = _warn, most: int = _MOST_VERDICT
    ) -> None:
        self.folder = folder
        self._say = say
        self._most = most
        self._works = True
        self._lock = threading.Lock()

    def load(self, key: bytes) -> bytes | None:
        """What is kept under a key; None for nothing, or nothing whole."""
        if not self._works:
            return None
        try:
            check_private(self.folder)
            opened = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(opened, "rb") as file:
                entry = file.read(self._most + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            # A symbolic link does not count as an entry, and is replaced.
            if error.errno != errno.ELOOP:
                self._give_up(error.strerror or str(error))
            return None
        checksum, data = entry[:_CHECKSUM], entry[_CHECKSUM:]
        return data if checksum == _checksum(key, data) else None

    def save(self, key: bytes, data: bytes) -> None:
        """Keep bytes under a key, if the disk takes them."""
        if not self._works:
            return
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            check_private(self.folder)
            entry = _checksum(key, data) + data
            # Not synced, which took half of a survey's time: an entry that is not whole is ignored.
            write_atomically(self._path(key), entry, within=self.folder, synced=False)
        except OSError as error:
            self._give_up(error.strerror or str(error))
        except Unwritable as error:
            self._give_up(error.problem)

    def _path(self, key: bytes) -> Path:
        return self.folder / hashlib.sha256(key).hexdigest()

    def _give_up(self, reason: str) -> None:
        with self._lock:
            is_news, self._works = self._works, False
        if is_news:
            self._say(printable(f"going on without the cache in {self.folder}: {reason}"))


def check_private(folder: Path) -> None:
    """Raise `OSError` where anybody but this user could have put an entry into the folder."""
    for each in (folder.parent, folder):
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(0, f"{each} is not a folder, or is a symbolic link")
        if found.st_uid != os.geteuid():
            raise PermissionError(0, f"{each} belongs to another user")
        if found.st_mode & 0o022:
            raise PermissionError(0, f"others can write to {each}: chmod 700, after cache clear")


def _checksum(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + data).digest()


@dataclass(frozen=True, slots=True)
class Kept:
    """What the cache holds of one kind: how many entries, and their bytes."""

    kind: str
    entries: int
    bytes: int


def kept() -> tuple[Kept, ...]:
    """What this user's cache holds, by kind. Raises `Unwritable`."""
    try:
        found = [
            (kind.name, [path.lstat().st_size for path in _entries(kind)]) for kind in _kinds()
        ]
    except OSError as error:
        raise _not_usable("read", error) from error
    return tuple(Kept(name, len(sizes), sum(sizes)) for name, sizes in found)


def clear() -> int:
    """Remove every entry of this user's, and say how many there were. Raises `Unwritable`.

    A process that is writing one meanwhile goes on without the cache. No symbolic link is
    followed: what it leads to may be somebody else's.
    """
    gone = 0
    try:
        for kind in _kinds():
            for path in _entries(kind):
                path.unlink(missing_ok=True)
                gone += 1
    except OSError as error:
        raise _not_usable("cleared", error) from error
    return gone


def _kinds() -> list[Path]:
    folder = default_folder()
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _entries(kind: Path) -> list[Path]:
    return [path for path in kind.iterdir() if path.is_symlink() or not path.is_dir()]


def _not_usable(how: str, error: OSError) -> Unwritable:
    return Unwritable(
        f"the cache in {default_folder()} cannot be {how}: {error.strerror}",
        next_step="Remove the folder by hand.",
    )
