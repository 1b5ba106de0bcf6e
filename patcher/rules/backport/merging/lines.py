"""The lines of one scope merged three ways: before the fix, after it, and the image's own.

A scope has the fix where it could be taken out again, lacks it where it could be put in, and is
unknown where the two changed the same lines. Blank lines, comments and docstrings tell nothing.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from patcher.rules.backport.merging.cut import Item, keys_of
from patcher.rules.backport.merging.state import Said, State
from patcher.rules.backport.merging.three_way import Kind, Region, matches, merge, split
from patcher.rules.backport.scope import Sides


def merge_lines(
    sides: Sides, items: Sequence[Item], first: int, newline: bytes
) -> tuple[Said, list[bytes] | None]:
    """Merge a scope's lines, which begin at `first` of the file; None where nothing is to be
    written.
    """
    scope, line = sides.scope, first + 1
    three = _Three(_Side.of(sides.before), [item.key for item in items], _Side.of(sides.after))
    regions = three.regions()
    kinds = {region.kind for region in three.telling(regions)}
    if Kind.THEIRS not in kinds and Kind.CONFLICT not in kinds:
        state = State.LANDED if Kind.SAME in kinds else State.NEUTRAL
        return Said(scope, state, "", line), None
    # It can be taken out, whole and cleanly. Where it could be put in as well, for it repeats what
    # is beside it, the image has what it is nearer to.
    if three.could_be_undone() and (kinds & {Kind.CONFLICT, Kind.SAME} or three.is_nearer_to_it()):
        return Said(scope, State.LANDED, "", line), None
    regions = [part for each in regions for part in three.one_after_the_other(each)]
    kinds = {region.kind for region in three.telling(regions)}
    if Kind.CONFLICT in kinds:
        clash = next(each for each in three.telling(regions) if each.kind is Kind.CONFLICT)
        at = line + clash.ours.start
        reason = f"conflict at line {at}: it was rewritten there, by the fix or since"
        return Said(scope, State.UNKNOWN, reason, line), None
    if Kind.SAME in kinds:
        return Said(scope, State.UNKNOWN, f"half of the fix is in {scope.name}", line), None
    new: list[bytes] = []
    for region in regions:
        if region.kind is Kind.THEIRS:
            new += _theirs(region, items, three.after.keys, newline)
        else:
            new += [each for at in region.ours for each in items[at].whole]
    return Said(scope, State.NEEDED, "", line), _ended(new, items, newline)


def _theirs(
    region: Region, items: Sequence[Item], after: list[bytes], newline: bytes
) -> list[bytes]:
    """The fix's lines of a region; where it has a stub, the file's own function."""
    own = {item.key: item for item in items if item.stands_for}
    new: list[bytes] = []
    for at in region.theirs:
        there = own.get(after[at])
        new += there.lines if there else [after[at] + newline]
    for at in region.ours:
        new += items[at].carried
    return new


def _ended(lines: list[bytes], items: Sequence[Item], newline: bytes) -> list[bytes]:
    """The lines, each with an end; the last one has none where the scope's last has none, at the
    end of a file.
    """
    ended = [line if line.endswith((b"\n", b"\r")) else line + newline for line in lines]
    last = [line for item in items for line in item.whole][-1:]
    if ended and last and not last[0].endswith((b"\n", b"\r")):
        ended[-1] = ended[-1].rstrip(b"\r\n")
    return ended


@dataclass(frozen=True, slots=True)
class _Side:
    """A side's lines as they are compared, and which are blank, a comment or a docstring's."""

    keys: list[bytes]
    is_idle: list[bool]

    @classmethod
    def of(cls, text: bytes | None) -> _Side:
        return cls(keys_of(text), _idle(text))


@dataclass(frozen=True, slots=True)
class _Three:
    """What is merged: the two sides of the fix, and the image's own lines."""

    before: _Side
    ours: list[bytes]
    after: _Side

    def regions(self) -> list[Region]:
        """The regions of the merge, each conflict in its parts: lines beside each other do not
        clash.
        """
        regions = list(self._in_parts(agreed=False))
        if any(each.kind is Kind.CONFLICT for each in regions):
            agreed = list(self._in_parts(agreed=True))
            if all(each.kind is not Kind.CONFLICT for each in agreed):
                return agreed
        return regions

    def _in_parts(self, *, agreed: bool) -> Iterator[Region]:
        for region in merge(self.before.keys, self.ours, self.after.keys, agreed=agreed):
            if region.kind is Kind.CONFLICT:
                yield from self._parts(region)
            else:
                yield region

    def telling(self, regions: Sequence[Region]) -> list[Region]:
        """Those where the fix changes more than comments, docstrings and blank lines."""
        return [
            region
            for region in regions
            if not (
                all(self.before.is_idle[at] for at in region.base)
                and all(self.after.is_idle[at] for at in region.theirs)
            )
        ]

    def _lines(self, region: Region) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """What the region's lines were, are, and become."""
        return (
            self.before.keys[region.base.start : region.base.stop],
            self.ours[region.ours.start : region.ours.stop],
            self.after.keys[region.theirs.start : region.theirs.stop],
        )

    def _parts(self, region: Region) -> list[Region]:
        """A conflict as what it is: the fix, where the image changed lines beside it; or its parts.

        It has the fix where all lines that the fix brings are there, in its order, and none that it
        takes. Where it has some of them, nobody can tell whose they are.
        """
        was, is_, becomes = self._lines(region)
        kept, still, there = (matches(was, becomes), matches(was, is_), matches(becomes, is_))
        stays = set(kept.values())
        idle = [self.before.is_idle[at] for at in region.base]
        gone = [at for at in range(len(was)) if at not in kept and not idle[at]]
        idle = [self.after.is_idle[at] for at in region.theirs]
        brought = [at for at in range(len(becomes)) if at not in stays and not idle[at]]
        telling = [at for at in brought if _has_word(becomes[at])]
        if telling and all(at in there for at in telling) and not any(at in still for at in gone):
            return [replace(region, kind=Kind.SAME)]
        own = {line for at, line in enumerate(is_) if at not in still.values()}
        if any(becomes[at] in own for at in telling):
            return [region]
        return [
            self._settled(part)
            for part in split(self.before.keys, self.ours, self.after.keys, region)
        ]

    def _settled(self, region: Region) -> Region:
        """No conflict where the image's lines differ in blank lines or comments alone."""
        if region.kind is not Kind.CONFLICT:
            return region
        sides = self._lines(region)
        was, is_, becomes = ([line for line in side if line.strip()] for side in sides)
        if is_ == becomes:
            return replace(region, kind=Kind.SAME)
        was, is_ = ([line for line in side if not _COMMENT.match(line)] for side in (was, is_))
        return replace(region, kind=Kind.THEIRS) if is_ == was else region

    def one_after_the_other(self, region: Region) -> list[Region]:
        """Lines that both put in at one place: the image's own, then the fix's.

        Whether their order says anything is the proof's to find out, which it does of simple
        statements. Where a line is in both, nobody can tell whose it is.
        """
        if region.kind is not Kind.CONFLICT or region.base:
            return [region]
        _, is_, becomes = self._lines(region)
        shared = {line for line in is_ if _has_word(line)} & set(becomes)
        if shared or any(_ACTS.fullmatch(line) for line in (*is_, *becomes)):
            return [region]
        middle, end = region.ours.stop, region.theirs.start
        return [
            Region(Kind.OURS, region.base, region.ours, range(end, end)),
            Region(Kind.THEIRS, region.base, range(middle, middle), region.theirs),
        ]

    def could_be_undone(self) -> bool:
        """Whether all of the fix can be taken out of the image's lines, and brings some.

        What only takes lines away can be undone in any image that never had them.
        """
        back = _Three(self.after, self.ours, self.before)
        regions = back.telling(back.regions())
        brought = any(
            _has_word(self.after.keys[at])
            for each in regions
            if each.kind is Kind.THEIRS
            for at in each.base
            if not self.after.is_idle[at]
        )
        return brought and not {each.kind for each in regions} & {Kind.SAME, Kind.CONFLICT}

    def is_nearer_to_it(self) -> bool:
        """Whether the image's lines differ less from the fix's than from those before it."""

        def far(side: _Side) -> int:
            return len(side.keys) + len(self.ours) - 2 * len(matches(side.keys, self.ours))

        return far(self.after) < far(self.before)


_COMMENT = re.compile(rb"\s*#")

# A call, or where a block begins or may end.
_ACTS = re.compile(rb"\s*(?:[^#]*(?:\(.*|:\s*(?:#.*)?)|(?:return|raise|break|continue|yield)\b.*)")


def _has_word(line: bytes) -> bool:
    return re.search(rb"\w", line) is not None


# A fix's two sides are the same for every release that it is merged into.
@functools.lru_cache(maxsize=64)
def _idle(text: bytes | None) -> list[bool]:
    """For each line of a scope, whether it is blank, a comment, or part of a docstring."""
    # Whatever its encoding, what is not ASCII is part of a name, a string or a comment.
    plain = re.sub(rb"[\x80-\xff]", b"x", re.sub(rb"\r\n?", b"\n", text or b"")).decode()
    read = tokenize.generate_tokens(io.StringIO(plain).readline)
    tokens = [token for token in read if token.type not in (tokenize.COMMENT, tokenize.NL)]
    busy: set[int] = set()
    before = tokenize.NEWLINE
    for token, behind in itertools.pairwise(tokens):
        alone = before in _BETWEEN and behind.type == tokenize.NEWLINE
        if token.type not in _BETWEEN and not (alone and _TEXT.match(token.string)):
            busy.update(range(token.start[0] - 1, token.end[0]))
        before = token.type
    return [line not in busy for line in range(len(keys_of(text)))]


# What is between two statements.
_BETWEEN = frozenset({tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT})

# A string that is neither bytes nor to be formatted.
_TEXT = re.compile(r"[rRuU]?[\"']")
