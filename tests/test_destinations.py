"""Which build of a version may move the version's tag."""

from __future__ import annotations

from pathlib import Path

import pytest

from patcher.destinations import is_newest
from patcher.images.pins.lock import Answer, Lock, add, entry_for
from patcher.images.pins.lockfile import save
from patcher.images.reference import parse_platform, parse_reference

DIGEST = "sha256:" + "0" * 63


@pytest.mark.parametrize(
    ("name", "newest"),
    [("0.23.1rc1.dev1", False), ("0.23.1rc1.dev2", True), ("0.23.1rc1", True), ("0.22.0", True)],
)
def test_only_the_newest_locked_build_moves_the_versions_tag(
    tmp_path: Path, name: str, newest: bool
) -> None:
    lock = Lock()
    amd64 = parse_platform("linux/amd64")
    for number, version in enumerate(("0.22.0", "0.23.1rc1.dev1", "0.23.1rc1.dev2")):
        digest = f"{DIGEST}{number}"
        reference = parse_reference(f"a.example/vllm:b{number}")
        lock = add(lock, entry_for(version, reference, Answer(digest, True, {amd64: digest})))
    save(tmp_path / "images.lock", lock)
    assert is_newest(name, tmp_path / "images.lock", None) is newest
