"""All patches at a glance: a row a patch, a letter an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.report.evidence import shown
from patcher.report.verdicts import COLOURS
from patcher.rules.verdict import Status
from patcher.terminal import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.landed.timeline import Timeline

_LETTERS = {Status.NEEDED: "N", Status.CLEAN: "c", Status.ABSENT: "-", Status.UNKNOWN: "?"}


def plot(lines: Sequence[Timeline], width: int | None = None) -> list[str]:
    """The verdict of each patch on each artifact that states a version, oldest first.

    Nothing for a single patch, whose table says as much; nor where a row is wider than the
    terminal, whose `width` is None for a file or a pipe.
    """
    found = {each.artifact: each for line in lines for each in line.versioned}
    ordered = sorted(found.values(), key=lambda each: each.version or 0)
    start = max((len(line.patch.name) for line in lines), default=0) + 2
    if len(lines) < 2 or not ordered or (width is not None and start + len(ordered) > width):
        return []
    first, last = shown(ordered[0]), shown(ordered[-1])
    legend = ", ".join(f"{letter} {status.value}" for status, letter in _LETTERS.items())
    rows = [f"{first} to {last}, a letter each: {legend}"]
    for line in lines:
        statuses = {each.artifact: each.verdict.status for each in line.versioned}
        cells = [_cell(statuses.get(each.artifact), coloured=width is not None) for each in ordered]
        rows.append(f"{line.patch.name.ljust(start)}{''.join(cells)}")
    return rows


def _cell(status: Status | None, *, coloured: bool) -> str:
    if status is None:
        return " "
    return styled(_LETTERS[status], COLOURS[status]) if coloured else _LETTERS[status]
