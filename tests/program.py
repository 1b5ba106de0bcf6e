"""The program's own files, for what is said of all of them; each is parsed once."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import patcher

ROOT = Path(patcher.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a file's tree."""
    return list(ast.walk(ast.parse(path.read_text())))
