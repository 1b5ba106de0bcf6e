"""What a patch changes, as a person and patch(1) read it."""

from __future__ import annotations

import difflib

NO_NEWLINE = "\\ No newline at end of file"  # as diff(1) says it


def unified_diff(before: bytes, after: bytes, path: str) -> str:
    """The difference, as `patch` and `git apply` take it with -p1; empty for none."""
    old, new = (data.decode(errors="surrogateescape") for data in (before, after))
    lines = difflib.unified_diff(lines_of(old), lines_of(new), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}\n" for line in lines)


def lines_of(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends a line of a diff."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
