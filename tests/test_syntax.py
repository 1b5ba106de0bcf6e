"""Python's tree of a part of a file."""

from __future__ import annotations

import ast

import pytest

from patcher.syntax import parse_block

FUNCTION = "def f():\n    return 1\n"


@pytest.mark.parametrize("margin", ["", "    ", "\t"])
@pytest.mark.parametrize("before", ["", "\n", "\r\n\n", "  \n", "  # indented otherwise\n"])
def test_a_part_may_be_indented_and_begin_with_what_is_no_code(before: str, margin: str) -> None:
    lines = "".join(margin + line for line in FUNCTION.splitlines(keepends=True))
    tree = parse_block((before + lines).encode())
    assert ast.dump(tree) == ast.dump(ast.parse(FUNCTION))
