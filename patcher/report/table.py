"""Rows as a table that fits a terminal: aligned where there is room, else a block for each row."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.terminal import fitted, styled
from patcher.text import printable

# With less for the last column, a table is hard to read.
_LEAST = 20
_LONGEST = 2000


def table(
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    *,
    wraps: bool = False,
    colours: Sequence[str | None] = (),
) -> list[str]:
    """Lines of a width at most; None leaves each as long as it is. The first row is the header.

    The last column gets what is left: it is broken between words if it `wraps`, else cut. Where
    too little is left each row is a block: its first cell, and the others under the header's
    names. `colours` are those of the second cell of each row, for stdout.
    """
    rows = [[printable(cell, _LONGEST) for cell in row] for row in rows]
    colours = colours or [None] * len(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    start = sum(widths) + 2 * len(widths)
    longest = max(len(row[-1]) for row in rows)
    if width is not None and start + min(longest, _LEAST) > width:
        return _blocks(rows, width, colours)
    lines: list[str] = []
    for row, colour in zip(rows, colours, strict=True):
        padded = [cell.ljust(size) for cell, size in zip(row, widths, strict=False)]
        if colour and width is not None:
            padded[1] = styled(padded[1], colour)
        first, *more = _last(row[-1], width and width - start, wraps=wraps)
        lines.append("  ".join([*padded, first]).rstrip())
        lines += [" " * start + each for each in more]
    return lines


def _last(text: str, width: int | None, *, wraps: bool) -> list[str]:
    return fitted(text, width) or [""] if wraps else [cut(text, width)]


def cut(text: str, width: int | None) -> str:
    """The text, or as much of it as fits and a mark that there is more."""
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def _blocks(rows: Sequence[Sequence[str]], width: int, colours: Sequence[str | None]) -> list[str]:
    header, *others = rows
    names = max(map(len, header[1:])) + 4
    lines: list[str] = []
    for row, colour in zip(others, colours[1:], strict=True):
        lines.append(cut(row[0], width))
        for place, (name, cell) in enumerate(zip(header[1:], row[1:], strict=True)):
            parts = [cut(part, width - names) for part in fitted(cell, width - names) or [""]]
            if colour and place == 0:
                parts = [styled(part, colour) for part in parts]
            lines.append(f"  {name.lower().ljust(names - 2)}{parts[0]}".rstrip())
            lines += [" " * names + part for part in parts[1:]]
    return lines
