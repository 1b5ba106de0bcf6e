"""Python source as a syntax tree."""

from __future__ import annotations

import ast
import warnings

from patcher.threads import PARSING


def parse_python(source: bytes | str) -> ast.Module:
    """The tree of some source, by one thread at a time and without the source's own warnings.

    Raises `SyntaxError`, `ValueError`, `RecursionError` or `MemoryError` for what is not Python.
    """
    with PARSING, warnings.catch_warnings():
        # An invalid escape in somebody's file is not our user's business.
        warnings.simplefilter("ignore")
        return ast.parse(source)
