"""What images.lock holds, how an entry is made, and what is doubtful in one."""

from __future__ import annotations

import pytest
from hypothesis import given

from patcher.errors import UsageError
from patcher.lock.entries import Lock, Pin, add, check, entry_for
from patcher.oci.reference import parse_reference
from patcher.registry.image import Resolved
from tests.locks import AMD64, ARM64, LOCKS, digest, entry

COMMIT = "93d8f834dd8acf33eb0e2a75b2711b628cb6e226"
NIGHTLY = parse_reference(f"vllm/vllm-openai:nightly-{COMMIT}")


def test_a_digest_that_nobody_was_asked_about_is_of_unknown_kind() -> None:
    made = entry_for("0.23.0", parse_reference(f"vllm/vllm-openai:v0.23.0@{digest(1)}"))
    assert dict(made.locked.pins()) == {"unknown": Pin(digest(1))}


def test_an_index_is_locked_as_one() -> None:
    platforms = {AMD64: digest(2), ARM64: digest(3)}
    made = entry_for("0.23.0", NIGHTLY, Resolved(digest(1), True, platforms))
    assert dict(made.locked.pins()) == {
        "index": Pin(digest(1)),
        "linux/amd64": Pin(digest(2)),
        "linux/arm64": Pin(digest(3)),
    }


def test_a_single_manifest_is_locked_for_its_platform() -> None:
    made = entry_for("0.23.0", NIGHTLY, Resolved(digest(1), False, {ARM64: digest(1)}))
    assert dict(made.locked.pins()) == {"linux/arm64": Pin(digest(1))}


@pytest.mark.parametrize(
    ("version", "reference", "commit"),
    [
        ("0.23.1rc1.dev672+g93d8f834d", "vllm/vllm-openai:t", "93d8f834d"),
        ("0.23.1rc1.dev790+g85d955ed5.d20260705", "vllm/vllm-openai:t", "85d955ed5"),
        ("0.23.1rc1.dev672+g93d8f834d", str(NIGHTLY), COMMIT),
        ("0.23.0", "vllm/vllm-openai:v0.23.0", None),
        ("0.23.0+cu129", "vllm/vllm-openai:v0.23.0-cu129", None),
    ],
)
def test_the_commit_is_read_from_the_tag_or_the_version(
    version: str, reference: str, commit: str | None
) -> None:
    answer = Resolved(digest(1), True, {AMD64: digest(2)})
    made = entry_for(version, parse_reference(reference), answer)
    assert (made.locked.commit, made.original.version) == (commit, version)


@pytest.mark.parametrize("version", ["", "latest", "0.23.0\n", "0.23.0 ", "v\x1b[31m", "1" * 200])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="not a version"):
        entry_for(version, NIGHTLY.pinned(digest(1)))


def test_a_reference_without_any_digest_is_refused() -> None:
    with pytest.raises(UsageError, match="has no digest"):
        entry_for("0.23.0", NIGHTLY)


def test_an_entry_is_added_in_its_place_and_replaces_its_like() -> None:
    lock = Lock()
    for version in ("0.9.0", "0.23.1rc1.dev9", "0.23.1rc1.dev10", "0.23.0"):
        lock = add(lock, entry(version, index=1))
    lock = add(lock, entry("0.23.0", index=2))
    assert [str(known.locked.version) for known in lock.entries] == [
        "0.9.0",
        "0.23.0",
        "0.23.1rc1.dev9",
        "0.23.1rc1.dev10",
    ]
    assert lock.entries[1].locked.index == Pin(digest(2))


def test_one_version_from_two_places_is_two_entries() -> None:
    lock = add(Lock((entry("0.23.0", "ghcr.io/a/b:t", index=1),)), entry("0.23.0", index=2))
    assert len(lock.entries) == 2


@given(LOCKS)
def test_the_order_of_adding_makes_no_difference(lock: Lock) -> None:
    one, other = Lock(), Lock()
    for known in lock.entries:
        one = add(one, known)
    for known in reversed(lock.entries):
        other = add(other, known)
    assert one == other


def test_a_sound_lock_has_no_flaws() -> None:
    entries = (
        entry("0.23.0", "vllm/vllm-openai:v0.23.0", index=1, amd64=2),
        entry("0.23.1rc1.dev672+g93d8f834d", str(NIGHTLY), commit=COMMIT, index=3),
    )
    assert check(Lock(entries)) == ()


@pytest.mark.parametrize(
    ("lock", "problem"),
    [
        (Lock((entry("0.24.0", index=1), entry("0.23.0", index=2))), "not sorted"),
        (
            Lock((entry("0.23.1rc1.dev672+g93d8f834d", commit="0" * 40, index=1),)),
            "its name says 93d8f834d",
        ),
        (Lock((entry("0.23.0", str(NIGHTLY), commit="0" * 40, index=1),)), f"says {COMMIT}"),
        (Lock((entry("0.23.0", index=1, amd64=1),)), "is both index of 0.23.0 and linux/amd64"),
        (
            Lock((entry("0.23.0", index=1), entry("0.24.0", index=1))),
            "is both index of 0.23.0 and index of 0.24.0",
        ),
        (Lock((entry("0.23.0", f"a/b@{digest(9)}", index=1),)), "not among the locked ones"),
    ],
)
def test_a_doubtful_lock_is_reported_with_the_image(lock: Lock, problem: str) -> None:
    (flaw,) = check(lock)
    assert problem in flaw.problem
    assert flaw.image in {str(known.original.reference) for known in lock.entries}


def test_more_images_than_a_workflow_can_take_are_reported() -> None:
    many = tuple(entry(f"0.23.{number}", index=number) for number in range(257))
    assert check(Lock(many[:256])) == ()
    (flaw,) = check(Lock(many))
    assert (flaw.image, flaw.problem) == (
        "images.lock",
        "257 images: a workflow's matrix takes 256 at most",
    )


def test_another_version_than_was_asked_is_reported() -> None:
    made = entry_for("0.23.1rc1", NIGHTLY, Resolved(digest(1), True, {AMD64: digest(2)}))
    nightly = entry("0.23.1rc1.dev672+g93d8f834d", index=1).locked
    release = entry("0.23.0", index=1).locked
    asked = type(made)
    assert check(Lock((asked(made.original, nightly),))) == ()
    (flaw,) = check(Lock((asked(made.original, release),)))
    assert flaw.problem == "'0.23.1rc1' was asked and 0.23.0 is locked"


def test_a_mirror_of_the_same_build_is_no_flaw() -> None:
    assert check(Lock((entry("0.23.0", "a/b", index=1), entry("0.23.0", "c/d", index=1)))) == ()
