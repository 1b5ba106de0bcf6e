"""The formats that an answer of `landed` is written in."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from patcher.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.answer import Document
    from patcher.report.landed import Answer


class Format(enum.StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


_SUFFIXES = {
    ".txt": Format.TABLE,
    ".json": Format.JSON,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".html": Format.HTML,
    ".htm": Format.HTML,
}


def format_of(path: Path) -> Format:
    """The format that a file's name asks for. Raises `UsageError` for a suffix without one."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"{path} does not say its format",
            next_step=f"Name --format, or end it with one of {', '.join(_SUFFIXES)}.",
        )
    return found


def rendered(answer: Answer, form: Format, width: int | None) -> Document:
    """The answer in a format; a table fits a terminal of `width` characters, None for any."""
    from patcher.report import landed, markdown, page
    from patcher.report.document import as_json

    match form:
        case Format.JSON:
            return as_json("landed", **landed.data(answer))
        case Format.MARKDOWN:
            return markdown.markdown(answer)
        case Format.HTML:
            return page.page(answer)
        case Format.TABLE:
            return landed.text(answer, width)
