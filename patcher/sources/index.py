"""vLLM's releases in a package index: PyPI, a mirror, or one of vLLM's indexes of nightlies.

Any index of the simple API will do, HTML (PEP 503) or JSON (PEP 691). vLLM publishes each
commit's wheels in an index of its own, `.../<commit>/vllm/`, without digests, with links such as
`../../<commit>/vllm-0.23.1rc1.dev672%2Bg93d8f834d-...whl`.

Everything in an index is third-party text. A name that is not a vLLM wheel's or has no version is
passed over; nothing in here is ever made a path.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.utils import parse_wheel_filename

from patcher.errors import RegistryFailed, Unreadable, UsageError
from patcher.sources import listing
from patcher.text import printable
from patcher.versions import nearest, parsed
from patcher.web.http import Request, explanation
from patcher.web.trust import host_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from packaging.version import Version

    from patcher.sources.listing import Listed
    from patcher.web.http import Answer, Http

PROJECT = "vllm"
_PYPI = "https://pypi.org/simple/"

# PyPI's page of vLLM has 128 KB in November 2026, for 309 files.
_PAGE_LIMIT = 8 << 20

# Each costs some requests. PyPI has 100 of vLLM, and of nightlies there are a few thousand.
_MOST_VERSIONS = 20_000

# packaging makes a tag of each Python with each ABI and platform: of a name of 4 KB, 27 million.
# vLLM's wheels have one or two.
_MOST_TAGS = 100

# A mirror's page of the same in HTML has some 130 KB.
_HTML_LIMIT = 2 << 20
_TAG_LIMIT = 8 << 10

_ADDRESS = "Check the network and the index's address (the one that pip takes)."

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Release:
    """One version in an index, and the wheel that answers for it.

    `label` is what a person types for it. `url` is the wheel's, None where `problem` says why it
    has none to offer; `page` is the address of the index's page, which named it. `sha256` (hex)
    and `size` (bytes) are the wheel's, and `uploaded` its time in UTC, where the index states
    them (PEP 700).
    """

    label: str
    version: Version
    page: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    uploaded: datetime | None = None
    problem: str | None = None


def releases(index: str | None, http: Http) -> tuple[Release, ...]:
    """Every version of vLLM in an index, in version order. `index` None is PyPI.

    A release that is yanked or has no wheel is there too, with its `problem`. Raises
    `Unreadable` where the index itself cannot be read.
    """
    packages, page = _packages(index, http)
    of_version: dict[Version, list[Listed]] = {}
    for package in packages:
        version = _version_of(package)
        if version is not None:
            of_version.setdefault(version, []).append(package)
    if len(of_version) > _MOST_VERSIONS:
        raise _unreadable(f"it lists {len(of_version)} versions", _ADDRESS)
    return tuple(_release(index, page, *each) for each in sorted(of_version.items()))


def find(known: Sequence[Release], version: str) -> Release:
    """The release of that version. Raises `UsageError`, naming the near ones."""
    wanted = parsed(version)
    for release in known:
        if release.version == wanted:
            return release
    next_step = nearest(version, (release.version for release in known))
    raise UsageError(f"PyPI has no vLLM {version!r}", next_step=next_step)


def choose_wheel(packages: Iterable[Listed]) -> Listed | str:
    """The wheel that answers for a release: the highest build, x86_64 where there is one.

    The Python files of all wheels of one release are equal; the choice only has to be the same
    each time. Where there is none, the reason.
    """
    wheels = [package for package in packages if package.filename.endswith(".whl")]
    if not wheels:
        return "the release has no wheel"
    offered = [package for package in wheels if not package.is_yanked]
    if not offered:
        return f"the release is yanked: {wheels[0].yanked_reason or 'no reason is given'}"
    return max(offered, key=_preference)


def _preference(package: Listed) -> tuple[tuple[object, ...], bool, str]:
    _, _, build, tags = parse_wheel_filename(unquote(package.filename))
    return build, any(tag.platform.endswith("x86_64") for tag in tags), package.filename


def _version_of(package: Listed) -> Version | None:
    """The version in a file's name; None for anything but a release of vLLM."""
    name = unquote(package.filename)
    if not name.endswith(".whl"):
        stem = name.removesuffix(".tar.gz").removesuffix(".zip")
        project, _, text = stem.rpartition("-")
        return parsed(text) if project == PROJECT and stem != name else None
    if math.prod(part.count(".") + 1 for part in name[:-4].split("-")[-3:]) > _MOST_TAGS:
        return None
    try:
        project, version, _, _ = parse_wheel_filename(name)
    except ValueError:  # InvalidWheelFilename is one, a number of 5000 digits another
        return None
    # Once more: packaging takes blanks and letters beyond ASCII.
    return parsed(name.split("-")[1]) and version if project == PROJECT else None


def _release(index: str | None, page: str, version: Version, packages: list[Listed]) -> Release:
    chosen = choose_wheel(packages)
    label = f"pypi:{version}"
    if index is not None:
        label = f"{PROJECT}=={version} in {printable(shown(index))}"
    if isinstance(chosen, str):
        return Release(label, version, page, problem=printable(chosen))
    url = _encoded(chosen.url)
    sha256 = chosen.digests.get("sha256", "").lower()
    return Release(
        label if index is None else printable(shown(url)),
        version,
        page,
        url,
        sha256 if _SHA256.fullmatch(sha256) else None,
        chosen.size,
        _utc(chosen.upload_time),
    )


def _encoded(url: str) -> str:
    """An address with its `+` as `%2B`, as pip sends it: S3 takes a bare one for a blank."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(path=parts.path.replace("+", "%2B")))


def _utc(time: datetime | None) -> datetime | None:
    """PyPI always says that it is UTC; another index may leave it out. None for one that no
    calendar has in UTC.
    """
    try:
        return time and (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except OverflowError:
        return None


def _packages(index: str | None, http: Http) -> tuple[Sequence[Listed], str]:
    """Every file on vLLM's page of an index, and the address that the page came from."""
    url = http.named(f"{(index or _PYPI).rstrip('/')}/{PROJECT}/")
    try:
        answer = http.ask(Request("GET", url, {"Accept": listing.ACCEPT}), _PAGE_LIMIT)
    except RegistryFailed as error:
        raise _unreadable(error.problem, error.next_step) from error
    if answer.status != 200:
        said = f"{host_of(answer.url)}: HTTP {answer.status}{explanation(answer.body)}"
        raise _unreadable(http.keyring.hide(said), _ADDRESS)
    return _parse(answer), answer.url


def _parse(answer: Answer) -> list[Listed]:
    """The page's files, in whichever form it came."""
    kind, _, parameters = answer.headers.get("Content-Type", "text/html").partition(";")
    try:
        if kind.strip() == listing.JSON:
            return listing.of_json(answer.body, answer.url)
        if kind.strip() in listing.HTML:
            charset = parameters.partition("charset=")[2].strip("\"' ") or None
            _expect_tags(answer.body)
            return listing.of_html(answer.body, answer.url, charset, PROJECT)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}", _ADDRESS) from error
    raise _unreadable(f"its page is of the type {kind!r}", _ADDRESS)


def _expect_tags(page: bytes) -> None:
    """Raise `ValueError` for HTML whose parsing takes time by the square of its size.

    Those are tags, comments and quotes that never end (CVE-2025-6069: 64 KB of `<a ` took a
    minute), and links inside links, of each of which all the text below it is put together.
    """
    if len(page) > _HTML_LIMIT:
        raise ValueError(f"its page has more than {_HTML_LIMIT >> 20} MiB")
    place, inside = 0, False
    while (start := page.find(b"<", place)) >= 0:
        found = _TAG.match(page, start, start + _TAG_LIMIT)
        if found is None:
            raise ValueError(f"{_line(page, start)}: a tag, quote or comment that does not end")
        if name := _LINK.match(page, start):
            if inside and not name[1]:
                raise ValueError(f"{_line(page, start)}: a link inside another")
            inside = not name[1]
        place = found.end()


def _line(page: bytes, place: int) -> str:
    number = page.count(b"\n", 0, place) + 1
    return f"line {number}"


_LINK = re.compile(rb"<(/?)[aA][\s>/]")

# A comment, or a tag with its quotes closed. No part of it can match in two ways.
_TAG = re.compile(
    rb"""<(?:!--(?:[^-]|-(?!->))*-->|(?!!--)[^<>"']*(?:(?:"[^"]*"|'[^']*')[^<>"']*)*>)"""
)


def _unreadable(reason: str, next_step: str) -> Unreadable:
    return Unreadable(f"the list of vLLM's releases cannot be read: {reason}", next_step=next_step)
