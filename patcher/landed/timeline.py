"""Findings in order -> bands of equal verdicts, and the turns between them.

"Landed" is not monotonic, so nothing here looks for one boundary: each artifact keeps its own
verdict, and a turn is said to be between two artifacts that were both read. An unknown verdict is
a band of its own, never joined to its neighbours, and is named by the turn that it may hide.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.rules.verdict import Status, covers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from patcher.landed import Finding
    from patcher.rules.patch import Patch


class Turn(enum.StrEnum):
    """What changed between two neighbouring artifacts whose content is known.

    NEEDED: the bug is there, and was not seen fixed before. LANDED: a fix came. REGRESSED: a fix
    went. MOVED: the target file is no longer where the patch looks for it.
    """

    NEEDED = "needed"
    LANDED = "landed"
    REGRESSED = "regressed"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Transition:
    """A turn, at the first artifact that shows it.

    `before` is the last artifact whose content is known, None where nothing older was read.
    `unread` are between the two: the turn may have come with one of them.
    """

    turn: Turn
    finding: Finding
    before: Finding | None
    unread: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring findings that say the same; never empty."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The verdict that all of them share."""
        return self.findings[0].verdict.status

    @property
    def needed(self) -> int:
        """How many places in each of them need the patch."""
        return self.findings[0].verdict.needed

    @property
    def clean(self) -> int:
        """How many places in each of them do not."""
        return self.findings[0].verdict.clean


@dataclass(frozen=True, slots=True)
class Timeline:
    """One patch over all artifacts: the bands partition the findings, in their order."""

    patch: Patch
    findings: tuple[Finding, ...]
    bands: tuple[Band, ...]
    transitions: tuple[Transition, ...]

    @property
    def versioned(self) -> tuple[Finding, ...]:
        """The findings that have a place in version order."""
        return tuple(finding for finding in self.findings if finding.version is not None)

    @property
    def unread(self) -> tuple[Finding, ...]:
        """The findings that say nothing, where the patch may claim something."""
        return tuple(
            each
            for each in self.findings
            if each.verdict.status is Status.UNKNOWN and not each.verdict.without_claim
        )

    @property
    def newest_seen(self) -> Finding | None:
        """The last artifact that has the code, readable or not as Python."""
        return next(
            (
                each
                for each in reversed(self.findings)
                if each.verdict.files and each.verdict.status is not Status.ABSENT
            ),
            None,
        )


def timelines(patches: Sequence[Patch], findings: Sequence[Finding]) -> tuple[Timeline, ...]:
    """One timeline for each patch. `findings` are in version order, as a survey gives them."""
    return tuple(
        timeline(patch, [each for each in findings if each.verdict.patch == patch.name])
        for patch in patches
    )


def timeline(patch: Patch, findings: Sequence[Finding]) -> Timeline:
    """The timeline of one patch's findings. What has no version takes no part in the turns."""
    ordered = [finding for finding in findings if finding.version is not None]
    return Timeline(patch, tuple(findings), bands(findings), transitions(ordered))


def bands(findings: Iterable[Finding]) -> tuple[Band, ...]:
    """Join neighbours with the same status and the same numbers of places.

    Unknown ones stand alone, but for those that the patch claims nothing of.
    """
    numbered = enumerate(findings)
    groups = itertools.groupby(numbered, key=lambda pair: _kind(*pair))
    return tuple(Band(tuple(finding for _, finding in group)) for _, group in groups)


def _kind(place: int, finding: Finding) -> tuple[object, ...]:
    verdict = finding.verdict
    if verdict.without_claim and finding.version is not None:
        return (verdict.status,)
    if verdict.status is Status.UNKNOWN or finding.version is None:
        return (place,)
    return verdict.status, verdict.needed, verdict.clean


def transitions(findings: Iterable[Finding]) -> tuple[Transition, ...]:
    """The turns in any ordered run of findings: releases by version, commits by ancestry."""
    found: list[Transition] = []
    before: Finding | None = None
    present: Finding | None = None
    unread: list[Finding] = []
    had_places = False
    for finding in findings:
        status = finding.verdict.status
        if status is Status.UNKNOWN:
            unread.append(finding)
            continue
        turn = _turn(_status(before), _status(present), had_places, status)
        if turn is not None:
            found.append(Transition(turn, finding, before, tuple(unread)))
        before, unread = finding, []
        present = present if status is Status.ABSENT else finding
        had_places |= bool(finding.verdict.places)
    return tuple(found)


def needed_around(line: Timeline, version: str) -> tuple[str, ...]:
    """A claim for the releases that need the patch, without a gap, around one; empty for none."""
    runs = itertools.groupby(line.versioned, key=lambda each: each.verdict.status is Status.NEEDED)
    groups = [(needed, list(group)) for needed, group in runs]
    for place, (needed, group) in enumerate(groups):
        if needed and any(str(each.version) == version for each in group):
            first = f">={group[0].version}"
            after = groups[place + 1][1][0] if place + 1 < len(groups) else None
            return (f"{first},<{after.version}" if after else first,)
    return ()


def claiming(line: Timeline, affected: tuple[str, ...]) -> Timeline:
    """The timeline as it is where the patch claims this: only `outside` may be another."""
    patch = replace(line.patch, affected=affected)
    findings = [
        replace(each, verdict=replace(each.verdict, outside=not covers(patch, str(each.version))))
        for each in line.findings
    ]
    return timeline(patch, findings)


def _status(finding: Finding | None) -> Status | None:
    return finding.verdict.status if finding else None


def _turn(
    before: Status | None, present: Status | None, had_places: bool, now: Status
) -> Turn | None:
    """What it means that `now` follows `before`; `present` was the last with a file there.

    Where the rule found no place before, needed or clean, there was nothing to regress from.
    """
    if now is before:
        return None
    if now is Status.ABSENT:
        return Turn.MOVED if before is not None else None
    if now is Status.NEEDED:
        return Turn.REGRESSED if present is Status.CLEAN and had_places else Turn.NEEDED
    return Turn.LANDED if present is Status.NEEDED else None


def last_clean(line: Timeline, finding: Finding) -> Finding | None:
    """What last had the fix before an artifact whose content does not tell; None where none did.

    So it is where the last that could be judged needs the patch, or never had a place of it.
    """
    if not finding.verdict.by_content:
        return None
    ordered = line.versioned
    before = ordered[: ordered.index(finding)] if finding in ordered else ()
    settled = [each for each in before if each.verdict.status is not Status.UNKNOWN]
    last = settled[-1] if settled else None
    has_fix = last is not None and last.verdict.status is Status.CLEAN and last.verdict.places
    return last if has_fix else None
