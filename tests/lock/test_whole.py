"""What a name means to a publication, and which of a version's moving tags a build may have."""

from __future__ import annotations

import pytest

from patcher.errors import NotLocked
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.picking import Standing, standing, whole
from patcher.oci.reference import Platform, parse_platform, parse_reference
from patcher.versions import parsed

AMD, ARM = parse_platform("linux/amd64"), parse_platform("linux/arm64")


def digest(digit: str) -> str:
    return f"sha256:{digit * 64}"


def build(version: str, index: str | None = None, **platforms: str) -> Entry:
    known = parsed(version)
    assert known is not None
    pins = {parse_platform(f"linux/{key}"): Pin(digest(d)) for key, d in platforms.items()}
    reference = parse_reference(f"vllm/vllm-openai:{version}")
    pin = Pin(digest(index)) if index else None
    return Entry(Original(version, reference), Locked(known, index=pin, platforms=pins))


OLD = build("0.23.1rc1.dev1", index="1")
WHOLE = build("0.23.1rc1.dev2", index="2", arm64="3")
SPARK = build("0.23.1rc1.dev3", arm64="4")
APART = build("0.23.1rc1.dev4", amd64="5", s390x="6")
NIGHTLIES = Lock((OLD, WHOLE, SPARK))


def test_no_platform_means_the_newest_index_and_one_means_that_index_too() -> None:
    assert whole(NIGHTLIES, "0.23.1rc1", None) == (WHOLE, digest("2"))
    assert whole(NIGHTLIES, "0.23.1rc1.dev2", ARM) == (WHOLE, digest("2"))
    assert whole(NIGHTLIES, "0.23.1rc1", ARM) == (SPARK, digest("4"))
    assert whole(NIGHTLIES, "0.23.1rc1.dev3", None) == (SPARK, digest("4"))
    with pytest.raises(NotLocked, match=r"'0\.9' is not in images\.lock"):
        whole(NIGHTLIES, "0.9", None)


def test_platforms_without_an_index_are_asked_for_one_by_one() -> None:
    with pytest.raises(NotLocked, match="without an index"):
        whole(Lock((APART,)), "0.23.1rc1", None)


@pytest.mark.parametrize(
    ("entry", "platform", "suffix", "newest"),
    [
        (OLD, None, None, False),
        (OLD, ARM, ARM, False),
        (WHOLE, None, None, True),
        (WHOLE, AMD, AMD, True),
        (WHOLE, ARM, ARM, False),
        (SPARK, None, ARM, True),
        (SPARK, ARM, ARM, True),
    ],
)
def test_one_platform_never_takes_over_the_name_of_several(
    entry: Entry, platform: Platform | None, suffix: Platform | None, newest: bool
) -> None:
    assert standing(NIGHTLIES, entry, platform) == Standing(suffix, newest)


def test_a_build_for_one_platform_has_the_plain_name_where_no_other_wants_it() -> None:
    assert standing(Lock((SPARK,)), SPARK, None) == Standing(None, newest=True)
    assert standing(Lock((SPARK,)), SPARK, ARM) == Standing(ARM, newest=True)


def test_a_version_that_means_no_one_build_has_no_moving_tag() -> None:
    lock = Lock((OLD, APART))
    assert standing(lock, APART, None) == Standing(None, newest=False)
    assert standing(lock, APART, AMD) == Standing(AMD, newest=True)
    assert standing(Lock((APART,)), APART, None) == Standing(None, newest=False)
