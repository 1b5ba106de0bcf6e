"""What findings show, in words: an artifact's name, a band's span, the evidence, notices."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from patcher.landed.timeline import last_clean
from patcher.rules.verdict import Status
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.landed import Finding
    from patcher.landed.timeline import Timeline
    from patcher.rules.patch import Patch
    from patcher.rules.rule import Place
    from patcher.rules.verdict import Verdict


def shown(finding: Finding) -> str:
    """An artifact's short name for people: its version, else what was typed for it."""
    name = finding.artifact if finding.version is None else str(finding.version)
    return printable(name, 120)


def span(findings: Sequence[Finding]) -> str:
    """Neighbouring releases: `0.18.0 - 0.19.1`, or the one."""
    first, last = shown(findings[0]), shown(findings[-1])
    return first if first == last else f"{first} - {last}"


def evidence(line: Timeline, finding: Finding) -> tuple[str, ...]:
    """Why the verdict is what it is, a line for each place; never empty, safe to print."""
    verdict = finding.verdict
    if verdict.status is Status.UNKNOWN:
        last = last_clean(line, finding)
        seen = f"; the last that has the fix: {shown(last)}" if last else ""
        return (printable(f"{verdict.reason or 'no reason was given'}{seen}"),)
    if verdict.status is Status.ABSENT:
        newest = line.newest_seen
        return (f"{gone(verdict)}; newest with it: {shown(newest) if newest else 'none was read'}",)
    if not verdict.places:
        return (line.patch.rule.words.none,)
    # The places that decide the verdict come first.
    ordered = sorted(verdict.places, key=lambda place: not place.needed)
    return tuple(_place_line(line.patch, place) for place in ordered)


def gone(verdict: Verdict) -> str:
    """What an absent verdict is about: the file, or what the rule looks for in it."""
    return printable(verdict.reason or "") if verdict.files else "no such file"


def _place_line(patch: Patch, place: Place) -> str:
    where = f"{printable(place.target, 200)} " if len(patch.targets) > 1 else ""
    inside = f" in {printable(place.function, 120)}" if place.function else ""
    state = patch.rule.words.state(place.needed)
    return f"{where}line {place.line}: {state} {printable(place.text, 120)}{inside}"


def notices(line: Timeline) -> tuple[str, ...]:
    """The places in other files, a line for each file and kind: where, since when, until when.

    Absence from the target is not absence from vLLM.
    """
    seen: dict[tuple[str, bool], list[tuple[Finding, int]]] = {}
    for finding in line.findings:
        for notice in finding.elsewhere:
            seen.setdefault((notice.path, notice.needed), []).append((finding, notice.line))
    return tuple(
        f"{printable(path, 200)}:{places[-1][1]}: "
        f"{line.patch.rule.words.state(needed)} in {_spans(line, [each for each, _ in places])}"
        for (path, needed), places in sorted(seen.items())
    )


def _spans(line: Timeline, findings: Sequence[Finding]) -> str:
    """Where among the timeline's findings these are, neighbours joined."""
    inside = [any(each is one for one in findings) for each in line.findings]
    pairs = itertools.groupby(zip(inside, line.findings, strict=True), key=lambda pair: pair[0])
    runs = [[each for _, each in group] for is_in, group in pairs if is_in]
    return ", ".join(span(run) for run in runs)
