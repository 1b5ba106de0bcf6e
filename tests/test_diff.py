"""What differs between two texts: as the standard library says it, in bounded time."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher import diff
from patcher.diff import Matcher, hunks_between

TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "\n", "c\n"]), max_size=30)


@given(TEXTS, TEXTS, st.integers(0, 3))
def test_hunks_are_those_of_the_standard_library(
    old: list[str], new: list[str], context: int
) -> None:
    expected = list(difflib.unified_diff(old, new, n=context))[2:]
    assert list(hunks_between(old, new, context)) == expected


@given(TEXTS, TEXTS, st.integers(0, 60))
def test_whatever_is_compared_the_changes_lead_from_one_to_the_other(
    old: list[str], new: list[str], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(diff, "_MOST_COMPARED", most)
        codes = Matcher(old, new).get_opcodes()
    assert [line for _, a, b, _, _ in codes for line in old[a:b]] == old
    assert [line for _, _, _, c, d in codes for line in new[c:d]] == new
    assert all(old[a:b] == new[c:d] for tag, a, b, c, d in codes if tag == "equal")


def test_between_the_first_and_the_last_change_of_too_much_all_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20,000 equal lines were compared by the square: minutes, for a file of 20 KB."""
    old = ["head", "was", *[""] * 300, "was", *[""] * 300, "was", "tail"]
    new = [line.replace("was", "is") for line in old]
    tags = ["equal", "replace", "equal"]
    assert [tag for tag, *_ in Matcher(old, new).get_opcodes()] == [*tags, *tags[1:] * 2]
    monkeypatch.setattr(diff, "_MOST_COMPARED", 100_000)
    codes = Matcher(old, new).get_opcodes()
    assert [tag for tag, *_ in codes] == tags
    assert codes[1] == ("replace", 1, len(old) - 1, 1, len(old) - 1)
