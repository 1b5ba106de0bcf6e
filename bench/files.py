"""The real target files, and what one of them costs to fetch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from patcher.rules.apply import apply_files
from patcher.rules.catalogue import select
from patcher.sources.wheel import WheelSource, open_release

PATCH = select(["kv-b-proj-dtype"])[0]
RELEASES = [
    "0.15.0",
    "0.15.1",
    "0.16.0",
    "0.17.0",
    "0.17.1",
    "0.18.0",
    "0.18.1",
    "0.19.0",
    "0.19.1",
    "0.20.0",
    "0.20.1",
    "0.20.2",
    "0.21.0",
    "0.22.0",
    "0.22.1",
    "0.23.0",
    "0.24.0",
    "0.25.0",
    "0.25.1",
    "0.26.0",
    "0.27.0",
    "0.27.1",
    "0.28.0",
    "0.29.0",
    "0.30.0",
    "0.31.0",
    "0.32.0",
    "0.33.0",
]


def fetched(version: str) -> tuple[bytes, WheelSource]:
    """The target file of a release, and the wheel that it came out of."""
    wheel = open_release(version)
    return wheel.read(PATCH.target), wheel


def patched(data: bytes) -> bytes:
    """The target file with the patch; as it is where it is clean."""
    made = apply_files(PATCH, {PATCH.target: data})
    return made[PATCH.target].data if made else data


def all_files() -> dict[str, bytes]:
    """The target file of every release, kept between runs in the system's temporary folder."""
    folder = Path(tempfile.gettempdir()) / "vllm-patcher-bench"
    folder.mkdir(exist_ok=True)
    files = {}
    for version in RELEASES:
        cached = folder / f"{version}.py"
        if not cached.exists():
            cached.write_bytes(fetched(version)[0])
        files[version] = cached.read_bytes()
    return files
