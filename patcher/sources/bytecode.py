"""The bytecode that Python could run in place of a source file on this machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from patcher.oci.rootfs.installed import bytecode_names
from patcher.sources.disk import names


def stale_bytecode(path: Path) -> tuple[Path, ...]:
    """Every .pyc that Python could run in place of a source file.

    Looked for beside the path, by which Python imports it: where that is a link to a file that
    others share, theirs is left alone. Also under PYTHONPYCACHEPREFIX, as far as this process
    knows it. Raises `Unreadable`.
    """
    return tuple(
        sorted(
            folder / name
            for folder in _bytecode_folders(path)
            for name in bytecode_names(path.name, names(folder))
        )
    )


# What ends the name of bytecode that is out of Python's way, for as long as a file is replaced.
ASIDE = ".removed"


def left_aside(path: Path) -> tuple[Path, ...]:
    """Bytecode of a source file that a killed run had set aside. Raises `Unreadable`."""
    left = re.compile(rf"{re.escape(path.stem)}\..*\.pyc\.\d+{re.escape(ASIDE)}")
    folders = _bytecode_folders(path)
    return tuple(
        folder / name for folder in folders for name in names(folder) if left.fullmatch(name)
    )


def _bytecode_folders(path: Path) -> set[Path]:
    source = path.absolute()
    prefixed = Path(importlib.util.cache_from_source(str(source))).parent
    return {source.parent / "__pycache__", prefixed}
