"""The probe in an interpreter of this machine: a process of its own, which leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from patcher.errors import UsageError
from patcher.smoke import probe
from patcher.smoke.cases import Case, Ran

# An engine prints some 100 KB; what a hostile one prints must not fill the memory.
_MOST_BYTES = 8 << 20


def interpreter(path: Path) -> str:
    """What to run for a path: an interpreter, or that of a virtual environment.

    Raises `UsageError`.
    """
    for each in (path / "bin" / "python", path):
        if each.is_file() and os.access(each, os.X_OK):
            return str(each.absolute())  # not resolved: a venv's python is a link out of it
    named = shutil.which(str(path)) if path.name == str(path) else None
    if named is None:
        raise UsageError(
            f"{path} is neither a Python interpreter nor a virtual environment",
            next_step="Name one that has vLLM, as --python .venv/bin/python.",
        )
    return named


def run_here(python: str, case: Case, limit: float) -> Ran:
    """Run the probe; at the end, Ctrl-C or after `limit` seconds nothing of it is left running."""
    with tempfile.TemporaryDirectory(prefix="vllm-patcher-smoke-") as folder:
        # By itself: the folder of a script comes first in its sys.path.
        script = shutil.copy(probe.__file__, folder)
        with Path(folder, "output").open("w+b") as output:
            process = subprocess.Popen(
                [python, script, case.name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return Ran(output.read(_MOST_BYTES).decode(errors="replace"), code)
