"""Which scopes differ between two versions of a file, and their two sides."""

from __future__ import annotations

import ast
import functools
import itertools
from typing import TypeGuard

from patcher.diff import Matcher
from patcher.errors import RewriteRefused
from patcher.rules.backport.merging.cut import Cut, sha256
from patcher.rules.backport.scope import IMPORTS, MODULE, Scope, Sides
from patcher.syntax import is_string, parse_block, parse_python

# For each one its place among all is looked for. A large feature of vLLM's brings some dozens.
_MOST_BROUGHT = 500


def changed_scopes(path: str, before: bytes, after: bytes) -> list[Sides]:
    """Every scope whose code differs, in the order of `after`; comments alone do not count.

    Imports count where `after` has one that `before` has not. Raises `NotPython`, and
    `RewriteRefused` for more new ones than any fix has.
    """
    old, new = Cut(before), Cut(after)
    defined = defined_names(after)
    found: list[Sides] = []
    gone: set[str] = set()
    if (brought := len(new.spans.keys() - old.spans.keys())) > _MOST_BROUGHT:
        raise RewriteRefused(
            f"{path}: the fix brings {brought} functions and classes",
            next_step="That is no fix to take back: take a release that has it.",
        )
    for name in [*old.spans, *new.spans]:
        parent = name.rpartition(".")[0]
        if parent in gone:
            gone.add(name)  # within a class that comes or goes as a whole
        elif (name in old.spans) != (name in new.spans):
            gone.add(name)
            found.append(_read(path, name, old, new, defined))
    shared = [name for name in new.spans if name in old.spans]
    for name in [IMPORTS, MODULE, *shared]:
        sides = _read(path, name, old, new, defined)
        if sides.before is None or sides.after is None:
            texts = [_all_texts(file, name) for file in (old, new)]
            if texts[0] != texts[1]:
                found.append(sides)
        elif name == IMPORTS:
            if set(sides.after.splitlines()) - set(sides.before.splitlines()):
                found.append(sides)
        else:
            lone = _lone(old, new, name)
            if _shape(sides.before, lone) != _shape(sides.after, lone):
                found.append(sides)
    order = {name: at for at, name in enumerate([IMPORTS, MODULE, *new.spans])}
    return sorted(found, key=lambda each: order.get(each.scope.name, len(order)))


@functools.lru_cache(maxsize=16)
def read_sides(path: str, name: str, before: bytes | None, after: bytes | None) -> Sides:
    """A scope's two sides out of two versions of its file. Raises `NotPython`."""
    old, new = Cut(before or b""), Cut(after or b"")
    return _read(path, name, old, new, defined_names(after or b""))


def _read(path: str, name: str, old: Cut, new: Cut, defined: frozenset[str]) -> Sides:
    """A scope's two sides; the whole of a class that only one side has. Where one of the versions
    has several of that name there are none: what the fix made of which cannot be told.
    """
    if any(len(file.spans.get(name, ())) > 1 for file in (old, new)):
        return Sides(Scope(path, name), None, None)
    whole = name not in (IMPORTS, MODULE) and (name in old.spans) != (name in new.spans)
    before, after = old.text(name, whole=whole), new.text(name, whole=whole)
    scope = Scope(path, name, sha256(before), sha256(after))
    follows: tuple[str, ...] = ()
    precedes: tuple[str, ...] = ()
    if before is None and name in new.spans:
        siblings = _siblings(old, new, new.spans[name][0].parent)
        at = siblings.index(name)
        follows, precedes = tuple(reversed(siblings[:at])), tuple(siblings[at + 1 :])
    return Sides(scope, before, after, follows, precedes, defined)


def _siblings(old: Cut, new: Cut, parent: str) -> list[str]:
    """The functions and classes within one, in order; each that goes before what takes its place.

    What comes instead of what goes belongs there: module's own lines between may call it.
    """
    one, other = ([span.name for span in file.children(parent)] for file in (old, new))
    stays = set(other)
    found: list[str] = []
    for tag, a, b, c, d in Matcher(one, other).get_opcodes():
        goes = [] if tag == "equal" else [name for name in one[a:b] if name not in stays]
        pairs = itertools.zip_longest(goes, other[c:d])
        found += [name for pair in pairs for name in pair if name is not None]
    return found


def defined_names(source: bytes) -> frozenset[str]:
    """The functions, classes, and attributes of self that a file defines."""
    names = set()
    for node in ast.walk(parse_python(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


def _all_texts(file: Cut, name: str) -> list[bytes]:
    return [b"".join(file.lines[span.first : span.end]) for span in file.spans.get(name, [])]


def _lone(old: Cut, new: Cut, name: str) -> frozenset[str]:
    """The functions and classes within a class or module that one side lacks."""
    names = [{span.name for span in file.children(name)} for file in (old, new)]
    return frozenset(each.rpartition(".")[2] for each in names[0] ^ names[1])


def _shape(text: bytes, lone: frozenset[str]) -> str:
    """A scope's syntax, without its docstrings and comments, and without `lone` stubs."""
    tree = parse_block(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each
                for each in body
                if not is_string(each) and not (is_stub(each) and each.name in lone)
            ]
    return ast.dump(tree)


def is_stub(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    """Whether a statement is a stub: the line in place of a function or class, which is a scope of
    its own.
    """
    match node:
        case ast.FunctionDef(body=[only]) | ast.ClassDef(body=[only]):
            return isinstance(only, ast.Expr) and ast.unparse(only) == "..."
        case _:
            return False
