"""A fix's imports merged into a file: what it imports and the file does not is added."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from patcher.rules.backport.merging.cut import Cut
from patcher.rules.backport.merging.state import Edits, Said, State
from patcher.rules.backport.scope import MODULE, Sides
from patcher.syntax import parse_python

# An import of one name: its module, the name there, and the name that it gets, "" for the same.
Key = tuple[str, str, str]


def merge_imports(file: Cut, sides: Sides, going: frozenset[str]) -> tuple[Said, Edits]:
    """Add what the fix imports and the file does not; an import is never taken away.

    A name may be another's only where the fix takes that other away, a function or an import: the
    later import is the one that counts.
    """
    there = _bindings(file.imports)
    before = _bindings(_parsed_imports(sides.before))
    edits: Edits = []
    after = _parsed_imports(sides.after)
    stays = _bound(file, before - _bindings(after)) - going
    for at, node in enumerate(after):
        new = [alias for alias, key in _aliases(node) if key not in before and key not in there]
        if not new:
            continue
        clashing = [alias for alias in new if (alias.asname or alias.name) in stays]
        if clashing:
            names = ", ".join(alias.asname or alias.name for alias in clashing)
            reason = f"the fix imports {names}, and something else has that name"
            return Said(sides.scope, State.UNKNOWN, reason), []
        bound = {alias.asname or alias.name for alias in new}
        # Behind what has the name now, for the last one counts.
        place = max(_place(file, node, after[:at]), _last_end(file.imports, bound))
        text = ast.unparse(_only(node, new)).encode() + file.newline
        edits.append((place, place, [text]))
    return Said(sides.scope, State.NEUTRAL), edits


def _last_end(imports: Sequence[ast.Import | ast.ImportFrom], names: set[str]) -> int:
    """The last line of the last import that binds one of the names; 0 for none."""
    ends = [
        each.end_lineno or 0
        for each in imports
        if any((alias.asname or alias.name) in names for alias in each.names)
    ]
    return max(ends, default=0)


def _only(node: ast.Import | ast.ImportFrom, aliases: list[ast.alias]) -> ast.stmt:
    """An import of these alone of its names."""
    if isinstance(node, ast.Import):
        return ast.Import(aliases)
    return ast.ImportFrom(node.module, aliases, node.level)


def _place(file: Cut, node: ast.stmt, earlier: Sequence[ast.stmt]) -> int:
    """The line to put an import behind: the file's last import of the same module, else one that
    the fix has before it, else the last of all.

    One from the future comes first, where Python wants it.
    """
    ends = {ast.unparse(each): each.end_lineno or 0 for each in file.imports}
    module = getattr(node, "module", None)
    if module == "__future__":
        return file.first_statement
    same = [each for each in file.imports if module and getattr(each, "module", None) == module]
    if same:
        return same[-1].end_lineno or 0
    for each in reversed(earlier):
        if ast.unparse(each) in ends:
            return ends[ast.unparse(each)]
    return max(ends.values(), default=file.first_statement)


def _aliases(node: ast.Import | ast.ImportFrom) -> list[tuple[ast.alias, Key]]:
    module = "" if isinstance(node, ast.Import) else "." * node.level + (node.module or "")
    return [(alias, (module, alias.name, alias.asname or "")) for alias in node.names]


def _bindings(nodes: Sequence[ast.Import | ast.ImportFrom]) -> set[Key]:
    return {key for node in nodes for _, key in _aliases(node)}


def _bound(file: Cut, but: set[Key]) -> set[str]:
    """The names that a module's imports, but for these, and its functions and classes bind."""
    names = {
        (alias.asname or alias.name).partition(".")[0]
        for node in file.imports
        for alias, key in _aliases(node)
        if key not in but
    }
    return names | {span.name for span in file.children(MODULE)}


def _parsed_imports(text: bytes | None) -> list[ast.Import | ast.ImportFrom]:
    body = parse_python(text or b"").body
    return [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
