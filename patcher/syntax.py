"""Python source: its syntax tree, and whether it compiles."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from patcher.threads import PARSING


def parse_python(source: bytes | str) -> ast.Module:
    """The tree of some source, by one thread at a time and without the source's own warnings.

    Raises `SyntaxError`, `ValueError`, `RecursionError` or `MemoryError` for what is not Python.
    """
    with _alone():
        return ast.parse(source)


def parse_block(text: bytes) -> ast.Module:
    """The tree of a part of a file, which may be indented as a whole: a method's lines, say.

    Lines are counted within the part. Raises what `parse_python` does.
    """
    if text.lstrip(b"\r\n")[:1] not in (b" ", b"\t"):
        return parse_python(text)
    tree = parse_python(b"if 1:\n" + text)
    tree.body = tree.body[0].body  # type: ignore[attr-defined]
    return ast.increment_lineno(tree, -1)


def compile_python(source: bytes) -> None:
    """Return where Python compiles it, which refuses more than its grammar does: a `return`
    outside a function, say.

    Raises what `parse_python` does.
    """
    with _alone():
        compile(source, "<patched>", "exec", dont_inherit=True)


@contextmanager
def _alone() -> Iterator[None]:
    with PARSING, warnings.catch_warnings():
        # An invalid escape in somebody's file is not our user's business.
        warnings.simplefilter("ignore")
        yield
