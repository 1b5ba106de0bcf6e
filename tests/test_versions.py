"""vLLM's versions, and what is no version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from patcher.versions import base, nearest, parsed, placed


@pytest.mark.parametrize(
    "text", ["", " 0.23.0", "0.23.0\n", "0.23.0 ", "latest", "0.23.0poſt1", "١.٢", "1" * 129, "-"]
)
def test_what_is_no_version_is_none(text: str) -> None:
    assert parsed(text) is None


@given(st.text() | st.text(alphabet="0123456789.rcdev+g!-_", max_size=20))
def test_any_text_is_a_version_that_reads_back_or_none(text: str) -> None:
    version = parsed(text)
    assert version is None or parsed(str(version)) == version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.23.1rc1.dev672+g93d8f834d.d20260705", "0.23.1rc1"),
        ("0.23.0", "0.23.0"),
        ("0.23.0+cu129", "0.23.0"),
        ("0.23.0.post1.dev3", "0.23.0.post1"),
        ("1!2.0rc1.dev1", "1!2.0rc1"),
    ],
)
def test_the_base_of_a_nightly_is_the_name_that_people_use(text: str, expected: str) -> None:
    assert str(base(Version(text))) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("0.23.2", "Near it: 0.22.0, 0.23.0, 0.24.0, 0.31.0."),
        ("0.0", "Near it: 0.22.0, 0.23.0."),
        ("0.231.0", "Near it: 0.31.0, 0.23.0. The newest is 0.31.0."),
        ("99", "The newest is 0.31.0."),
        ("latest", "The newest is 0.31.0."),
    ],
)
def test_only_what_is_near_is_called_near(wanted: str, expected: str) -> None:
    known = [Version(text) for text in ("0.31.0", "0.22.0", "0.24.0", "0.23.0")]
    assert nearest(wanted, known) == expected
    assert nearest(wanted, []) == "No version is known."


@pytest.mark.parametrize(
    ("text", "is_placed"),
    [
        ("0.1.dev1+g93d8f834d", False),
        ("0.1.dev11742+g93d8f834d.d20260705", False),
        ("0.0.0", False),
        ("999.0", False),
        ("dev", False),
        (None, False),
        ("0.1.0", True),
        ("0.23.1rc1.dev672+g93d8f834d", True),
        ("1.0.0", True),
    ],
)
def test_a_build_without_vllms_tags_has_no_place(text: str | None, is_placed: bool) -> None:
    assert (placed(text) is not None) is is_placed
