"""The verifier: every read of the rule's chain, and whether it is shown to be guarded.

It needs the standard library alone and shares nothing with the rewriter. It accepts a read only
where it can show that the attribute is there on every path; what it cannot show is unguarded.
It may be strict, but never lenient:

- It follows `if`, `while`, `assert`, conditional expressions, `and`/`or`/`not`, early exits,
  `getattr(x, "weight", None)` with a None check, local names for the receiver, its attribute or
  a `hasattr`'s answer, `except AttributeError` and `contextlib.suppress`.
- The proof ends at a rebinding, a `del`, a store to any attribute or item, and at anything that
  runs code we cannot see: a call, an import, `with`, `await`, `yield`, iteration but over `range`.
  A log line and builtins like `len` are not such calls.
- A name whose binding is not certain at a point holds whatever it may have been bound to: by a
  case that failed, an operand that may not have run, a generator, another function's `nonlocal`
  or `global`, a class body, `exec` and the like.
- Nothing is known at the start of a function, lambda, generator expression or class body: they
  run at another time. A read that no path reaches counts as unguarded.
- A handler that uses the error, raises, asserts, yields, loops, imports, stores or calls anything
  but a log line may hand the error on: it is not a guard. Neither is `try ... finally: return`, nor
  `except*`. A `try` or `with` between the read and the handler may turn the error into another.
- An annotation is read as if it were evaluated now and at any other time. A class that is raised
  is called. A pattern for a class, a mapping or a sequence runs code of the subject.
- `hasattr` counts only where the module binds that name nowhere and puts nothing in its place.

What is handed to another function, operator or class, or back, or put into a container or an
attribute, is not followed, nor are attributes named by strings (`attrgetter`, `eval`). Where the
receiver (or an attribute that may be None) goes away like that, and the member is read, unguarded,
of something that may be what went away, no answer is given: `NotFollowed` names both lines.

Taken for granted: attribute loads, subscript loads, operators, formatting and truth of a value
alter no receiver, unless the module defines a special method or property that does more than
look; no finalizer does; other modules replace no builtin; what a string annotation holds is not
evaluated; an attribute stored only from its own name (`self.q_proj = q_proj`) holds what that
name says. A load of the attribute alone, without the member, is not a read of the rule's chain.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from bisect import bisect_left
from collections.abc import Iterator

from patcher.errors import NotFollowed, NotPython
from patcher.rules.guard.chain import Chain, Read
from patcher.rules.guard.proving.facts import OTHER
from patcher.rules.guard.proving.names import last_name, parts_of, scan, walked
from patcher.rules.guard.proving.walk import Intricate, Later, Walk
from patcher.syntax import first_line, tree_of

# The field of a node that holds a name.
_SAYS = {ast.Attribute: "attr", ast.Name: "id"}
_LINED = (ast.expr, ast.pattern, ast.alias)
NEWLINE = re.compile(r"\r\n|\r|\n")
# Steps that the walk may take for each node of the tree; what takes more has paths that multiply.
STEPS = 200


# A file is asked about before it is patched, in the proof, and afterwards; a dozen, by each walk
# through a history.
@functools.lru_cache(maxsize=32)
def verify(source: bytes, rule: Chain) -> tuple[Read, ...]:
    """All reads of the rule's chain in a file's bytes, in file order.

    Reads of the chain as it is written are listed, guarded or not. A read through a local name
    (`w = x.weight`, then `w.dtype`) is listed only where it is not guarded.
    Raises `NotPython`, with the line, for bytes that are not source for this Python, and
    `NotFollowed` where no read is shown to be unguarded, and yet one may be.
    """
    tree = _parse(source)
    walk = None
    try:
        nodes = walked(tree)
        if mentions := _mentions(nodes, rule.receiver):
            walk = Walk(rule, scan(nodes), STEPS * len(nodes) + 10_000)
            _follow(walk, tree, nodes, mentions)
        judged = walk.judged if walk else {}
        reads: dict[ast.expr, bool] = {
            node: judged.get(node, False) for node in _written(nodes, rule)
        }
        reads |= {node: False for node, safe in judged.items() if not safe}
        told = _told(source, tree, reads)
    except Intricate as error:
        raise _too_much(error.line, "has too many paths") from None
    except RecursionError:
        raise _too_much(walk.line if walk else 1, "is nested too deeply") from None
    found = walk.escapes.found if walk else None
    if found and all(read.guarded for read in told):
        away, back = found
        raise NotFollowed(
            f"line {away} hands {rule.receiver} or its {rule.attribute} on, and line {back} reads "
            f".{rule.member} of something that may be it, without a guard",
            next_step="Look whether they meet; if they do, guard that read by hand.",
        )
    return told


def _too_much(line: int, how: str) -> NotPython:
    return NotPython(
        f"line {line}: the code {how} to be judged", next_step="Split that statement or function."
    )


def _parse(source: bytes) -> ast.Module:
    """The file's tree. Raises `NotPython`, with the line."""
    try:
        tree = tree_of(source)
        if not _may_state_encoding(source):
            source.decode()  # Python refuses a file for a stray byte in a comment, ast does not
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        problem = f"line {line}: not Python source: byte {source[error.start]:#04x} is not UTF-8"
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        problem = f"{where}not Python source: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        problem = f"not Python source: {str(error) or 'it is nested too deeply'}"
    else:
        return tree
    raise NotPython(problem, next_step="Check the file, or try a newer Python.")


def _may_state_encoding(source: bytes) -> bool:
    """Whether one of the first two lines may state an encoding (PEP 263)."""
    return any(b"coding" in line for line in source.splitlines()[:2])


def _follow(walk: Walk, tree: ast.Module, nodes: list[ast.AST], mentions: list[int]) -> None:
    """Walk the module, and then each body that runs later.

    What one scope binds a shared name to another may read: all is walked again until that is
    known. Most functions of a file neither mention the receiver nor see a name that holds it;
    they matter only where a receiver goes away by a way that is not followed.
    """
    members = _mentions(nodes, walk.rule.member)
    while True:
        known = dict(walk.anywhere), walk.nothing_stored
        walk.run_module(tree)
        aside: list[Later] = []
        while walk.later:
            task = walk.later.pop()
            seen = walk.anywhere or any(value != OTHER for value in task.outer.values())
            if seen or _spans(task.node, mentions):
                walk.run_later(task)
            elif _spans(task.node, members):
                aside.append(task)
        if walk.escapes.receiver or walk.escapes.attribute:
            walk.later = aside
            while walk.later:
                walk.run_later(walk.later.pop())
        if known == (walk.anywhere, walk.nothing_stored):
            return


def _mentions(nodes: list[ast.AST], name: str) -> list[int]:
    """The lines that hold a name, as an identifier or in a string, in order."""
    return sorted(
        node.lineno
        for node in nodes
        if isinstance(node, _LINED)
        and (
            getattr(node, _SAYS.get(type(node), "name"), None) == name
            or name in getattr(node, "kwd_attrs", ())
            or (isinstance(node, ast.Constant) and name in str(node.value))
        )
    )


def _spans(node: ast.expr | ast.stmt, lines: list[int]) -> bool:
    first = bisect_left(lines, node.lineno)
    return first < len(lines) and lines[first] <= (node.end_lineno or node.lineno)


def _written(nodes: list[ast.AST], rule: Chain) -> Iterator[ast.Attribute]:
    """Every place where the chain is written out: `<...>kv_b_proj.weight.dtype`."""
    chain = (rule.receiver, rule.attribute, rule.member)
    for node in nodes:
        match node:
            case ast.Attribute(attr=member, value=ast.Attribute(attr=attribute, value=receiver)):
                if (last_name(receiver), attribute, member) == chain:
                    yield node
            case _:
                pass


def _told(source: bytes, tree: ast.Module, reads: dict[ast.expr, bool]) -> tuple[Read, ...]:
    """The reads with their places and the functions around them, in file order."""
    if not reads:
        return ()
    encoding = tokenize.detect_encoding(io.BytesIO(source).readline)[0]
    try:
        lines = NEWLINE.split(source.decode(encoding, errors="replace"))
    except UnicodeError as error:  # as idna, which Python reads line by line and not in one
        raise NotPython(
            f"line 1: its encoding {encoding!r} cannot read it in one piece",
            next_step="Save the file as UTF-8.",
        ) from error
    encoded: dict[int, bytes] = {}
    told = []
    for node, function in _functions(tree, reads):
        line = node.lineno
        if line not in encoded:
            encoded[line] = lines[line - 1].encode()
        column = len(encoded[line][: node.col_offset].decode()) + 1
        told.append(Read(line, column, function, ast.unparse(node), reads[node]))
    return tuple(sorted(told))


def _functions(tree: ast.Module, reads: dict[ast.expr, bool]) -> Iterator[tuple[ast.expr, str]]:
    """Each read, with the qualified name of the innermost def or class around it."""
    lines = sorted({node.lineno for node in reads})
    found = list(_within(tree, reads, lines))
    # What is in an f-string may state another line than its own, until Python 3.12.
    yield from found if len(found) == len(reads) else _within(tree, reads, None)


def _within(
    tree: ast.Module, reads: dict[ast.expr, bool], lines: list[int] | None
) -> Iterator[tuple[ast.expr, str]]:
    """The same, only of definitions that span one of the lines, if some are given."""
    rest: list[tuple[ast.AST, str]] = [(tree, "")]
    while rest:
        node, name = rest.pop()
        if isinstance(node, ast.expr) and node in reads:
            yield node, name or "<module>"
        inner, decorators = name, set[ast.AST]()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}" if name else node.name
            decorators = {*node.decorator_list}
        rest += [
            (child, name if child in decorators else inner)
            for child in parts_of(node)
            if lines is None or not isinstance(child, ast.stmt) or _holds(child, lines)
        ]


def _holds(node: ast.stmt, lines: list[int]) -> bool:
    """Whether a statement, with its decorators, has one of the lines."""
    first = bisect_left(lines, first_line(node))
    return first < len(lines) and lines[first] <= (node.end_lineno or node.lineno)
