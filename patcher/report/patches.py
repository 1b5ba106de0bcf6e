"""The catalogue for people and programs: a table of it, and one patch explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patcher.report.table import table
from patcher.rules.affected import landings, quoted
from patcher.rules.fault import blaming
from patcher.rules.rule import Explains
from patcher.terminal import fitted
from patcher.text import printable
from patcher.web.github import VLLM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.rules.patch import Patch


# Longer lines are hard to read.
_PROSE = 88


def catalogue_table(patches: Sequence[Patch], width: int | None = None) -> list[str]:
    """A line for each patch, under a header; on a terminal of some width it fits."""
    rows = [("PATCH", "CLAIMED FOR", "LANDED IN", "WHAT IT DOES")]
    rows += [(each.name, quoted(each.affected), _landed(each), each.title) for each in patches]
    return table(rows, width, wraps=True)


def _landed(patch: Patch) -> str:
    said = dict.fromkeys(str(each) if each else "no release yet" for each in landings(patch))
    return ", ".join(said) or "-"


def explained(patch: Patch, width: int | None = None) -> list[str]:
    """All that a patch says of itself, for a terminal of some width or for 88 columns."""
    return [
        *fitted(f"{patch.name}, version {patch.version}: {patch.title}", width),
        "",
        *fitted(printable(patch.why, 4000), min(width or _PROSE, _PROSE)),
        "",
        *_listed("claimed for", [f"vLLM {quoted(patch.affected)}"], width),
        *_listed("landed in", [_landed(patch)], width),
        *_listed("files", patch.targets, width),
        *_listed("upstream", [f"{link(*each)}  {each[1]}" for each in patch.upstream], width),
        *_listed("changes", _places(patch), width),
    ]


def _listed(heading: str, items: Sequence[str], width: int | None) -> list[str]:
    """Items under each other, beside their heading."""
    start = 13
    lines = [
        line for item in items for line in fitted(printable(item, 2000), width and width - start)
    ]
    return [f"{'' if at else heading:<{start}}{line}" for at, line in enumerate(lines)]


def _places(patch: Patch) -> tuple[str, ...]:
    rule = patch.rule
    with blaming(patch.name):
        return tuple(map(str, rule.explain())) if isinstance(rule, Explains) else ()


def link(number: int, note: str) -> str:
    """The page of an issue, or of a pull request: what is not called an issue is one."""
    kind = "issues" if note.startswith("issue") else "pull"
    return f"{VLLM}/{kind}/{number}"


def data(patch: Patch) -> dict[str, Any]:
    """A patch as plain data."""
    return {
        "name": patch.name,
        "version": patch.version,
        "title": patch.title,
        "why": patch.why,
        "affected": patch.affected,
        "landed": [each and str(each) for each in landings(patch)],
        "targets": patch.targets,
        "upstream": [
            {"number": number, "note": note, "url": link(number, note)}
            for number, note in patch.upstream
        ],
        "changes": _places(patch),
    }
