"""`--check`: what each patch claims in `affected`, against what the artifacts hold.

A claim says for which versions the patch, with its target, is needed. It is judged artifact by
artifact, and every refutation can be cleared by editing the claim:

=========  ========  ====================================================
claimed    content   judgement
=========  ========  ====================================================
yes        needed    holds
yes        clean     refuted: LANDED
yes        absent    refuted: MOVED
yes        unknown   unread: neither held nor refuted
no         clean     holds
no         absent    holds: the patch has nothing to go to there
no         needed    refuted: REGRESSED, or NEEDED where no older one was fixed
no         unknown   nothing is claimed, and the content says nothing; but what could not be
                     read at all is unread
=========  ========  ====================================================
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from patcher.errors import Exit
from patcher.landed.timeline import Turn
from patcher.rules.affected import claimed, specifiers
from patcher.rules.verdict import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from patcher.landed import Finding
    from patcher.landed.timeline import Timeline
    from patcher.rules.patch import Patch


@dataclass(frozen=True, slots=True)
class Refutation:
    """Neighbouring artifacts that contradict a patch's claim in the same direction."""

    patch: str
    direction: Turn
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """The judgement on one patch's claim.

    `unread` could not be compared: not readable, or of no version. `held` counts the artifacts
    that agree. `holds_instead` is a claim that all that was read supports, where one was refuted
    and such a claim exists.
    """

    timeline: Timeline
    refutations: tuple[Refutation, ...]
    unread: tuple[Finding, ...]
    held: int
    holds_instead: tuple[str, ...] | None


def check(line: Timeline) -> Check:
    """Compare a patch's claim with its timeline. Raises `BrokenCatalogue`."""
    directions = _directions(specifiers(line.patch), line.findings)
    pairs = zip(directions, line.findings, strict=True)
    compared = [pair for pair in pairs if _comparable(pair[1])]
    refutations = tuple(
        Refutation(line.patch.name, direction, tuple(finding for _, finding in group))
        for direction, group in itertools.groupby(compared, key=lambda pair: pair[0])
        if direction is not None
    )
    return Check(
        line,
        refutations,
        tuple(
            each
            for each in line.findings
            if not _comparable(each) and not each.verdict.without_claim
        ),
        sum(direction is None for direction, _ in compared),
        _supported(line.findings) if refutations else None,
    )


def _comparable(finding: Finding) -> bool:
    return finding.version is not None and finding.verdict.status is not Status.UNKNOWN


def oldest_claimed(patches: Iterable[Patch]) -> Version | None:
    """The lowest version that any claim begins with; None where a claim has no beginning."""
    starts = [_start(each) for patch in patches for each in specifiers(patch)]
    bounded = [start for start in starts if start is not None]
    return min(bounded) if bounded and len(bounded) == len(starts) else None


def _start(claim: SpecifierSet) -> Version | None:
    lower = [Version(each.version) for each in claim if each.operator in {">=", "=="}]
    return max(lower, default=None)


def _directions(
    claims: Sequence[SpecifierSet], findings: Iterable[Finding]
) -> tuple[Turn | None, ...]:
    """For each finding how it refutes the claim; None where it does not."""
    had_places = fixed = False
    directions: list[Turn | None] = []
    for finding in findings:
        status, version = finding.verdict.status, finding.version
        wanted = version is not None and claimed(claims, version)
        had_places |= bool(finding.verdict.places)
        fixed |= had_places and status is Status.CLEAN
        if status is Status.NEEDED and not wanted:
            directions.append(Turn.REGRESSED if fixed else Turn.NEEDED)
        else:
            refuted = {Status.CLEAN: Turn.LANDED, Status.ABSENT: Turn.MOVED}
            directions.append(refuted.get(status) if wanted else None)
    return tuple(directions)


def _supported(findings: Iterable[Finding]) -> tuple[str, ...] | None:
    """The shortest claim that every comparable finding supports; None where there is none."""
    compared = [each for each in findings if _comparable(each)]
    groups = itertools.groupby(compared, key=lambda each: each.verdict.status is Status.NEEDED)
    runs = [(needed, list(group)) for needed, group in groups]
    texts = [
        _interval(run, runs[place + 1][1][0] if place + 1 < len(runs) else None, compared)
        for place, (needed, run) in enumerate(runs)
        if needed
    ]
    found = [SpecifierSet(text) for text in texts]
    return None if any(_directions(found, compared)) else tuple(texts)


def _interval(run: Sequence[Finding], after: Finding | None, every: Sequence[Finding]) -> str:
    """A specifier for a run of needed artifacts, up to the one that follows it."""
    first, last = _public(run[0]), _public(run[-1])
    if after is None:
        return f">={first}"
    # `<0.28.0` leaves out 0.28.0rc1 (PEP 440), so a run that ends with it needs `<=0.28.0rc1`.
    until_next = f">={first},<{_public(after)}"
    inside = [each for each in every if each.version and each.version in SpecifierSet(until_next)]
    return until_next if len(inside) == len(run) else f">={first},<={last}"


def _public(finding: Finding) -> str:
    # A bound must not have a local part (PEP 440).
    return finding.version.public if finding.version else ""


def exit_for(checks: Sequence[Check]) -> Exit:
    """A refutation wins over what could not be read; nothing judged is undecided, not agreed."""
    if any(each.refutations for each in checks):
        return Exit.FINDING
    undecided = any(each.unread or not each.held for each in checks)
    return Exit.UNDECIDED if undecided or not checks else Exit.OK
