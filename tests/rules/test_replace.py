"""Replace: exact counts, layouts, and a proof that catches what the change is not."""

from __future__ import annotations

import ast
import dataclasses
import random

import pytest

from bench.mutations import mutants
from patcher.errors import NotPython, ProofFailed, RewriteRefused
from patcher.rules.edits import rewritten
from patcher.rules.replace import Change, Replace, Shape
from patcher.syntax import tree_of

PATH = "vllm/a.py"

SOURCE = """\
import torch


class Scheduler:
    def finish(self, gone):
        for each in gone.sent:
            log("sent", each)
            assert each in self.requests
            self.free(each)
        for each in gone.received:
            if self.eager and each in self.requests:  # ours
                assert each in self.requests
                self.free(each)
        return not self.requests and gone

    def other(self, each):
        assert each in self.requests
"""

ASSERTIONS = Replace(
    (
        Change(
            PATH,
            "Scheduler.finish",
            old="assert each in self.requests",
            new="if each not in self.requests:\n    continue",
            times=2,
        ),
    )
)
CONDITION = Replace(
    (
        Change(
            PATH,
            "Scheduler.finish",
            old="self.eager",
            new="self.eager or torch.is_eager()",
        ),
    )
)
RULES = [ASSERTIONS, CONDITION]


def made(rule: Replace, source: str = SOURCE) -> bytes:
    files = {PATH: source.encode()}
    after = rule.rewrite(files)
    rule.prove(files, after)
    return after[PATH].data


def needed(rule: Replace, source: str | bytes) -> bool | str | None:
    data = source.encode() if isinstance(source, str) else source
    found = rule.find({PATH: data})
    return found.unknown or found.absent or any(place.needed for place in found.places)


def test_values_that_are_equal_are_not_the_same_code() -> None:
    rule = Replace((Change(PATH, "f", "g(1)", "g(2)"),))
    assert needed(rule, "def f():\n    g(0x1)\n") is True
    for value in ("True", "1.0", "'1'", "1, 1", "x=1"):
        assert isinstance(needed(rule, f"def f():\n    g({value})\n"), str)


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_that_other_rules_look_at_is_left_as_it_is(rule: Replace) -> None:
    made(rule)
    assert needed(rule, SOURCE) is True
    assert ast.dump(tree_of(SOURCE.encode())) == ast.dump(ast.parse(SOURCE))


def test_statements_take_the_indentation_of_what_they_replace() -> None:
    assert needed(ASSERTIONS, SOURCE) is True
    finish, other = SOURCE.split("    def other")
    for indent in ("            ", "                "):
        finish = finish.replace(
            f"\n{indent}assert each in self.requests\n",
            f"\n{indent}if each not in self.requests:\n{indent}    continue\n",
        )
    assert made(ASSERTIONS).decode() == f"{finish}    def other{other}"
    assert needed(ASSERTIONS, made(ASSERTIONS)) is False


def test_an_expression_is_put_in_parentheses_where_it_must_be() -> None:
    assert b"if (self.eager or torch.is_eager()) and each in" in made(CONDITION)
    assert needed(CONDITION, made(CONDITION)) is False


def test_new_code_that_holds_the_old_is_told_from_it() -> None:
    """`a` became `a or b`: the `a` that is left is not one more to be replaced."""
    assert needed(CONDITION, made(CONDITION)) is False
    assert made(CONDITION).count(b"self.eager") == 1


def test_two_places_on_one_line_are_both_replaced() -> None:
    twice = Replace((Change(PATH, "f", "g(1)", "g(22)", times=2),))
    assert made(twice, "def f():\n    return g(1) + h(g(1))\n") == (
        b"def f():\n    return g(22) + h(g(22))\n"
    )


def test_windows_line_ends_are_kept() -> None:
    windows = SOURCE.replace("\n", "\r\n")
    spread = Replace((Change(PATH, "Scheduler.finish", "self.eager", "either(\n    1,\n)"),))
    for rule in (*RULES, spread):
        assert made(rule, windows) == made(rule).replace(b"\n", b"\r\n")


def test_the_layout_of_the_code_does_not_matter() -> None:
    spread = SOURCE.replace(
        "            assert each in self.requests\n            self",
        "            assert (\n                each in self . requests\n"
        "            )\n            self",
    )
    assert spread != SOURCE
    assert ast.dump(ast.parse(made(ASSERTIONS, spread))) == ast.dump(ast.parse(made(ASSERTIONS)))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "            assert each in self.requests\n            self",
            "            self",
            "what is to be replaced 1 time, not 2, ",
        ),
        ("assert each in self.requests", "pass", "has what is to be replaced 1 time, not 2, "),
        ("def finish", "def end", "there is no Scheduler.finish"),
        ("def other", "def finish", "there are several Scheduler.finish"),
        (
            "        return not",
            "        if each not in self.requests:\n            continue\n        return not",
            "and its replacement 1 time",
        ),
    ],
)
def test_another_count_or_no_such_function_is_said(old: str, new: str, reason: str) -> None:
    assert reason in str(needed(ASSERTIONS, SOURCE.replace(old, new, 1)))


def test_a_file_that_is_not_there_or_not_python() -> None:
    assert ASSERTIONS.find({PATH: None}).absent == f"there is no {PATH}"
    with pytest.raises(NotPython):
        ASSERTIONS.find({PATH: b"def f(:"})


def test_one_change_of_two_is_unknown() -> None:
    both = Replace((*ASSERTIONS.changes, *CONDITION.changes))
    assert needed(both, SOURCE) is True
    assert needed(both, made(both)) is False
    assert "still `assert each in self.requests`" in str(needed(both, made(CONDITION)))


def test_upstreams_other_fix_makes_it_needless() -> None:
    rule = Replace(ASSERTIONS.changes, (Shape(PATH, "Scheduler.other", "self.requests"),))
    assert needed(rule, SOURCE) is False
    assert needed(Replace(rule.changes, (Shape("b.py", "f", "x"),)), SOURCE) is True


@pytest.mark.parametrize("rule", RULES)
def test_the_proof_catches_every_mutation(rule: Replace) -> None:
    files = {PATH: SOURCE.encode()}
    for kind, mutant in mutants(SOURCE.encode(), made(rule), random.Random(1), 60):
        result = {PATH: rewritten(files[PATH], mutant)}
        try:
            rule.prove(files, result)
        except ProofFailed:
            continue
        pytest.fail(f"{kind}: {mutant.decode()}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  # ours", "", "line 11 has none of the declared code"),
        ("\n\n\nclass", "\n\nclass", "line 2 has none of the declared code"),
        ("\n", "\r\n", "line 1 has none of the declared code"),
        ("continue\n", "continue\n        # theirs\n", "a line is neither the file's nor"),
    ],
)
def test_the_proof_catches_what_is_no_code(old: str, new: str, problem: str) -> None:
    """A comment or a blank line that came or went, another line end: the tree is the same."""
    files = {PATH: SOURCE.encode()}
    wrong = made(ASSERTIONS).decode().replace(old, new)
    with pytest.raises(ProofFailed, match=problem):
        ASSERTIONS.prove(files, {PATH: rewritten(files[PATH], wrong.encode())})


def test_a_byte_that_no_edit_tells_of_is_caught() -> None:
    files = {PATH: SOURCE.encode()}
    told = ASSERTIONS.rewrite(files)[PATH]
    wrong = dataclasses.replace(told, data=told.data.replace(b"  # ours", b"  # OURS"))
    with pytest.raises(ProofFailed, match="a byte outside the edits has changed"):
        ASSERTIONS.prove(files, {PATH: wrong})


def test_another_count_is_no_proof() -> None:
    files = {PATH: SOURCE.encode()}
    once = Replace((dataclasses.replace(ASSERTIONS.changes[0], times=1),))
    with pytest.raises(ProofFailed, match="finish has not the declared places"):
        once.prove(files, ASSERTIONS.rewrite(files))


def test_statements_are_no_change_of_an_expression() -> None:
    """`g()` may stand where statements cannot."""
    mixed = Replace((Change(PATH, "f", "g()", "if x:\n    g()"),))
    before, after = b"def f():\n    g()\n", b"def f():\n    if x:\n        g()\n"
    with pytest.raises(ProofFailed, match="f has not the declared places"):
        mixed.prove({PATH: before}, {PATH: rewritten(before, after)})


def test_a_change_of_one_file_proves_no_line_of_another() -> None:
    """`allowed` holds the lines of the changes to this file alone."""
    other = Change("vllm/b.py", "f", old="x", new="theirs")
    files = {PATH: SOURCE.encode(), "vllm/b.py": b"def f():\n    return x\n"}
    both = Replace((*ASSERTIONS.changes, other))
    after = dict(both.rewrite(files))
    both.prove(files, after)
    wrong = after[PATH].data.replace(b"continue\n", b"continue\n        # theirs\n")
    with pytest.raises(ProofFailed, match="a line is neither the file's nor"):
        both.prove(files, {**after, PATH: rewritten(files[PATH], wrong)})


def test_a_statement_that_shares_its_line_is_refused() -> None:
    with pytest.raises(RewriteRefused, match=r"line 2 of vllm/a\.py: it shares its line"):
        Replace((Change(PATH, "f", "x = 1", "x = 2"),)).rewrite(
            {PATH: b"def f():\n    y = 0; x = 1\n"}
        )


def test_each_change_is_explained() -> None:
    rule = Replace((*ASSERTIONS.changes, *CONDITION.changes), (Shape("b.py", "f", "x"),))
    assert rule.explain() == (
        f"{PATH}: Scheduler.finish: `assert each in self.requests` becomes "
        "`if each not in self.requests: continue`, 2 times",
        f"{PATH}: Scheduler.finish: `self.eager` becomes `self.eager or torch.is_eager()`",
        "b.py: nothing is needed where f has `x`",
    )


def test_new_code_that_holds_the_old_statement_is_not_looked_into() -> None:
    block = Replace((Change(PATH, "f", "g()\nh()", "if x:\n    g()\n    h()"),))
    assert made(block, "def f():\n    g()\n    h()\n") == (
        b"def f():\n    if x:\n        g()\n        h()\n"
    )
    assert needed(block, made(block, "def f():\n    g()\n    h()\n")) is False


def test_code_that_is_too_long_to_show_says_so() -> None:
    long = "x = " + " + ".join(["1"] * 200)
    (place,) = (
        Replace((Change(PATH, "f", long, "x = 1"),))
        .find({PATH: f"def f():\n    {long}\n".encode()})
        .places
    )
    assert (len(place.text), place.text[-1]) == (100, "…")
