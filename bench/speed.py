"""How long rewriting and verifying take, as ratios to the least that such work can take."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import libcst

from bench.files import fetched
from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.guard.writing.rewrite import rewrite

ROUNDS = 9
RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")


def report() -> None:
    """Print each figure with its aim."""
    source, wheel = fetched("0.23.0")
    work = lambda: verify(rewrite(source, RULE).data, RULE)  # noqa: E731
    bare = lambda: libcst.parse_module(source).code  # noqa: E731
    _print("rewrite + verify / libcst.parse_module(x).code", *_paired(work, bare), aim="2.5")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mla_attention.py"
        path.write_bytes(source)
        ours = _process("-m", "patcher", "verify", str(path))
        parse = _process("-c", f"import ast; ast.parse(open({str(path)!r}, 'rb').read())")
        _print("verify FILE / python -c ast.parse, processes", *_paired(ours, parse), aim="3.0")
    print(
        f"one file out of a wheel: {wheel.bytes_read / 1e3:.0f} KB of {wheel.size / 1e6:.0f} MB, "
        f"{wheel.size / wheel.bytes_read:.0f} times less"
    )


def _process(*arguments: str) -> Callable[[], object]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    return lambda: subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=False, env=environment
    )


def _paired(one: Callable[[], object], other: Callable[[], object]) -> tuple[list[float], ...]:
    """Seconds of each, in turn: a machine that slows down slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for call, seconds in zip((one, other), times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return tuple(seconds[1:] for seconds in times)  # the first round warms up


def _print(what: str, one: list[float], other: list[float], *, aim: str) -> None:
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    print(
        f"{what}: {statistics.median(ratios):.2f} (aim: at most {aim}; {min(ratios):.2f} to "
        f"{max(ratios):.2f}; medians {statistics.median(one) * 1e3:.0f} and "
        f"{statistics.median(other) * 1e3:.0f} ms, {ROUNDS} rounds)"
    )
