"""A draft written down: the patch's file, and the diff that may be beside it.

A pull request, a diff and a wheel choose the texts in it, and the file is run: each is a literal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.diff import hunks_between, lines_of
from patcher.rules.backport.scope import IMPORTS
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.rules.backport.draft import Draft
    from patcher.rules.backport.moved import Move


def whole_diff(draft: Draft) -> str:
    """The draft's functions as a diff whose context is the whole function."""
    text: list[str] = []
    for path in draft.changed:
        text += [f"--- a/{path}\n", f"+++ b/{path}\n"]
        for each in draft.sides:
            if each.scope.path == path:
                old, new = (lines_of((side or b"").decode()) for side in (each.before, each.after))
                heading = f"@@ -1,{len(old)} +1,{len(new)} @@ {each.scope.name}\n"
                text += [heading, *list(hunks_between(old, new, len(old) + len(new)))[1:]]
    return "".join(text)


@dataclass(frozen=True, slots=True)
class About:
    """What upstream says of the fix: its pull request, as far as that is known, and its state."""

    number: int | None = None
    title: str = ""
    state: str = ""


def patch_file(
    name: str, draft: Draft, affected: Sequence[str], about: About, diff: str = ""
) -> str:
    """The patch's file; `diff` is the name of the file beside it, where there is one."""
    imports = ["from patcher.rules.backport.rule import Backport"]
    first = next(each.scope.name for each in draft.sides if each.scope.name != IMPORTS)
    if diff:
        rule = ["    rule=Backport("]
        rule.append(f'        diff=(Path(__file__).parent / "{diff}").read_text("utf-8"),')
    else:
        imports.append("from patcher.rules.backport.scope import Scope")
        rule = ["    rule=Backport(", f'        before="{draft.before}",']
        rule += [f'        after="{draft.after}",', "        scopes=("]
        for each in draft.sides:
            scope = each.scope
            rule += ["            Scope(", f"                {_quoted(scope.path)},"]
            rule += [f"                {_quoted(scope.name)},"]
            rule += [
                f'                {side}="{digest}",'
                for side, digest in (("before", scope.before), ("after", scope.after))
                if digest is not None
            ]
            rule.append("            ),")
        rule.append("        ),")
    rule += [*_pairs(draft.moved), "    ),"]
    note = f"fix, {about.state}" if about.state else "fix"
    upstream = f'(({about.number}, "{note}"),)' if about.number else "()"
    title = _literal(about.title or f"upstream's fix of {first}")
    return "\n".join(
        [
            f'"""Upstream\'s fix of {first}."""',
            "",
            "from __future__ import annotations",
            "",
            *(["from pathlib import Path", ""] if diff else []),
            *imports,
            "from patcher.rules.patch import Patch",
            "",
            "PATCH = Patch(",
            f'    name="{name}",',
            "    version=1,",
            f"    title={title},",
            '    why="Say what fails, where, and how it is seen.",',
            *_tuple("targets", draft.targets),
            *rule,
            f"    upstream={upstream},",
            *_tuple("affected", affected),
            ")",
            "",
        ]
    )


def _pairs(moved: Sequence[Move]) -> list[str]:
    """The field `moved`, if there is anything to say."""
    if not moved:
        return []
    lines = ["        moved=("]
    for each in moved:
        lines += ["            (", f"                {_quoted(each.path)},"]
        lines += [f"                {_quoted(each.other)},", "            ),"]
    return [*lines, "        ),"]


def _literal(text: str) -> str:
    """A text of anybody's as a literal in double quotes: one line, and nothing but a text."""
    safe = printable(text, 120).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{safe}"'


def _tuple(field: str, texts: Sequence[str]) -> list[str]:
    if len(texts) == 1:
        return [f"    {field}=({_quoted(texts[0])},),"]
    return [f"    {field}=(", *(f"        {_quoted(each)}," for each in texts), "    ),"]


def _quoted(text: str) -> str:
    """A path or name as a literal."""
    plain = text.isprintable() and not set(text) & set('"\\')
    return f'"{text}"' if plain else repr(text)
