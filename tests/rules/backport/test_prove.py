"""The proof against results that are not the fix's: it must catch every one."""

from __future__ import annotations

import random

import pytest

from patcher.errors import ProofFailed
from patcher.rules.backport.merging.merge import merge_file
from patcher.rules.backport.proving.prove import prove
from tests.rules.backport.fixes import BEFORE, FIXES, fixed, is_proven, mutants, sides_of
from tests.rules.backport.test_merge import DRIFTS, drifted


@pytest.mark.parametrize("fix", FIXES)
def test_every_mutation_of_a_merged_file_is_caught(fix: str) -> None:
    seed = random.Random(fix)
    sides = sides_of(fix)
    for drift in list(DRIFTS)[:3]:
        original = drifted(drift, BEFORE).encode()
        merged = merge_file(original, sides).data
        assert is_proven(original, merged, sides)
        for kind, mutant in mutants(merged, seed, 12):
            assert not is_proven(original, mutant, sides), f"{kind}\n{mutant.decode()}"


@pytest.mark.parametrize("fix", FIXES)
def test_the_fix_in_the_class_beside_is_caught(fix: str) -> None:
    swapped = BEFORE.replace("class Drafter", "class X").replace("class Verifier", "class Drafter")
    swapped = swapped.replace("class X", "class Verifier")
    try:
        wrong = fixed(fix, swapped)
    except AssertionError:
        pytest.skip("the other class has no such lines")
    assert not is_proven(swapped.encode(), wrong.encode(), sides_of(fix))


def test_nothing_done_is_no_fix() -> None:
    assert not is_proven(BEFORE.encode(), BEFORE.encode(), sides_of("condition"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""An engine."""', '"""Another."""'),
        ("def width(layer):\n", "def width(layer):  # noted\n"),
        ("\n\n\ndef log", "\n\n\n\ndef log"),
        ("# Whether the target's embeddings fit.\n        if self", "# Hm.\n        if self"),
    ],
)
def test_a_comment_or_a_blank_line_that_is_nobodys_is_caught(old: str, new: str) -> None:
    done = fixed("condition").replace(old, new, 1)
    assert not is_proven(BEFORE.encode(), done.encode(), sides_of("condition"))


def test_a_name_that_the_file_lacks_is_named() -> None:
    """The function that the fix calls has another name in this release."""
    sides = sides_of("calls")
    own = BEFORE.replace("def log", "def say").replace("        log(", "        say(")
    merged = merge_file(own.encode(), sides).data
    with pytest.raises(ProofFailed, match="log is not defined in this file"):
        prove(own.encode(), merged, sides)


def test_an_attribute_that_only_the_fixed_file_defines_is_named() -> None:
    sides = [each for each in sides_of("new method") if each.scope.name == "Drafter.share"]
    merged = BEFORE.replace("drafted = width(self.model)", "drafted = self.wide()", 1)
    with pytest.raises(ProofFailed, match="wide is what only the fixed version's file defines"):
        prove(BEFORE.encode(), merged.encode(), sides)
