"""An answer as GitHub-flavoured Markdown that fits an issue comment.

Every text that a third party may have written is in a code span: nothing in it can be markup,
a mention, a link or an image. Our own sentences hold versions and commit ids, and are escaped too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from patcher.answer import Document
from patcher.report.evidence import evidence, notices, span
from patcher.report.landed import headings, history_notes
from patcher.report.sentences import check_lines, sentence, tip_words
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from patcher.landed.claims import Check
    from patcher.landed.history import History
    from patcher.landed.timeline import Timeline
    from patcher.report.landed import Answer

# GitHub takes 65,536 characters in a comment's body.
LIMIT = 60_000

# How many rows a patch's table has: the newest ones.
_ROWS = 60


def markdown(answer: Answer) -> Document:
    """The whole comment, at most `LIMIT` characters; what is left out is counted in it."""
    lines: list[str] = []
    for check in answer.checks:
        lines += _check(check)
    for line in answer.timelines:
        lines += _timeline(line)
    for found in answer.histories:
        lines += _history(found)
    return Document(_bounded(lines))


def code(text: str) -> str:
    """Any text as a code span: one line, and nothing in it is markup, also in a table's cell."""
    shown = printable(text)
    # Backticks, bars and backslashes cannot be escaped in a code span.
    plain = shown and shown == shown.strip() and not re.search(r"[`|\\]", shown)
    return f"`{shown}`" if plain else f"<code>{_referenced(shown, 'A-Za-z0-9 ')}</code>"


def prose(text: str) -> str:
    """A sentence of this program, without anything that Markdown could take for markup.

    GitHub looks for mentions and issues in what has been rendered: it takes a zero-width space
    between the sign and the name to stop it.
    """
    shown = re.sub("[@#]", "\\g<0>\u200b", printable(text, 2000))
    return _referenced(shown, "A-Za-z0-9 .,;:()+-")


def _referenced(text: str, kept: str) -> str:
    return re.sub(f"[^{kept}]", lambda match: f"&#{ord(match[0])};", text)


def _check(check: Check) -> list[str]:
    refuted = "refuted" if check.refutations else "not refuted"
    title = f"## The claim of {code(check.timeline.patch.name)} is {refuted}"
    return [title, "", *(f"- {code(line)}" for line in check_lines(check)), ""]


def _timeline(line: Timeline) -> list[str]:
    rows = [
        f"| {code(span(band.findings))} | **{band.status.value}** | {band.needed} | {band.clean} "
        f"| {code(evidence(line, band.findings[0])[0])} |"
        for band in line.bands
    ]
    older = len(rows) - _ROWS
    return [
        f"## {code(line.patch.name)}",
        "",
        prose(sentence(line)),
        "",
        f"| {' | '.join(map(prose, headings(line)))} |",
        "|---|---|---:|---:|---|",
        *rows[-_ROWS:],
        "",
        *([f"{older} older rows are left out.", ""] if older > 0 else []),
        *_folded(f"{line.patch.rule.words.places.capitalize()} in other files", notices(line)),
    ]


def _history(found: History) -> list[str]:
    rows = [
        f"| **{step.transition.turn.value}** | {code(step.commit.sha[:12])} "
        f"| {f'{step.commit.date:%Y-%m-%d}' if step.commit.date else '-'} "
        f"| {code(step.commit.subject)} |"
        for step in found.steps
    ]
    return [
        f"## {code(found.patch.name)} in {code(found.clone)}",
        "",
        prose(f"{tip_words(found)}."),
        "",
        "| turn | commit | date | subject |",
        "|---|---|---|---|",
        *rows[-_ROWS:],
        "",
        *(f"- {code(note)}" for note in history_notes(found)),
        "",
    ]


def _folded(title: str, texts: Iterable[str]) -> list[str]:
    items = [f"- {code(text)}" for text in texts]
    if not items:
        return []
    return [f"<details><summary>{prose(title)}</summary>", "", *items[:_ROWS], "", "</details>", ""]


def _bounded(lines: list[str]) -> str:
    """As many whole lines as fit, and how many did not."""
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if size > LIMIT - 100:
            return (
                "\n".join([*kept, "", f"{len(lines) - len(kept)} more lines are left out."]) + "\n"
            )
        kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"
