"""Publications that are killed at each request, and many at once: `python -m bench.kills`.

The program runs in a fork that is killed (SIGKILL) before and after each of its requests, from an
empty target and from one that has an older image under the tag. Then the tag is looked at, all of
what it leads to, and a second run must come to the same digest. At last 64 processes publish one
image to one repository. The registry is a real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from patcher.__main__ import main as program
from tests.bases import Base, write_lock
from tests.conftest import real_registry
from tests.indexes import add_index
from tests.memory import OCI, Memory
from tests.places.test_stored import is_whole
from tests.registries import LOSE, LOSE_ANSWER, PASS, Proxy, fetch, proxy_of, put_manifest, upload

NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"
BASE = Base("v0.23.0", "0.23.0", NEEDED)
TAG = "0.23.0-patched"
AT_ONCE = 64


@dataclass(frozen=True)
class World:
    """A registry, the proxy in front of it, and the lock of the base."""

    host: str
    proxy: Proxy
    lock: Path

    def publish(self, repository: str) -> int | str:
        """Run the program in a fork; its exit code, or the signal that ended it."""
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            to = f"{self.proxy.address}/{repository}"
            sys.argv = ["vllm-patcher", "image", "0.23.0", "--lock", str(self.lock), "--to", to]
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    program()
                except SystemExit as end:
                    code = int(end.code or 0)
            os._exit(code)
        self.child[0] = child
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
        return os.waitstatus_to_exitcode(status)

    @property
    def child(self) -> list[int]:
        return _CHILD


_CHILD = [0]


def kills(world: World, *, older: bool, fate: str, step: int) -> Counter[str]:
    """Each cut of one kind: how many there were, and what was broken after one."""
    found: Counter[str] = Counter()
    old = Memory()
    old_root = add_index(old, OCI, filler=100)
    digests: set[bytes | None] = set()
    cut = 0
    while True:
        cut += step
        name = f"{'older' if older else 'fresh'}-{fate.replace(' ', '-')}/{cut}"
        if older:
            upload(world.host, name, old.data, old_root)
            put_manifest(world.host, name, TAG, old_root["mediaType"], old.data[old_root["digest"]])

        def decide(number: int, *_: str, cut: int = cut) -> str:
            if number != cut:
                return PASS
            os.kill(_CHILD[0], signal.SIGKILL)
            return fate

        world.proxy.forget()
        world.proxy.decide = decide
        if world.publish(name) != "SIGKILL":
            return found + Counter(digests=len(digests))
        found["kills"] += 1
        there = fetch(world.host, name, "manifests", TAG)
        wrong = there is None if older else False
        found["tags broken"] += wrong or (there is not None and not is_whole(world.host, name, TAG))
        world.proxy.decide = lambda *_: PASS
        again = world.publish(name)
        found["second runs that failed"] += again != 0
        found["second runs not whole"] += not is_whole(world.host, name, TAG)
        digests.add(fetch(world.host, name, "manifests", TAG))


def many(world: World) -> Counter[str]:
    """64 processes, one image, one repository."""
    to = f"{world.host}/many/at-once"
    command = [sys.executable, "-m", "patcher", "image", "0.23.0", "--lock", str(world.lock)]
    runs = [
        subprocess.Popen([*command, "--to", to], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(AT_ONCE)
    ]
    said = [run.communicate()[0].decode() for run in runs]
    codes = Counter(f"exit {run.returncode}" for run in runs)
    for run, text in zip(runs, said, strict=True):
        if run.returncode:
            print(text[-500:])
    return codes + Counter(whole=is_whole(world.host, "many/at-once", TAG))


def report(step: int) -> None:
    """Print all of it; of the requests only every `step`-th is cut at."""
    with (
        tempfile.TemporaryDirectory() as folder,
        real_registry(Path(folder) / "registry") as host,
        proxy_of(host) as proxy,
    ):
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        digest = BASE.push(host, "base/vllm")
        lock = Path(folder) / "images.lock"
        write_lock(lock, BASE.entry(f"{proxy.address}/base/vllm", digest))
        world = World(host, proxy, lock)
        for older in (False, True):
            for fate in (LOSE, LOSE_ANSWER):
                found = kills(world, older=older, fate=fate, step=step)
                print(json.dumps({"older tag": older, "fate": fate, **found}), flush=True)
        proxy.decide = lambda *_: PASS
        print(json.dumps({"at once": AT_ONCE, **many(world)}), flush=True)


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
