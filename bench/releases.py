"""Python files of vLLM's releases, out of their wheels, kept outside the tree."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.sources.wheel import WheelSource

FOLDER = Path.home() / ".cache" / "vllm-patcher-bench" / "releases"

# When each release's wheel was uploaded to PyPI.
DATES = {
    version: datetime.fromisoformat(day).replace(tzinfo=UTC)
    for version, day in {
        "0.20.0": "2026-04-27",
        "0.20.1": "2026-05-04",
        "0.20.2": "2026-05-10",
        "0.21.0": "2026-05-15",
        "0.22.0": "2026-05-29",
        "0.22.1": "2026-06-05",
        "0.23.0": "2026-06-15",
        "0.24.0": "2026-06-30",
        "0.25.0": "2026-07-11",
        "0.25.1": "2026-07-14",
        "0.26.0": "2026-07-25",
        "0.27.0": "2026-08-10",
        "0.27.1": "2026-08-11",
        "0.28.0": "2026-08-26",
    }.items()
}


def release_file(version: str, path: str) -> bytes | None:
    """A file of a release; None where the release has none of that path."""
    from patcher.errors import FileAbsent

    kept = FOLDER / version / path
    absent = kept.with_name(f"{kept.name}.absent")
    if kept.exists():
        return kept.read_bytes()
    if absent.exists():
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        data = _wheel(version).read(path)
    except FileAbsent:
        absent.touch()
        return None
    kept.write_bytes(data)
    return data


class Kept:
    """vLLM's releases, read file by file and kept."""

    def read(self, version: str, target: str) -> bytes:
        """A file of a release. Raises `FileAbsent`."""
        from patcher.errors import FileAbsent

        data = release_file(version, target)
        if data is None:
            raise FileAbsent(f"vLLM {version} has no {target}", next_step="Check the path.")
        return data

    @cache  # noqa: B019 - one in a process
    def names(self, version: str) -> dict[str, int]:
        """The Python files of a release, and their sizes in bytes."""
        kept = FOLDER / f"{version}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(_wheel(version).names()))
        names: dict[str, int] = json.loads(kept.read_text())
        return names


@cache
def _wheel(version: str) -> WheelSource:
    from patcher.sources.wheel import open_release

    return open_release(version)
