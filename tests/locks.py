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


VERSIONS = st.from_regex(
    r"[0-9]{1,3}\.[0-9]{1,3}(rc[0-9])?(\.dev[0-9]{1,4})?(\+g[0-9a-f]{9})?", fullmatch=True
)
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
    st.from_regex(r"[a-z0-9]{1,9}/[a-z0-9]{1,9}([._-][a-z]{1,5})?", fullmatch=True),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True),
    st.none() | DIGESTS,
)
LOCKED = st.builds(
    Locked,
    VERSIONS.map(Version),
    st.none() | st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True),
    st.none() | PINS,
    st.none() | PINS,
    st.dictionaries(PLATFORMS, PINS, max_size=3),
).filter(lambda locked: any(locked.pins()))
ENTRIES = st.builds(Entry, st.builds(Original, VERSIONS, REFERENCES), LOCKED)
LOCKS = st.lists(ENTRIES, max_size=5, unique_by=lambda known: known.key).map(
    lambda entries: Lock(tuple(entries))
)
