"""What was learnt of content that never changes, kept in the user's cache directory.

An entry is found by the hash of its key, so no third-party text becomes a path, and begins with
a checksum over key and content: one that is damaged, cut off or moved is no entry, and what it
held is read again. Entries appear in one step, so two processes can share the folder. A cache
that cannot be read or written is none, and one line says so.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import Unwritable, printable
from patcher.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

# A verdict with its evidence has under 2 KB.
_LIMIT = 1 << 20

_CHECKSUM = 32


def default_folder() -> Path:
    """Where this user's entries lie, of every kind that the program keeps."""
    from platformdirs import user_cache_path

    return user_cache_path("vllm-patcher")


class Cache:
    """Bytes by key in a folder, which is made with the first entry.

    `say` is told, once, that the folder cannot be used; from then on nothing is kept or found.
    Any number of threads may share it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        self._works = True
        self._lock = threading.Lock()

    def load(self, key: bytes) -> bytes | None:
        """What is kept under a key; None for nothing, or nothing whole."""
        if not self._works:
            return None
        try:
            with self._path(key).open("rb") as file:
                entry = file.read(_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return None
        checksum, data = entry[:_CHECKSUM], entry[_CHECKSUM:]
        return data if checksum == _checksum(key, data) else None

    def save(self, key: bytes, data: bytes) -> None:
        """Keep bytes under a key, if the disk takes them."""
        if not self._works:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path(key), _checksum(key, data) + data)
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


def _checksum(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + data).digest()


def clear() -> int:
    """Remove every entry of this user's, and say how many there were. Raises `Unwritable`.

    A process that is writing one meanwhile goes on without the cache.
    """
    gone = 0
    try:
        for path in default_folder().glob("*/*"):
            path.unlink(missing_ok=True)
            gone += 1
    except OSError as error:
        raise Unwritable(
            f"the cache in {default_folder()} cannot be cleared: {error.strerror}",
            next_step="Remove the folder by hand.",
        ) from error
    return gone
