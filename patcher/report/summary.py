"""What many runs of `image --json` did, as Markdown for a job summary.

Reports are read as `vllm-patcher image --json` prints them, errors too: one run may have made many.
Every text that a third party may have written is in a code span.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.errors import Unreadable
from patcher.files import read_file
from patcher.places.place import UNCOUNTED
from patcher.report.markdown import code, prose
from patcher.text import counted

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = "published"
THERE = "already there"
DRY_RUN = "dry run"
CLEAN = "no patch needed"
FAILED = "failed"

_OUTCOMES = (FAILED, PUBLISHED, THERE, DRY_RUN, CLEAN)

_NONE = "-"

# Another job wrote it; one of eight patches and two platforms has 100 KB.
_MOST_REPORT = 64 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One base, and what became of it. `reason` is that of a base that was not published.

    `before` and `after` hold each different verdict once; `sent` are bytes, None where nobody
    counts them.
    """

    base: str
    outcome: str
    repository: str = ""
    digest: str = ""
    vllm: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sent: int | None = None
    seconds: float = 0.0
    reason: str = ""


def load(path: Path) -> Row:
    """The row of a report. A file that holds none, or a part of one, is a failure too."""
    try:
        return _row(json.loads(read_file(path, _MOST_REPORT)))
    except OSError as error:
        return Row(str(path), FAILED, reason=f"its report cannot be read: {error.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return Row(str(path), FAILED, reason="it is not a whole report of `image --json`")


def reports_of(paths: Sequence[Path]) -> list[Path]:
    """The reports that are meant: of a folder, all files in it whose names end in .json."""
    found: list[Path] = []
    for path in paths:
        # What may not be looked at counts as a file here, and reading it will fail.
        inside = sorted(path.glob("*.json")) if os.path.isdir(path) else []  # noqa: PTH112
        found += inside or [path]
    return found


def unreported(bases: Path, rows: Sequence[Row]) -> list[Row]:
    """A failure for each base of `lock list --json` that no row is of: its job was cut off.

    Raises `Unreadable` where the file is not such a list.
    """
    try:
        images = json.loads(read_file(bases, _MOST_REPORT))["images"]
        wanted = [str(image["original"]["reference"]) for image in images]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unreadable(
            f"{bases} is not a list of bases: {type(error).__name__}",
            next_step="Give the file that `vllm-patcher lock list --json` wrote.",
        ) from error
    there = {row.base for row in rows}
    return [
        Row(base, FAILED, reason="no report came of it") for base in wanted if base not in there
    ]


def _row(report: Mapping[str, Any]) -> Row:
    """The row of a report of `image`."""
    if report["command"] == "error":
        return _error_row(report)
    if report["command"] != "image":
        raise ValueError(report["command"])
    images = report["platforms"]
    uncounted = report.get("way") in UNCOUNTED
    sent = None if uncounted else sum(report["sent"].values())
    moved = uncounted or sent or report["moved"]
    return Row(
        base=str(report["base_name"] or report["base_digest"]),
        outcome=DRY_RUN if report["dry_run"] else PUBLISHED if moved else THERE,
        repository=_word(report["repository"]),
        digest=_word(report["digest"]),
        vllm=_distinct(image["vllm"] for image in images),
        tags=tuple(map(str, report["tags"])),
        before=_verdicts(each for image in images for each in image["before"]),
        after=_verdicts(each for image in images for each in image["after"]),
        sent=sent,
        seconds=float(report["seconds"]),
    )


def _word(text: object) -> str:
    """A name that may go into `outputs`: with a line break in it, it could set another output."""
    if not isinstance(text, str) or re.search(r"\s", text) or not text.isprintable():
        raise ValueError(text)
    return text


def _error_row(report: Mapping[str, Any]) -> Row:
    """A base that needs no patch is not a failure: it is what this program waits for."""
    error = report["error"]
    asked = report.get("arguments", [])
    called = asked[1] if len(asked) > 1 and asked[0] == "image" else ""
    base = str(error.get("base") or called)
    if error["kind"] == "AlreadyClean":
        return Row(base, CLEAN, reason=str(error["problem"]))
    return Row(base, FAILED, reason=f"{error['problem']}. {error['next_step']}")


def _verdicts(verdicts: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Those of patches that are for this version: the others are neither applied nor counted."""
    return _distinct(_verdict(each) for each in verdicts if not each.get("outside"))


def _verdict(verdict: Mapping[str, Any]) -> str:
    """`kv-b-proj-dtype: needed (1 of 3 places)`."""
    total = verdict["needed"] + verdict["clean"]
    places = counted(total, "place")
    counts = f"{verdict['needed']} of {places}" if verdict["needed"] else places
    return f"{verdict['patch']}: {verdict['status']} ({counts})"


def _distinct(texts: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, texts)))


def image_markdown(rows: Sequence[Row]) -> Document:
    """One table of what is in the registry now, then what is not, with the reason."""
    counts = Counter(row.outcome for row in rows)
    said = [f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome]]
    lines = ["## Patched images", "", f"{', '.join(said) or 'nothing to do'}.", ""]
    made = [row for row in rows if row.digest]
    if made:
        lines += [
            "| base | outcome | vLLM | before | after | bytes sent | s |",
            "|---|---|---|---|---|---:|---:|",
            *map(_cells, made),
            "",
        ]
    for repository in _distinct(row.repository for row in made):
        lines += [f"### {code(repository)}", "", "| tags | digest |", "|---|---|"]
        lines += [_names(row) for row in made if row.repository == repository]
        lines.append("")
    for outcome, title in ((FAILED, "Failed"), (CLEAN, "No patch needed")):
        lines += _reasons(title, [row for row in rows if row.outcome == outcome])
    return Document("\n".join(lines).rstrip("\n") + "\n")


def _cells(row: Row) -> str:
    sent = _NONE if row.sent is None else f"{row.sent:,}"
    texts = ((row.base,), (row.outcome,), row.vllm, row.before, row.after)
    return f"| {' | '.join(map(_cell, texts))} | {sent} | {row.seconds:.1f} |"


def _names(row: Row) -> str:
    return f"| {_cell([tag.rpartition(':')[2] for tag in row.tags])} | {code(row.digest)} |"


def _cell(texts: Sequence[str]) -> str:
    return "<br>".join(map(code, texts)) or _NONE


def _reasons(title: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    items = [f"- {f'{code(row.base)}: ' if row.base else ''}{prose(row.reason)}" for row in rows]
    return [f"### {title}", "", *items, ""]


def outputs(row: Row) -> Document:
    """`name=value` lines, as a workflow's step gives them to the steps after it."""
    said = {
        "outcome": row.outcome,
        "published": str(row.outcome == PUBLISHED).lower(),
        "repository": row.repository,
        "digest": row.digest,
    }
    return Document("".join(f"{name}={value}\n" for name, value in said.items()))
