"""What the verifier says of a read, and of bytes that it cannot read."""

from __future__ import annotations

import pytest

from patcher.errors import NotFollowed, NotPython
from patcher.rules.guard.chain import Read
from patcher.rules.guard.proving import verify as verifier
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


@pytest.mark.parametrize(
    "read",
    [
        "kv_b_proj.__dict__['weight'].dtype",
        "vars(kv_b_proj)['weight'].dtype",
        "kv_b_proj.__getattribute__('weight').dtype",
        "kv_b_proj.get('weight').dtype",
    ],
)
def test_a_weight_that_comes_by_another_way_is_not_guarded(read: str) -> None:
    """Some of these raise another error where there is none: the oracle counts no such death."""
    source = f"if hasattr(kv_b_proj, 'weight'): {read}\n".encode()
    assert [found.guarded for found in verify(source, RULE)] == [False]


@pytest.mark.parametrize(
    ("load", "guarded"),
    [
        ("n.kind", False),
        ("getattr(n, 'kind')", False),
        ("hasattr(n, name)", False),
        ("n.name", True),
        ("getattr(n, 'name')", True),
    ],
)
def test_a_property_that_does_more_than_look_ends_the_proof(load: str, guarded: bool) -> None:
    """The rewriter takes every load for a look: it leaves the read, and the proof refuses that."""
    kind = "class N:\n @property\n def kind(me): repack(kv_b_proj)\n"
    source = f"{kind}if hasattr(kv_b_proj, 'weight'):\n {load}\n kv_b_proj.weight.dtype\n"
    assert [read.guarded for read in verify(source.encode(), RULE)] == [guarded]


@pytest.mark.parametrize(
    ("does", "guarded"),
    [
        ("super().lower()", True),
        ("base().lower()", False),
        ("str(me).lower()", False),
        ("me.kv_b_proj = 1", False),
        ("return me.kv_b_proj", True),
    ],
)
def test_what_a_property_may_do_and_only_look(does: str, guarded: bool) -> None:
    kind = f"class N:\n @property\n def kind(me): {does}\n"
    source = f"{kind}if hasattr(kv_b_proj, 'weight'):\n n.kind\n kv_b_proj.weight.dtype\n"
    assert [read.guarded for read in verify(source.encode(), RULE)] == [guarded]


@pytest.mark.parametrize(
    ("between", "guarded"),
    [("len(m)", True), ("len(**m)", False), ("yield", False), ("yield 1", False)],
)
def test_other_code_may_run_between_a_guard_and_its_read(between: str, guarded: bool) -> None:
    """`**m` asks the mapping for its keys; whoever goes on with a generator did something first."""
    source = f"def f(s, m):\n if hasattr(s.kv_b_proj, 'weight'):\n  {between}\n"
    source += "  s.kv_b_proj.weight.dtype\n"
    assert [read.guarded for read in verify(source.encode(), RULE)] == [guarded]


@pytest.mark.parametrize(
    ("manager", "more", "guarded"),
    [
        ("suppress", "", True),
        ("suppress", "from a import *\n", False),
        ("suppress()", "", False),
        ("quiet", "from a import quiet\n", False),
    ],
)
def test_only_the_librarys_suppress_handles_the_error(
    manager: str, more: str, guarded: bool
) -> None:
    source = f"from contextlib import suppress\n{more}"
    source += f"with {manager}(AttributeError): x = kv_b_proj.weight.dtype\n"
    assert [read.guarded for read in verify(source.encode(), RULE)] == [guarded]


@pytest.mark.parametrize(
    ("kind", "guarded"), [("torch.Tensor", True), ("Tensor", False), ("torch.nn.Parameter", False)]
)
def test_what_is_a_tensor_is_not_none(kind: str, guarded: bool) -> None:
    source = "import torch\nw = getattr(kv_b_proj, 'weight', None)\n"
    source += f"if isinstance(w, {kind}): w.dtype\n"
    assert [read.text for read in verify(source.encode(), RULE)] == ([] if guarded else ["w.dtype"])


@pytest.mark.parametrize(("depth", "guarded"), [(3, True), (4, False)])
def test_the_ways_out_of_a_try_are_told_apart_to_a_bound(depth: int, guarded: bool) -> None:
    """Deeper, what holds on one way out must hold on all: each level would double the walk."""
    out = [" " * at + line for at in range(depth - 1) for line in ("try: x = 1", "finally:")]
    inner = ("try: assert hasattr(s.kv_b_proj, 'weight')", "finally: x = 1")
    out += [" " * (depth - 1) + line for line in (*inner, "s.kv_b_proj.weight.dtype", "")]
    assert [read.guarded for read in verify("\n".join(out).encode(), RULE)] == [guarded]


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
        (b"x = 1\n# caf\xe9\n", "line 2: not Python source: byte 0xe9 is not UTF-8"),
        (b"x = 1\ny = kv_b_proj" + b" + 1" * 900, "line 2: the code is nested too deeply"),
        (b"x = " + b"-" * 100_000 + b"1", "not Python source"),
    ],
)
def test_what_cannot_be_read_is_not_clean(source: bytes, problem: str) -> None:
    with pytest.raises(NotPython, match=problem):
        verify(source, RULE)


def test_a_file_whose_first_cookie_counts_is_read_in_spite_of_a_second() -> None:
    source = b"# coding: utf-8\n# coding: latin-1 \xe9\nx = kv_b_proj.weight.dtype\n"
    assert [read.line for read in verify(source, RULE)] == [3]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_place_is_told_whatever_ends_a_line(newline: str) -> None:
    source = newline.join(["x = 1", "é = kv_b_proj.weight.dtype", ""]).encode()
    assert [(read.line, read.column) for read in verify(source, RULE)] == [(2, 5)]


def nested(depth: int, head: str, line: str) -> bytes:
    lines = [" " * n + head for n in range(depth)] + [" " * depth + "x = 1"]
    for n in reversed(range(depth)):
        lines += [" " * n + line, " " * n + " y = kv_b_proj.weight.dtype"]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize(
    "source",
    [
        nested(18, "try:", "finally:"),
        b"kv_b_proj\nx = [1" + b" for a in b if hasattr(kv_b_proj, 'weight')" * 20 + b"]\n",
        b"".join(b"def f%d(a):\n return a.kv_b_proj.weight.dtype\n" % n for n in range(2000)),
        b"x = (" + b"kv_b_proj.weight.dtype, " * 2000 + b")\n",
        b"def f(a):\n" + b"".join(b" if a: p%d = a.kv_b_proj\n" % n for n in range(300)),
        b"def f(a, p0):\n p40 = a.kv_b_proj\n for i in a:\n"
        + b"".join(b"  p%d = p%d\n" % (n, n + 1) for n in range(40)),
    ],
)
def test_the_walk_takes_a_bounded_number_of_steps_for_each_node(
    source: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "STEPS", 30)
    verify.cache_clear()
    verify(source, RULE)


def test_a_program_with_too_many_paths_is_an_error_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verifier, "STEPS", -9999)
    verify.cache_clear()
    with pytest.raises(NotPython, match="line 1: the code has too many paths"):
        verify(b"x = 1\ny = kv_b_proj.weight.dtype\n", RULE)


@pytest.mark.parametrize(
    ("source", "away", "back"),
    [
        ("def f(s):\n g(s.kv_b_proj)\ndef g(x):\n return x.weight.dtype\n", 2, 4),
        ("def f(s):\n p = [s.kv_b_proj]\n return p[0].weight.dtype\n", 2, 3),
        ("def f(s):\n s.proj = s.kv_b_proj\n return s.proj.weight.dtype\n", 2, 3),
        ("def f(s):\n return s.kv_b_proj\nf(1).weight.dtype\n", 2, 3),
        ("def f(s):\n g(getattr(s.kv_b_proj, 'weight', None))\ndef g(x): x.dtype\n", 2, 3),
        ("def f(s, y):\n g(s.kv_b_proj)\n getattr(*y).weight.dtype\n", 2, 3),
        ("def f(s, name):\n x = 1\n getattr(s.kv_b_proj, name).dtype\n", 3, 3),
    ],
)
def test_what_goes_away_by_a_way_that_is_not_followed_gives_no_answer(
    source: str, away: int, back: int
) -> None:
    with pytest.raises(NotFollowed, match=f"^line {away} .* line {back} "):
        verify(source.encode(), RULE)


@pytest.mark.parametrize(
    "source",
    [
        "def f(s):\n g(s.kv_b_proj)\ndef g(x):\n return hasattr(x, 'weight') and x.weight.dtype\n",
        "def f(s, x):\n g(kv_b_proj=s.kv_b_proj)\n x.weight.dtype\n",
        "def f(s, x):\n s.kv_b_proj = {'kv_b_proj': s.kv_b_proj}\n x.weight.dtype\n",
        "def f(s, x):\n g(None)\n s.kv_b_proj\n x.dtype\n",
        "def f(s, x):\n if hasattr(s.kv_b_proj, 'weight'): g(s.kv_b_proj.weight)\n x.dtype\n",
        "def f(s, x):\n s.kv_b_proj + s.kv_b_proj\n x.weight.dtype\n",
        "def f(s, q_proj):\n s.q_proj = q_proj\n g(s.kv_b_proj)\n s.q_proj.weight.dtype\n",
        "import torch\ndef f(s):\n g(s.kv_b_proj)\n torch.weight.dtype\n",
        "import torch\ndef f(s):\n g(getattr(s.kv_b_proj, 'weight', None))\n torch.dtype\n",
        "def f(s):\n g(getattr(s.kv_b_proj, 'weight', None))\n 'x'.dtype\n f'{s}'.dtype\n",
        "def f(s):\n g(getattr(s.kv_b_proj, 'weight', None))\n (s + s).dtype, (-s).dtype\n",
        "def f(s):\n s.kv_b_proj\n None.dtype\n",
        "def f(s, x, name):\n s.kv_b_proj\n getattr(x, name).dtype\n",
        "def f(s, x):\n getattr(s.kv_b_proj, 'weight', None, 1).dtype\n",
    ],
)
def test_a_guarded_or_another_read_may_stand_where_the_receiver_goes_away(source: str) -> None:
    assert all(read.guarded for read in verify(source.encode(), RULE))


@pytest.mark.parametrize(
    "store",
    [
        "kv_b_proj.weight = None",
        "kv_b_proj.weight, x = None, 1",
        "setattr(kv_b_proj, 'weight', None)",
        "object.__setattr__(kv_b_proj, 'weight', None)",
        "vars(kv_b_proj).setdefault('weight', None)",
        "kv_b_proj.register_buffer('weight', None)",
        "kv_b_proj.register_parameter('weight', None)",
        "kv_b_proj.__dict__['weight'] = None",
        "vars(kv_b_proj).update(weight=None)",
        "vars(kv_b_proj).update({'weight': None})",
        "class M:\n weight = None",
    ],
)
def test_an_attribute_that_is_stored_none_is_not_shown_by_hasattr(store: str) -> None:
    source = f"{store}\nif hasattr(kv_b_proj, 'weight'): kv_b_proj.weight.dtype\n"
    assert [read.guarded for read in verify(source.encode(), RULE)] == [False]


@pytest.mark.parametrize(
    "word",
    [
        "__builtins__", "__closure__", "__globals__", "__prepare__", "builtins", "cell_contents",
        "f_globals", "f_locals", "eval", "exec", "globals", "locals",
    ],
)  # fmt: skip
def test_a_name_may_be_bound_anew_where_a_module_reaches_into_itself(word: str) -> None:
    """Only `eval` and the like as names: `engine.eval()` is a method of torch's."""
    source = "w = getattr(kv_b_proj, 'weight', None)\nif w is not None:\n g()\n w.dtype\n"
    assert verify(source.encode(), RULE) == ()
    [read] = verify(f"{source}{word}\n".encode(), RULE)
    assert not read.guarded


def test_a_store_to_this_module_binds_its_name_anew() -> None:
    source = "w = getattr(kv_b_proj, 'weight', None)\nif w is not None:\n m.{0} = None\n w.dtype\n"
    assert verify(source.format("x").encode(), RULE) == ()
    [read] = verify(source.format("w").encode(), RULE)
    assert not read.guarded


@pytest.mark.parametrize("word", ["__context__", "__cause__", "exc_info", "last_value", "last_exc"])
def test_an_error_may_come_back_where_a_module_asks_for_it(word: str) -> None:
    source = "try: x = kv_b_proj.weight.dtype\nexcept AttributeError: x = 1 + 1\n"
    assert all(read.guarded for read in verify(source.encode(), RULE))
    for more in (f"x.{word}", f"from a import {word}"):
        [read] = verify(f"{source}{more}\n".encode(), RULE)
        assert not read.guarded


@pytest.mark.parametrize(
    "call",
    [
        "setattr(x, 'proj', y)", "x.__setattr__('proj', y)", "x.__dict__['proj'] = y",
        "namedtuple('x', 'proj q')", "make_dataclass('x', ['proj'])", "vars(x)['proj'] = y",
        "type('x', (), {'proj': y})", "x.update({'proj': y})",
    ],
)  # fmt: skip
def test_an_attribute_that_a_string_names_may_hold_what_went_away(call: str) -> None:
    source = "g(self.kv_b_proj)\nself.proj.weight.dtype\n"
    assert verify(source.encode(), RULE) == ()
    with pytest.raises(NotFollowed, match=r"^line 1 .* line 2 "):
        verify(f"{source}{call}\n".encode(), RULE)


def test_an_encoding_that_reads_by_lines_only_is_named() -> None:
    long = b"x = '" + b"a" * 300 + b"'\n"
    with pytest.raises(NotPython, match="line 1: "):
        verify(b"# -*- coding: idna -*-\n" + long + b"y = self.kv_b_proj.weight.dtype\n", RULE)
