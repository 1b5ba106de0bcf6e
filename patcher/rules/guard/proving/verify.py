"""The verifier: every read of the rule's chain, and whether it is shown to be guarded.

It needs the standard library alone and shares nothing with the rewriter. It accepts a read only
where it can show that the attribute is there on every path; what it cannot show is unguarded.
It may be strict, and never is it lenient:

- It follows `if`, `while`, `assert`, conditional expressions, `and`/`or`/`not`, early exits,
  `getattr(x, "weight", None)` with a None check, local names for the layer, its weight or a
  `hasattr`'s answer, `except AttributeError` and `contextlib.suppress`.
- The proof ends at a rebinding, a `del`, a store to the attribute, and at anything that runs
  code we cannot see: a call, an import, `with`, `await`, `yield`, iteration but over `range`.
- Nothing is known at the start of a function, lambda, generator expression or class body: they
  run at another time. A read that no path reaches counts as unguarded.
- A handler that binds the error, raises, asserts, yields, loops, imports or calls anything may
  hand the error on: it is no guard. Neither is `try ... finally: return`, nor `except*`. A `try`
  or `with` between the read and the handler may turn the error into another.
- An annotation is read as if it were evaluated now and at any other time. A class that is raised
  is called. A pattern for a class, a mapping or a sequence runs code of the subject.
- `hasattr` counts only where the module binds that name nowhere.

Taken for granted: attribute loads, subscript loads, operators, formatting and truth of a value
(`__getattr__`, `__eq__`, `__bool__`, `__del__`, ...) alter no layer; nobody stores None to the
attribute, or replaces a builtin from outside the module.

Not followed: a layer or weight that is handed to another function (also as the default of a
parameter), or stored in a container, an attribute or a global of another function; names made of
strings (`attrgetter`, `eval`).
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator

from patcher.errors import NotPython
from patcher.rules.guard.chain import Chain, Read
from patcher.rules.guard.proving.facts import OTHER
from patcher.rules.guard.proving.names import scan
from patcher.rules.guard.proving.walk import Walk
from patcher.threads import PARSING

Judged = dict[ast.expr, bool]

# Where a node says a name that may be the receiver's.
_SAYS = {ast.Attribute: "attr", ast.Name: "id", ast.Constant: "value"}


def verify(source: bytes, rule: Chain) -> tuple[Read, ...]:
    """All reads of the rule's chain in a file's bytes, in file order.

    Reads of the chain as it is written are listed, guarded or not. A read through a local name
    (`w = x.weight`, then `w.dtype`) is listed only where it is not guarded.
    Raises `NotPython`, with the line, for bytes that are no source for this Python.
    """
    tree = _parse(source)
    try:
        nodes = _all_nodes(tree)
        judged = _judge(tree, nodes, rule)
        reads: Judged = {node: judged.get(node, False) for node in _written(nodes, rule)}
        reads |= {node: False for node, safe in judged.items() if not safe}
        lines = _lines(source) if reads else []
        return tuple(sorted(_read(nodes, lines, node, safe) for node, safe in reads.items()))
    except RecursionError:
        raise NotPython(
            "the file is nested too deeply to be read", next_step="Split the expression."
        ) from None


def _parse(source: bytes) -> ast.Module:
    try:
        with PARSING, warnings.catch_warnings():
            # A file's own SyntaxWarnings (an invalid escape, say) are not our user's business.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        problem = f"{where}not Python source: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        problem = f"not Python source: {error or type(error).__name__}"
    raise NotPython(problem, next_step="Check the file, or try a newer Python.")


def _all_nodes(tree: ast.Module) -> list[ast.AST]:
    """Every node that has parts, outer ones first: `ast.walk` without `Load`, `Add`, `pass`."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # which grows meanwhile
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                if value._fields:
                    nodes.append(value)
            elif isinstance(value, list):
                nodes += [item for item in value if isinstance(item, ast.AST)]
    return nodes


def _judge(tree: ast.Module, nodes: list[ast.AST], rule: Chain) -> Judged:
    """Walk the module, and then each body that runs later."""
    mentions = _mentions(nodes, rule.receiver)
    if not mentions:
        return {}
    walk = Walk(rule, scan(nodes))
    walk.block(tree.body)
    while walk.later:
        task = walk.later.pop()
        # Most functions of a file neither mention the receiver nor see a name that holds it.
        if any(value != OTHER for value in task.outer.values()) or _spans(task.node, mentions):
            walk.run_later(task)
    return walk.judged


def _mentions(nodes: list[ast.AST], receiver: str) -> list[int]:
    """The lines on which the receiver's name stands, as an identifier or as a string."""
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.expr | ast.pattern)
        and (
            getattr(node, _SAYS.get(type(node), ""), None) == receiver
            or receiver in getattr(node, "kwd_attrs", ())
        )
    ]


def _spans(node: ast.expr | ast.stmt, lines: list[int]) -> bool:
    end = node.end_lineno or node.lineno
    return any(node.lineno <= line <= end for line in lines)


def _written(nodes: list[ast.AST], rule: Chain) -> Iterator[ast.Attribute]:
    """Every place where the chain stands as it is written: `<...>kv_b_proj.weight.dtype`."""
    for node in nodes:
        match node:
            case ast.Attribute(attr=member, value=ast.Attribute(attr=attribute, value=receiver)):
                if (member, attribute) == (rule.member, rule.attribute):
                    last = getattr(receiver, "attr", getattr(receiver, "id", None))
                    if last == rule.receiver:
                        yield node
            case _:
                pass


def _lines(source: bytes) -> list[str]:
    return importlib.util.decode_source(source).split("\n")


def _read(nodes: list[ast.AST], lines: list[str], node: ast.expr, guarded: bool) -> Read:
    before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
    return Read(node.lineno, len(before) + 1, _function(nodes, node), ast.unparse(node), guarded)


def _function(nodes: list[ast.AST], node: ast.expr) -> str:
    """The qualified name of the innermost def or class around a node."""
    names = [
        scope.name
        for scope in nodes  # breadth first, so the outer ones come first
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and (scope.lineno, scope.col_offset) <= (node.lineno, node.col_offset)
        and (node.lineno, node.col_offset) < (scope.end_lineno or 0, scope.end_col_offset or 0)
    ]
    return ".".join(names) or "<module>"
