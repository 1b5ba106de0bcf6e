"""The rewriter's own reading of "guarded": from the read outwards, by the nodes around it.

It is narrower than the verifier's, on purpose: a guard that it does not know is written once
more, which does no harm; one that it sees where there is none would leave a crash. A guard that
catches is another matter: written once more, it would take the place of the program's own
fallback. So a read whose error may be handled is left alone, whatever that handler does.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from itertools import takewhile
from typing import TypeGuard

import libcst as cst

from patcher.rules.guard.chain import Chain
from patcher.rules.guard.writing.context import Ancestors

Path = tuple[str, ...]

HARMLESS_CALLS = frozenset({"hasattr", "getattr", "isinstance"})
# Nodes that run code, or bind names, in ways that could undo what a test has shown.
DISTURBING = (
    cst.Await, cst.Yield, cst.With, cst.For, cst.CompFor, cst.Import, cst.ImportFrom, cst.Del,
    cst.NamedExpr, cst.FunctionDef, cst.ClassDef, cst.Match, cst.AugAssign, cst.AnnAssign,
    cst.In, cst.NotIn, cst.StarredElement, cst.ExceptHandler,
)  # fmt: skip
BLOCKS = (cst.IndentedBlock, cst.Module, cst.SimpleStatementLine, cst.SimpleStatementSuite)
TERMINATING = (cst.Return, cst.Raise, cst.Continue, cst.Break)
LEAVING = (cst.Return, cst.Break, cst.Continue)
# How the names of those fields begin that hold no code.
LAYOUT = (
    "whitespace", "leading_lines", "lines_after", "header", "footer", "comma", "semicolon",
    "lpar", "rpar", "lbrace", "rbrace", "lbracket", "rbracket",
)  # fmt: skip
# Code inside these runs at another time, or again after the rest of their body has run.
BOUNDARIES = (
    cst.FunctionDef, cst.Lambda, cst.ClassDef, cst.GeneratorExp, cst.ListComp, cst.SetComp,
    cst.DictComp, cst.For, cst.While, cst.With, cst.Match, cst.ExceptHandler, cst.ExceptStarHandler,
    cst.Finally, cst.Del,
)  # fmt: skip
# Decorators and managers that let an error through.
DECORATORS = frozenset({"property", "staticmethod", "classmethod"})
KEEPING = frozenset({"nullcontext", "closing", "redirect_stdout", "redirect_stderr", "chdir"})


def path(node: cst.CSTNode | None) -> Path | None:
    """A receiver that evaluates without side effects, as its dotted names; else None."""
    match node:
        case cst.Name(value=name):
            return (name,)
        case cst.Attribute(value=value, attr=cst.Name(value=attribute)):
            base = path(value)
            return None if base is None else (*base, attribute)
        case _:
            return None


@dataclass
class Surroundings:
    """What is around the reads of one module; a question about a node is answered once."""

    module: cst.Module
    rule: Chain
    _calm: dict[cst.CSTNode, bool] = field(default_factory=dict)
    _restless: dict[cst.CSTNode, list[cst.CSTNode]] = field(default_factory=dict)

    # ---- Is the attribute shown to be there?

    def is_guarded(self, node: cst.CSTNode, ancestors: Ancestors) -> bool:
        """Whether something around the read, in the same function, shows the attribute to be there.

        `ancestors` are all nodes around the read, from the module inwards. Walks outwards while
        nothing that ran before the read can have undone a test's answer.
        """
        receiver = cst.ensure_type(cst.ensure_type(node, cst.Attribute).value, cst.Attribute).value
        key = path(receiver)
        if key is None:
            return False
        child = node
        for parent in reversed(ancestors):
            outcome = _outcome(parent, child)
            if outcome is not None and self._proves(outcome[0], key, wanted=outcome[1]):
                return True
            for statement in _run_before(parent, child):
                if self._exits_without(statement, key):
                    return True
                if not self.is_calm(statement):
                    return False
            if isinstance(parent, BOUNDARIES) or not self._is_calm_around(parent, child):
                return False
            child = parent
        return False

    def is_calm(self, node: cst.CSTNode) -> bool:
        """Whether evaluating the node cannot undo what a test has shown."""
        if node not in self._calm:
            self._calm[node] = not _disturbs(node) and all(map(self.is_calm, node.children))
        return self._calm[node]

    def _proves(self, test: cst.CSTNode, key: Path, *, wanted: bool) -> bool:
        """Whether `test` coming out as `wanted` shows that `key` has the attribute."""
        match test:
            case cst.UnaryOperation(operator=cst.Not(), expression=expression):
                return self._proves(expression, key, wanted=not wanted)
            case cst.BooleanOperation(left=left, operator=operator, right=right):
                if isinstance(operator, cst.And) is not wanted:
                    return False
                on_the_left = self._proves(left, key, wanted=wanted) and self.is_calm(right)
                return on_the_left or self._proves(right, key, wanted=wanted)
            case cst.Call(func=cst.Name(value="hasattr"), args=[asked, attribute]):
                named = _string(attribute.value) == self.rule.attribute
                return wanted and named and path(asked.value) == key
            case _:
                return False

    def _exits_without(self, statement: cst.CSTNode, key: Path) -> bool:
        """Whether what follows the statement in its block runs only where `key` has it."""
        match statement:
            case cst.SimpleStatementLine(body=[cst.Assert(test=test)]) | cst.Assert(test=test):
                return self._proves(test, key, wanted=True)
            case cst.If(test=test, body=cst.IndentedBlock(body=[*_, last]), orelse=None):
                return _terminates(last) and self._proves(test, key, wanted=False)
            case cst.If(test=test, body=cst.SimpleStatementSuite(body=[*_, last]), orelse=None):
                return isinstance(last, TERMINATING) and self._proves(test, key, wanted=False)
            case _:
                return False

    def _is_calm_around(self, parent: cst.CSTNode, child: cst.CSTNode) -> bool:
        """Whether the parts of `parent` beside `child` cannot have disturbed anything.

        Blocks are looked at statement by statement; a branch that was not taken never ran.
        """
        if isinstance(parent, cst.Try):
            return child is parent.body
        if isinstance(parent, (*BLOCKS, cst.Else)):
            return True
        if isinstance(parent, cst.If | cst.IfExp):
            return child is parent.test or self.is_calm(parent.test)
        if isinstance(parent, cst.Assign) and child is parent.value:
            return True  # the targets are stored to afterwards
        operations = cst.Comparison | cst.BinaryOperation | cst.BooleanOperation
        if isinstance(parent, operations) and child is parent.left:
            return True  # and so is the right side evaluated
        return all(part is child for part in self._restless_parts(parent))

    def _restless_parts(self, node: cst.CSTNode) -> list[cst.CSTNode]:
        """The parts that may disturb: asked of a display of 1,000 reads by each of them."""
        if node not in self._restless:
            self._restless[node] = [part for part in node.children if not self.is_calm(part)]
        return self._restless[node]

    # ---- May the program handle the error itself?

    def may_be_handled(self, node: cst.CSTNode, ancestors: Ancestors) -> bool:
        """Whether the program may fall back by itself where the attribute is missing.

        By a handler, a `finally` that leaves, a context manager or a decorator around the read,
        or by whoever runs the function that the read is in.
        """
        child = node
        for parent in reversed(ancestors):
            match parent:
                case cst.Try() | cst.TryStar() if child is parent.body:
                    if self._handles(parent) or _leaves(parent.finalbody):
                        return True
                case cst.With(items=items) if child is parent.body:
                    if any(self._may_swallow(item.item) for item in items):
                        return True
                case cst.FunctionDef(name=cst.Name(value=name), decorators=decorators) if (
                    child is parent.body
                ):
                    swallowed = any(self._may_swallow(one.decorator) for one in decorators)
                    return swallowed or name in self._tried
                case _:
                    pass
            child = parent
        return False

    def _handles(self, node: cst.Try | cst.TryStar) -> bool:
        """Whether a handler may catch the error and do something else than raise it again."""
        return any(
            self._may_catch(handler.type) and not _raises_again(handler)
            for handler in node.handlers
        )

    def _may_catch(self, caught: cst.BaseExpression | None) -> bool:
        match caught:
            case cst.Tuple(elements=elements):
                return any(self._may_catch(element.value) for element in elements)
            case cst.Name(value=name) if self.is_builtin(name):
                known = getattr(builtins, name, None)
                if isinstance(known, type) and issubclass(known, BaseException):
                    return issubclass(AttributeError, known)
            case _:
                pass
        return True

    def _may_swallow(self, manager: cst.BaseExpression) -> bool:
        """Whether a manager or decorator is this module's own, or one of contextlib's that may."""
        names = path(manager.func if isinstance(manager, cst.Call) else manager)
        if names is None:
            return True
        if names[0] in self._imported:
            module, *rest = (*self._imported[names[0]], *names[1:])
            return module == "contextlib" and rest[-1:] != [] and rest[-1] not in KEEPING
        known = names[0] in DECORATORS and self.is_builtin(names[0])
        return len(names) == 1 and not known

    # ---- What the whole module does

    def is_builtin(self, name: str) -> bool:
        """Whether the module nowhere binds a builtin's name, as far as can be told at all."""
        return name not in self._bound and None not in self._bound

    @cached_property
    def _edges(self) -> list[tuple[cst.CSTNode, cst.CSTNode]]:
        return list(_edges(self.module))

    @cached_property
    def _bound(self) -> set[str | None]:
        """Names that the module may bind; None stands for any, which a star import may."""
        star = {None for _, child in self._edges if isinstance(child, cst.ImportStar)}
        names = [(parent, child) for parent, child in self._edges if _is_name(child)]
        return star | {child.value for parent, child in names if _may_bind(parent, child)}

    @cached_property
    def _imported(self) -> dict[str, Path]:
        """What each imported name stands for."""
        found: dict[str, Path] = {}
        for _, node in self._edges:
            match node:
                case cst.Import(names=[*aliases]):
                    whence: Path = ()
                case cst.ImportFrom(names=[*aliases], module=module):
                    whence = path(module) or ("",)
                case _:
                    continue
            for alias in aliases:
                meant = path(alias.name) or ()
                shown = (path(alias.asname.name) if alias.asname else meant) or ("",)
                found[shown[0]] = (*whence, *(meant if alias.asname else meant[:1]))
        return found

    @cached_property
    def _tried(self) -> set[str]:
        """Names used in a `try` which handles the error, or asked for by a string."""
        found: set[str] = set()
        for _, node in self._edges:
            match node:
                case cst.Try() | cst.TryStar() if self._handles(node):
                    found.update(name.value for _, name in _edges(node.body) if _is_name(name))
                case cst.Call(func=cst.Name(value="hasattr"), args=[_, asked]):
                    found.add(_string(asked.value))
                case cst.Call(func=cst.Name(value="getattr"), args=[_, asked, _]):
                    found.add(_string(asked.value))
                case _:
                    pass
        return found


def _edges(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Every node of code below, with its parent. `node.children` would take twice as long."""
    rest = [node]
    while rest:
        parent = rest.pop()
        for name in _parts(type(parent)):
            value = getattr(parent, name)
            for child in value if isinstance(value, list | tuple) else (value,):
                if isinstance(child, cst.CSTNode):
                    yield parent, child
                    rest.append(child)


@cache
def _parts(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """The fields that hold a node's code: not its spaces, comments, brackets and commas."""
    names = (each.name for each in fields(kind))
    return tuple(name for name in names if not name.startswith(LAYOUT))


def _is_name(node: cst.CSTNode) -> TypeGuard[cst.Name]:
    return isinstance(node, cst.Name)


def _may_bind(parent: cst.CSTNode, child: cst.Name) -> bool:
    """Only as a call's function, an argument or a caught class is a name surely not bound."""
    match parent:
        case cst.Call() | cst.Arg() | cst.ExceptHandler() | cst.Element() | cst.Decorator():
            return getattr(parent, "keyword", None) is child
        case cst.Attribute(attr=attribute):
            return child is not attribute
        case _:
            return True


def _string(node: cst.CSTNode) -> str:
    value = node.evaluated_value if isinstance(node, cst.SimpleString) else ""
    return value if isinstance(value, str) else ""


def _outcome(parent: cst.CSTNode, child: cst.CSTNode) -> tuple[cst.CSTNode, bool] | None:
    """The test that decides whether `child` runs, and the answer that it needs."""
    match parent:
        case cst.IfExp(test=test, body=body, orelse=orelse) if child in (body, orelse):
            return test, child is body
        case cst.If(test=test, body=body, orelse=orelse) if child in (body, orelse):
            return test, child is body
        case cst.While(test=test, body=body) if child is body:
            return test, True
        case cst.BooleanOperation(left=left, operator=operator, right=right) if child is right:
            return left, isinstance(operator, cst.And)
        case _:
            return None


def _run_before(parent: cst.CSTNode, child: cst.CSTNode) -> list[cst.CSTNode]:
    """The statements of the same block that have run before `child`, the last one first."""
    body = parent.body if isinstance(parent, BLOCKS) else ()
    return list(takewhile(lambda statement: statement is not child, body))[::-1]


def _terminates(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and isinstance(
        statement.body[-1], TERMINATING
    )


def _disturbs(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Name(value=name)):
            return name not in HARMLESS_CALLS
        case cst.Call() | cst.AssignTarget(target=cst.Attribute() | cst.Subscript()):
            return True
        case _:
            return isinstance(node, (*DISTURBING, cst.AssignTarget))


def _raises_again(handler: cst.ExceptHandler | cst.ExceptStarHandler) -> bool:
    """Whether a handler ends in a bare `raise`, and in nothing else."""
    *before, last = handler.body.body
    match last:
        case cst.SimpleStatementLine(body=[cst.Raise(exc=None)]) | cst.Raise(exc=None):
            return not any(isinstance(one, LEAVING) for part in before for _, one in _edges(part))
        case _:
            return False


def _leaves(final: cst.Finally | None) -> bool:
    """Whether a `finally` may leave by itself, and drop the error."""
    return final is not None and any(isinstance(child, LEAVING) for _, child in _edges(final))
