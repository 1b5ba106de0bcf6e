"""Names as docker reads them, and every other text refused in the same way."""

from __future__ import annotations

import contextlib
import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.errors import BadReference
from patcher.oci.reference import (
    Platform,
    Reference,
    host_platform,
    parse_digest,
    parse_platform,
    parse_reference,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4

PATH_PART = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,3}", fullmatch=True)
REGISTRIES = st.sampled_from(
    ["docker.io", "ghcr.io", "localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "HOST"]
)
REFERENCES = st.builds(
    Reference,
    REGISTRIES,
    st.lists(PATH_PART.filter(lambda part: len(part) < 40), min_size=2, max_size=4).map("/".join),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True),
    st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm", Reference("docker.io", "library/vllm")),
        ("vllm:v1", Reference("docker.io", "library/vllm", "v1")),
        ("vllm/vllm-openai:v0.23.0", Reference("docker.io", "vllm/vllm-openai", "v0.23.0")),
        ("docker.io/vllm", Reference("docker.io", "library/vllm")),
        ("index.docker.io/vllm/vllm-openai", Reference("docker.io", "vllm/vllm-openai")),
        ("localhost/x", Reference("localhost", "x")),
        ("localhost:5000/x", Reference("localhost:5000", "x")),
        ("localhost:5000/x:5000", Reference("localhost:5000", "x", "5000")),
        ("127.0.0.1:5000/a/b@" + DIGEST, Reference("127.0.0.1:5000", "a/b", None, DIGEST)),
        ("[::1]:5000/a/b:t", Reference("[::1]:5000", "a/b", "t")),
        ("ghcr.io/spark-arena/x:t@" + DIGEST, Reference("ghcr.io", "spark-arena/x", "t", DIGEST)),
        ("a__b/c---d.e_f", Reference("docker.io", "a__b/c---d.e_f")),
        ("Uppercase/x", Reference("Uppercase", "x")),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "/",
        ":tag",
        "a:",
        "a@",
        "a//b",
        "a/b/",
        "/a/b",
        "a/B",
        "localhost:port/x",
        "localhost:123456/x",
        "localhost:65536/x",
        "[1]:5000/x",
        "[:::::]/x",
        "-host.io/x",
        "host..io/x",
        "a___b",
        "a_.b",
        ".a",
        "a:-tag",
        "a:" + "t" * 129,
        "a:tag:tag",
        "a:tag\n",
        "a\n",
        "a:t\nRUN evil",
        "https://ghcr.io/a/b",
        "user:secret@ghcr.io/a/b",
        "a@sha256:short",
        "a@md5:" + "0" * 32,
        "a@" + DIGEST.upper(),
        "a@" + DIGEST + "\n",
        "a@" + DIGEST + "@" + DIGEST,
        "0123456789abcdef" * 4,
        "a/" * 130 + "b",
        "vllm/ünïcode",
        "vllm/١٢٣",
        "a:\x1b[31m",
    ],
)
def test_other_text_is_no_reference(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


def test_a_pinned_reference_names_the_digest_alone() -> None:
    pinned = parse_reference("vllm/vllm-openai:v0.23.0").pinned(DIGEST)
    assert str(pinned) == f"docker.io/vllm/vllm-openai@{DIGEST}"


def test_a_reference_is_pinned_by_a_real_digest_only() -> None:
    with pytest.raises(BadReference, match="not a digest"):
        parse_reference("vllm").pinned("latest")


@given(REFERENCES)
def test_the_canonical_text_parses_to_the_same_reference(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text() | st.text(alphabet="aA0.:/@_-[]\n\x1b", max_size=40))
def test_any_text_parses_canonically_or_is_a_bad_reference(text: str) -> None:
    with contextlib.suppress(BadReference):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("text", ["", "sha256:", DIGEST[:-1], DIGEST + "0", DIGEST + "\n"])
def test_a_digest_has_its_full_length(text: str) -> None:
    with pytest.raises(BadReference):
        parse_digest(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/v7", "linux/arm"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
    ],
)
def test_platforms_with_the_same_meaning_are_equal(text: str, expected: str) -> None:
    assert str(parse_platform(text)) == expected
    assert parse_platform(text) == parse_platform(expected)


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64\n"])
def test_other_text_is_no_platform(text: str) -> None:
    with pytest.raises(BadReference):
        parse_platform(text)


@given(st.text() | st.text(alphabet="linuxarmv86_/4", max_size=20))
def test_any_text_is_a_stable_platform_or_a_bad_reference(text: str) -> None:
    with contextlib.suppress(BadReference):
        parsed = parse_platform(text)
        assert parse_platform(str(parsed)) == parsed


def test_the_host_is_linux_on_this_machines_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_platform().os == "linux"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert host_platform() == Platform("linux", "arm64")
