"""A three-way merge of sequences, as diff3 does it.

`merge3` on PyPI does the same; it is under the GPL, which this project cannot link to, and its
matcher takes lines that occur often for junk.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patcher.diff import Matcher


class Kind(enum.Enum):
    """Who changed a region of the base."""

    STABLE = "nobody"
    OURS = "only the image's own"
    THEIRS = "only the fix"
    SAME = "both, to the same"
    CONFLICT = "both, differently"


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of the three sequences, each as a half-open range."""

    kind: Kind
    base: range
    ours: range
    theirs: range


def merge(
    base: Sequence[bytes],
    ours: Sequence[bytes],
    theirs: Sequence[bytes],
    *,
    agreed: bool = False,
) -> Iterator[Region]:
    """The regions in order; together they cover all three sequences.

    The sequences meet where all three have the same; what is between was changed by one or both.
    `agreed`: and only where ours and theirs are matched so with each other, too. A line that
    occurs often may else be met twice, once in what the fix brings.
    """
    to_ours, to_theirs = matches(base, ours), matches(base, theirs)
    if agreed:
        between = matches(theirs, ours)
        to_ours = {
            at: here
            for at, here in to_ours.items()
            if at not in to_theirs or between.get(to_theirs[at]) == here
        }
    done = (0, 0, 0)
    ends = (len(base), len(ours), len(theirs))
    for at in range(len(base)):
        if at in to_ours and at in to_theirs:
            meeting = (at, to_ours[at], to_theirs[at])
            if meeting != done:
                yield _changed(base, ours, theirs, done, meeting)
            done = (at + 1, to_ours[at] + 1, to_theirs[at] + 1)
            yield Region(Kind.STABLE, *(range(here, here + 1) for here in meeting))
    if done != ends:
        yield _changed(base, ours, theirs, done, ends)


def split(
    base: Sequence[bytes], ours: Sequence[bytes], theirs: Sequence[bytes], conflict: Region
) -> Iterator[Region]:
    """A conflict in smaller regions: lines that only one changed beside lines that the other did.

    What both changed, or both put in at one place, stays a conflict.
    """
    was, is_, becomes = (
        side[part.start : part.stop]
        for side, part in zip(
            (base, ours, theirs), (conflict.base, conflict.ours, conflict.theirs), strict=True
        )
    )
    hunks = sorted(
        [
            *((first, end, grown, 0) for first, end, grown in _hunks(was, is_)),
            *((first, end, 0, grown) for first, end, grown in _hunks(was, becomes)),
        ]
    )
    groups: list[list[tuple[int, int, int, int]]] = []
    for hunk in hunks:
        if groups and _meets(groups[-1], hunk):
            groups[-1].append(hunk)
        else:
            groups.append([hunk])
    starts = (conflict.base.start, conflict.ours.start, conflict.theirs.start)
    at, ours_off, theirs_off = 0, 0, 0
    for group in groups:
        first, end = group[0][0], max(hunk[1] for hunk in group)
        meeting = (starts[0] + first, starts[1] + first + ours_off, starts[2] + first + theirs_off)
        for back in range(first - at, 0, -1):
            yield Region(Kind.STABLE, *(range(here - back, here - back + 1) for here in meeting))
        ours_off += sum(hunk[2] for hunk in group)
        theirs_off += sum(hunk[3] for hunk in group)
        ends = (starts[0] + end, starts[1] + end + ours_off, starts[2] + end + theirs_off)
        yield _changed(base, ours, theirs, meeting, ends)
        at = end
    for line in range(at, len(was)):
        offsets = (0, ours_off, theirs_off)
        heres = [start + line + off for start, off in zip(starts, offsets, strict=True)]
        yield Region(Kind.STABLE, *(range(here, here + 1) for here in heres))


def _hunks(was: Sequence[bytes], other: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """What changed: the first line, the end, and how many lines more it has become.

    Lines that went, and those of which each became one that is like it, are a change each.
    """
    for tag, a, b, c, d in Matcher(was, other).get_opcodes():
        if tag == "delete":
            yield from ((at, at + 1, -1) for at in range(a, b))
        elif tag == "replace" and b - a == d - c and all(map(_alike, was[a:b], other[c:d])):
            yield from ((at, at + 1, 0) for at in range(a, b))
        elif tag != "equal":
            yield a, b, (d - c) - (b - a)


def _alike(line: bytes, other: bytes) -> bool:
    """Whether a line is the other, changed: the most of it is the same."""
    return Matcher(line, other).ratio() > _ALIKE


# `c.stream = x.stream` and `c.stream = partial(x.stream)` are 0.84 alike, calls of two other
# functions 0.3. It decides what is tried; whether that is right, the proof does.
_ALIKE = 0.7


def _meets(group: Sequence[tuple[int, int, int, int]], hunk: tuple[int, int, int, int]) -> bool:
    """Whether a hunk shares a line with those before it, or is put in where one of them is."""
    first, end = hunk[:2]
    return first < max(each[1] for each in group) or (first, end) == group[-1][:2]


def _changed(
    base: Sequence[bytes],
    ours: Sequence[bytes],
    theirs: Sequence[bytes],
    start: tuple[int, int, int],
    end: tuple[int, int, int],
) -> Region:
    """The region between two meetings of all three, by who changed it."""
    ranges = [range(first, last) for first, last in zip(start, end, strict=True)]
    was, is_, becomes = (
        side[part.start : part.stop]
        for side, part in zip((base, ours, theirs), ranges, strict=True)
    )
    if is_ == becomes:
        kind = Kind.SAME
    elif is_ == was:
        kind = Kind.THEIRS
    elif becomes == was:
        kind = Kind.OURS
    else:
        kind = Kind.CONFLICT
    return Region(kind, *ranges)


def matches(base: Sequence[bytes], other: Sequence[bytes]) -> dict[int, int]:
    """Index in the base -> index in the other, for what is the same in both."""
    blocks = Matcher(base, other).get_matching_blocks()
    return {a + step: b + step for a, b, length in blocks for step in range(length)}
