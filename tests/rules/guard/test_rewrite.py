"""What the rewriter refuses, by line and reason, and how it lays out what it writes."""

from __future__ import annotations

import libcst as cst
import pytest

from patcher.errors import NotPython, PatcherError, RewriteRefused
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.guard.writing import enclosing
from patcher.rules.guard.writing.rewrite import rewrite

RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")
READ = "self.kv_b_proj.weight.dtype"
GUARD = 'hasattr(self.kv_b_proj, "weight")'
VALUE = f"({READ} if {GUARD} else self.kv_b_proj.params_dtype)"


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        (f"x = 1\n{READ} = 2\n", 2, "stored to"),
        (f"for a, {READ} in x:\n    pass\n", 1, "stored to"),
        (f"del x, ({READ})\n", 1, "stored to"),
        (f"with x as {READ}:\n    pass\n", 1, "stored to"),
        (f"{READ} += 1\n", 1, "stored to"),
        (f"{READ}: int = 1\n", 1, "stored to"),
        (f"[*{READ}] = x\n", 1, "stored to"),
        (f"[0 for {READ} in x]\n", 1, "stored to"),
        ("x = f().kv_b_proj.weight.dtype\n", 1, "side effects"),
        ("x = a[0].kv_b_proj.weight.dtype\n", 1, "side effects"),
        (f"print(f'{{{READ}=}}')\n", 1, "prints the text"),
        ("x = f\"{f'{" + READ + "}'}\"\n", 1, "no quote"),
        (f"match x:\n    case {READ}:\n        pass\n", 2, "pattern"),
        (f"def f(x: {READ}):\n    pass\n", 1, "annotation"),
        (f"def f() -> {READ}:\n    pass\n", 1, "annotation"),
        ("x = (self\n  .kv_b_proj.weight.dtype)\n", 1, "several lines"),
        (f"x = a and f() == {READ}\n", 1, "runs code before"),
        (f"x = a and {READ}.y == {READ}\n", 1, "another read"),
        (f"def f(hasattr):\n    return {READ}\n", 2, "binds hasattr"),
        (f"from x import *\ny = {READ}\n", 2, "binds hasattr"),
    ],
)
def test_a_read_that_must_not_be_touched_is_refused(source: str, line: int, reason: str) -> None:
    with pytest.raises((RewriteRefused, NotPython)) as refused:
        rewrite(source.encode(), RULE)
    assert f"line {line}:" in refused.value.problem
    assert reason in str(refused.value)


def test_an_encoding_that_can_only_be_read_is_refused() -> None:
    with pytest.raises(RewriteRefused, match="its encoding 'idna' cannot write it"):
        rewrite(f"# coding: idna\n{'x' * 99} = {READ}\n".encode(), RULE)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (f"x = 1\nreturn_ = lambda: 0\ndef f():\n    return(lambda: {READ})()\n", 4),
        (f"def f():\r    return {READ}\r", 2),
        (f"try:\n    pass\nfinally:\n    return(lambda: {READ})()\n", 4),
        (f"x = 1\n(y): int = {READ}\n", 2),
        (f"class A:\n    def f(self):\n        if(lambda: {READ})():\n            pass\n", 3),
    ],
)
def test_what_libcst_cannot_take_is_refused_by_line(source: str, line: int) -> None:
    """libcst 1.9.0: a TypeError, no round trip, a syntax error, a TypeError."""
    with pytest.raises(RewriteRefused, match=rf"line {line}: libcst"):
        rewrite(source.encode(), RULE)


def test_what_python_itself_cannot_read_is_no_source() -> None:
    with pytest.raises(NotPython, match="line 2: not Python source"):
        rewrite(b"x = 1\ny = (\n", RULE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"x = {READ}", f"x = {VALUE}"),
        (f"x = ({READ})", f"x = {VALUE}"),
        (f"print(f'{{{READ}}}')", f"print(f'{{{VALUE}}}')"),
        (f'f"{{{READ}!r:>9}}"', 'f"{' + VALUE.replace('"', "'") + '!r:>9}"'),
        (f"d[{READ}] = 1", f"d[{VALUE}] = 1"),
        (f"x = a and {READ} == b", f"x = a and {GUARD} and {READ} == b"),
        (f"x = a and({READ} == b)", f"x = a and({GUARD} and {READ} == b)"),
        (f"x = a and(b)=={READ}", f"x = a and {GUARD} and (b)=={READ}"),
        (f"x = {READ} == b and c", f"x = {GUARD} and {READ} == b and c"),
        (f"x = a and {READ} == b == c", f"x = a and {VALUE} == b == c"),
        (f"x = a or {READ} == b", f"x = a or {VALUE} == b"),
        (f"x = a == {READ}", f"x = a == {VALUE}"),
        (
            f"x = a and y.kv_b_proj.weight.dtype == {READ}",
            f'x = a and hasattr(y.kv_b_proj, "weight") and {GUARD} and '
            f"y.kv_b_proj.weight.dtype == {READ}",
        ),
        (f"_guarded_read_0 = {READ}", f"_guarded_read_0 = {VALUE}"),
    ],
)
def test_a_read_becomes_its_guarded_form(before: str, after: str) -> None:
    # Lines that are too long stand for themselves: the layout has a test of its own.
    source = before.replace("self.kv_b_proj", "k.kv_b_proj").encode()
    expected = after.replace("self.kv_b_proj", "k.kv_b_proj")
    assert (
        " ".join(rewrite(source, RULE).data.decode().split()).replace("( ", "(").replace(" )", ")")
        == expected
    )


def test_a_long_line_is_broken_as_the_file_is_indented() -> None:
    source = f"class A:\r\n\tdef f(self):\r\n\t\tcalled_with_two({READ}, another_argument)\r\n"
    assert rewrite(source.encode(), RULE).data.decode() == (
        "class A:\r\n\tdef f(self):\r\n\t\tcalled_with_two((\r\n"
        f"\t\t\t{READ}\r\n\t\t\tif {GUARD}\r\n\t\t\telse self.kv_b_proj.params_dtype\r\n"
        "\t\t), another_argument)\r\n"
    )


def test_what_follows_a_keyword_without_a_space_can_be_rewritten_again() -> None:
    source = f"def f(self):\n    return({READ})\n"
    rewritten = rewrite(source.encode(), RULE).data
    assert rewritten.startswith(b"def f(self):\n    return (\n")
    assert rewrite(rewritten, RULE).edits == ()


def test_a_call_after_the_read_does_not_undo_its_guard() -> None:
    once = rewrite(f"d = self and {READ} == effect(1)\n".encode(), RULE).data
    assert rewrite(once, RULE).edits == ()


def test_a_continued_line_is_not_broken() -> None:
    source = f"x = some_flag \\\n    and {READ} == b\n"
    assert rewrite(source.encode(), RULE).data.decode() == (
        f"x = some_flag \\\n    and {GUARD} and {READ} == b\n"
    )


@pytest.mark.parametrize(
    "guarded",
    [
        f"if {GUARD}:\n    x = {READ}\n",
        f"if not {GUARD}:\n    pass\nelse:\n    x = {READ}\n",
        f"if not {GUARD}: raise E\nx = {READ}\n",
        f"assert {GUARD}\nx = {READ}\n",
        f"while {GUARD}:\n    x = {READ}\n",
        f"x = a or not {GUARD} or {READ} == b\n",
        f"try:\n    x = {READ}\nexcept AttributeError:\n    x = 1\n",
        f"from {READ} import x\nimport {READ} as y\n",
        f"if a: pass\nelif not {GUARD}: b = 1; raise E\nelse: x = {READ}\n",
    ],
)
def test_a_guarded_read_is_left_alone(guarded: str) -> None:
    assert rewrite(guarded.encode(), RULE).edits == ()


@pytest.mark.parametrize(
    "unguarded",
    [
        f"if {GUARD}:\n    self.repack()\n    x = {READ}\n",
        f"if {GUARD}:\n    for a in b:\n        x = {READ}\n",
        f"if {GUARD} and f():\n    x = {READ}\n",
        f"if {GUARD} or f:\n    x = {READ}\n",
        f"if {GUARD} and f:\n    x = 1\nelse:\n    x = {READ}\n",
        f"if {GUARD}:\n    f = lambda: {READ}\n",
        f"if not {GUARD}:\n    pass\nx = {READ}\n",
        f"if hasattr(other, 'weight'):\n    x = {READ}\n",
        f"if hasattr(self.kv_b_proj, name):\n    x = {READ}\n",
        f"try:\n    x = {READ}\nexcept (AttributeError, E):\n    raise\n",
    ],
)
def test_a_guard_that_does_not_hold_is_none(unguarded: str) -> None:
    assert len(rewrite(unguarded.encode(), RULE).edits) == 1


@pytest.mark.parametrize(
    "handled",
    [
        f"try:\n    x = {READ}\nexcept AttributeError as e:\n    keep(e)\n",
        f"try:\n    x = {READ}\nexcept (TypeError, AttributeError):\n    x = 1\n",
        f"try:\n    x = {READ}\nexcept:\n    log()\n    raise Other\n",
        f"try:\n    x = {READ}\nexcept* AttributeError:\n    x = 1\n",
        f"try:\n    x = {READ}\nexcept MISSING:\n    x = 1\n",
        f"def f():\n    try:\n        x = {READ}\n    finally:\n        return 1\n",
        f"import contextlib as c\nwith c.suppress(AttributeError):\n    x = {READ}\n",
        f"from contextlib import suppress as s\nwith a, s(AttributeError):\n    x = {READ}\n",
        f"class quiet: pass\nwith quiet():\n    x = {READ}\n",
        f"with made()():\n    x = {READ}\n",
        f"class quiet: pass\n@quiet()\ndef f():\n    return {READ}\n",
        f"def f():\n    return {READ}\ntry:\n    f()\nexcept AttributeError:\n    pass\n",
        f"class A:\n    def f():\n        return {READ}\nhasattr(A(), 'f')\n",
        f"class A:\n    def f():\n        return {READ}\ngetattr(A(), 'f', 1)\n",
    ],
)
def test_a_read_that_the_program_may_handle_itself_is_left_alone(handled: str) -> None:
    assert rewrite(handled.encode(), RULE).edits == ()


@pytest.mark.parametrize(
    "let_through",
    [
        f"try:\n    x = {READ}\nexcept ValueError:\n    x = 1\n",
        f"try:\n    x = {READ}\nexcept Exception:\n    print(1)\n    raise\n",
        f"try:\n    x = {READ}\nfinally:\n    x = 1\n",
        f"try:\n    x = 1\nexcept AttributeError:\n    x = {READ}\n",
        f"import torch\nwith torch.no_grad():\n    x = {READ}\n",
        f"from contextlib import nullcontext\nwith nullcontext():\n    x = {READ}\n",
        f"@property\ndef f():\n    return {READ}\n",
        f"import functools\n@functools.cache\ndef f():\n    return {READ}\n",
    ],
)
def test_a_handler_that_lets_the_error_through_does_not_stand_in_the_way(let_through: str) -> None:
    assert len(rewrite(let_through.encode(), RULE).edits) == 1


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\ny = " + " and ".join(["a"] * 10_000) + f"\nz = {READ}\n",
        "x = 1\ny = " + " and ".join(["a"] * 400) + f" and {READ} == b\n",
        "x = 1\ny = (" + "'a' " * 10_000 + f")\nz = {READ}\n",
    ],
)
def test_what_is_nested_too_deeply_is_refused_by_line(source: str) -> None:
    with pytest.raises(RewriteRefused, match=r"line 2: .*nested too deeply"):
        rewrite(source.encode(), RULE)


def test_strings_beside_each_other_that_cannot_be_counted_are_too_many() -> None:
    """Python takes a byte beside the name of the encoding; its own tokenizer does not."""
    for count, problem in ((2, "line 1"), (600, "line 2: .*nested too deeply")):
        strings = "'a' " * count
        source = f"# café, coding: latin-1\ny = ({strings})\nz = {READ}\n".encode("latin-1")
        with pytest.raises(PatcherError, match=problem):
            rewrite(source, RULE)


def test_every_name_of_the_code_is_found_without_asking_for_spaces() -> None:
    enclosing._parts.cache_clear()
    tree = cst.parse_module(
        "def f(a, *, b: c = d) -> e:  # g\n    with h as i, j:\n        k[l](m)\n"
    )
    names = sorted(node.value for _, node in enclosing._edges(tree) if isinstance(node, cst.Name))
    assert "".join(names) == "abcdefhijklm"
    assert "".join(enclosing._parts(cst.Name)) == "value"


def test_a_stray_byte_in_a_comment_is_not_python() -> None:
    with pytest.raises(NotPython, match="line 2: not Python source: byte 0xe9 is not UTF-8"):
        rewrite(b"x = 1\n# caf\xe9\n", RULE)


def test_offsets_count_bytes_of_the_file_with_its_mark_and_encoding() -> None:
    text = f"x = 'é'; y = {READ}\n"
    for source in (b"\xef\xbb\xbf" + text.encode(), f"# coding: latin-1\n{text}".encode("latin-1")):
        [edit] = rewrite(source, RULE).edits
        assert source[edit.start : edit.end] == edit.before == READ.encode()
