"""Where in a TOML text a value stands: tomllib says it of syntax errors only."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The way to a value: keys, and numbers for the members of arrays.
TomlPath = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[{1,2})([^\[].*?)\]{1,2}\s*(?:#.*)?")
_ASSIGNMENT = re.compile(r"\s*([^=#\[]+?)\s*=.*")


def line_of(text: str, path: TomlPath) -> int:
    """The line, from 1, of the value at `path`, or of the nearest table around it.

    Goes line by line over text that tomllib accepts. A line of a multi-line string that looks like
    a header can mislead it, by some lines and nothing worse.
    """
    line, depth = 1, 0
    for number, known in _places(text):
        if len(known) > depth and path[: len(known)] == known:
            line, depth = number, len(known)
    return line


def _places(text: str) -> Iterator[tuple[int, TomlPath]]:
    """Each line that opens a table or sets a key, with the path of that."""
    table: TomlPath = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.fullmatch(line.rstrip("\r")):
            first, *rest = _keys(f"[{header[2]}]")
            if header[1] == "[[":
                counts[first] = counts.get(first, -1) + 1
            table = (first, counts[first], *rest) if first in counts else (first, *rest)
            yield number, table
        elif assignment := _ASSIGNMENT.fullmatch(line.rstrip("\r")):
            yield number, (*table, *_keys(f"{assignment[1]} = 0"))


def _keys(line: str) -> tuple[str, ...]:
    """The keys that a header or an assignment names; one empty one where it is neither."""
    try:
        value = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ("",)
    keys = []
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        keys.append(key)
    return tuple(keys) or ("",)
