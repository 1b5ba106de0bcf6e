"""Which build a name means on a platform, and what a refusal says instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patcher
from patcher.errors import NotLocked
from patcher.lock.entries import Entry, Lock
from patcher.lock.file import load
from patcher.lock.picking import Standing, meant_by, resolve, standing, whole
from patcher.oci.reference import Platform
from tests.locks import AMD64, ARM64, LOCKS, digest, entry


def stated(known: Entry) -> Entry:
    """The entry as public files state it."""
    locked = known.locked
    index = replace(locked.index, stated_by=2) if locked.index else None
    return replace(known, locked=replace(locked, index=index))


S390X = Platform("linux", "s390x")
LOCK = Lock(
    (
        entry("0.22.0", "a/b:old", unknown=1),
        entry("0.23.0", "a/b:v0.23.0", index=2, amd64=3),
        entry("0.23.1rc1.dev9+gaaaaaaaaa", "a/b:n9", commit="aaaaaaaaa1", index=4),
        entry("0.23.1rc1.dev10+gbbbbbbbbb", "a/b:n10", commit="b" * 40, amd64=5),
        entry("0.23.1rc1.dev11+gccccccccc", "a/b:n11", commit="ccccccccc", unknown=6),
        entry("0.23.1rc1.dev12+gaaaaaaaab", "g.io/c/d:n", commit="aaaaaaaab2", arm64=7),
        entry("0.24.0", "a/b:v0.24.0", index=8),
    )
)


@pytest.mark.parametrize(
    ("name", "platform", "number"),
    [
        ("0.23.1rc1", AMD64, 5),
        ("0.23.1rc1", ARM64, 7),
        ("0.23.1rc1", S390X, 4),
        ("0.23.1rc1.dev9", AMD64, 4),
        ("0.23.1rc1.dev9+gaaaaaaaaa", ARM64, 4),
        ("0.23.1rc1.dev11", AMD64, 6),
        ("0.23.1rc1.dev11+gccccccccc", ARM64, 6),
        ("ccccccc", AMD64, 6),
        ("gccccccccc", AMD64, 6),
        ("c" * 9 + "d" * 31, AMD64, 6),
        ("b" * 40, AMD64, 5),
        ("aaaaaaaab", ARM64, 7),
        ("a/b:n11", AMD64, 6),
        ("docker.io/a/b:n10", AMD64, 5),
        ("g.io/c/d:n", ARM64, 7),
        ("0.23.0", AMD64, 3),
        ("0.23.0", ARM64, 2),
        ("0.23", AMD64, 3),
        ("v0.23.0", AMD64, 3),
        ("0.22.0", AMD64, 1),
    ],
)
def test_a_name_picks_the_newest_build_with_the_platform(
    name: str, platform: Platform, number: int
) -> None:
    found, pinned = resolve(LOCK, name, platform)
    assert pinned == digest(number)
    assert pinned in {pin.digest for _, pin in found.locked.pins()}


@pytest.mark.parametrize(
    ("name", "platform", "says"),
    [
        ("0.23.2", AMD64, "Near it: 0.23.0, 0.23.1rc1, 0.24.0"),
        ("0.23.1rc1.dev13", AMD64, "0.23.1rc1.dev12+gaaaaaaaab, 0.24.0"),
        ("nonsense", AMD64, "a commit or a reference that `vllm-patcher lock list` shows"),
        ("9.9", AMD64, "The newest is 0.24.0. All of them: `vllm-patcher lock list`"),
        ("pypi:0.23.0", AMD64, "Leave pypi: out: 0.23.0."),
        ("docker:", AMD64, "that `vllm-patcher lock list` shows"),
        ("a/b:gone", AMD64, "is not in images.lock"),
        ("deadbeef", AMD64, "is not in images.lock"),
        ("aaaaaaaa", AMD64, "fits several commits: aaaaaaaaa1, aaaaaaaab2"),
        ("0.23.1rc1.dev12", AMD64, "for: linux/arm64 (newest: 0.23.1rc1.dev12+gaaaaaaaab)"),
        ("0.23.1rc1.dev12", AMD64, "newest build for linux/amd64 is 0.23.1rc1.dev10+gbbbbbbbbb"),
        ("0.23.1rc1.dev10", S390X, "newest build for linux/s390x is 0.23.1rc1.dev9+gaaaaaaaaa"),
    ],
)
def test_a_name_that_means_nothing_here_is_answered_with_what_is_near(
    name: str, platform: Platform, says: str
) -> None:
    with pytest.raises(NotLocked) as caught:
        resolve(LOCK, name, platform)
    assert says in str(caught.value)


def test_a_build_of_unknown_kind_is_offered_where_nothing_else_is() -> None:
    lock = Lock((entry("0.23.1rc1.dev11", unknown=1), entry("0.23.1rc1.dev12", "a/b", arm64=2)))
    with pytest.raises(NotLocked, match=r"platform of 0\.23\.1rc1\.dev11 is not known") as caught:
        resolve(lock, "0.23.1rc1", AMD64)
    assert "linux/arm64, unknown" in caught.value.problem


def test_where_nothing_fits_the_way_to_add_is_named() -> None:
    with pytest.raises(NotLocked, match="lock add"):
        resolve(Lock((entry("0.23.0", arm64=1),)), "0.23.0", AMD64)
    with pytest.raises(NotLocked, match="No version is known"):
        resolve(Lock(), "0.23.0", AMD64)


@given(LOCKS, st.text(max_size=30) | st.sampled_from(["0.1", "1.0rc1", "abcdef0"]))
def test_any_name_is_resolved_or_not_locked(lock: Lock, name: str) -> None:
    try:
        found, pinned = resolve(lock, name, AMD64)
    except NotLocked:
        return
    assert pinned in {pin.digest for _, pin in found.locked.pins()}


@given(LOCKS)
def test_each_build_is_picked_by_its_full_version_and_its_reference(lock: Lock) -> None:
    for known in lock.entries:
        pin = known.locked.pin(AMD64, exact=True)
        if pin is None:
            continue
        found, _ = resolve(lock, str(known.locked.version), AMD64)
        assert found.locked.version.public == known.locked.version.public
        assert resolve(lock, str(known.original.reference), AMD64)


SHIPPED = load(Path(patcher.__file__).parents[1] / "images.lock")


@pytest.mark.parametrize(
    ("name", "platform", "version", "repository"),
    [
        ("0.23.1rc1", AMD64, "0.23.1rc1.dev672+g93d8f834d", "vllm/vllm-openai"),
        (
            "0.23.1rc1",
            ARM64,
            "0.23.1rc1.dev1551+g61aca5d75.d20260727",
            "spark-arena/dgx-vllm-eugr-nightly",
        ),
        ("0.23.1rc1.dev672", ARM64, "0.23.1rc1.dev672+g93d8f834d", "vllm/vllm-openai"),
        ("09663ab", AMD64, "0.23.1rc1.dev714+g09663abde", "vllm/vllm-openai"),
        ("vllm/vllm-openai:v0.23.0", AMD64, "0.23.0", "vllm/vllm-openai"),
    ],
)
def test_the_shipped_lock_answers_the_names_that_people_use(
    name: str, platform: Platform, version: str, repository: str
) -> None:
    found, _ = resolve(SHIPPED, name, platform)
    assert (str(found.locked.version), found.original.reference.repository) == (version, repository)


OURS = entry("0.23.0", "our.io/v:1", amd64=9)
PUBLIC = stated(entry("0.23.0", "docker.io/vllm/v:v0.23.0", index=1))
NEWER = stated(entry("0.23.1rc1.dev9", "docker.io/vllm/v:n", index=2))


def test_what_a_person_locked_goes_before_what_public_files_state() -> None:
    lock = Lock((PUBLIC, OURS))
    assert resolve(lock, "0.23.0", AMD64) == (OURS, digest(9))
    assert resolve(lock, "0.23.0", ARM64) == (PUBLIC, digest(1))
    assert whole(lock, "0.23.0", None) == (OURS, digest(9))
    assert whole(lock, "docker.io/vllm/v:v0.23.0", None) == (PUBLIC, digest(1))
    assert standing(lock, OURS, None) == Standing(None, newest=True)
    held = standing(lock, PUBLIC, None)
    assert (held, held.holder) == (Standing(None, newest=False), OURS)


def test_of_several_versions_the_newest_is_meant_whoever_locked_it() -> None:
    mine = entry("0.23.1rc1.dev8", "our.io/v:2", index=3)
    lock = Lock((mine, NEWER))
    assert whole(lock, "0.23.1rc1", None) == (NEWER, digest(2))
    held = standing(lock, mine, None)
    assert (held, held.holder) == (Standing(None, newest=False), NEWER)
    assert meant_by(lock, "0.23.1rc1") == NEWER
    assert meant_by(lock, "0.23.2") is None


# ---- what a name means to a publication, and which of a version's moving tags a build may have

FIRST = entry("0.23.1rc1.dev1", index=1)
WHOLE = entry("0.23.1rc1.dev2", index=2, arm64=3)
SPARK = entry("0.23.1rc1.dev3", arm64=4)
APART = entry("0.23.1rc1.dev4", amd64=5, arm64=6)
NIGHTLIES = Lock((FIRST, WHOLE, SPARK))


def test_no_platform_means_the_newest_index_and_one_means_that_index_too() -> None:
    assert whole(NIGHTLIES, "0.23.1rc1", None) == (WHOLE, digest(2))
    assert whole(NIGHTLIES, "0.23.1rc1.dev2", ARM64) == (WHOLE, digest(2))
    assert whole(NIGHTLIES, "0.23.1rc1", ARM64) == (SPARK, digest(4))
    assert whole(NIGHTLIES, "0.23.1rc1.dev3", None) == (SPARK, digest(4))
    with pytest.raises(NotLocked, match=r"'0\.9' is not in images\.lock"):
        whole(NIGHTLIES, "0.9", None)


def test_platforms_without_an_index_are_asked_for_one_by_one() -> None:
    with pytest.raises(NotLocked, match="without an index"):
        whole(Lock((APART,)), "0.23.1rc1", None)


@pytest.mark.parametrize(
    ("known", "platform", "suffix", "newest"),
    [
        (FIRST, None, None, False),
        (FIRST, ARM64, ARM64, False),
        (WHOLE, None, None, True),
        (WHOLE, AMD64, AMD64, True),
        (WHOLE, ARM64, ARM64, False),
        (SPARK, None, ARM64, True),
        (SPARK, ARM64, ARM64, True),
    ],
)
def test_one_platform_never_takes_over_the_name_of_several(
    known: Entry, platform: Platform | None, suffix: Platform | None, newest: bool
) -> None:
    assert standing(NIGHTLIES, known, platform) == Standing(suffix, newest)


def test_a_build_for_one_platform_has_the_plain_name_where_no_other_wants_it() -> None:
    assert standing(Lock((SPARK,)), SPARK, None) == Standing(None, newest=True)
    assert standing(Lock((SPARK,)), SPARK, ARM64) == Standing(ARM64, newest=True)


def test_a_version_that_means_no_one_build_has_no_moving_tag() -> None:
    lock = Lock((FIRST, APART))
    assert standing(lock, APART, None) == Standing(None, newest=False)
    assert standing(lock, APART, AMD64) == Standing(AMD64, newest=True)
    assert standing(Lock((APART,)), APART, None) == Standing(None, newest=False)
