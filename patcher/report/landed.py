"""What `landed` answers: as a table for terminals, and as plain data for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.report.document import judged_json
from patcher.report.evidence import evidence, notices, shown, span
from patcher.report.plot import plot
from patcher.report.sentences import check_lines, history_sentence, sentence, steps_told, tip_words
from patcher.report.table import table
from patcher.report.verdicts import COLOURS
from patcher.rules.verdict import Status
from patcher.terminal import fitted, styled
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.landed import Finding
    from patcher.landed.claims import Check
    from patcher.landed.history import History, Step
    from patcher.landed.timeline import Timeline
    from patcher.sources.git import Commit


@dataclass(frozen=True, slots=True)
class Answer:
    """All that `landed` says: artifacts by version, claims where asked for, commits."""

    timelines: tuple[Timeline, ...] = ()
    checks: tuple[Check, ...] = ()
    histories: tuple[History, ...] = ()


def text(answer: Answer, width: int | None = None) -> Document:
    """Text for a terminal of `width` characters; None leaves every line as long as it is."""
    lines: list[str] = []

    def tell(*sentences: str) -> None:
        for each in sentences:
            lines.extend(fitted(printable(each, 5000), width))
        lines.append("")

    if rows := plot(answer.timelines, width):
        lines += [*fitted(rows[0], width), *rows[1:], ""]
    for line in answer.timelines:
        if len(answer.timelines) > 1:
            lines.append(styled(line.patch.name, bold=True) if width else line.patch.name)
        lines += [*_rows(line, width), ""]
        tell(sentence(line), *(f"elsewhere: {each}" for each in notices(line)))
    for found in answer.histories:
        tell(*steps_told(found))
        tell(f"{found.patch.name}: {tip_words(found)}.", *history_notes(found))
    for check in answer.checks:
        tell(*check_lines(check))
    return Document("\n".join(lines[:-1]))


def headings(line: Timeline) -> tuple[str, ...]:
    """The columns of a patch's table; the rule says what its places are called."""
    words = line.patch.rule.words
    return "releases", "verdict", words.needed, words.clean, "evidence"


def _rows(line: Timeline, width: int | None) -> list[str]:
    """The bands of one patch, aligned."""
    cells = [headings(line), *(_cells(line, place) for place in range(len(line.bands)))]
    return table(cells, width, colours=[None, *(COLOURS[band.status] for band in line.bands)])


def _cells(line: Timeline, place: int) -> tuple[str, ...]:
    band = line.bands[place]
    judged = band.status in {Status.NEEDED, Status.CLEAN}
    counts = (str(band.needed), str(band.clean)) if judged else ("-", "-")
    return span(band.findings), band.status.value, *counts, evidence(line, band.findings[0])[0]


def history_notes(found: History) -> list[str]:
    """What a reader must know about how a clone was walked."""
    how = "bisected" if found.bisected else "walked"
    notes = [f"{how}: {found.touching} commits touch the file, {found.read} contents were judged"]
    if found.bisected:
        notes.append(
            "a fix that came and was lost again between two of these commits would be missed"
        )
    if found.shallow:
        notes.append("the clone is shallow: what its oldest commit shows may be older")
    return notes


def data(answer: Answer) -> dict[str, Any]:
    """The whole answer as plain data; third-party text is in it as it was found."""
    return {
        "patches": [_timeline_data(line) for line in answer.timelines],
        "checks": [_check_data(check) for check in answer.checks],
        "histories": [_history_data(found) for found in answer.histories],
    }


def _timeline_data(line: Timeline) -> dict[str, Any]:
    return {
        "patch": line.patch.name,
        "targets": line.patch.targets,
        "affected": line.patch.affected,
        "sentence": sentence(line),
        "bands": [
            {
                "first": shown(band.findings[0]),
                "last": shown(band.findings[-1]),
                "artifacts": len(band.findings),
                "status": band.status,
                "needed": band.needed,
                "clean": band.clean,
                "evidence": evidence(line, band.findings[0])[0],
            }
            for band in line.bands
        ],
        "transitions": [
            {
                "turn": each.turn,
                "at": shown(each.finding),
                "after": each.before and shown(each.before),
                "unread": _names(each.unread),
            }
            for each in line.transitions
        ],
        "findings": [_finding_data(each) for each in line.findings],
    }


def _finding_data(finding: Finding) -> dict[str, Any]:
    return {
        "artifact": finding.artifact,
        "version": finding.version and str(finding.version),
        "uploaded": finding.uploaded and finding.uploaded.isoformat(),
        **judged_json(finding.verdict),
        "elsewhere": finding.elsewhere,
    }


def _check_data(check: Check) -> dict[str, Any]:
    return {
        "patch": check.timeline.patch.name,
        "claim": check.timeline.patch.affected,
        "held": check.held,
        "refuted": [
            {"direction": each.direction, "artifacts": _names(each.findings)}
            for each in check.refutations
        ],
        "unread": _names(check.unread),
        "supported_claim": check.holds_instead,
    }


def _names(findings: Sequence[Finding]) -> list[str]:
    return [shown(each) for each in findings]


def _history_data(found: History) -> dict[str, Any]:
    return {
        "patch": found.patch.name,
        "clone": found.clone,
        "tip": _commit_data(found.tip),
        "status": found.head.verdict.status,
        "sentence": history_sentence(found),
        "steps": [_step_data(step) for step in found.steps],
        "commits_touching": found.touching,
        "contents_read": found.read,
        "bisected": found.bisected,
        "shallow": found.shallow,
    }


def _step_data(step: Step) -> dict[str, Any]:
    return {
        "turn": step.transition.turn,
        "commit": _commit_data(step.commit),
        "merge": step.merge and _commit_data(step.merge),
        "path": step.path,
        "unread": [each.artifact for each in step.transition.unread],
    }


def _commit_data(commit: Commit) -> dict[str, Any]:
    date = commit.date and commit.date.isoformat()
    return {"commit": commit.sha, "date": date, "subject": commit.subject}
