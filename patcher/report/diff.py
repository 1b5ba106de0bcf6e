"""A diff as a person at a terminal reads it."""

from __future__ import annotations

from patcher.terminal import styled
from patcher.text import printable


def shown_diff(diff: str) -> list[str]:
    """A diff for a person at a terminal; a file's own lines may hold escapes."""
    lines = diff.removesuffix("\n").split("\n") if diff else []
    return [_diff_line(printable(line.expandtabs(8), 5000)) for line in lines]


def _diff_line(line: str) -> str:
    """As git colours it."""
    if line.startswith(("--- ", "+++ ")):
        return styled(line, bold=True)
    return styled(line, {"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))
