"""Locks and their parts for the tests."""

from __future__ import annotations

from hypothesis import strategies as st
from packaging.version import Version

from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.oci.reference import Platform, Reference, parse_reference

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def entry(
    version: str,
    reference: str = "vllm/vllm-openai:tag",
    *,
    commit: str | None = None,
    index: int | None = None,
    unknown: int | None = None,
    amd64: int | None = None,
    arm64: int | None = None,
) -> Entry:
    """An entry whose digests are the given numbers."""
    pins = {AMD64: amd64, ARM64: arm64}
    locked = Locked(
        Version(version),
        commit,
        None if index is None else Pin(digest(index)),
        None if unknown is None else Pin(digest(unknown)),
        {platform: Pin(digest(number)) for platform, number in pins.items() if number is not None},
    )
    return Entry(Original(version, parse_reference(reference)), locked)


# Put together of parts: `from_regex` takes twice as long, and two seconds to begin with.
HEX = st.text("0123456789abcdef", min_size=40, max_size=40)
NUMBERS = st.sampled_from(["0", "1", "7", "02", "23", "672", "999"])
VERSIONS = st.builds(
    "{}.{}{}{}{}".format,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["", "rc0", "rc1", "rc9"]),
    st.just("") | NUMBERS.map(".dev{}".format),
    st.just("") | HEX.map(lambda text: f"+g{text[:9]}"),
)
WORDS = st.text("abz019", min_size=1, max_size=9)
DIGESTS = st.integers(0, 1 << 255).map(digest)
PINS = st.builds(Pin, DIGESTS, st.none() | st.integers(1, 99))
PLATFORMS = st.builds(
    Platform,
    st.sampled_from(["linux", "windows"]),
    st.sampled_from(["amd64", "arm64", "s390x", "arm"]),
    st.none() | st.sampled_from(["v3", "v6", "v9"]),
)
REFERENCES = st.builds(
    Reference,
    st.sampled_from(["docker.io", "ghcr.io", "localhost:5000"]),
    st.builds("{}/{}{}".format, WORDS, WORDS, st.sampled_from(["", ".x", "_y", "-zz"])),
    st.none() | st.builds("{}{}".format, st.sampled_from("Aa0_"), st.text("Aa0_.-", max_size=40)),
    st.none() | DIGESTS,
)
LOCKED = st.builds(
    Locked,
    VERSIONS.map(Version),
    st.none() | st.builds(lambda text, size: text[:size], HEX, st.integers(7, 40)),
    st.none() | PINS,
    st.none() | PINS,
    st.dictionaries(PLATFORMS, PINS, max_size=3),
).filter(lambda locked: any(locked.pins()))
ENTRIES = st.builds(Entry, st.builds(Original, VERSIONS, REFERENCES), LOCKED)
LOCKS = st.lists(ENTRIES, max_size=5, unique_by=lambda known: known.key).map(
    lambda entries: Lock(tuple(entries))
)
