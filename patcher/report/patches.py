"""The catalogue for people and programs: a table of it, and one patch explained."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from patcher.errors import printable
from patcher.report.text import columns
from patcher.rules.affected import landings, quoted
from patcher.rules.rule import Explains
from patcher.web.github import VLLM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.rules.patch import Patch


def table(patches: Sequence[Patch]) -> list[str]:
    """A line for each patch, under a header."""
    rows = [("PATCH", "CLAIMED FOR", "LANDED IN", "WHAT IT DOES")]
    rows += [(each.name, quoted(each.affected), _landed(each), each.title) for each in patches]
    return columns(rows)


def _landed(patch: Patch) -> str:
    said = dict.fromkeys(str(each) if each else "no release yet" for each in landings(patch))
    return ", ".join(said) or "-"


def explained(patch: Patch) -> list[str]:
    """All that a patch says of itself."""
    lines = [
        f"{patch.name}, version {patch.version}: {patch.title}",
        "",
        *textwrap.wrap(printable(patch.why, 4000), 88),
        "",
        f"claimed for  vLLM {quoted(patch.affected)}",
        f"landed in    {_landed(patch)}",
        *_listed("files", patch.targets),
        *_listed("upstream", (f"{link(*each)}  {each[1]}" for each in patch.upstream)),
        *_listed("changes", _places(patch)),
    ]
    return [printable(line, 2000) for line in lines]


def _listed(heading: str, items: Any) -> list[str]:
    return [f"{heading if not at else '':<12} {item}" for at, item in enumerate(items)]


def _places(patch: Patch) -> tuple[str, ...]:
    rule = patch.rule
    return rule.explain() if isinstance(rule, Explains) else ()


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
