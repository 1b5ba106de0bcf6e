"""The proof that guards every write: each of its four parts is made to fail."""

from __future__ import annotations

import dataclasses

import pytest

from patcher.errors import ProofFailed, RewriteRefused
from patcher.rules.guard.prove import prove
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.guard.writing.rewrite import rewrite
from patcher.rules.rule import Edit, Rewritten

RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")
SOURCE = b"""\
y = 1
x = y and kv_b_proj.weight.dtype == b
z = kv_b_proj.weight.dtype
"""
GOOD = rewrite(SOURCE, RULE)


def replaced(old: bytes, new: bytes) -> Rewritten:
    """The good result with a text of one edit exchanged, and the edits saying so."""
    edits = tuple(
        dataclasses.replace(edit, after=edit.after.replace(old, new)) for edit in GOOD.edits
    )
    assert edits != GOOD.edits
    return Rewritten(GOOD.data.replace(old, new), edits)


def test_a_good_result_passes() -> None:
    prove(SOURCE, GOOD, RULE)


def test_a_gate_inside_parentheses_of_its_own_passes() -> None:
    source = b"x = a and (kv_b_proj.weight.dtype == b)\n"
    prove(source, rewrite(source, RULE), RULE)


@pytest.mark.parametrize(
    "data",
    [
        GOOD.data.replace(b"y = 1", b"y = 2"),
        GOOD.data + b"\n",
        GOOD.data.replace(b"hasattr", b"hasattx", 1),
        b"",
    ],
)
def test_a_byte_outside_the_edits_fails(data: bytes) -> None:
    with pytest.raises(ProofFailed, match="a byte outside the edits"):
        prove(SOURCE, dataclasses.replace(GOOD, data=data), RULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"else kv_b_proj.params_dtype", b"else other.params_dtype"),
        (b"else kv_b_proj.params_dtype", b"else kv_b_proj.dtype"),
        (b"if hasattr(kv_b_proj,", b"if hasattr(other,"),
        (b'if hasattr(kv_b_proj, "weight")', b'if hasattr(kv_b_proj, "other")'),
        (b"else kv_b_proj.params_dtype", b"else 1"),
        (b'hasattr(kv_b_proj, "weight") and', b"f() and"),
        (b'hasattr(kv_b_proj, "weight") and', b'hasattr(kv_b_proj, "weight") and a and'),
        (b" and kv_b_proj.weight.dtype", b" and hasattr(kv_b_proj, 'weight') == b or c"),
    ],
)
def test_more_than_the_declared_guards_fails(old: bytes, new: bytes) -> None:
    with pytest.raises(ProofFailed, match="more than the declared reads"):
        prove(SOURCE, replaced(old, new), RULE)


@pytest.mark.parametrize("data", [b"x = a and b and c\n", b"x = a and hasattr(b, 'weight')\n"])
def test_an_operand_more_or_less_fails(data: bytes) -> None:
    source = b"x = a and b\n"
    edit = Edit(4, 11, source[4:11], data[4:-1], 1, "gate")
    with pytest.raises(ProofFailed, match="more than the declared reads"):
        prove(source, Rewritten(data, (edit,)), RULE)


def test_an_edit_that_declares_another_shape_fails() -> None:
    edits = tuple(dataclasses.replace(edit, shape="value") for edit in GOOD.edits)
    with pytest.raises(ProofFailed, match="more than the declared reads"):
        prove(SOURCE, dataclasses.replace(GOOD, edits=edits), RULE)


def test_a_result_that_is_no_python_fails() -> None:
    with pytest.raises(ProofFailed, match="not Python source"):
        prove(SOURCE, replaced(b" else ", b" els "), RULE)


def test_a_result_that_does_not_compile_fails() -> None:
    source = b"return kv_b_proj.weight.dtype\n"  # a tree, and no module: return outside a function
    with pytest.raises(ProofFailed, match="does not compile"):
        prove(source, rewrite(source, RULE), RULE)


def test_an_unguarded_read_that_is_left_is_refused_by_line_and_function() -> None:
    source = b"def f(self):\n    p = self.kv_b_proj\n    return p.weight.dtype\n"
    with pytest.raises(RewriteRefused, match=r"line 3 \(p.weight.dtype, in f\)"):
        prove(source, rewrite(source, RULE), RULE)


def test_an_edit_at_a_place_where_it_is_not_fails() -> None:
    moved = dataclasses.replace(GOOD.edits[0], start=GOOD.edits[0].start + 1)
    with pytest.raises(ProofFailed, match="a byte outside the edits"):
        prove(SOURCE, Rewritten(GOOD.data, (moved, *GOOD.edits[1:])), RULE)


def test_a_list_that_got_longer_fails() -> None:
    source, data = b"x = [1]\n", b"x = [1, 2]\n"
    edit = Edit(6, 6, b"", b", 2", 1, "value")
    with pytest.raises(ProofFailed, match="more than the declared reads"):
        prove(source, Rewritten(data, (edit,)), RULE)


def test_what_is_not_followed_is_unknown_where_nothing_else_is_needed() -> None:
    away = b"def f(s):\n g(s.kv_b_proj)\ndef g(x):\n return x.weight.dtype\n"
    found = RULE.find({"a.py": away, "b.py": GOOD.data})
    assert "line 2 hands kv_b_proj or its weight on" in str(found.unknown)
    both = RULE.find({"a.py": away, "b.py": SOURCE})
    assert both.unknown is None
    assert [place.needed for place in both.places] == [True, True]


def test_the_receivers_name_tells_a_copy_of_the_target() -> None:
    assert RULE.mention == b"kv_b_proj"
