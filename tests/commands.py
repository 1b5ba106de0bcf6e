"""Running the program as a user does: a process of its own, its streams and its exit code.

The process is forked from one that has imported the program and called nothing of it: else every
call waits for the same imports, which take longer than most commands.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.context import ForkServerProcess

# A test means this patch, and not whatever else the catalogue comes to hold.
ONE = ("--patch", "kv-b-proj-dtype")

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.commands", "tests.preloaded"])

# What Python itself reads, it reads when it starts.
_OF_PYTHON = ("PYTHON", "LC_", "LANG")


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`vllm-patcher ARGUMENTS...`; streams are text, undecodable bytes are kept as surrogates."""
    if not any(name.startswith(_OF_PYTHON) for name in environment):
        return start(*arguments, cwd=cwd, environment=environment).wait()
    return subprocess.run(
        [sys.executable, "-m", "patcher", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def start(
    *arguments: str | Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    as_one: bool = False,
) -> Running:
    """As `run`, and does not wait for it.

    `as_one`: standard output gets both streams, as a terminal shows them.
    """
    spare = TemporaryDirectory()
    out, err = Path(spare.name, "out"), Path(spare.name, "out" if as_one else "err")
    call = [*map(str, arguments)]
    process = fork(call, cwd or Path.cwd(), {**os.environ, **environment}, out, err)
    return Running(call, process, spare, out, err)


def fork(
    call: list[str],
    folder: Path,
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    checkout: Path | None = None,
) -> ForkServerProcess:
    """The program's process, begun. Its patches and the like are a checkout's that is named."""
    given = (call, folder, environment, out, err, checkout)
    process = _FORKS.Process(target=_program, args=given)
    process.start()
    return process


@dataclass(frozen=True)
class Running:
    """A call that has begun, and the files that its streams go to, in a folder of its own."""

    call: list[str]
    process: ForkServerProcess
    spare: TemporaryDirectory[str]
    out: Path
    err: Path

    def wait(self) -> subprocess.CompletedProcess[str]:
        """How it ended."""
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        self.process.close()
        out, err = (path.read_text(errors="surrogateescape") for path in (self.out, self.err))
        self.spare.cleanup()
        return subprocess.CompletedProcess(
            self.call, code, out, "" if self.out == self.err else err
        )


def _program(
    call: list[str],
    folder: Path,
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    checkout: Path | None,
) -> None:
    """In the new process: be the program."""
    from patcher import files
    from patcher.__main__ import main

    if checkout is not None:
        files.__file__ = str(checkout / "patcher" / "files.py")

    for number, path in enumerate((out, err), start=1):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = ["vllm-patcher", *call]
    main()
