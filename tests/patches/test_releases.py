"""What each patch says of real releases, around every turn: seen in their wheels, none left out."""

from __future__ import annotations

import pytest

from patcher.rules.apply import apply_files
from patcher.rules.catalogue import catalogue
from patcher.rules.verdict import Status, covers, judge_files
from tests.patches.wheels import ReleaseFile, files_of, patch_named, patched

# In one worker, they patch each file once.
pytestmark = [pytest.mark.no_cover, pytest.mark.xdist_group("patches")]

NEEDED, CLEAN, ABSENT, UNKNOWN = Status.NEEDED, Status.CLEAN, Status.ABSENT, Status.UNKNOWN

SEEN = {
    "gemma4-mtp-embeddings": {
        "0.19.1": ABSENT,
        "0.24.0": UNKNOWN,  # before the regression
        "0.25.0": NEEDED,
        "0.26.0": NEEDED,
        "0.27.0": CLEAN,
        "0.33.0": CLEAN,
    },
    "structured-output-boundary": {
        "0.24.0": UNKNOWN,
        "0.25.0": NEEDED,
        "0.26.0": NEEDED,
        "0.27.0": CLEAN,
        "0.28.0": CLEAN,
        "0.29.0": CLEAN,  # with lines changed beside it
        "0.30.0": UNKNOWN,  # rewritten
    },
    "cooperative-topk-sm12x": {
        "0.23.0": UNKNOWN,  # no such kernel
        "0.24.0": NEEDED,
        "0.25.0": CLEAN,
        "0.29.0": CLEAN,
        "0.30.0": CLEAN,
        "0.33.0": CLEAN,
    },
    "kv-transfer-gone": {
        "0.15.1": UNKNOWN,  # one assertion
        "0.16.0": NEEDED,
        "0.26.0": NEEDED,
        "0.33.0": NEEDED,
    },
    "persistent-topk-memory": {
        "0.19.1": UNKNOWN,
        "0.20.0": NEEDED,
        "0.20.1": NEEDED,
        "0.20.2": NEEDED,
        "0.24.0": NEEDED,
        "0.29.0": NEEDED,
        "0.30.0": NEEDED,
        "0.33.0": NEEDED,
    },
    "kv-b-proj-integer-weights": {
        "0.14.1": ABSENT,
        "0.15.0": CLEAN,  # no cast
        "0.16.0": CLEAN,
        "0.17.0": NEEDED,
        "0.18.0": NEEDED,
        "0.20.0": NEEDED,
        "0.25.0": NEEDED,
        "0.26.0": NEEDED,
        "0.28.0": NEEDED,  # int8 alone
        "0.33.0": NEEDED,
    },
    "triton-mla-kv-splits": {
        "0.11.0": UNKNOWN,
        "0.12.0": NEEDED,
        "0.14.1": NEEDED,
        "0.15.0": NEEDED,
        "0.16.0": NEEDED,
        "0.19.1": NEEDED,
        "0.20.0": CLEAN,
        "0.26.0": CLEAN,
        "0.33.0": CLEAN,
    },
}
CASES = [(name, version) for name, seen in SEEN.items() for version in seen]


@pytest.mark.parametrize(("name", "version"), CASES)
def test_the_verdict_is_what_was_seen_in_the_wheel_and_what_needs_it_is_patched_once(
    release_file: ReleaseFile, name: str, version: str
) -> None:
    patch = patch_named(name, release_file)
    files = files_of(patch, version, release_file)
    verdict = judge_files(patch, files, version)
    assert verdict.status is SEEN[name][version], verdict.reason
    if verdict.status is UNKNOWN:
        assert verdict.reason
    if verdict.status is NEEDED:
        done = patched(patch, files)
        assert judge_files(patch, {**files, **done}, version).status is CLEAN
        assert apply_files(patch, {**files, **done}) == {}


def test_what_is_claimed_to_need_it_is_what_was_seen() -> None:
    for patch in catalogue():
        for version, status in SEEN.get(patch.name, {}).items():
            assert covers(patch, version) is (status is NEEDED), f"{patch.name} {version}"


def test_every_patch_without_examples_was_seen_in_releases() -> None:
    assert {patch.name for patch in catalogue() if not patch.invalid} <= SEEN.keys()
