"""vLLM's own releases, read file by file for rules that need them, and kept in the user's cache.

A file of a release never changes, so it is fetched once: 0.6 MB of its wheel's end, and the file.
"""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING

from patcher.cache import Cache, default_folder
from patcher.errors import FileAbsent
from patcher.progress import waiting
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from patcher.sources.index import Release
    from patcher.sources.wheel import WheelSource
    from patcher.web.http import Http, HttpSettings

# Raise it when what is kept for a file changes.
_KIND = b"vllm-patcher release file 2\0"
# Kept instead of a file's bytes where the release has none: a moved file is looked for in each run.
_ABSENT = b"absent"


class Releases:
    """Upstream as PyPI has it, reached as `settings` say. Any number of threads may share it."""

    def __init__(
        self,
        cache: Cache | None = None,
        settings: Callable[[], HttpSettings | None] = lambda: None,
    ) -> None:
        self._cache = cache or Cache(default_folder() / "releases")
        self._settings = settings
        self._index: tuple[Http, tuple[Release, ...]] | None = None
        self._open: dict[str, WheelSource] = {}
        self._read: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    def read(self, version: str, target: str) -> bytes:
        """The file at `target`, a path under site-packages, as vLLM `version` was released.

        Raises `FileAbsent`, `UsageError` for a version that PyPI has not, and `Unreadable`.
        """
        with self._lock:
            known = self._read.get((version, target))
            if known is None:
                known = self._kept(version, target)
                self._read[version, target] = known
            return known

    def _kept(self, version: str, target: str) -> bytes:
        key = _KIND + f"{version}\0{target}".encode()
        packed = self._cache.load(key)
        if packed == _ABSENT:
            raise FileAbsent(
                f"vLLM {version} has no {target}", next_step="Check the path and the version."
            )
        if packed is not None:
            return zlib.decompress(packed)
        try:
            with waiting(f"reading vLLM {printable(version)}"):
                data = self._wheel(version).read(target)
        except FileAbsent:
            self._cache.save(key, _ABSENT)
            raise
        self._cache.save(key, zlib.compress(data))
        return data

    def names(self, version: str) -> dict[str, int]:
        """The Python files of vLLM `version`, and their sizes in bytes. Raises as `read`."""
        with self._lock:
            return self._wheel(version).names()

    def _wheel(self, version: str) -> WheelSource:
        """A release's wheel, opened once."""
        if version not in self._open:
            self._open[version] = self._found(version)
        return self._open[version]

    def _found(self, version: str) -> WheelSource:
        """A release's wheel; the index is read once, and one session serves all."""
        from patcher.sources.index import find, releases
        from patcher.sources.wheel import open_listed
        from patcher.web.http import Http

        if self._index is None:
            http = Http(self._settings())
            self._index = http, releases(None, http)
        http, known = self._index
        return open_listed(find(known, version), http)
