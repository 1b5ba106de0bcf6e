"""Cut a command off before each of its calls that change a file, in a process of its own.

    python -m tests.cutting STEP FOLDER COMMAND...

runs `vllm-patcher COMMAND...` in a fork for each cut: killed, with a full disk, with Ctrl-C; of the
last two only every STEP-th. FOLDER is put back before each. One JSON line a cut: how it ended, what
FOLDER then held, how a second run ended, and what it then held. Python's audit events show the
calls (PEP 578).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"}
FATES = ("kill", "full", "interrupt")


def main() -> None:
    """See the module."""
    step, folder, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with tempfile.TemporaryDirectory() as spare:
        kept = Path(spare) / "kept"
        shutil.copytree(folder, kept, symlinks=True)
        warm_up(command)
        for fate in FATES:
            for cut in itertools.count(1, 1 if fate == "kill" else step):
                put_back(kept, folder)
                ended = run(command, folder, cut, fate)
                if ended == "passed over":
                    break
                there, empty = snapshot(folder), empty_folders(folder)
                again = run(command, folder, 0, fate)
                line = {"fate": fate, "cut": cut, "ended": ended, "there": there, "empty": empty}
                result = {**line, "again": again, "then": snapshot(folder)}
                sys.stdout.write(json.dumps(result) + "\n")


def warm_up(command: list[str]) -> None:
    """Once in this process, so that each fork has its imports and caches."""
    from patcher.__main__ import main as program

    sys.argv = ["vllm-patcher", *command]
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(SystemExit),
    ):
        program()
    gc.freeze()  # else a fork's first collection writes to every page


def put_back(kept: Path, folder: Path) -> None:
    """As it was before any run."""
    shutil.rmtree(folder)
    shutil.copytree(kept, folder, symlinks=True)


def snapshot(folder: Path) -> dict[str, str]:
    """Each file's digest, by its path below the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def empty_folders(folder: Path) -> list[str]:
    """Those below the folder that hold nothing."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_dir())
    return [str(path.relative_to(folder)) for path in found if not any(path.iterdir())]


def run(command: list[str], folder: Path, cut: int, fate: str) -> str | int:
    """The exit code, or the signal's name; `passed over` where there are fewer changes."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        _work(command, folder, cut, fate, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reached = pipe.read()
    _, status = os.waitpid(child, 0)
    if cut and not reached:
        return "passed over"
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return os.waitstatus_to_exitcode(status)


def _work(command: list[str], folder: Path, cut: int, fate: str, writing: int) -> None:
    from patcher.__main__ import main as program

    seen = 0
    where = str(folder)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if not cut or not _changes(event, args, where):
            return
        seen += 1
        if seen == cut:
            os.write(writing, b"x")
            if fate == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fate == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise KeyboardInterrupt

    sys.addaudithook(hook)
    sys.argv = ["vllm-patcher", *command]
    code = 0
    try:
        program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(code)


def _changes(event: str, args: tuple[Any, ...], folder: str) -> bool:
    """Is it a call that changes a file? Of those by a folder's descriptor all are taken."""
    if event == "open":
        path, _, flags = args
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(writes) and isinstance(path, str) and _near(path, folder)
    return event in CHANGES and _near(str(args[0]), folder)


def _near(path: str, folder: str) -> bool:
    return not path.startswith("/") or path.startswith(folder)


if __name__ == "__main__":
    main()
