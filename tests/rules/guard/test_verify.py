"""What the verifier says of a read, and of bytes that it cannot read."""

from __future__ import annotations

import pytest

from patcher.errors import NotPython
from patcher.rules.guard.chain import Read
from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.rule import AttributeGuard

RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")


def test_a_read_is_told_by_line_column_function_and_text() -> None:
    source = """\
class Café:
    def outer(self):
        def inner():
            return "é", self.kv_b_proj.weight.dtype
"""
    function, text = "Café.outer.inner", "self.kv_b_proj.weight.dtype"
    assert verify(source.encode(), RULE) == (Read(4, 25, function, text, guarded=False),)


def test_a_column_counts_characters_in_any_encoding() -> None:
    text = "# coding: latin-1\nx = 'é', kv_b_proj.weight.dtype\n"
    [read] = verify(text.encode("latin-1"), RULE)
    assert (read.line, read.column, read.function) == (2, 10, "<module>")


def test_reads_come_in_the_order_of_the_file() -> None:
    source = b"x = kv_b_proj.weight.dtype\n" * 3
    assert [read.line for read in verify(source, RULE)] == [1, 2, 3]


def test_a_read_through_a_name_is_listed_only_where_it_is_not_guarded() -> None:
    guarded = b"def f(kv_b_proj):\n w = getattr(kv_b_proj, 'weight', None)\n if w: w.dtype\n"
    assert verify(guarded, RULE) == ()
    [read] = verify(guarded.replace(b"if w:", b"if 1:"), RULE)
    assert (read.text, read.guarded) == ("w.dtype", False)


def test_a_comprehension_keeps_what_a_name_outside_it_holds() -> None:
    source = b"w = getattr(kv_b_proj, 'weight', None)\n[w for w in range(3)]\nw.dtype\n"
    assert [read.text for read in verify(source, RULE)] == ["w.dtype"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"x = 1\ny = (\n", "line 2: not Python source"),
        (b"\x00", "null bytes"),
        (b"# coding: no-such\n", "not Python source"),
        (b"x = '\xff'\n", "not Python source"),
        (b"x = kv_b_proj" + b" + 1" * 900, "nested too deeply"),
        (b"x = " + b"-" * 100_000 + b"1", "not Python source"),
    ],
)
def test_what_cannot_be_read_is_not_clean(source: bytes, problem: str) -> None:
    with pytest.raises(NotPython, match=problem):
        verify(source, RULE)
