"""Replace: in a named function, one piece of code becomes another of our own writing.

For fixes that no release has. The code is given as source and compared as a tree, so its layout
does not matter; it must be there an exact number of times.
"""

from __future__ import annotations

import ast
import copy
import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from patcher.errors import NotPython, RewriteRefused
from patcher.rules.edits import rewritten
from patcher.rules.rule import (
    Found,
    Place,
    Words,
    check_bytes,
    check_compiles,
    proof_failed,
)
from patcher.syntax import definitions, line_end, parse_python, tree_of
from patcher.text import counted

if TYPE_CHECKING:
    from patcher.rules.rule import Files, Rewritten

_Block = list[ast.stmt]


@dataclass(frozen=True, slots=True)
class Change:
    """In `function` of the file at `path`, `old` becomes `new`, `times` times.

    `old` is an expression, or one or more statements; `new` is of the same kind.
    """

    path: str
    function: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """Code that is in `function` of the file at `path` where upstream has its own fix."""

    path: str
    function: str
    code: str


def standing(files: Files, shapes: Sequence[Shape]) -> Place | None:
    """Where the first of upstream's other fixes is, if one is there. Raises `NotPython`."""
    for shape in shapes:
        data = files.get(shape.path)
        lines = _occurrences(data, shape.function, shape.code) if data is not None else []
        if lines:
            return Place(shape.path, lines[0], 1, shape.function, _line(shape.code), False)
    return None


def explained(shapes: Sequence[Shape]) -> tuple[str, ...]:
    """A line for each of upstream's other fixes."""
    return tuple(
        f"{each.path}: nothing is needed where {each.function} has `{_line(each.code)}`"
        for each in shapes
    )


@dataclass(frozen=True, slots=True)
class Replace:
    """The rule: all changes are made, or none is.

    `instead` are upstream's other fixes: where one is there, nothing is needed.
    """

    changes: tuple[Change, ...]
    instead: tuple[Shape, ...] = ()

    words = Words(
        needed="to be replaced",
        clean="replaced",
        why="this is what fails",
        none="the code is another",
        told="to be replaced:",
    )

    def find(self, files: Files) -> Found:
        """The places of every change, to be made or made. Raises `NotPython`.

        They are told beside an unknown too: `FirstOf` asks whether another form has a place left.
        """
        seen = [_seen(files, change) for change in self.changes]
        places = tuple(place for each in seen for place in each.places)
        half = _half([each for each in seen if each.unknown is None])
        if other := standing(files, self.instead):
            return Found((other, *places), unknown=half) if half else Found((other,))
        absent = next((each.absent for each in seen if each.absent), None)
        parted = f"{absent}, but another part of the change is there" if absent and places else None
        unlike = next((each.unknown for each in seen if each.unknown), None)
        if why := half or unlike or parted:
            return Found(places, unknown=why)
        return Found(absent=absent) if absent else Found(places)

    def explain(self) -> tuple[str, ...]:
        """Each change, and upstream's other fixes."""
        changes = (
            f"{each.path}: {each.function}: `{_line(each.old, 400)}` becomes "
            f"`{_line(each.new, 400)}`" + (f", {each.times} times" if each.times > 1 else "")
            for each in self.changes
        )
        return (*changes, *explained(self.instead))

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """Put the new code in place of the old. Raises `RewriteRefused`, `NotPython`."""
        made: dict[str, bytes] = {}
        for change in self.changes:
            data = made.get(change.path, files[change.path] or b"")
            made[change.path] = _splice(data, change)
        return {path: rewritten(files[path] or b"", data) for path, data in made.items()}

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """The result's tree is the original's with just the changes made. Raises `ProofFailed`."""
        for path in dict.fromkeys(change.path for change in self.changes):
            data, original = after[path].data, before[path] or b""
            check_bytes(original, after[path])
            check_compiles(data)
            expected = _read(original, parse_python)
            own = [change for change in self.changes if change.path == path]
            touched = {line for change in own for line in _lines(expected, change)}
            for change in own:
                if _exchange(expected, change) != change.times:
                    raise proof_failed(f"{change.function} has not the declared places")
            if ast.dump(expected) != ast.dump(_read(data)):
                raise proof_failed("more than the declared code has changed")
            allowed = {
                line.strip()
                for change in own
                for line in textwrap.dedent(change.new).encode().splitlines()
            }
            old = set(original.splitlines())
            for edit in after[path].edits:
                went = range(edit.line, edit.line + len(edit.before.splitlines()))
                if not touched.issuperset(went):
                    raise proof_failed(f"line {edit.line} has none of the declared code")
                _check_lines(edit.after, old, allowed)


def _seen(files: Files, change: Change) -> Found:
    """The places of one change, or why it has none."""
    data = files.get(change.path)
    if data is None:
        return Found(absent=f"there is no {change.path}")
    named = _named(data, change.function)
    if not named:
        return Found(absent=f"there is no {change.function} in {change.path}")
    if len(named) > 1:
        return Found(unknown=f"there are several {change.function} in {change.path}")
    new = _occurrences(data, change.function, change.new)
    old = _occurrences(data, change.function, change.old)
    replacement = _piece(change.new)
    whole = ast.Module(replacement, []) if isinstance(replacement, list) else replacement
    inside = len(_occurrences_in(_code(whole), change.old)) * len(new)
    places = (
        *(_place(change, line, change.old, True) for line in (old if len(old) > inside else ())),
        *(_place(change, line, change.new, False) for line in new),
    )
    # As many as there should be, and all of one kind; `new` may hold `old` within it.
    if (len(old) - inside, len(new)) in ((change.times, 0), (0, change.times)):
        return Found(places)
    return Found(places, unknown=_unlike(change, len(old) - inside, len(new)))


def _place(change: Change, line: int, code: str, needed: bool) -> Place:
    return Place(change.path, line, 1, change.function, _line(code), needed)


def _half(seen: Sequence[Found]) -> str | None:
    """Which change is made where another is not; None where all are alike."""
    places = [place for each in seen for place in each.places]
    has = next((place for place in places if not place.needed), None)
    lacks = next((place for place in places if place.needed), None)
    if has is None or lacks is None:
        return None
    if has.function != lacks.function:
        return f"half of the change: {has.function} has it, {lacks.function} lacks it"
    made = f"{has.function} holds `{has.text}`"
    return f"half of the change is made: {made}, and {lacks.function} still `{lacks.text}`"


def _check_lines(after: bytes, old: set[bytes], allowed: set[bytes]) -> None:
    """A line that came is the change's, the file's, or the file's with the change in it."""
    for line in after.splitlines():
        if line.strip() and line not in old and not any(part in line for part in allowed if part):
            raise proof_failed(f"a line is neither the file's nor the change's: {line[:80]!r}")


def _unlike(change: Change, old: int, new: int) -> str:
    where = f"{change.path}: {change.function}"
    if not old and not new:
        return f"{where} has neither what is to be replaced nor its replacement"
    there = f"what is to be replaced {counted(old, 'time')}, not {change.times}"
    return f"{where} has {there}, and its replacement {counted(new, 'time')}"


def _line(code: str, limit: int = 100) -> str:
    text = " ".join(textwrap.dedent(code).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# ---- finding, and the proof's own reading, by trees


def _read(data: bytes, parse: Callable[[bytes], ast.Module] = tree_of) -> ast.Module:
    """A file's tree, to look at; by `parse_python` one to change."""
    try:
        return parse(data)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NotPython(f"it is not Python source: {error}", next_step="Check the file.") from error


class _Code(NamedTuple):
    """What may be a piece of code within a tree: each expression, and each list of statements."""

    expressions: list[ast.expr]
    blocks: list[_Block]


def _code(tree: ast.AST) -> _Code:
    nodes = list(ast.walk(tree))
    expressions = [node for node in nodes if isinstance(node, ast.expr)]
    return _Code(expressions, [block for node in nodes for block in _blocks(node)])


@functools.lru_cache(maxsize=32)
def _named(data: bytes, function: str) -> list[_Code]:
    """Every definition of a name in a file."""
    return [_code(node) for name, node in definitions(_read(data)) if name == function]


@functools.lru_cache(maxsize=256)
def _piece(code: str) -> ast.expr | _Block:
    """A piece of code, to look at: an expression where it is nothing else, or statements."""
    body = parse_python(textwrap.dedent(code).strip()).body
    if len(body) == 1 and isinstance(body[0], ast.Expr):
        return body[0].value
    return body


def _same(one: object, other: object) -> bool:
    """Whether two trees, lists of them or values in them are equal, wherever they are.

    As their dumps are, whose making took a sixth of the time of all rules but the guard.
    """
    if type(one) is not type(other):  # so 1, 1.0 and True differ
        return False
    if isinstance(one, ast.AST):
        return all(_same(getattr(one, n, None), getattr(other, n, None)) for n in one._fields)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _occurrences(data: bytes, function: str, code: str) -> list[int]:
    """The lines where a piece of code is in a function, in order."""
    return [line for each in _named(data, function) for line in _occurrences_in(each, code)]


def _occurrences_in(within: _Code, code: str) -> list[int]:
    """The lines on which a piece of code begins, in order."""
    return sorted(first.lineno for first, _ in _places_in(within, code))


def _lines(tree: ast.Module, change: Change) -> set[int]:
    """Every line of the old code of a change."""
    return {
        line
        for name, node in definitions(tree)
        if name == change.function
        for first, last in _places_in(_code(node), change.old)
        for line in range(first.lineno, (last.end_lineno or 0) + 1)
    }


def _places_in(within: _Code, code: str) -> list[tuple[ast.expr | ast.stmt, ast.expr | ast.stmt]]:
    """The first and the last node of each place where a piece of code is."""
    piece = _piece(code)
    if isinstance(piece, ast.expr):
        return [(node, node) for node in within.expressions if _same(node, piece)]
    return [
        (block[at], block[at + len(piece) - 1])
        for block in within.blocks
        for at in range(len(block) - len(piece) + 1)
        if _same(block[at : at + len(piece)], piece)
    ]


def _blocks(node: ast.AST) -> list[_Block]:
    found = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [block for block in found if isinstance(block, list)]


def _exchange(tree: ast.Module, change: Change) -> int:
    """Make a change in a tree; how many times it was made."""
    exchange = _Exchange(_piece(change.old), _piece(change.new))
    for name, node in definitions(tree):
        if name == change.function:
            exchange.visit(node)
    return exchange.made


class _Exchange(ast.NodeTransformer):
    """Puts one piece of code in place of each occurrence of another; `made` counts them."""

    def __init__(self, old: ast.expr | _Block, new: ast.expr | _Block) -> None:
        self._old, self._new = old, new
        self._put: set[ast.stmt] = set()  # these are not looked into again
        self.made = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if node in self._put:
            return node
        if isinstance(self._new, ast.expr):
            if _same(node, self._old):
                self.made += 1
                return copy.deepcopy(self._new)
        elif isinstance(self._old, list):
            for block in _blocks(node):
                self._exchange(block, self._old, self._new)
        return self.generic_visit(node)

    def _exchange(self, block: _Block, old: _Block, new: _Block) -> None:
        at = 0
        while at <= len(block) - len(old):
            here = block[at : at + len(old)]
            if _same(here, old):
                self.made += 1
                coming = copy.deepcopy(new)
                self._put |= {*coming}
                block[at : at + len(old)] = coming
                at += len(coming)
            else:
                at += 1


# ---- writing, by positions


def _splice(data: bytes, change: Change) -> bytes:
    """The bytes with every place of a change rewritten, last one first."""
    lines = data.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    newline = line_end(lines)
    new = textwrap.dedent(change.new).strip().encode().split(b"\n")
    spans = [
        (
            offsets[first.lineno - 1] + first.col_offset,
            offsets[(last.end_lineno or 0) - 1] + (last.end_col_offset or 0),
            first,
        )
        for each in _named(data, change.function)
        for first, last in _places_in(each, change.old)
    ]
    for start, end, first in sorted(spans, key=lambda span: span[0], reverse=True):
        if isinstance(first, ast.expr):
            text = newline.join(new)
            if not _is_whole(first, data, change):
                text = b"(" + text + b")"
        else:
            indent = lines[first.lineno - 1][: first.col_offset]
            if indent.strip():
                raise RewriteRefused(
                    f"line {first.lineno} of {change.path}: it shares its line with other code",
                    next_step="Make the change by hand.",
                )
            text = newline.join([new[0], *(indent + part if part else part for part in new[1:])])
        data = data[:start] + text + data[end:]
    return data


def _is_whole(node: ast.expr, data: bytes, change: Change) -> bool:
    """Whether the expression is all of its statement's value, so that it needs no parentheses."""
    for parent in ast.walk(_read(data)):
        if isinstance(parent, ast.Return | ast.Assign | ast.Assert | ast.If | ast.Expr):
            for value in (getattr(parent, name, None) for name in ("value", "test")):
                where = (node.lineno, node.col_offset, node.end_col_offset)
                if isinstance(value, ast.expr) and where == (
                    value.lineno,
                    value.col_offset,
                    value.end_col_offset,
                ):
                    return "\n" not in change.new
    return isinstance(_piece(change.new), ast.Name | ast.Call | ast.Attribute | ast.Constant)
