"""`vllm-patcher smoke --python`: where it would prove nothing it says so, and leaves nothing."""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path

import pytest

from tests.commands import run
from tests.test_schemas import check

# Packages that stand in a vLLM's place: for a process that hangs, dies or has no GPU.
NO_GPU = {
    "vllm/__init__.py": "__version__ = '0.23.0'\n",
    "vllm/platforms.py": "class current_platform:\n    is_cpu = staticmethod(lambda: False)\n",
    "torch.py": "__version__ = '2.11.0'\n"
    "class cuda:\n    is_available = staticmethod(lambda: False)\n",
}


def packages(folder: Path, **changed: str) -> str:
    for name, text in {**NO_GPU, **{f"{key}.py": value for key, value in changed.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def test_an_interpreter_without_vllm(tmp_path: Path) -> None:
    done = run("smoke", "--python", sys.executable, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "it has no vLLM that can be imported: No module named" in done.stderr


def test_a_vllm_without_a_gpu(tmp_path: Path) -> None:
    done = run("smoke", "--python", sys.executable, "--json", PYTHONPATH=packages(tmp_path))
    assert check(done.stdout, done.returncode, 3)["error"]["kind"] == "Undecided"
    assert "PyTorch sees no GPU" in done.stderr


def test_a_process_that_dies_without_a_word(tmp_path: Path) -> None:
    path = packages(tmp_path, torch="import os; os.kill(os.getpid(), 9)\n")
    called = ("smoke", "--python", sys.executable, "--case", "w4a16", "--json")
    done = run(*called, PYTHONPATH=path)
    document = check(done.stdout, done.returncode, 3)
    [case] = document["cases"]
    assert (case["state"], case["reason"]) == (
        "not reached",
        "the engine's process ended with code -9, at: starting",
    )


def test_the_time_limit_ends_the_process_and_its_children(tmp_path: Path) -> None:
    children = tmp_path / "children"
    hangs = (
        "import os, subprocess, sys, threading\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; "
        "threading.Event().wait()'])\n"
        f"open({str(children)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "threading.Event().wait()\n"
    )
    path = packages(tmp_path / "site", torch=hangs)
    called = ("smoke", "--python", sys.executable, "--case", "bf16", "--timeout")
    for seconds in ("3", "60"):
        done = run(*called, seconds, PYTHONPATH=path)
        assert done.returncode == 3
        assert f"not reached  no end after {seconds} s, at: starting" in done.stdout
        if children.is_file():  # on a busy machine Python may need longer than 3 s to begin
            break
    pids = children.read_text().split()
    assert len(pids) == 2
    for pid in pids:
        assert ends(int(pid))


def ends(pid: int) -> bool:
    """Whether a process ends, or has: one that was killed has its end still before it."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 60)[0])
    finally:
        os.close(process)


def test_the_probes_own_folder_is_not_imported_from(tmp_path: Path) -> None:
    """A `run.py` or `cases.py` beside the probe must not hide a module of the vLLM's."""
    spy = "import json, sys; print('VLLM-PATCHER-PROBE', json.dumps({'device': sys.path[0]}))\n"
    path = packages(tmp_path, torch=spy + "raise SystemExit\n")
    called = ("smoke", "--python", sys.executable, "--case", "bf16", "--json")
    done = run(*called, PYTHONPATH=path)
    folder = Path(json.loads(done.stdout)["cases"][0]["device"])
    assert folder.name.startswith("vllm-patcher-smoke-")
    assert not folder.exists()


@pytest.mark.parametrize("path", ["none", "file"])
def test_what_is_not_an_interpreter(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    done = run("smoke", "--python", tmp_path / path, cwd=tmp_path)
    assert done.returncode == 2
    assert "is neither a Python interpreter nor a virtual environment" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("image", "--python", sys.executable)])
def test_one_thing_is_to_be_tried(arguments: tuple[str, ...]) -> None:
    done = run("smoke", *arguments)
    assert done.returncode == 2
    assert "say what to try" in done.stderr


def test_a_virtual_environment_is_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    done = run("smoke", "--python", tmp_path, PYTHONPATH=packages(tmp_path / "site"))
    assert "PyTorch sees no GPU" in done.stderr
