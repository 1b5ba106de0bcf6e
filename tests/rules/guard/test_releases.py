"""Verifier and rewriter on the real target file of every release since it exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from patcher.rules.guard.prove import prove
from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.guard.writing.rewrite import rewrite

pytestmark = pytest.mark.no_cover

RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")
ReleaseFile = Callable[[str], bytes]

# (unguarded, guarded) of each release, as measured before this program existed.
MEASURED = {
    (1, 0): ["0.15.0", "0.15.1", "0.16.0"],
    (3, 0): ["0.17.0", "0.17.1"],
    (0, 2): ["0.18.0", "0.18.1", "0.19.0", "0.19.1"],
    (1, 2): ["0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.0", "0.22.1", "0.23.0", "0.24.0"],
    (1, 3): ["0.25.0", "0.25.1", "0.26.0", "0.27.0", "0.27.1"],
    (0, 1): ["0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"],
}
RELEASES = [version for versions in MEASURED.values() for version in versions]


@pytest.mark.parametrize(("counts", "versions"), MEASURED.items(), ids=str)
def test_releases_are_judged_as_measured_patched_and_left_as_vllms_formatter_would(
    release_file: ReleaseFile,
    tmp_path: Path,
    counts: tuple[int, int],
    versions: list[str],
) -> None:
    # Releases next to each other often have the same file.
    sources = {release_file(version): version for version in versions}
    patched = [patched_as_measured(source, *counts, version) for source, version in sources.items()]
    if counts[0]:
        assert rewrite(patched[-1], RULE).edits == ()
        assert_formatted(tmp_path, *sources, *patched)


def patched_as_measured(source: bytes, unguarded: int, guarded: int, version: str) -> bytes:
    counts = Counter(read.guarded for read in verify(source, RULE))
    assert (counts[False], counts[True]) == (unguarded, guarded), version
    rewritten = rewrite(source, RULE)
    prove(source, rewritten, RULE)
    assert len(rewritten.edits) == unguarded, version
    assert len(verify(rewritten.data, RULE)) == unguarded + guarded, version
    restored = rewritten.data
    for edit in rewritten.edits:  # in file order: what lies before an edit is restored already
        restored = restored[: edit.start] + edit.before + restored[edit.start + len(edit.after) :]
    assert restored == source, version
    return rewritten.data


def assert_formatted(folder: Path, *contents: bytes) -> None:
    for number, data in enumerate(contents):
        (folder / f"{number}.py").write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_a_patched_0_17_1_has_the_guards_of_upstreams_own_fix(release_file: ReleaseFile) -> None:
    patched = rewrite(release_file("0.17.1"), RULE)
    assert [edit.shape for edit in patched.edits] == ["gate", "value", "value"]
    assert _guards(patched.data) == _guards(release_file("0.18.0")) != set()


def _guards(source: bytes) -> set[str]:
    """The conditional expressions, and the operands of `and`, that stand around a guard."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.IfExp) and "kv_b_proj" in ast.unparse(node.test):
            found.add(ast.unparse(node))
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            found |= {ast.unparse(value) for value in node.values if "kv_b_proj" in ast.dump(value)}
    return found
