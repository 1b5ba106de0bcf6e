"""What `affected` bounds: where a patch may be applied."""

from __future__ import annotations

import pytest
from packaging.version import Version

from patcher.rules.affected import claimed, may_need, specifiers
from patcher.rules.catalogue import select
from patcher.rules.patch import Patch

[PATCH] = select(["gemma4-mtp-embeddings"])


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.24.1", False),
        ("0.25.0", True),
        ("0.26.0+cu129", True),
        ("0.26.1rc1.dev7+gabc", True),
        # Before the release that a claim ends before: nobody says whether the fix is in.
        ("0.27.0rc1", True),
        ("0.27.0rc1.dev9+g93d8f834d", True),
        ("0.27.0.dev1", True),
        ("0.27.0", False),
        ("0.27.0.post1", False),
        ("0.27.1rc1", False),
        ("0.25.0rc1", False),
    ],
)
def test_a_pre_release_of_the_first_with_the_fix_may_need_it(version: str, said: bool) -> None:
    assert PATCH.affected == (">=0.25.0,<0.27.0",)
    assert may_need(specifiers(PATCH), Version(version)) is said


def test_a_claim_of_upstreams_fix_says_nothing_of_them() -> None:
    patch: Patch = PATCH
    assert not claimed(specifiers(patch), Version("0.27.0rc1"))
    assert claimed(specifiers(patch), Version("0.26.0rc1"))
