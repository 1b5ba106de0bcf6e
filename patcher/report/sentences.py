"""One sentence for each patch: what happened to it upstream, and what that means today."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from patcher.landed.timeline import Turn, last_clean
from patcher.report.evidence import evidence, gone, shown, span
from patcher.rules.affected import quoted
from patcher.rules.verdict import Status
from patcher.text import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.landed import Finding
    from patcher.landed.claims import Check
    from patcher.landed.history import History, Step
    from patcher.landed.timeline import Timeline, Transition
    from patcher.sources.git import Commit

# How many unread artifacts are named before they are only counted.
_NAMED = 3


def sentence(line: Timeline) -> str:
    """The patch's story and the advice, as one sentence of plain text, safe to print."""
    if len(line.findings) == len(line.versioned) == 1:
        # Of one artifact there is no story, and it is the oldest and the newest at once.
        return f"{line.patch.name}: {today(line)}."
    told = ", ".join(story(line.transitions)) or "no turn was seen"
    unread = [each for each in line.unread if each.version is not None]
    gaps = f" (not read: {listed(unread)})" if unread else ""
    return f"{line.patch.name}: {told}; {today(line)}{gaps}."


def story(transitions: Sequence[Transition]) -> list[str]:
    """Each turn in a few words: `landed again in 0.28.0`."""
    told = zip(_verbs(transitions), transitions, strict=True)
    return [f"{verb} in {shown(each.finding)}{_hedge(each)}" for verb, each in told]


def _verbs(transitions: Sequence[Transition]) -> list[str]:
    """What each turn is called; one that was there before comes again."""
    turns = [each.turn for each in transitions]
    return [
        f"{_VERBS[turn]} again"
        if turn in turns[:place] and turn is not Turn.MOVED
        else _VERBS[turn]
        for place, turn in enumerate(turns)
    ]


_VERBS = {
    Turn.NEEDED: "needed",
    Turn.LANDED: "landed",
    Turn.REGRESSED: "regressed",
    Turn.MOVED: "its code gone",
}


def _hedge(transition: Transition) -> str:
    """What the artifacts leave open about where the turn was."""
    unread = [each for each in transition.unread if not each.verdict.without_claim]
    if unread:
        read = all(each.verdict.by_content for each in unread)
        return f" (or already in {listed(unread)}, not {'judged' if read else 'read'})"
    if transition.before:
        return ""
    return f" (the oldest that {'could be judged' if transition.unread else 'was read'})"


def today(line: Timeline) -> str:
    """What the newest release says to do; a pre-release speaks only where it says otherwise.

    The newest that was read: whether there is a newer one, a bounded survey does not know.
    """
    newest = newest_release(line.versioned)
    if newest is None:
        lost = line.findings and not any(each.verdict.by_content for each in line.findings)
        return "nothing could be read" if lost else "nothing that was read states a version"
    of_several = ", the newest that was read," if len(line.versioned) > 1 else ""
    said = f"{shown(newest)}{of_several} {_advice(line, newest)}"
    preview = line.versioned[-1]
    if preview.verdict.status is not newest.verdict.status:
        said += f", but {shown(preview)} {_PREVIEW[preview.verdict.status]}"
    return said


_PREVIEW = {
    Status.NEEDED: "needs it",
    Status.CLEAN: "is clean already",
    Status.ABSENT: "has no such file",
    Status.UNKNOWN: "could not be read",
}


def newest_release(ordered: Sequence[Finding]) -> Finding | None:
    """The last one that is not a pre-release or nightly; the last of all where there is none."""
    releases = [each for each in ordered if each.version and not each.version.is_prerelease]
    return next(reversed(releases or list(ordered)), None)


def _advice(line: Timeline, newest: Finding) -> str:
    status = newest.verdict.status
    if status is Status.NEEDED and newest.verdict.outside:
        return (
            "lacks the fix, and the patch is not for it: see whether another fix took its place "
            "before you claim it"
        )
    if status is Status.NEEDED:
        return "needs the patch: keep it"
    had = last_clean(line, newest)
    known = f", and {shown(had)} is the last that has the fix" if had else ""
    if newest.verdict.without_claim:
        return f"has other code{known}; the patch is not for it, and is not applied"
    if status is Status.UNKNOWN:
        return f"cannot be judged{known}: keep the patch until it can be"
    if status is Status.ABSENT:
        seen = line.newest_seen
        last = f", last seen in {shown(seen)}" if seen else ""
        it_is = (
            "has no such file" if not newest.verdict.files else f"lacks it: {gone(newest.verdict)}"
        )
        return f"{it_is}{last}: find where the code went before you drop the patch"
    first, fixed = _clean_since(line.versioned[: line.versioned.index(newest) + 1])
    if len(line.versioned) == 1:
        return "is clean: it does not need the patch"
    if not fixed:
        return f"is clean, like all since {shown(first)}: it does not need the patch"
    return f"has the fix: drop the patch from {shown(first)} on"


def _clean_since(ordered: Sequence[Finding]) -> tuple[Finding, bool]:
    """The first of the unbroken clean artifacts up to the last, and whether another precedes it.

    What could not be read neither breaks the run nor begins it.
    """
    settled = [each for each in ordered if each.verdict.status is not Status.UNKNOWN]
    tail = list(
        itertools.takewhile(lambda each: each.verdict.status is Status.CLEAN, reversed(settled))
    )
    return tail[-1], len(tail) < len(settled)


def listed(findings: Sequence[Finding]) -> str:
    """The first few names, and how many more."""
    names = ", ".join(shown(each) for each in findings[:_NAMED])
    more = len(findings) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def history_sentence(found: History) -> str:
    """What happened along a clone's branch, and what its tip says, as one sentence."""
    told = ", ".join(steps_told(found)) or "no turn was seen"
    return f"{found.patch.name}: {told}; {tip_words(found)}."


def tip_words(found: History) -> str:
    """What the walk's newest commit says to do."""
    tip = f"{found.tip.sha[:12]}{_dated(found.tip)}"
    return f"at {tip} {_AT_TIP[found.head.verdict.status]}"


_AT_TIP = {
    Status.NEEDED: "the patch is needed: keep it",
    Status.CLEAN: "it is clean: builds of this commit need no patch",
    Status.ABSENT: "there is no such file: find where the code went before you drop the patch",
    Status.UNKNOWN: "it cannot be judged: keep the patch until it can be",
}


def steps_told(found: History) -> list[str]:
    """Each step along a clone's branch in a few words: the verb, the commit, date and subject."""
    verbs = _verbs([step.transition for step in found.steps])
    return list(map(_step_words, verbs, found.steps))


def _step_words(verb: str, step: Step) -> str:
    commit = step.commit
    words = f"{verb} in {commit.sha[:12]}{_dated(commit)}"
    words += f" “{printable(commit.subject, 100)}”"
    if step.merge:
        words += f", merged in {step.merge.sha[:12]}{_dated(step.merge)}"
    if step.transition.turn is Turn.MOVED and step.path:
        words += f", moved to {printable(step.path, 200)}"
    if step.transition.unread:
        words += f" or in one of {len(step.transition.unread)} before it that could not be judged"
    return words


def _dated(commit: Commit) -> str:
    return f" ({commit.date:%Y-%m-%d})" if commit.date else ""


def check_lines(judged: Check) -> list[str]:
    """The judgement for people: refutations first, then what could not be read."""
    name, claim = judged.timeline.patch.name, printable(quoted(judged.timeline.patch.affected))
    lines = [
        f"{name}: {_REFUTED[each.direction]} in {span(each.findings)}, against the claim {claim}"
        for each in judged.refutations
    ]
    if judged.holds_instead is not None:
        lines.append(
            f"{name}: what was read supports the claim {printable(quoted(judged.holds_instead))}"
        )
    lines += [
        f"{name}: not compared: {shown(each)}: {_why(judged, each)}" for each in judged.unread
    ]
    if not judged.refutations and judged.held:
        lines.append(f"{name}: the claim {claim} holds in {counted(judged.held, 'artifact')}")
    return lines or [f"{name}: nothing was read to compare the claim {claim} with"]


_REFUTED = {
    Turn.LANDED: "newly landed",
    Turn.REGRESSED: "regressed again",
    Turn.NEEDED: "needed",
    Turn.MOVED: "target moved",
}


def _why(judged: Check, finding: Finding) -> str:
    if finding.verdict.status is Status.UNKNOWN:
        return evidence(judged.timeline, finding)[0]
    return "it states no version"
