"""images.lock: which image a name means, and what the registries say of it today."""

from __future__ import annotations

from pathlib import Path

from patcher.files import data_path, is_there


def lock_path(path: Path | None) -> Path:
    """The lock file: the named one, the one here, or the one that came with the program."""
    if path is not None:
        return path
    here = Path("images.lock")
    return here if is_there(here) else data_path("images.lock")
