"""Half of a fix is never called clean, in whichever files, functions and forms the halves are."""

from __future__ import annotations

import pytest

from patcher.errors import ProofFailed, RewriteRefused
from patcher.rules.backport.rule import Backport
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace, Shape
from patcher.rules.several import FirstOf, Together
from patcher.rules.verdict import Status, judge_files

A, B = "vllm/a.py", "vllm/b.py"


def change(path: str, function: str, old: str = "return 1", new: str = "return 2") -> Change:
    return Change(path, function, old, new)


ONE, TWO, OTHER = change(A, "one"), change(A, "two"), change(B, "two")
BOTH = Replace((ONE, TWO))
FORMS = FirstOf((BOTH, Replace((ONE,))))
FILES = FirstOf((Replace((OTHER,)), Replace((ONE,))))
PARTS = Together((Replace((ONE,)), Replace((OTHER,))))
TWICE = Replace((Change(A, "one", "f(1)", "f(2)", times=2),))
INSTEAD = Replace((ONE, TWO), instead=(Shape(A, "three", "return 3"),))


def source(**returned: int) -> bytes:
    return "".join(f"def {name}():\n    return {n}\n" for name, n in returned.items()).encode()


@pytest.mark.parametrize(
    ("rule", "a", "b"),
    [
        (BOTH, source(one=2, two=1), None),
        # A form of one of the two places would call it clean.
        (FORMS, source(one=2, two=1), None),
        (FirstOf(FORMS.forms[::-1]), source(one=2, two=1), None),
        # And a form of the other would call it needed, and make it whole on a guess.
        (FORMS, source(one=1, two=2), None),
        # The first form is another file's, and made; the second has its place left.
        (FILES, source(one=1), source(two=2)),
        (PARTS, source(one=2), source(two=1)),
        (PARTS, source(one=2), None),
        (Replace((ONE, OTHER)), source(one=2), source(one=2)),
        (Replace((ONE, OTHER)), source(one=1), None),
        (TWICE, b"def one():\n    f(1)\n    f(2)\n", None),
        (FirstOf((TWICE, Replace((TWO,)))), b"def one():\n    f(1)\n    f(2)\n" + source(two=2),
         None),
        (INSTEAD, source(one=2, two=1, three=3), None),
    ],
)  # fmt: skip
def test_half_of_a_fix_is_unknown(rule: FirstOf, a: bytes, b: bytes | None) -> None:
    patch = Patch("p", 1, "t", "w", (A, B), rule, (), (">=0",))
    verdict = judge_files(patch, {A: a, B: b}, "it")
    assert verdict.status is Status.UNKNOWN, verdict
    assert verdict.reason


@pytest.mark.parametrize(
    ("rule", "a", "b", "status"),
    [
        (FORMS, source(one=1, two=1), None, Status.NEEDED),
        (FORMS, source(one=2, two=2), None, Status.CLEAN),
        (FORMS, source(one=1, two=7), None, Status.NEEDED),
        (FORMS, source(one=2, two=7), None, Status.CLEAN),
        (FORMS, source(one=7, two=7), None, Status.UNKNOWN),
        (INSTEAD, source(one=1, two=1, three=3), None, Status.CLEAN),
        (PARTS, source(one=1), source(two=1), Status.NEEDED),
        # Nothing is read there that a guard would be for.
        (Together((AttributeGuard("x", "y", "z", "w"), Replace((ONE,)))), source(one=1), b"",
         Status.NEEDED),
    ],
)  # fmt: skip
def test_a_whole_fix_and_none_are_told_apart(
    rule: FirstOf, a: bytes, b: bytes | None, status: Status
) -> None:
    patch = Patch("p", 1, "t", "w", (A, B), rule, (), (">=0",))
    assert judge_files(patch, {A: a, B: b}, "it").status is status


def test_what_several_do_is_explained_once() -> None:
    one = f"{A}: one: `return 1` becomes `return 2`"
    assert PARTS.explain() == (
        one,
        one.replace(A, B).replace("one:", "two:"),
        "all of these or none",
    )
    forms = FirstOf((Replace((ONE,)), Replace((ONE,)), AttributeGuard("x", "y", "z", "w")))
    assert forms.explain()[::2] == (one, "of these, the first whose code is there")


def test_two_parts_of_one_file_are_refused() -> None:
    both = Together((Replace((ONE,)), Replace((TWO,))))
    with pytest.raises(RewriteRefused, match=r"two parts of the fix change vllm/a\.py"):
        both.rewrite({A: source(one=1, two=1)})


def test_a_file_that_no_part_is_about_is_no_part_of_the_proof() -> None:
    files = {A: source(one=1), B: source(two=1)}
    after = dict(PARTS.rewrite(files))
    PARTS.prove(files, after)
    with pytest.raises(ProofFailed, match="a file changed that no part of the fix is about"):
        PARTS.prove(files, {**after, "vllm/c.py": after[A]})


def test_a_part_that_is_unknown_and_one_that_is_absent() -> None:
    twice = Together((TWICE, Replace((OTHER,))))
    assert "one has neither what is to be replaced" in str(
        twice.find({A: source(one=7), B: source(two=1)}).unknown
    )
    assert PARTS.find({A: None, B: None}).absent == f"there is no {A}"


def test_a_form_whose_file_is_not_there_is_not_the_one_that_fits() -> None:
    rule = FirstOf((AttributeGuard("x", "y", "z", "w"), Replace((OTHER,))))
    assert [place.target for place in rule.find({A: None, B: source(two=1)}).places] == [B]
    assert rule.find({A: None, B: None}).absent == f"there is no {A}"


def test_a_form_whose_file_is_no_python_is_not_the_one_that_fits() -> None:
    files = {A: b"def f(:", B: source(two=1)}
    rule = FirstOf((Replace((ONE,)), Replace((OTHER,))))
    assert [place.target for place in rule.find(files).places] == [B]
    assert "not Python" in str(rule.find({A: b"def f(:", B: None}).unknown)


def test_what_reads_upstream_is_handed_it_within_others() -> None:
    class Known:
        def read(self, version: str, target: str) -> bytes:
            raise NotImplementedError

    upstream, backport = Known(), Backport(diff="-")
    for rule in (Together((backport, PARTS)), FirstOf((backport, PARTS))):
        handed = rule.with_upstream(upstream)
        first = (handed.parts if isinstance(handed, Together) else handed.forms)[0]
        assert isinstance(first, Backport)
        assert first.upstream is upstream
