"""Names and labels of a patched image: what is fixed, what is said of source and revision."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from patcher.errors import BrokenImage
from patcher.jobs.naming import Patched, annotations_of, labels, names
from patcher.oci.reference import parse_platform, parse_reference

SOURCE, REVISION = "org.opencontainers.image.source", "org.opencontainers.image.revision"
VLLM = "https://github.com/vllm-project/vllm"
COMMIT = "93d8f834d0123456789abcdef0123456789abcde"
BASE, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
PATCHED = Patched("p", 1, "vllm/a.py", "0" * 64, "1" * 64)


def test_a_fixed_tag_stands_for_base_and_patches() -> None:
    made = names("0.23.1rc1.dev672+g93d8f834d", [PATCHED], BASE, None)
    assert made.fixed.startswith("0.23.1rc1.dev672-g93d8f834d-")
    assert made.moving == "0.23.1rc1-patched"
    again = names("0.23.1rc1.dev672+g93d8f834d", [PATCHED], BASE, None)
    other = names("0.23.1rc1.dev672+g93d8f834d", [PATCHED], OTHER, None)
    assert again == made
    assert (other.fixed != made.fixed, other.moving) == (True, made.moving)


@pytest.mark.parametrize(
    "change", [{"postimage": "2" * 64}, {"patch_version": 2}, {"patch": "q"}, {"target": "b.py"}]
)
def test_another_patch_or_another_result_is_another_fixed_tag(change: dict[str, Any]) -> None:
    made = names("0.23.0", [PATCHED], BASE, None)
    assert names("0.23.0", [dataclasses.replace(PATCHED, **change)], BASE, None) != made


def test_a_platforms_tags_name_it() -> None:
    made = names("0.23.0", [PATCHED], BASE, parse_platform("linux/arm64"))
    assert made.fixed.endswith("-arm64")
    assert made.moving == "0.23.0-patched-arm64"


@pytest.mark.parametrize("version", ["what", "1!0.23.0", f"0.23.0+{'a' * 120}"])
def test_a_version_that_makes_no_tag_is_refused(version: str) -> None:
    with pytest.raises(BrokenImage, match="as vLLM's version, which"):
        names(version, [PATCHED], BASE, None)


def said(inherited: dict[str, str], commit: str | None) -> dict[str, str]:
    name = parse_reference("vllm/vllm-openai:v0.23.0")
    made = labels(inherited, name, BASE, ("0.23.0", commit), [PATCHED], "0.23.0-x")
    told = annotations_of(inherited, made)
    for key in (SOURCE, REVISION):
        assert told.get(key) == {**inherited, **made}.get(key)
    assert told["org.opencontainers.image.version"] == "0.23.0-x"
    assert told["org.opencontainers.image.base.digest"] == BASE
    return {key: made[key] for key in (SOURCE, REVISION) if key in made}


FORK = {SOURCE: "https://github.com/who/vllm", REVISION: COMMIT}
FOREIGN = {SOURCE: "https://github.com/who/cuda", REVISION: "f" * 40}


@pytest.mark.parametrize(
    ("inherited", "commit", "made"),
    [
        ({}, None, {SOURCE: VLLM}),
        ({}, "93d8f834d", {SOURCE: VLLM, REVISION: "93d8f834d"}),
        (FORK, "93d8f834d", {}),
        ({REVISION: COMMIT}, "93d8f834d", {SOURCE: VLLM}),
        (FOREIGN, "93d8f834d", {SOURCE: VLLM, REVISION: "93d8f834d"}),
        (FOREIGN, None, {SOURCE: VLLM}),
        ({**FORK, "ai.vllm.build.commit": COMMIT}, None, {}),
    ],
)
def test_source_and_revision_are_vllms(
    inherited: dict[str, str], commit: str | None, made: dict[str, str]
) -> None:
    assert said(inherited, commit) == made
