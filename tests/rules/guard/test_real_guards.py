"""vLLM's own guards, and ours, spoiled one way at a time: the verifier catches every one.

The places come from the syntax tree, the edit is made on the file's text. A guard is a
conditional expression (a value) or an operand of an `and` chain in front of the read (a gate).
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.writing.rewrite import rewrite

from .claims import RULE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.no_cover

# The file, is it patched by us, and how many guards it then holds.
FILES = [
    ("0.17.1", True, 3),
    ("0.18.0", False, 2),
    ("0.23.0", True, 3),
    ("0.28.0", False, 2),
    ("0.33.0", False, 2),
]


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard: the whole expression, its test, and the guarded and the other branch.

    A gate's whole is from its test to its read, and it has no other branch.
    """

    whole: str
    test: str
    guarded: str
    other: str | None
    start: int
    line: int

    def replaced(self, source: str, by: str) -> str:
        assert source[self.start :].startswith(self.whole)
        return f"{source[: self.start]}({by}){source[self.start + len(self.whole) :]}"


def guards_in(source: str) -> Iterator[Guard]:
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def span(first: ast.expr, last: ast.expr | None = None) -> tuple[int, str]:
        end = last or first
        assert end.end_lineno is not None
        assert end.end_col_offset is not None
        start = starts[first.lineno - 1] + first.col_offset
        return start, source[start : starts[end.end_lineno - 1] + end.end_col_offset]

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.IfExp(test=test, body=body, orelse=other) if asks_for_the_weight(test):
                start, whole = span(node)
                yield Guard(whole, span(test)[1], span(body)[1], span(other)[1], start, node.lineno)
            case ast.BoolOp(op=ast.And(), values=[*_, test, read]) if asks_for_the_weight(test):
                start, whole = span(test, read)
                yield Guard(whole, span(test)[1], span(read)[1], None, start, test.lineno)


def asks_for_the_weight(test: ast.expr) -> bool:
    text = ast.unparse(test)
    return text.endswith("kv_b_proj, 'weight')") or text == "weight is not None"


def joined(guard: Guard, test: str, word: str = "and") -> str:
    """The guard's expression with another test."""
    if guard.other is None:
        return f"{test} {word} {guard.guarded}"
    return f"{guard.guarded} if {test} else {guard.other}"


def inverted(guard: Guard) -> str:
    if " is not None" in guard.test:
        return joined(guard, guard.test.replace(" is not None", " is None"))
    return joined(guard, f"not {guard.test}")


def on_another_object(guard: Guard) -> str:
    if "hasattr" in guard.test:
        return joined(guard, guard.test.replace("kv_b_proj", "q_b_proj"))
    return joined(guard, guard.test.replace("weight", "kv_b_proj"))


def on_another_attribute(guard: Guard) -> str:
    if "hasattr" in guard.test:
        return joined(guard, guard.test.replace('"weight"', '"weight_packed"'))
    return joined(guard, 'getattr(kv_b_proj, "weight_packed", None) is not None')


def behind_the_read(guard: Guard) -> str:
    if guard.other is None:
        return f"{guard.guarded} and {guard.test}"
    return f"({guard.guarded}, {guard.test})[0]"


def branches_swapped(guard: Guard) -> str:
    if guard.other is None:
        return f"False if {guard.test} else {guard.guarded}"
    return f"{guard.other} if {guard.test} else {guard.guarded}"


def weakened_by_or(guard: Guard) -> str:
    if guard.other is None:
        return joined(guard, guard.test, "or")
    return joined(guard, f"({guard.test} or self)")


def removed(guard: Guard) -> str:
    return guard.guarded


SPOILERS: list[Callable[[Guard], str]] = [
    removed,
    inverted,
    on_another_object,
    on_another_attribute,
    behind_the_read,
    branches_swapped,
    weakened_by_or,
]


@pytest.fixture(scope="module")
def guarded_file(release_file: Callable[..., bytes]) -> Callable[[str, bool], str]:
    """The text of a release's file in which every read is guarded."""

    @functools.cache
    def fetch(version: str, patched: bool) -> str:
        data = release_file(version)
        return (rewrite(data, RULE).data if patched else data).decode()

    return fetch


@pytest.mark.parametrize(("version", "patched", "count"), FILES)
def test_the_file_is_clean_and_every_guard_in_it_is_found(
    guarded_file: Callable[[str, bool], str], version: str, patched: bool, count: int
) -> None:
    source = guarded_file(version, patched)
    assert all(read.guarded for read in verify(source.encode(), RULE))
    assert len(list(guards_in(source))) == count


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize(("version", "patched", "count"), FILES)
def test_a_spoiled_guard_is_caught(
    guarded_file: Callable[[str, bool], str],
    version: str,
    patched: bool,
    count: int,
    spoil: Callable[[Guard], str],
) -> None:
    spoiled = source = guarded_file(version, patched)
    # All at once, the last first: none moves another, and the file is judged once.
    guards = sorted(guards_in(source), key=lambda guard: -guard.start)
    for guard in guards:
        spoiled = guard.replaced(spoiled, spoil(guard))
    compile(spoiled, version, "exec")
    unguarded = [read.line for read in verify(spoiled.encode(), RULE) if not read.guarded]
    for guard in guards:
        assert any(near(line, guard) for line in unguarded), f"{version} {guard}: {spoil(guard)}"
    assert all(any(near(line, guard) for guard in guards) for line in unguarded), unguarded


def near(line: int, guard: Guard) -> bool:
    return abs(line - guard.line) < 12


@pytest.mark.parametrize("version", ["0.28.0", "0.33.0"])
@pytest.mark.parametrize("load", ["kv_b_proj.weight", 'getattr(kv_b_proj, "weight", 0)'])
def test_a_getattr_that_no_longer_gives_none_is_caught(
    guarded_file: Callable[[str, bool], str], version: str, load: str
) -> None:
    source = guarded_file(version, False)
    getattr_call = 'getattr(kv_b_proj, "weight", None)'
    assert source.count(getattr_call) == 1
    spoiled = source.replace(getattr_call, load).encode()
    assert [read for read in verify(spoiled, RULE) if not read.guarded]
