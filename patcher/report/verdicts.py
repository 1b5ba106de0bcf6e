"""Verdicts: lines for a person, the answer of `verify` as JSON, and its exit code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.errors import Exit, PatcherError
from patcher.report.document import as_json, copy_json
from patcher.rules.verdict import Status, Verdict
from patcher.terminal import styled
from patcher.text import counted, printable

if TYPE_CHECKING:
    from patcher.jobs.check_proof import CheckedProof
    from patcher.jobs.differences import Difference
    from patcher.jobs.verify import Elsewhere, SourceReport
    from patcher.rules.rule import Place

COLOURS = {
    Status.NEEDED: "red",
    Status.CLEAN: "green",
    Status.ABSENT: "yellow",
    Status.UNKNOWN: "magenta",
}
"""The colour of each verdict, everywhere."""


def verify_json(reports: Sequence[SourceReport]) -> Document:
    """What `verify` prints as JSON."""
    return as_json(
        "verify",
        verdicts=[verdict for report in reports for verdict in report.verdicts],
        elsewhere=[_elsewhere_json(found) for report in reports for found in report.elsewhere],
        copies=[copy_json(report.label, copy) for report in reports for copy in report.copies],
        idle=[verdict for report in reports for verdict in report.idle],
        unread=[_unread_json(each.label, each.error) for each in reports if each.error],
        undecided=[
            {"source": each.label, "problem": each.question} for each in reports if each.question
        ],
        notes=[note for report in reports for note in report.notes],
    )


def _unread_json(source: str, error: PatcherError) -> dict[str, str]:
    typed = printable(source, 5000)  # without a password
    return {"source": typed, "problem": error.problem, "next_step": error.next_step}


def _elsewhere_json(found: Elsewhere) -> dict[str, Any]:
    """A place in another file as plain data; its vLLM's folder and state are those of an image."""
    copy = found.copy
    where = {"root": copy and copy.root, "state": copy and copy.state}
    return {
        **dataclasses.asdict(found.notice),
        "source": found.source,
        "patch": found.patch,
        **where,
    }


def exit_for(verdicts: Iterable[Verdict]) -> Exit:
    """One needed patch is a finding; else what could not be judged leaves it undecided.

    A patch that is not for the artifact's version decides nothing: it would not be applied.
    """
    found = {verdict.status for verdict in verdicts if not verdict.outside}
    if Status.NEEDED in found:
        return Exit.FINDING
    return Exit.UNDECIDED if found - {Status.CLEAN} else Exit.OK


Locate = Callable[[str], PurePath]
"""Where a target is on this machine."""


def verdict_lines(verdict: Verdict, locate: Locate | None = None) -> list[str]:
    """Each place that needs the patch as a compiler would report it: `file:line:column: ...`.

    With `locate` the file is one that an editor opens.
    """
    return [
        _place_line(verdict, place, locate)
        for place in verdict.places
        if place.needed and not verdict.outside
    ]


def _place_line(verdict: Verdict, place: Place, locate: Locate | None) -> str:
    words = verdict.words
    file = printable(str(locate(place.target))) if locate else _file(verdict, place)
    inside = f" in {printable(place.function)}" if place.function else ""
    where = styled(f"{file}:{place.line}:{place.column}:", bold=True)
    what = styled(words.told or f"{words.needed} {words.place}", COLOURS[Status.NEEDED])
    return f"{where} {what} {printable(place.text)}{inside}: {words.why} [{verdict.patch}]"


def _file(verdict: Verdict, place: Place) -> str:
    """Where a place's file is: the artifact itself, or the target in it."""
    where = printable(verdict.artifact)
    itself = where.endswith(PurePosixPath(place.target).suffix)
    return where if itself else f"{where}:{place.target}"


def verdict_summary(verdict: Verdict, *, in_full: bool = False) -> str:
    """One line: what was judged, the verdict, and why."""
    words = status_words(verdict, in_full=in_full)
    return f"{printable(verdict.artifact)}: {verdict.patch}: {words}"


def status_words(verdict: Verdict, *, in_full: bool = False) -> str:
    """The verdict and why; and that the patch is not applied, where it is for other versions.

    Of the catalogue's patches most are for other versions, and nobody asked why those are open: it
    is said `in_full`, for a patch that was named.
    """
    open_or_absent = verdict.status in {Status.ABSENT, Status.UNKNOWN}
    why = printable(verdict.reason or "") if open_or_absent else verdict.counts
    said = f"{verdict.status.value} ({why})"
    if not verdict.outside or verdict.status is Status.CLEAN:
        return said
    if verdict.without_claim and not in_full:
        return f"not for this version: {verdict.status.value}"
    return f"not for this version, left alone: {said}"


def version_note(version: str | None) -> str | None:
    """What to say of a version that has no place among the releases; None for any other."""
    if not version:
        return None
    from patcher.versions import placed

    if placed(version):
        return None
    return f"it states the version {printable(version)}, of no release: its content alone decides"


def notice_line(found: Elsewhere, root: PurePath | None = None) -> str:
    """A place elsewhere in the package, for a person; `root` is the folder that it is in, where
    that is on this machine. Of an image, which image it is and whether its vLLM runs.
    """
    notice, copy = found.notice, found.copy
    where = root / notice.path if root else f"{found.source}:{notice.path}"
    said = f"{found.words.state(notice.needed)} {printable(notice.text)}"
    state = f" ({copy.state})" if copy and not copy.runs else ""
    return f"{printable(str(where))}:{notice.line}: notice: {said} [{found.patch}]{state}"


def difference_line(checked: CheckedProof, difference: Difference) -> str:
    """What a proof says and the image's content does not, for a person."""
    said, found = (part or "nothing" for part in (difference.said, difference.found))
    words = f"the proof says {printable(said, 200)}, the image says {printable(found, 200)}"
    where = printable(difference.where, 200)
    return f"{printable(checked.image)}: {checked.proof}: {where}: {words}"


def proof_summary(checked: CheckedProof) -> list[str]:
    """What came of holding a proof against its image."""
    name = printable(checked.image)
    if checked.problem is not None:
        problem = printable(checked.problem)
        return [f"{name}: the proof {checked.proof} cannot be held against it: {problem}"]
    lines = [f"{name}: note: {note}" for note in checked.notes]
    earlier = {(each.artifact, each.patch): each for each in checked.before}
    for after in checked.after:
        before = earlier.get((after.artifact, after.patch))
        was, now = before and status_words(before), status_words(after)
        said = f"{was}, now {now}" if was and was != now else now
        lines.append(f"{name}: {after.artifact}: {after.patch}: {said}")
    count = len(checked.differences)
    said = (
        f"differs from the image in {counted(count, 'place')}"
        if count
        else "holds: the image is as it says"
    )
    lines.append(f"{name}: the proof {checked.proof} {said}")
    return lines


def proofs_json(proofs: Sequence[CheckedProof]) -> Document:
    """What `verify --proof` prints as JSON: the verdicts on the images, and each proof."""
    names = ("image", "digest", "proof", "program", "differences", "notes", "problem")
    return as_json(
        "verify",
        verdicts=[verdict for each in proofs for verdict in each.after],
        elsewhere=[],
        copies=[],
        idle=[],
        proofs=[{name: getattr(each, name) for name in names} for each in proofs],
    )
