"""The streams of a process and its first moments: one clear error each, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ONE

READ = "x = f().kv_b_proj.weight.dtype\n"

CALLS = {
    "a finding": ["verify", "a.py", *ONE],
    "a finding as JSON": ["verify", "a.py", *ONE, "--json"],
    "bytes": ["diff", "a.py", *ONE],
    "an error as JSON": ["verify", "nothing-here.py", "--json"],
    "a wrong call as JSON": ["verify", "--json"],
    "a long answer": ["lock", "list", "--json"],
    "help": ["--help"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(f"def g(self):\n    {READ.replace('f()', 'self')}")
    return tmp_path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program as `$@`, so that the shell makes the streams what a user makes them."""
    line = command.replace("PROGRAM", f"{sys.executable} -m patcher")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False
    )


FULL = (">/dev/full", "No space left on device")
CLOSED = (">&-", "Bad file descriptor")


@pytest.mark.parametrize(
    ("call", "stream"),
    [*((name, FULL) for name in CALLS), ("a finding", CLOSED), ("an error as JSON", CLOSED)],
)
def test_an_answer_that_is_lost_is_one_error(
    folder: Path, call: str, stream: tuple[str, str]
) -> None:
    stdout, reason = stream
    ran = shell(f"PROGRAM {' '.join(CALLS[call])} {stdout}", folder)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.count(f"error: standard output cannot be written: {reason}\n next: ") == 1
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


def test_a_closed_pipe_is_one_error(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [sys.executable, "-m", "patcher", "lock", "list", "--json"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=folder,
    )  # fmt: skip
    os.close(writing)
    assert ran.returncode == 3
    assert ran.stderr.startswith("error: standard output cannot be written: Broken pipe\n next: ")
    assert ran.stderr.count("\n") == 2


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2>&- <&-"])
def test_who_cannot_be_talked_to_gets_the_answer_all_the_same(folder: Path, stderr: str) -> None:
    ran = shell(f"PROGRAM {' '.join(CALLS['a finding as JSON'])} {stderr}", folder)
    assert (ran.returncode, json.loads(ran.stdout)["command"]) == (1, "verify")
    assert shell(f"PROGRAM verify nothing-here.py {stderr}", folder).returncode == 2


def test_a_file_never_gets_the_number_of_a_closed_stream(folder: Path) -> None:
    """What git, a helper or a library prints would end up in it."""
    program = (
        "import os, subprocess, sys\n"
        "from patcher.__main__ import _open_streams\n"
        "_open_streams()\n"
        "with open('made', 'w') as file:\n"
        "    assert file.fileno() > 2\n"
        "    subprocess.run(['sh', '-c', 'echo lost; echo lost >&2'], check=False)\n"
    )
    command = f'exec {sys.executable} -c "$0" <&- >&- 2>&-'
    ran = subprocess.run(["bash", "-c", command, program], cwd=folder, check=False)
    assert (ran.returncode, (folder / "made").read_bytes()) == (0, b"")


def test_an_argument_cannot_speak_to_the_runner(folder: Path) -> None:
    hostile = "'x\n::add-mask::y'"
    for call, code in ((f"verify a.py {hostile}", 1), (f"cache info {hostile}", 2)):
        ran = shell(f"PROGRAM {call}", folder)
        assert ran.returncode == code
        assert not any(line.strip().startswith("::") for line in ran.stderr.splitlines())


@pytest.mark.parametrize("module", ["patcher.errors", "click", "patcher.cli"])
def test_ctrl_c_while_it_starts_shows_no_traceback(folder: Path, module: str) -> None:
    """At the moment when one of the first modules is looked for."""
    program = (
        "import os, signal, sys\n"
        "class Cut:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Cut())\n"
        "from patcher.__main__ import main\n"
        "sys.argv = ['vllm-patcher', 'verify', 'a.py']\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in ran.stderr
