"""A three-way merge of sequences, as diff3 does it.

`merge3` on PyPI does the same; it is under the GPL, which this project cannot link to, and its
matcher takes lines that occur often for junk.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


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
    base: Sequence[bytes], ours: Sequence[bytes], theirs: Sequence[bytes]
) -> Iterator[Region]:
    """The regions in order; together they cover all three sequences.

    The sequences meet where all three have the same; what is between was changed by one or both.
    """
    to_ours, to_theirs = matches(base, ours), matches(base, theirs)
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


def _changed(
    base: Sequence[bytes],
    ours: Sequence[bytes],
    theirs: Sequence[bytes],
    start: tuple[int, int, int],
    end: tuple[int, int, int],
) -> Region:
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
    blocks = SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks()
    return {a + step: b + step for a, b, length in blocks for step in range(length)}
