"""What differs between two texts, and how a person and patch(1) read it. The time has a bound."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from difflib import Match, SequenceMatcher
from typing import TypeVar

NO_NEWLINE = "\\ No newline at end of file"  # as diff(1) says it

# Comparisons of an element with an equal one. vLLM's longest files, of 7,000 lines, take some two
# million; this many take four seconds.
_MOST_COMPARED = 20_000_000

_T = TypeVar("_T", bound=Hashable)


class Matcher(SequenceMatcher[_T]):
    """The standard library's, which takes time by the square of what is equal: 20,000 blank lines
    were minutes, and the file that holds them is anybody's.

    When it has compared enough, the beginning and the end of what is left are still the same where
    they are, and all between them counts as changed.
    """

    b2j: dict[_T, list[int]]  # of `other`: typeshed leaves it out

    def __init__(self, one: Sequence[_T], other: Sequence[_T], *, autojunk: bool = False) -> None:
        super().__init__(None, one, other, autojunk)
        self._sides = one, other
        costs = (1 + len(self.b2j.get(each, ())) for each in one)
        self._costs = [0, *itertools.accumulate(costs)]
        self._left = _MOST_COMPARED

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> Match:
        """See `SequenceMatcher`."""
        one, other = self._sides
        ahi, bhi = len(one) if ahi is None else ahi, len(other) if bhi is None else bhi
        cost = self._costs[ahi] - self._costs[alo]
        if cost <= self._left:
            self._left -= cost
            return super().find_longest_match(alo, ahi, blo, bhi)
        most = min(ahi - alo, bhi - blo)
        size = next((at for at in range(most) if one[alo + at] != other[blo + at]), most)
        if size:
            return Match(alo, blo, size)
        size = next((at for at in range(most) if one[ahi - 1 - at] != other[bhi - 1 - at]), most)
        return Match(ahi - size, bhi - size, size)


def unified_diff(before: bytes, after: bytes, path: str) -> str:
    """The difference, as `patch` and `git apply` take it with -p1; empty for none."""
    old, new = (lines_of(data.decode(errors="surrogateescape")) for data in (before, after))
    hunks = list(hunks_between(old, new))
    lines = [f"--- a/{path}\n", f"+++ b/{path}\n", *hunks] if hunks else []
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}\n" for line in lines)


def hunks_between(old: Sequence[str], new: Sequence[str], context: int = 3) -> Iterator[str]:
    """The lines of the hunks of a unified diff."""
    marks = {"equal": " ", "delete": "-", "insert": "+", "replace": "-"}
    for group in Matcher(old, new, autojunk=True).get_grouped_opcodes(context):
        spans = _span(group[0][1], group[-1][2]), _span(group[0][3], group[-1][4])
        yield f"@@ -{spans[0]} +{spans[1]} @@\n"
        for tag, a, b, c, d in group:
            yield from (f"{marks[tag]}{line}" for line in old[a:b])
            if tag in ("insert", "replace"):
                yield from (f"+{line}" for line in new[c:d])


def _span(start: int, end: int) -> str:
    """Lines `start` to `end`, from 0, as a hunk's head has them; of none, the line before them."""
    size = end - start
    return f"{start + 1}" if size == 1 else f"{start + (size > 0)},{size}"


def lines_of(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends a line of a diff."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
