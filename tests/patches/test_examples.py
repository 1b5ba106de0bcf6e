"""Every patch in patches/ is held against its own examples, and against upstream's real files."""

from __future__ import annotations

import ast

import pytest

from patcher.rules.catalogue import catalogue
from patcher.rules.patch import Example, Patch
from patcher.rules.verdict import Status, judge_files
from tests.one_file import apply, judge_bytes

VALID = [(patch, source) for patch in catalogue() for source in patch.valid]
INVALID = [(patch, example) for patch in catalogue() for example in patch.invalid]


@pytest.mark.parametrize(("patch", "source"), VALID)
def test_a_valid_example_is_left_alone(patch: Patch, source: str) -> None:
    files = {patch.target: source.encode()}
    assert judge_files(patch, files, "").status is Status.CLEAN
    # The two readings agree: what rewrites finds nothing to do either.
    assert all(each.edits == () for each in patch.rule.rewrite(files).values())
    assert apply(patch, source.encode()) == source.encode()


@pytest.mark.parametrize(("patch", "example"), INVALID)
def test_an_invalid_example_becomes_its_after(patch: Patch, example: Example) -> None:
    assert judge_bytes(patch, example.before.encode()).status is Status.NEEDED
    assert apply(patch, example.before.encode()).decode() == example.after


@pytest.mark.parametrize(("patch", "example"), INVALID)
def test_the_after_of_an_example_needs_nothing_more(patch: Patch, example: Example) -> None:
    assert apply(patch, example.after.encode()) == example.after.encode()


@pytest.mark.parametrize("patch", catalogue(), ids=lambda patch: patch.name)
def test_a_patch_says_what_it_is(patch: Patch) -> None:
    from packaging.specifiers import SpecifierSet

    assert bool(patch.valid) is bool(patch.invalid)
    assert patch.why
    assert patch.upstream
    assert [SpecifierSet(claim) for claim in patch.affected]
    for text in (*patch.valid, *(example.after for example in patch.invalid)):
        ast.parse(text)
