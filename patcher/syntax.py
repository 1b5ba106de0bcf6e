"""Python source: its syntax tree, what is asked of any tree, and whether it compiles."""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeGuard

from patcher.threads import PARSING


def parse_python(source: bytes | str) -> ast.Module:
    """The tree of some source, by one thread at a time and without the source's own warnings.

    Raises `SyntaxError`, `ValueError`, `RecursionError` or `MemoryError` for what is not Python.
    """
    with _alone():
        return ast.parse(source)


@functools.lru_cache(maxsize=8)
def tree_of(source: bytes) -> ast.Module:
    """The tree of a file, to look at and not to change: rules that look at one file share it.

    Raises what `parse_python` does.
    """
    return parse_python(source)


def parse_block(text: bytes) -> ast.Module:
    """The tree of a part of a file, which may be indented as a whole: a method's lines, say.

    Raises what `parse_python` does.
    """
    try:
        return parse_python(text)
    except IndentationError:
        tree = parse_python(b"if 1:\n" + text)
    tree.body = tree.body[0].body  # type: ignore[attr-defined]
    return tree


def compile_python(source: bytes) -> None:
    """Return where Python compiles it, which refuses more than its grammar does: a `return`
    outside a function, say.

    Raises what `parse_python` does.
    """
    with _alone():
        compile(source, "<patched>", "exec", dont_inherit=True)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions and classes by qualified name, outer before inner; not those within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from definitions(node, prefix)


def first_line(node: ast.stmt) -> int:
    """The line, from 1, on which a statement begins: a decorator's, where it has one."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def is_string(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Whether a statement is a string and nothing else, as a docstring is."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def line_end(lines: Sequence[bytes]) -> bytes:
    """What ends the lines of a source: as its first one ends."""
    first = lines[0] if lines else b""
    return first[len(first.rstrip(b"\r\n")) :] or b"\n"


@contextmanager
def _alone() -> Iterator[None]:
    with PARSING, warnings.catch_warnings():
        # An invalid escape in somebody's file is not our user's business.
        warnings.simplefilter("ignore")
        yield
