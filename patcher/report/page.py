"""An answer as one HTML page: patches down, releases across, the evidence behind each cell.

A column is a run of artifacts over which no patch changes its verdict, so a page of one patch has
a handful of columns and not one for each release. No script, no font, no request: the page's own
policy forbids them. It links to upstream's issues alone. Jinja escapes every value.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.answer import Document
from patcher.report.evidence import evidence, notices, span
from patcher.report.landed import history_notes
from patcher.report.patches import link
from patcher.report.sentences import check_lines, newest_release, sentence, tip_words
from patcher.rules.verdict import Status
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from patcher.landed import Finding
    from patcher.landed.timeline import Band, Timeline
    from patcher.report.landed import Answer


@dataclass(frozen=True, slots=True)
class Column:
    """A run of artifacts: their span, and how many they are."""

    label: str
    artifacts: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a cell shows for neighbours whose reads are on the same lines.

    `artifacts` are the names that say more than the version does.
    """

    label: str
    artifacts: tuple[str, ...]
    uploaded: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A verdict over `width` columns; `status` is empty where nothing was read."""

    status: str
    counts: str
    label: str
    width: int
    proofs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One patch across all columns."""

    timeline: Timeline
    cells: tuple[Cell, ...]
    sentence: str
    newest: str
    notices: tuple[str, ...]
    upstream: tuple[tuple[str, int, str], ...]


def page(answer: Answer) -> Document:
    """The whole page, complete in itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    columns = _columns(answer.timelines)
    page = environment.get_template("landed.html.j2").render(
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        columns=[Column(span(column), len(column)) for column in columns],
        rows=[_row(line, columns) for line in answer.timelines],
        checks=[(check, check_lines(check)) for check in answer.checks],
        histories=[(each, tip_words(each), history_notes(each)) for each in answer.histories],
    )
    return Document(page)


def _safe(value: object) -> object:
    """Each value as it is shown: what would reorder or control a line is spelled out."""
    return printable(value, 2000) if isinstance(value, str) else value


def _columns(lines: Sequence[Timeline]) -> list[tuple[Finding, ...]]:
    """Runs of artifacts over which every patch's band stays the same, in the survey's order."""
    artifacts = {each.artifact: each for line in lines for each in line.findings}
    # Each patch was asked of the same artifacts; a stable sort puts a stray one where it belongs.
    ordered = sorted(artifacts.values(), key=lambda each: (each.version is None, each.version or 0))
    places = [_places(line) for line in lines]
    groups = itertools.groupby(
        ordered, key=lambda each: tuple(place.get(each.artifact) for place in places)
    )
    return [tuple(group) for _, group in groups]


def _places(line: Timeline) -> dict[str, int]:
    """Artifact -> the number of the band that it is in."""
    return {
        each.artifact: number for number, band in enumerate(line.bands) for each in band.findings
    }


def _row(line: Timeline, columns: Iterable[Sequence[Finding]]) -> Row:
    places = _places(line)
    groups = itertools.groupby(columns, key=lambda column: places.get(column[0].artifact))
    cells = tuple(
        _cell(line, None if number is None else line.bands[number], len(list(group)))
        for number, group in groups
    )
    newest = newest_release(line.versioned)
    status = newest.verdict.status.value if newest else ""
    upstream = tuple((link(*each), *each) for each in line.patch.upstream)
    return Row(line, cells, sentence(line), status, notices(line), upstream)


def _cell(line: Timeline, band: Band | None, width: int) -> Cell:
    if band is None:
        return Cell("", "", "", width, ())
    words, total = line.patch.rule.words, band.needed + band.clean
    counts = {
        Status.NEEDED: f"{band.needed} of {total} {words.needed}",
        Status.CLEAN: f"{total} {words.clean}" if total else f"no {words.place} left",
    }.get(band.status, "")
    groups = itertools.groupby(band.findings, key=lambda each: evidence(line, each))
    proofs = tuple(_proof(lines, tuple(group)) for lines, group in groups)
    return Cell(band.status.value, counts, span(band.findings), width, proofs)


def _proof(lines: tuple[str, ...], findings: tuple[Finding, ...]) -> Proof:
    named = (each.artifact for each in findings if each.artifact != f"pypi:{each.version}")
    dates = [f"{each.uploaded:%Y-%m-%d}" for each in findings if each.uploaded]
    uploaded = " - ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else ""
    return Proof(span(findings), tuple(named), uploaded, lines)
