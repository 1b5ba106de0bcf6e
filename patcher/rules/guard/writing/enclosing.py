"""The rewriter's own reading of "guarded": from the read outwards, by the nodes around it.

It is narrower than the verifier's, on purpose: a guard that it does not know is written once
more, which does no harm; one that it sees where there is none would leave a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import libcst as cst

from patcher.rules.guard.chain import Chain

Ancestors = Sequence[cst.CSTNode]
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


def path(node: cst.CSTNode) -> Path | None:
    """A receiver that evaluates without side effects, as its dotted names; else None."""
    match node:
        case cst.Name(value=name):
            return (name,)
        case cst.Attribute(value=value, attr=cst.Name(value=attribute)):
            base = path(value)
            return None if base is None else (*base, attribute)
        case _:
            return None


def is_guarded(node: cst.CSTNode, ancestors: Ancestors, rule: Chain) -> bool:
    """Whether something around the read, in the same function, shows the attribute to be there.

    `ancestors` are all nodes around the read, from the module inwards.
    """
    receiver = cst.ensure_type(cst.ensure_type(node, cst.Attribute).value, cst.Attribute).value
    key = path(receiver)
    if key is not None and _is_shown(node, ancestors, key, rule):
        return True
    return _is_caught(node, ancestors) and is_builtin(ancestors[0], "AttributeError")


def is_builtin(module: cst.CSTNode, name: str) -> bool:
    """Whether the module nowhere binds a builtin's name, as far as can be told at all."""
    return not any(_may_bind(node, child, name) for node, child in _edges(module))


def _edges(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    for child in node.children:
        yield node, child
        yield from _edges(child)


def _may_bind(parent: cst.CSTNode, child: cst.CSTNode, name: str) -> bool:
    """Only as a call's function, an argument or a caught class is a name surely not bound."""
    match parent, child:
        case _, cst.ImportStar():
            return True
        case (
            (cst.Call() | cst.Arg() | cst.ExceptHandler() | cst.Element()),
            cst.Name(value=found),
        ):
            return found == name and getattr(parent, "keyword", None) is child
        case cst.Attribute(attr=attribute), cst.Name(value=found) if child is attribute:
            return False
        case _, cst.Name(value=found):
            return found == name
        case _:
            return False


def _is_shown(node: cst.CSTNode, ancestors: Ancestors, key: Path, rule: Chain) -> bool:
    """Walk outwards while nothing that ran before the read can have disturbed a test's answer."""
    passed: set[cst.CSTNode] = {node, *ancestors}
    child = node
    for parent in reversed(ancestors):
        outcome = _outcome(parent, child)
        if outcome is not None and _proves(outcome[0], key, rule, wanted=outcome[1]):
            return True
        for statement in reversed(_run_before(parent, child)):
            if _exits_without(statement, key, rule):
                return True
            if not _is_calm(statement, passed):
                return False
        if isinstance(parent, _BOUNDARIES) or not _is_calm_around(parent, child, passed):
            return False
        child = parent
    return False


# Code inside these runs at another time, or again after the rest of their body has run.
_BOUNDARIES = (
    cst.FunctionDef, cst.Lambda, cst.ClassDef, cst.GeneratorExp, cst.ListComp, cst.SetComp,
    cst.DictComp, cst.For, cst.While, cst.With, cst.Match, cst.ExceptHandler, cst.ExceptStarHandler,
    cst.Finally, cst.Del,
)  # fmt: skip


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


def _proves(test: cst.CSTNode, key: Path, rule: Chain, *, wanted: bool) -> bool:
    """Whether `test` coming out as `wanted` shows that `key` has the attribute."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=expression):
            return _proves(expression, key, rule, wanted=not wanted)
        case cst.BooleanOperation(left=left, operator=operator, right=right):
            if isinstance(operator, cst.And) is not wanted:
                return False
            on_the_left = _proves(left, key, rule, wanted=wanted) and is_calm(right)
            return on_the_left or _proves(right, key, rule, wanted=wanted)
        case cst.Call(func=cst.Name(value="hasattr"), args=[asked, attribute]):
            return wanted and path(asked.value) == key and _is_string(attribute, rule.attribute)
        case _:
            return False


def _is_string(argument: cst.Arg, text: str) -> bool:
    value = argument.value
    return isinstance(value, cst.SimpleString) and value.evaluated_value == text


def _run_before(parent: cst.CSTNode, child: cst.CSTNode) -> list[cst.CSTNode]:
    """The statements of the same block that have run before `child`."""
    body = parent.body if isinstance(parent, BLOCKS) else ()
    return list(takewhile(lambda statement: statement is not child, body))


def _exits_without(statement: cst.CSTNode, key: Path, rule: Chain) -> bool:
    """Whether what follows the statement in its block runs only where `key` has the attribute."""
    match statement:
        case cst.SimpleStatementLine(body=[cst.Assert(test=test)]) | cst.Assert(test=test):
            return _proves(test, key, rule, wanted=True)
        case cst.If(test=test, body=cst.IndentedBlock(body=[*_, last]), orelse=None):
            return _terminates(last) and _proves(test, key, rule, wanted=False)
        case cst.If(test=test, body=cst.SimpleStatementSuite(body=[*_, last]), orelse=None):
            return isinstance(last, TERMINATING) and _proves(test, key, rule, wanted=False)
        case _:
            return False


def _terminates(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and isinstance(
        statement.body[-1], TERMINATING
    )


def _is_calm_around(parent: cst.CSTNode, child: cst.CSTNode, passed: set[cst.CSTNode]) -> bool:
    """Whether the parts of `parent` beside `child` cannot have disturbed anything.

    Blocks are looked at statement by statement; a branch that was not taken never ran.
    """
    if isinstance(parent, cst.Try):
        return child is parent.body
    if isinstance(parent, (*BLOCKS, cst.Else)):
        return True
    if isinstance(parent, cst.If | cst.IfExp):
        return child is parent.test or _is_calm(parent.test, passed)
    if isinstance(parent, cst.Assign) and child is parent.value:
        return True  # the targets are stored to afterwards
    operations = cst.Comparison | cst.BinaryOperation | cst.BooleanOperation
    if isinstance(parent, operations) and child is parent.left:
        return True  # and so is the right side evaluated
    return _is_calm(parent, passed)


def is_calm(node: cst.CSTNode) -> bool:
    """Whether evaluating the node cannot undo what a test has shown."""
    return _is_calm(node, set())


def _is_calm(node: cst.CSTNode, passed: set[cst.CSTNode]) -> bool:
    """Whether nothing in `node`, but for the nodes in `passed`, can undo a test's answer."""
    if node not in passed and _disturbs(node):
        return False
    return all(_is_calm(child, passed) for child in node.children)


def _disturbs(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Name(value=name)):
            return name not in HARMLESS_CALLS
        case cst.Call() | cst.AssignTarget(target=cst.Attribute() | cst.Subscript()):
            return True
        case _:
            return isinstance(node, (*DISTURBING, cst.AssignTarget))


def _is_caught(node: cst.CSTNode, ancestors: Ancestors) -> bool:
    """Whether a missing attribute here surely ends in a handler, in the same function."""
    child = node
    for parent in reversed(ancestors):
        match parent:
            case cst.Try(body=body, handlers=[]) if child is body:
                return False
            case cst.Try(body=body, handlers=[first, *_]) if child is body:
                caught = first.type
                named = isinstance(caught, cst.Name) and caught.value == "AttributeError"
                return named and not _hands_on(first)
            case cst.With() | cst.Finally() | cst.ExceptHandler() | cst.TryStar():
                return False
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef() | cst.GeneratorExp():
                return False
            case _:
                pass
        child = parent
    return False


def _hands_on(node: cst.CSTNode) -> bool:
    """Whether a handler may let the error out again: by a name, a raise, or code it calls."""
    kinds = (
        cst.Raise, cst.Assert, cst.AsName, cst.Await, cst.Yield, cst.With, cst.For, cst.CompFor,
        cst.Import, cst.ImportFrom, cst.ClassDef, cst.StarredElement, cst.In, cst.NotIn, cst.Tuple,
        cst.List,
    )  # fmt: skip
    acts = isinstance(node, kinds) or (isinstance(node, cst.Call) and _disturbs(node))
    return acts or any(_hands_on(child) for child in node.children)
