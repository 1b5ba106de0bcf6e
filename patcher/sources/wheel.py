"""A vLLM wheel, on PyPI or at an address, read without downloading it; or a wheel's file.

Two or three range requests bring the zip's central directory, its RECORD and the one file that is
wanted. Each file's bytes are checked against the zip's CRC and the wheel's RECORD (PEP 376,
PEP 427: a URL-safe base64 digest without padding). The hash of the whole wheel, which the index
states, is not checked: that would take the whole wheel.
"""

from __future__ import annotations

import base64
import csv
import errno
import functools
import hashlib
import io
import re
import weakref
import zlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from patcher.errors import FileAbsent, Unreadable
from patcher.files import open_file
from patcher.progress import waiting
from patcher.sources.index import PROJECT, Release, find, releases
from patcher.sources.names import NameTree, runs_instead
from patcher.text import printable
from patcher.versions import parsed
from patcher.web.http import Http
from patcher.web.ranges import PART_LIMIT, Ranges
from patcher.web.trust import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from zipfile import ZipInfo

# The first range. RECORD is a wheel's last member: from its start to the wheel's end are 277 KB in
# 0.15.0, 521 KB in 0.23.0 and 911 KB in 0.33.0. What is missing of a longer one is fetched then.
_TAIL = 512 << 10

# vLLM's largest Python file has under 1 MB, its longest RECORD 720 KB (0.33.0).
_MEMBER_LIMIT = PART_LIMIT
_RECORD_LIMIT = 4 << 20

# All Python files of a folder: in 0.33.0 that of the models has 7.6 MB. Files may overlap, and of a
# wheel of 16 MB be any number of 16 MB.
_FOLDER_LIMIT = 128 << 20

_RECORD = re.compile(rf"{PROJECT}-([^/]+)\.dist-info/RECORD")

# What an installer puts beside or over the package's own files: a folder of .data (PEP 427), and
# paths that lead to one that is there already.
_ELSEWHERE = re.compile(
    rf"[^/]+\.data/(?:(?:pure|plat)lib/{PROJECT}[/.]|data/(?:.*/)?(?:site|dist)-packages/)",
    re.DOTALL,
)
_NOT_PLAIN = re.compile(r"(?:^|/)\.{0,2}/|(?:^|/)\.{1,2}\Z|\\")

# What Python runs when it starts. vLLM's own wheels hold none.
_STARTS = re.compile(
    r"(?:[^/]+\.data/(?:pure|plat)lib/)?(?:[^/]+\.pth|(?:site|user)customize[./].*)",
    re.DOTALL,
)

# A path that is one of these, between slashes, holds one of these.
_SUSPECT = ("//", "/./", "/../", "\\", ".data/", ".pth/", "customize")

# Those that installers take. The others inflate a part at once, of whatever size.
_METHODS = frozenset({ZIP_STORED, ZIP_DEFLATED})

# PEP 427: sha256 or better.
_HASHES = frozenset({"sha256", "sha384", "sha512"})

# What zipfile raises on a file that is not a zip, or is damaged: found by a test that damages one.
_ZIP_FAULTS = (
    BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # encrypted; NotImplementedError: an unknown compression
    ValueError,
    OverflowError,
    LookupError,
)


class WheelSource:
    """One wheel, opened once; any number of its files can be read.

    `ranges` are its parts on a server; None for a file on this machine.
    """

    def __init__(self, label: str, opened: ZipFile, ranges: Ranges | None = None) -> None:
        self.label = label
        self._ranges = ranges
        self._zip = opened
        self._record_name, self._version = self._find_record()
        self._expect_own_places()
        self._tree = NameTree(opened.namelist())
        self._known: dict[str, bytes] = {}

    @property
    def size(self) -> int:
        """The size of the whole wheel on its server, in bytes; 0 for a file on this machine."""
        return (self._ranges.size or 0) if self._ranges else 0

    @property
    def bytes_read(self) -> int:
        """The bytes of the wheel that crossed the network so far, without HTTP headers."""
        return self._ranges.bytes_read if self._ranges else 0

    def version(self) -> str:
        """The version in the name of the wheel's dist-info folder (PEP 427)."""
        return self._version

    def names(self) -> dict[str, int]:
        """The package's Python files by their paths in the wheel, and their sizes in bytes."""
        return {
            each.filename: each.file_size
            for each in self._zip.infolist()
            if each.filename.startswith(f"{PROJECT}/") and each.filename.endswith(".py")
        }

    def read(self, target: str) -> bytes:
        """A file by its path in the wheel. Raises `FileAbsent`, `Unreadable`.

        It is fetched once: several patches may be about one file.
        """
        if target not in self._known:
            self._known[target] = self._checked(target)
        return self._known[target]

    def _checked(self, target: str) -> bytes:
        if target not in self._zip.NameToInfo:
            raise FileAbsent(
                f"{self.label} has no {target}", next_step="Check the path and the version."
            )
        if instead := runs_instead(self._tree, target):
            raise _unreadable(self.label, f"Python runs its {instead}, and not {target}")
        data = self._inflate(target)
        algorithm, _, stated = self._record.get(target, "").partition("=")
        if algorithm not in _HASHES:
            raise _unreadable(self.label, f"its RECORD states no hash for {target}")
        digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest())
        if digest.decode().rstrip("=") != stated:
            raise _unreadable(self.label, f"{target} is not what its RECORD states")
        return data

    def read_folder(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """Every Python file below a folder, in one request: path and bytes, checked as by `read`.

        A wheel holds its files in the order of their names. Raises `Unreadable`.
        """
        wanted = [i for i in self._zip.infolist() if i.filename.startswith(f"{folder}/")]
        if not wanted:
            return
        claimed = sum(info.file_size for info in wanted if info.filename.endswith(".py"))
        if claimed > _FOLDER_LIMIT:
            raise _unreadable(self.label, f"{folder} claims {claimed} bytes")
        first = min(info.header_offset for info in wanted)
        last = max(info.header_offset for info in wanted)
        ends = [info.header_offset for info in self._zip.infolist() if info.header_offset > last]
        if self._ranges:
            with _zip_faults(self.label, folder):
                self._ranges.keep(first, min(ends, default=self._zip.start_dir) - 1)
        for info in wanted:
            if info.filename.endswith(".py"):
                yield info.filename, self._checked(info.filename)

    @functools.cached_property
    def _record(self) -> dict[str, str]:
        """Path -> hash, as RECORD states it: the algorithm, `=` and the digest."""
        data = self._inflate(self._record_name, _RECORD_LIMIT)
        try:
            text = data.decode()
            # Row by row: as a list, lines of nothing would be a hundred times as much.
            return {
                row[0]: row[1]
                for row in csv.reader(io.StringIO(text, newline=""))
                if len(row) >= 2 and row[0] in self._zip.NameToInfo
            }
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(self.label, f"its RECORD is damaged: {error}") from error

    def _find_record(self) -> tuple[str, str]:
        """The RECORD's path, and the version in that path."""
        found = [match for name in self._zip.namelist() if (match := _RECORD.fullmatch(name))]
        if not found:
            raise Unreadable(
                f"{self.label} is not a wheel of {PROJECT}",
                next_step=f"Name one whose file begins with {PROJECT}-.",
            )
        if len(found) != 1:
            raise _unreadable(
                self.label,
                f"it is not a wheel of {PROJECT}: it has {len(found)} files named RECORD",
            )
        return found[0][0], found[0][1]

    def _expect_own_places(self) -> None:
        """Each file has one place, under the name that it is read by. Raises `Unreadable`."""
        names = self._zip.namelist()
        if len(names) != len(self._zip.NameToInfo):
            raise _unreadable(self.label, "it has two files of one name")
        # Of two archives in one, pip's Python reads the last, and an installer that begins at the
        # front another.
        if self._zip.comment or min(info.header_offset for info in self._zip.infolist()):
            raise _unreadable(self.label, "it holds more than one archive: a comment, or a head")
        # Nearly always none holds one of these: to ask each of 5,800 names took 9 ms, this takes 1.
        together = f"/{'/'.join(names)}/"
        if not any(part in together for part in _SUSPECT):
            return
        for name in names:
            if _NOT_PLAIN.search(name) or _ELSEWHERE.match(name):
                raise _unreadable(self.label, f"its {name} is put where another file belongs")
            if _STARTS.fullmatch(name):
                raise _unreadable(self.label, f"its {name} is run whenever Python starts")

    def _inflate(self, name: str, most: int | None = None) -> bytes:
        """One member's bytes; zipfile checks the CRC."""
        info: ZipInfo = self._zip.getinfo(name)
        if info.file_size > (most or _MEMBER_LIMIT):
            raise _unreadable(self.label, f"{name} claims {info.file_size} bytes")
        if info.compress_type not in _METHODS:
            raise _unreadable(self.label, f"{name} is packed by method {info.compress_type}")
        # So many, and not all that there are: what is packed may hold a thousand times more.
        with _zip_faults(self.label, f"{name} is damaged"), self._zip.open(info) as member:
            data = member.read(info.file_size)
        if len(data) < info.file_size:
            raise _unreadable(self.label, f"{name} is damaged: it ends after {len(data)} bytes")
        return data


class _Parts(io.BufferedReader):
    """A wheel on this machine; no larger part of it is read than of one on a server."""

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BufferedReader`."""
        if size is not None and size > PART_LIMIT:
            raise OSError(errno.EFBIG, f"a part of more than {PART_LIMIT >> 20} MiB is wanted")
        return super().read(size)


def _unreadable(label: str, reason: str) -> Unreadable:
    return Unreadable(
        f"{label} cannot be read: {reason}", next_step="Fetch it again, or choose another version."
    )


@contextmanager
def _zip_faults(label: str, what: str) -> Iterator[None]:
    """Whatever a damaged zip makes zipfile raise becomes `Unreadable`."""
    from remotezip import RemoteZipError

    try:
        yield
    except Unreadable as error:
        raise Unreadable(f"{label}: {error.problem}", next_step=error.next_step) from error
    except (*_ZIP_FAULTS, RemoteZipError) as error:
        raise _unreadable(label, f"{what}: {type(error).__name__}: {error}") from error


def _open_remote(label: str, ranges: Ranges) -> WheelSource:
    """The wheel behind some ranges, its central directory read."""
    from remotezip import RemoteZip

    def fetcher(*_: object, **__: object) -> Ranges:
        return ranges

    with _zip_faults(label, "it is not a zip file"):
        opened: ZipFile = RemoteZip("", fetcher=fetcher, initial_buffer_size=_TAIL)
    return WheelSource(label, opened, ranges)


def open_wheel_file(path: Path) -> WheelSource:
    """A wheel on this machine. Raises `Unreadable`."""
    label = printable(str(path), 5000)
    with ExitStack() as opened:
        with _zip_faults(label, "it is not a zip file"):
            parts = opened.enter_context(_Parts(open_file(path).detach()))
            found = ZipFile(parts)
        source = WheelSource(label, found)
        weakref.finalize(source, opened.pop_all().close)
    return source


def open_wheel(url: str, http: Http) -> WheelSource:
    """The wheel at an address that a person named. Reads its central directory.

    Raises `UsageError` for anything but a web address, `Unreadable`.
    """
    return _open_remote(shown(printable(url)), Ranges(http.named(url), http))


def open_listed(release: Release, http: Http) -> WheelSource:
    """The wheel of a release in an index, held to what the index says of it.

    Raises `Unreadable`, also where the release is yanked, has no wheel, or is another version.
    """
    if release.url is None:
        raise _unreadable(release.label, release.problem or "it has no wheel")
    url = http.follow(release.page, release.url)
    ranges = Ranges(url, http, stated_size=release.size, sha256=release.sha256)
    source = _open_remote(release.label, ranges)
    if parsed(source.version()) != release.version:
        raise _unreadable(release.label, f"it holds {PROJECT} {source.version()}")
    return source


def open_release(version: str, *, http: Http | None = None) -> WheelSource:
    """A release of vLLM on PyPI.

    Raises `UsageError` where PyPI has no such release, naming the near ones, and `Unreadable`
    where it is yanked, has no wheel, or cannot be reached.
    """
    http = http or Http()
    with waiting(f"reading vLLM {printable(version)}"):
        return open_listed(find(releases(None, http), version), http)
