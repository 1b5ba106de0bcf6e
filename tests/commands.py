"""Running the program as a user does: a process, its streams and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A test means this patch, and not whatever else the catalogue comes to hold.
ONE = ("--patch", "kv-b-proj-dtype")


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`vllm-patcher ARGUMENTS...`; streams are text, undecodable bytes are kept as surrogates."""
    return subprocess.run(
        [sys.executable, "-m", "patcher", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
