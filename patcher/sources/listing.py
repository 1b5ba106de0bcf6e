"""What a project's page in a package index lists, in JSON (PEP 691, 700) or HTML (PEP 503, 592).

pypi-simple reads both. For JSON it is not asked: to import it took a third of the time of a
`landed` that knows all answers from before, and JSON needs no parser but Python's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urljoin

# What pypi-simple asks for: JSON first, any HTML rather than nothing.
ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html, text/html;q=0.01"
)
JSON = "application/vnd.pypi.simple.v1+json"
HTML = ("application/vnd.pypi.simple.v1+html", "text/html")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file in an index: its name, its whole address, and what the index says of it, if it does.

    `digests` are hex, by algorithm; `size` is in bytes.
    """

    filename: str
    url: str
    digests: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    upload_time: datetime | None = None
    is_yanked: bool = False
    yanked_reason: str | None = None


def of_json(body: str | bytes, address: str) -> list[Listed]:
    """The files of a page in JSON. Raises `ValueError`, `TypeError`, `RecursionError`."""
    page = _expect(json.loads(body), dict, "the page")
    version = _expect(
        _expect(page.get("meta"), dict, "meta").get("api-version"), str, "api-version"
    )
    if version.partition(".")[0] != "1":
        raise ValueError(f"it is of version {version!r} of the simple API, and 1 is known")
    files = _expect(page.get("files"), list, "files")
    return [_of_entry(_expect(each, dict, "a file"), address) for each in files]


def _of_entry(entry: dict[str, Any], address: str) -> Listed:
    hashes = _expect(entry.get("hashes"), dict, "hashes")
    yanked = _expect(entry.get("yanked", False), bool | str, "yanked")
    uploaded = _expect(entry.get("upload-time"), str | None, "upload-time")
    return Listed(
        _expect(entry.get("filename"), str, "filename"),
        urljoin(address, _expect(entry.get("url"), str, "url")),
        {name: _expect(digest, str, "a hash") for name, digest in hashes.items()},
        _size(entry.get("size")),
        None if uploaded is None else datetime.fromisoformat(uploaded),
        yanked is not False,
        yanked if isinstance(yanked, str) else None,
    )


def _size(value: Any) -> int | None:
    """In Python, true is an integer too."""
    if value is not None and (type(value) is not int or value < 0):
        raise TypeError("size is not what the simple API says")
    return value


def _expect(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{what} is not what the simple API says")
    return value


def of_html(body: bytes, address: str, charset: str | None, project: str) -> list[Listed]:
    """The files of a page in HTML. Raises `ValueError`, `TypeError`, `LookupError`."""
    from pypi_simple import ProjectPage, UnsupportedRepoVersionError

    try:
        found = ProjectPage.from_html(project, body, address, charset).packages
    except UnsupportedRepoVersionError as error:
        raise ValueError(str(error)) from error
    return [
        Listed(
            each.filename, each.url, each.digests, each.size, each.upload_time,
            each.is_yanked, each.yanked_reason,
        )
        for each in found
    ]  # fmt: skip
