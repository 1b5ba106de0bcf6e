"""How results look: lines for people, JSON for programs (one schema version for all commands)."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.errors import Exit, PatcherError, counted, printable
from patcher.report.table import table
from patcher.rules.verdict import Status, Verdict
from patcher.terminal import styled

if TYPE_CHECKING:
    from patcher.jobs.check_proof import CheckedProof, Difference
    from patcher.jobs.demo import Demo
    from patcher.jobs.image import ImageReport, Report
    from patcher.jobs.verify import Elsewhere, SourceReport
    from patcher.lock.entries import Entry, Pin
    from patcher.oci.installation import Copy
    from patcher.rules.rule import Place

SCHEMA = 2


def as_json(command: str, **content: Any) -> Document:
    """A command's whole output as one JSON document."""
    document = {"schema": SCHEMA, "command": command, **content}
    text = json.dumps(document, default=_plain, indent=2, ensure_ascii=True)
    # The same text to whoever reads JSON, and no command to a CI runner: see `printable`.
    return Document(text.replace("##", r"#\u0023"))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Verdict):
        return verdict_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data, with its places counted."""
    return {
        "patch": verdict.patch,
        "artifact": verdict.artifact,
        "status": verdict.status,
        "needed": verdict.needed,
        "clean": verdict.clean,
        "places": verdict.places,
        "reason": verdict.reason,
        "files": verdict.files,
        "outside": verdict.outside,
    }


def copy_json(source: str, copy: Copy) -> dict[str, Any]:
    """A vLLM of an image as plain data: which it is, and why."""
    why = copy.problem or copy.why
    return {"source": source, "root": copy.root, "state": copy.state, "why": why}


def verify_json(reports: Sequence[SourceReport]) -> Document:
    """What `verify` prints as JSON."""
    return as_json(
        "verify",
        verdicts=[verdict for report in reports for verdict in report.verdicts],
        elsewhere=[_elsewhere_json(found) for report in reports for found in report.elsewhere],
        copies=[copy_json(report.label, copy) for report in reports for copy in report.copies],
        idle=[verdict for report in reports for verdict in report.idle],
    )


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


def error_json(error: PatcherError, arguments: Sequence[str]) -> Document:
    """An error as a JSON document, for a caller that asked for JSON; and what was called."""
    said = {
        "kind": type(error).__name__,
        "problem": error.problem,
        "next_step": error.next_step,
        "base": error.base,
    }
    called = [printable(each) for each in arguments]
    return as_json("error", error=said, arguments=called, exit=int(error.exit_code))


COLOURS = {
    Status.NEEDED: "red",
    Status.CLEAN: "green",
    Status.ABSENT: "yellow",
    Status.UNKNOWN: "magenta",
}
"""What a verdict looks like, everywhere."""


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


def verdict_summary(verdict: Verdict) -> str:
    """One line: what was judged, the verdict, and why."""
    return f"{printable(verdict.artifact)}: {verdict.patch}: {_counts(verdict)}"


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
        was = f"{_counts(before)}, now " if before else ""
        lines.append(f"{name}: {after.artifact}: {after.patch}: {was}{_counts(after)}")
    count = len(checked.differences)
    said = (
        f"differs from the image in {counted(count, 'place')}"
        if count
        else "holds: the image is as it says"
    )
    lines.append(f"{name}: the proof {checked.proof} {said}")
    return lines


def proof_json(checked: CheckedProof) -> dict[str, Any]:
    """A proof that was held against its image, as plain data; its verdicts are told beside it."""
    names = ("image", "digest", "proof", "program", "differences", "notes", "problem")
    return {name: getattr(checked, name) for name in names}


_WAYS = {
    "dockerfile": "the daemon built the rendered Dockerfile",
    "load": "the daemon loaded the thin layer, on the base's that it has",
    "context": "the Dockerfile and its files were written; the tags are for what is built of them",
}


def image_lines(report: Report) -> list[str]:
    """What the job did, for a person."""
    lines = [
        f"base     {report.base_name or report.base_digest}",
        *([f"         {report.base_digest}"] if report.base_name else []),
    ]
    for image in report.platforms:
        lines += _platform_lines(image)
    lines += [f"image    {report.digest}", *(f"tag      {tag}" for tag in report.tags)]
    lines += [f"proof    {report.proof}"] if report.proof else []
    lines += [f"way      {_WAYS[report.way]}"] if report.way in _WAYS else []
    # Nobody counts what goes through a daemon's socket, and a context is sent nowhere.
    lines += [f"sent     {_sent(report)}"] if report.way not in _WAYS else []
    return [_report_line(printable(line, 2000)) for line in lines]


def _report_line(line: str) -> str:
    """What came of it in green, and what to call it by in bold."""
    if line.startswith("tag "):
        return styled(line, bold=True)
    before, now, after = line.rpartition(", now clean")
    return f"{before}, now {styled(f'clean{after}', COLOURS[Status.CLEAN])}" if now else line


def _platform_lines(image: ImageReport) -> list[str]:
    commit = f" (commit {image.commit})" if image.commit else ""
    note = version_note(image.vllm)
    lines = [
        f"platform {image.platform}",
        f"  vLLM   {image.vllm}{commit} in {image.root}",
        *([f"         {note}"] if note else []),
        f"  base   {image.base_digest}",
    ]
    for number, before in enumerate(image.before):
        applied = image.after and not before.outside
        after = f", now {_counts(image.after[number])}" if applied else ""
        lines.append(f"  patch  {before.patch}: {_counts(before)}{after}")
    files = (f"  file   {change.before.path}" for change in image.changes)
    return [*lines, *files, f"  image  {image.digest}"]


def _sent(report: Report) -> str:
    if not (report.lacking or report.base_lacking or report.moved):
        return "nothing: all of it was there already"
    if not (report.lacking or report.base_lacking):
        said = "the tags alone: the image was there already"
    elif report.dry_run:
        said = (
            f"{report.lacking:,} bytes, and up to {report.base_lacking:,} of the base where it "
            "cannot be mounted"
        )
    else:
        return f"{report.sent.parts:,} bytes, and {report.sent.streamed:,} of the base"
    return f"nothing, this is a dry run: it would be {said}" if report.dry_run else said


def _counts(verdict: Verdict) -> str:
    """The verdict and why; and that the patch is not applied, where it is for other versions."""
    open_or_absent = verdict.status in {Status.ABSENT, Status.UNKNOWN}
    why = printable(verdict.reason or "") if open_or_absent else verdict.counts
    said = f"{verdict.status.value} ({why})"
    if not verdict.outside or verdict.status is Status.CLEAN:
        return said
    return f"not for this version, and not applied: {said}"


def image_json(report: Report) -> dict[str, Any]:
    """As plain data; the files' bytes are left out, their digests are in."""
    whole = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return {**whole, "platforms": [_platform_json(image) for image in report.platforms]}


def _platform_json(image: ImageReport) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(image) if field.name != "changes"]
    files = [
        {"path": change.before.path, "target": change.target, "patches": change.patched}
        for change in image.changes
    ]
    plain = {name: getattr(image, name) for name in names}
    copies = [copy_json(str(image.platform), copy) for copy in image.copies]
    return {**plain, "platform": str(image.platform), "copies": copies, "files": files}


def lock_table(entries: Sequence[Entry], width: int | None = None) -> list[str]:
    """The lock under a header, a line for each pin; on a terminal of some width digests are cut to
    twelve digits.
    """
    return pins_table([(entry, entry.locked.pins()) for entry in entries], width)


def pins_table(
    pins: Iterable[tuple[Entry, Iterable[tuple[str, Pin]]]], width: int | None = None
) -> list[str]:
    """As `lock_table`, of some pins of each entry."""
    rows = [("VERSION", "PIN", "DIGEST", "REFERENCE")]
    for entry, some in pins:
        for kind, pin in some:
            digest = pin.digest if width is None else pin.digest.partition(":")[2][:12]
            rows.append((str(entry.locked.version), kind, digest, str(entry.original.reference)))
    return table(rows, width)


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry of the lock as plain data."""
    locked = entry.locked
    return {
        "version": str(locked.version),
        "commit": locked.commit,
        "original": {
            "version": entry.original.version,
            "reference": str(entry.original.reference),
        },
        "pins": [
            {"kind": kind, "digest": pin.digest, "stated_by": pin.stated_by}
            for kind, pin in locked.pins()
        ],
    }


def demo_lines(demo: Demo) -> list[str]:
    """The demo's diff, and its report."""
    return [
        *shown_diff(demo.diff.rstrip("\n")),
        "",
        *image_lines(demo.report),
        printable(f"layout   {demo.layout}", 5000),
    ]


def shown_diff(diff: str) -> list[str]:
    """A diff for a person at a terminal; a file's own lines may hold escapes."""
    lines = diff.removesuffix("\n").split("\n")
    return [_diff_line(printable(line.expandtabs(8), 5000)) for line in lines]


def _diff_line(line: str) -> str:
    """As git colours it."""
    if line.startswith(("--- ", "+++ ")):
        return styled(line, bold=True)
    return styled(line, {"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))


def demo_json(demo: Demo) -> dict[str, Any]:
    """A demo's result as plain data."""
    return {
        **image_json(demo.report),
        "diff": demo.diff,
        "layout": demo.layout,
        "bytes_read": demo.bytes_read,
        "wheel_size": demo.wheel_size,
    }
