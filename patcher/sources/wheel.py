"""A vLLM wheel, on PyPI or at an address, read without downloading it.

Two or three range requests bring the zip's central directory, its RECORD and the one file that is
wanted. Each file's bytes are checked against the zip's CRC and the wheel's RECORD (PEP 376,
PEP 427: a URL-safe base64 digest without padding). The hash of the whole wheel, which the index
states, is not checked: that would take the whole wheel.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import re
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from patcher.errors import FileAbsent, Unreadable, UsageError
from patcher.sources.ranges import PART_LIMIT, TIMEOUT, Ranges
from patcher.versions import near, parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from zipfile import ZipFile, ZipInfo

    import requests
    from pypi_simple import DistributionPackage

PROJECT = "vllm"

# The first range. RECORD is a wheel's last member: from its start to the wheel's end are 277 KB in
# 0.15.0, 521 KB in 0.23.0 and 911 KB in 0.33.0. What is missing of a longer one is fetched then.
_TAIL = 512 << 10

# vLLM's largest Python file has under 1 MB, its longest RECORD 720 KB (0.33.0).
_MEMBER_LIMIT = PART_LIMIT

_RECORD = re.compile(rf"{PROJECT}-([^/]+)\.dist-info/RECORD")

# PEP 427: sha256 or better.
_HASHES = frozenset({"sha256", "sha384", "sha512"})

# What zipfile raises on a file that is no zip, or a damaged one: found by a test that damages one.
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
    """One wheel file, opened once; any number of its files can be read."""

    def __init__(self, label: str, ranges: Ranges) -> None:
        self.label = label
        self._ranges = ranges
        self._zip = _open_zip(label, ranges)
        self._record_name, self._version = self._find_record()

    @property
    def size(self) -> int:
        """The size of the whole wheel, in bytes."""
        return self._ranges.size or 0

    @property
    def bytes_read(self) -> int:
        """The bytes of the wheel that crossed the network so far, without HTTP headers."""
        return self._ranges.bytes_read

    def version(self) -> str:
        """The version in the name of the wheel's dist-info folder (PEP 427)."""
        return self._version

    def read(self, target: str) -> bytes:
        """A file by its path in the wheel. Raises `FileAbsent`, `Unreadable`."""
        if target not in self._zip.NameToInfo:
            raise FileAbsent(
                f"{self.label} has no {target}", next_step="Check the path and the version."
            )
        data = self._inflate(target)
        algorithm, stated = self._record.get(target, ("", ""))
        if algorithm not in _HASHES:
            raise _unreadable(self.label, f"its RECORD states no hash for {target}")
        digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest())
        if digest.decode().rstrip("=") != stated:
            raise _unreadable(self.label, f"{target} is not what its RECORD states")
        return data

    @functools.cached_property
    def _record(self) -> dict[str, tuple[str, str]]:
        """Path -> hash algorithm and digest, as RECORD states them."""
        try:
            rows = list(csv.reader(self._inflate(self._record_name).decode().splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(self.label, f"its RECORD is damaged: {error}") from error
        stated = {row[0]: row[1].partition("=") for row in rows if len(row) >= 2}
        return {path: (algorithm, digest) for path, (algorithm, _, digest) in stated.items()}

    def _find_record(self) -> tuple[str, str]:
        """The RECORD's path, and the version that stands in it."""
        found = [match for name in self._zip.namelist() if (match := _RECORD.fullmatch(name))]
        if len(found) != 1:
            raise _unreadable(
                self.label, f"it is no wheel of {PROJECT}: it has {len(found)} files named RECORD"
            )
        return found[0][0], found[0][1]

    def _inflate(self, name: str) -> bytes:
        """One member's bytes; zipfile checks the CRC."""
        info: ZipInfo = self._zip.getinfo(name)
        if info.file_size > _MEMBER_LIMIT:
            raise _unreadable(self.label, f"{name} claims {info.file_size} bytes")
        with _zip_faults(self.label, f"{name} is damaged"):
            return self._zip.read(info)


def _unreadable(label: str, reason: str) -> Unreadable:
    return Unreadable(
        f"{label} cannot be read: {reason}", next_step="Try again, or choose another version."
    )


@contextmanager
def _zip_faults(label: str, what: str) -> Iterator[None]:
    """Whatever a damaged zip makes zipfile raise becomes `Unreadable`."""
    from remotezip import RemoteZipError

    try:
        yield
    except (*_ZIP_FAULTS, RemoteZipError) as error:
        raise _unreadable(label, f"{what}: {type(error).__name__}: {error}") from error


def _open_zip(label: str, ranges: Ranges) -> ZipFile:
    """The zip behind the ranges, its central directory read."""
    from remotezip import RemoteZip

    def fetcher(*_: object, **__: object) -> Ranges:
        return ranges

    with _zip_faults(label, "it is no zip file"):
        opened: ZipFile = RemoteZip("", fetcher=fetcher, initial_buffer_size=_TAIL)
    return opened


def new_session() -> requests.Session:
    """A session for an index and its wheels: one connection serves many requests."""
    import requests

    from patcher import __version__

    session = requests.Session()
    session.headers["User-Agent"] = f"vllm-patcher/{__version__}"
    return session


def open_wheel(
    url: str, *, label: str | None = None, session: requests.Session | None = None
) -> WheelSource:
    """The wheel at an address. Reads its central directory. Raises `Unreadable`."""
    return WheelSource(label or url, Ranges(url, session or new_session()))


def open_release(version: str, *, session: requests.Session | None = None) -> WheelSource:
    """A release of vLLM on PyPI.

    Raises `UsageError` where PyPI has no such release, naming the near ones, and `Unreadable`
    where it is yanked, has no wheel, or cannot be reached.
    """
    session = session or new_session()
    package = choose_wheel(_packages(session), version)
    return open_wheel(package.url, label=f"pypi:{package.version}", session=session)


def _packages(session: requests.Session) -> Sequence[DistributionPackage]:
    """Every file of vLLM in the index, by the simple API (PEP 503, PEP 691)."""
    import requests
    from pypi_simple import PyPISimple, UnsupportedContentTypeError, UnsupportedRepoVersionError

    index = PyPISimple(session=session)
    try:
        return index.get_project_page(PROJECT, timeout=TIMEOUT).packages
    except (
        requests.RequestException,
        UnsupportedContentTypeError,
        UnsupportedRepoVersionError,
        ValueError,
    ) as error:
        raise Unreadable(
            f"the list of vLLM's releases cannot be read: {type(error).__name__}: {error}",
            next_step="Check the network, then try again.",
        ) from error


def choose_wheel(packages: Iterable[DistributionPackage], version: str) -> DistributionPackage:
    """The wheel that answers for a release: the highest build, x86_64 where there is one.

    The Python files of all wheels of one release are equal; the choice only has to be the same
    each time. Raises as `open_release`.
    """
    wanted = parsed(version)
    releases = [(parsed(package.version), package) for package in packages if package.version]
    of_version = [package for release, package in releases if release == wanted]
    if wanted is None or not of_version:
        nearest = ", ".join(near(wanted, (release for release, _ in releases if release)))
        raise UsageError(f"PyPI has no vLLM {version!r}", next_step=f"Near it: {nearest}.")
    wheels = [package for package in of_version if package.package_type == "wheel"]
    if not wheels:
        raise _unreadable(f"vLLM {version}", "the release has no wheel")
    offered = [package for package in wheels if not package.is_yanked]
    if not offered:
        reason = wheels[0].yanked_reason or "no reason is given"
        raise _unreadable(f"vLLM {version}", f"the release is yanked: {reason}")
    return max(offered, key=_preference)


def _preference(package: DistributionPackage) -> tuple[tuple[object, ...], bool, str]:
    try:
        _, _, build, tags = parse_wheel_filename(package.filename)
    except InvalidWheelFilename:
        return (), False, package.filename
    return build, any(tag.platform.endswith("x86_64") for tag in tags), package.filename
