"""What `landed` costs on the real index: bytes, seconds, memory; cold, warm, per further release.

Each run is a process of its own. Bytes are what TLS handed over, HTTP headers included, both ways.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from typing import Any

from packaging.version import Version

import patcher.__main__  # noqa: F401 - it collects garbage as seldom as the program does
from patcher.errors import FileAbsent
from patcher.landed import Scope
from patcher.rules.catalogue import catalogue, select
from patcher.rules.verdict import Status
from patcher.sources.index import releases
from patcher.sources.upstream import Releases
from patcher.sources.wheel import open_listed
from patcher.web.http import Http

SINCE = Version("0.15.0")


def report() -> None:
    """Print each figure with its aim."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = _run(cache), _run(cache)
    with tempfile.TemporaryDirectory() as cache:
        wide = _run(cache, "everywhere")
    wheels, each = _each()
    print(f"landed: {len(each)} releases since {SINCE}, whose wheels have {wheels / 1e9:.2f} GB")
    for name, run, aim in (
        ("cold", cold, "40 MB, 10 s, 200 MB"),
        ("warm", warm, "only the index, 1 s"),
        ("cold, --everywhere", wide, "none"),
    ):
        print(
            f"  {name}: {run['bytes'] / 1e6:.2f} MB ({wheels / run['bytes']:.0f} times fewer), "
            f"{run['survey']:.2f} s (process {run['process']:.2f} s), "
            f"peak memory {run['peak'] / 1e6:.0f} MB; {run['requests']} requests (aim: {aim})"
        )
    print(f"  unread: {cold['unknown'] or 'none'}; KB of each release, oldest first:")
    print("   ", " ".join(f"{size / 1e3:.0f}" for size in each))


def _run(cache: str, *arguments: str) -> dict[str, Any]:
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "bench.landed", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": cache},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {**json.loads(ran.stdout), "process": time.perf_counter() - start}


def _child(everywhere: bool) -> None:
    """One survey, and what it cost, as JSON."""
    sizes: list[int] = []
    _count_bytes(sizes)
    start = time.perf_counter()
    from patcher.landed.survey import survey

    scope = Scope(since=SINCE, everywhere=everywhere)
    findings = survey(select([], Releases()), scope, lambda _: None, lambda *_: None)
    seconds = time.perf_counter() - start
    verdicts = [each.verdict for each in findings if each.verdict.status is Status.UNKNOWN]
    unknown = [f"{each.artifact} {each.patch}" for each in verdicts if not each.without_claim]
    print(
        json.dumps(
            {
                "bytes": sum(map(abs, sizes)),
                "requests": sum(size < 0 for size in sizes),
                "survey": seconds,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "unknown": unknown,
            }
        )
    )


def _count_bytes(sizes: list[int]) -> None:
    """Note what TLS hands over: received as positive numbers, sent as negative ones."""
    receive, send = ssl.SSLSocket.recv_into, ssl.SSLSocket.sendall

    def recv_into(self: ssl.SSLSocket, *arguments: Any) -> int:
        size = receive(self, *arguments)
        sizes.append(size)
        return size

    def sendall(self: ssl.SSLSocket, data: Any, *arguments: Any) -> None:
        sizes.append(-len(data))
        send(self, data, *arguments)

    ssl.SSLSocket.recv_into = recv_into  # type: ignore[method-assign, assignment]
    ssl.SSLSocket.sendall = sendall  # type: ignore[method-assign, assignment]


def _each() -> tuple[int, list[int]]:
    """The bytes of all wheels together, and what one release more costs: the bytes of each."""
    http = Http()
    known = [each for each in releases(None, http) if each.version >= SINCE]
    each = []
    for release in known:
        wheel = open_listed(release, http)
        for patch in catalogue():
            for target in patch.targets:
                with contextlib.suppress(FileAbsent):
                    wheel.read(target)
        each.append(wheel.bytes_read)
    return sum(release.size or 0 for release in known), each


if __name__ == "__main__":
    _child("everywhere" in sys.argv)
