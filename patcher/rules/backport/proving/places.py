"""Whether a change is where the fix has it: between what upstream has there, in its order.

An image may lack what upstream has beside a change, or have something of its own there. Then the
place is told where one side of it is upstream's own, and what is passed over on the other cannot
matter: it says nothing of what came, runs nothing that may, and is not elsewhere in the image.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

Node = ast.AST


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an alignment: an element of the old list, of the new one, or of both."""

    old: int | None
    new: int | None
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class At:
    """A step of an alignment: one change among others."""

    steps: Sequence[Step]
    place: int

    @property
    def old(self) -> int | None:
        """The element that went or was modified; None where one came."""
        return self.steps[self.place].old

    def beside(self, direction: int) -> Iterator[int]:
        """The old list's elements from there on, past others that came."""
        at = self.place + direction
        while 0 <= at < len(self.steps):
            old = self.steps[at].old
            if old is not None:
                yield old
            at += direction


class Branch(ast.AST):
    """One branch of an `if` with its condition, None for the `else`.

    In Python's tree an `elif` is within the one before it, so that one more or less in the image
    would put all behind it elsewhere. It is no statement: which comes first says which one runs.
    """

    _fields = ("test", "body")

    def __init__(self, test: ast.expr | None, body: list[ast.stmt]) -> None:
        self.test, self.body = test, body


def branches(node: ast.If) -> list[Branch]:
    """The branches of an `if`, its `elif`s and its `else`, in their order."""
    found = [Branch(node.test, node.body)]
    orelse = node.orelse
    while orelse:
        match orelse:
            case [ast.If(test=test, body=body, orelse=orelse)]:
                found.append(Branch(test, body))
            case body:
                found.append(Branch(None, body))
                orelse = []
    return found


@dataclass(frozen=True, slots=True)
class Places:
    """Upstream's list before a fix, an image's own, and which element of it is which.

    `is_set`: a list whose order says nothing: a set's elements, a dict's entries, keywords.
    """

    before: Sequence[Node]
    original: Sequence[Node]
    counterpart: Mapping[int, int]
    is_set: bool

    def agree(self, fix: At, made: At, new: Node | None) -> bool:
        """Whether the image's change is at the place of upstream's; `new` is what came, if any.

        An element that goes or is modified must be the counterpart itself, and no other that the
        image has may be it as well.
        """
        if fix.old is not None:
            its = self.counterpart.get(fix.old) == made.old
            return its and (self.is_set or not self._has_twin(fix, made))
        sides = [(direction, self._meet(fix, made, direction)) for direction in (-1, 1)]
        loose = [direction for direction, met in sides if not met]
        return not loose or (
            len(loose) == 1 and new is not None and self._meet_past(fix, made, loose[0], new)
        )

    def _has_twin(self, fix: At, made: At) -> bool:
        """Whether the image has the same a second time, beside upstream's own as the first is."""
        texts = [ast.dump(each) for each in self.original]
        here, known = made.old or 0, set(self.counterpart.values())
        before, behind = (
            self.counterpart.get(beside, end) if beside is not None else end
            for direction, end in ((-1, -1), (1, len(texts)))
            for beside in [next(fix.beside(direction), None)]
        )
        return any(
            text == texts[here] and (at - 1 == before or at + 1 == behind)
            for at, text in enumerate(texts)
            if at != here and at not in known
        )

    def _meet(self, fix: At, made: At, direction: int) -> bool:
        """Whether the next elements are each other's counterparts, or both lists end there."""
        one, other = next(fix.beside(direction), None), next(made.beside(direction), None)
        if one is None or other is None:
            return one is other
        return self.counterpart.get(one) == other

    def _meet_past(self, fix: At, made: At, direction: int, new: Node) -> bool:
        """The same, past what only one of the two has, where that cannot matter to what came.

        Both stop at counterparts of each other: alignments keep the order, and the other side met.
        """
        known = set(self.counterpart.values())
        lacking = takewhile(lambda at: at not in self.counterpart, fix.beside(direction))
        extra = takewhile(lambda at: at not in known, made.beside(direction))
        absent = [self.before[at] for at in lacking]
        own = [self.original[at] for at in extra]
        if self.is_set:
            return not any(_is_unpacked(each) for each in (new, *absent, *own)) and not any(
                _key(each) == _key(new) for each in own
            )
        if not all(isinstance(each, ast.stmt) for each in (new, *absent, *own)):
            return False
        kept = {ast.dump(each) for each in self.original}
        if any(ast.dump(each) in kept for each in absent):
            return False  # it is elsewhere, so that the image has another order
        # What upstream has behind it cannot have mattered; what it has before it must only look.
        before = absent if direction == -1 else []
        return all(_is_inert(each) and _are_apart(each, new) for each in before) and all(
            _is_inert(each) and _is_inert(new) and _are_apart(each, new) for each in own
        )


_RUNS = (
    ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.Return, ast.Raise, ast.Break, ast.Continue,
    ast.Import, ast.ImportFrom, ast.Delete, ast.Global, ast.Nonlocal, ast.For, ast.AsyncFor,
    ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match, ast.NamedExpr, ast.comprehension,
)  # fmt: skip


def _is_inert(node: Node) -> bool:
    """Whether a statement goes on to the next one, and calls nothing on the way.

    A function's or class's stub only binds its name. What is decorated is handed to a call.
    """
    return not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
        isinstance(each, _RUNS) or getattr(each, "decorator_list", None) for each in ast.walk(node)
    )


def _are_apart(one: Node, other: Node) -> bool:
    """Whether neither binds what the other mentions, by name or as an attribute of anything.

    An attribute that is read may be a property, which reads those that are bound, and an element
    may be of the same list by another name. A call may read either.
    """
    if _bound(one) & _mentioned(other) or _bound(other) & _mentioned(one):
        return False
    binds, reads = zip(*(_parts(each) for each in (one, other)), strict=True)
    return not (binds[0] and reads[1]) and not (binds[1] and reads[0])


def _parts(node: Node) -> tuple[bool, bool]:
    """Whether a statement binds attributes or elements, and whether it reads any or may do so."""
    nodes = list(ast.walk(node))
    found = [each.ctx for each in nodes if isinstance(each, ast.Attribute | ast.Subscript)]
    return (
        any(isinstance(each, ast.Store) for each in found),
        any(isinstance(each, ast.Load) for each in found)
        or any(isinstance(each, ast.Call) for each in nodes),
    )


# What a part of a tree is known by, and what it does.
_KNOWN_BY: dict[type[Node], tuple[tuple[str, ...], tuple[str, ...]]] = {
    Branch: (("test",), ("body",)),
    ast.While: (("test",), ("body",)),
    ast.For: (("target", "iter"), ("body",)),
    ast.AsyncFor: (("target", "iter"), ("body",)),
    ast.With: (("items",), ("body",)),
    ast.AsyncWith: (("items",), ("body",)),
    ast.Try: (("body",), ("handlers", "orelse", "finalbody")),
    ast.ExceptHandler: (("type",), ("body",)),
    ast.Match: (("subject",), ("cases",)),
    ast.match_case: (("pattern", "guard"), ("body",)),
    ast.FunctionDef: (("name",), ("body",)),
    ast.AsyncFunctionDef: (("name",), ("body",)),
    ast.ClassDef: (("name",), ("body",)),
    ast.Assign: (("targets",), ("value",)),
    ast.AnnAssign: (("target",), ("value",)),
    ast.AugAssign: (("target",), ("value",)),
    ast.Call: (("func",), ("args", "keywords")),
    ast.keyword: (("arg",), ("value",)),
}


def is_known(its: Node, own: Node) -> bool:
    """Whether a part of upstream's tree and one of the image's are one, changed or not.

    One that has another condition, target or name, and does not do most of what upstream's does,
    may be any other. An `if` is one where a branch of it is; any has an `else`.
    """
    match its, own:
        case ast.Tuple(elts=[key, value]), ast.Tuple(elts=[own_key, own_value]):  # a dict's entry
            return _text(key) == _text(own_key) or _text(value) == _text(own_value)
        case ast.If(), ast.If():
            known = [
                {part for branch in branches(each) if branch.test for part in _known_by(branch)}
                for each in (its, own)
            ]
        case ast.Expr() | ast.Await() | ast.Return(value=ast.expr()), _:
            return is_known(*(next(ast.iter_child_nodes(each), each) for each in (its, own)))
        case _:
            known = [_known_by(each) for each in (its, own)]
    if known[0] & known[1] or not (known[0] and known[1]):
        return True
    does = [
        {
            text
            for statement in getattr(each, "body", ())
            for text in [_text([statement])]
            if not _OF_MANY.fullmatch(text)
        }
        for each in (its, own)
    ]
    return 2 * len(does[0] & does[1]) > len(does[0])


def _known_by(node: Node) -> set[tuple[int, str]]:
    """Each of the two parts that it is known by, in text; what many do is none."""
    return {
        (at, text)
        for at, names in enumerate(_KNOWN_BY.get(type(node), ()))
        for text in [",".join(_text(getattr(node, name)) for name in names)]
        if at == 0 or not _OF_MANY.fullmatch(text)
    }


# No value, no arguments, and a body that only ends the loop or function.
_OF_MANY = re.compile(r"None|\[\],\[\]|\[(?:Pass|Continue|Break|Return)\([^(]*\)\]")


def _text(part: object) -> str:
    if isinstance(part, list):
        return f"[{','.join(map(_text, part))}]"
    return ast.dump(part) if isinstance(part, ast.AST) else str(part)


def _mentioned(node: Node) -> set[str]:
    names = _bound(node)
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(name)
            case _:
                pass
    return names


def _bound(node: Node) -> set[str]:
    names = set()
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Subscript(ctx=ast.Store()):
                names |= _mentioned(each.value)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(each.name)
            case ast.alias(name=name, asname=asname):
                names.add((asname or name).partition(".")[0])
            case _:
                pass
    return names


def _key(node: Node) -> str:
    """What an element of a set is known by: an entry's key, or itself. No keyword comes twice."""
    match node:
        case ast.Tuple(elts=[key, _]):
            return ast.dump(key)
        case _:
            return ast.dump(node)


def _is_unpacked(node: Node) -> bool:
    """Whether it is `**more` or `*more`: whose order counts."""
    match node:
        case ast.keyword(arg=None) | ast.Starred():
            return True
        case ast.Tuple(elts=[ast.Constant(value=key), _]):
            return key is ...
        case _:
            return False
