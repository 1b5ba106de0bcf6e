"""`vllm-patcher new` on real releases: what it writes is a patch, formatted, with its claim."""

from __future__ import annotations

import ast
import difflib
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.patches.wheels import source_of
from tests.test_schemas import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROPOSER = "vllm/v1/spec_decode/llm_base_proposer.py"
NAME = "SpecDecodeBaseProposer._maybe_share_embeddings"


def body(data: bytes) -> str:
    """The function as its file has it."""
    node: ast.AST = ast.parse(data)
    for part in NAME.split("."):
        node = next(each for each in node.body if getattr(each, "name", "") == part)  # type: ignore[attr-defined]
    assert isinstance(node, ast.FunctionDef)
    lines = data.decode().splitlines(keepends=True)
    return "".join(lines[node.lineno - 1 : node.end_lineno])


@pytest.mark.parametrize("way", ["diff", "releases"])
def test_a_fix_becomes_a_patch_that_claims_what_needs_it(
    tmp_path: Path, release_file: Callable[..., bytes], way: str
) -> None:
    old, new = (release_file(version, PROPOSER) for version in ("0.26.0", "0.27.0"))
    assert source_of(old, NAME) != source_of(new, NAME)
    fixed = old.decode().replace(body(old), body(new))
    one, other = (text.splitlines(keepends=True) for text in (old.decode(), fixed))
    diff = difflib.unified_diff(one, other, f"a/{PROPOSER}", f"b/{PROPOSER}")
    (tmp_path / "pr.diff").write_text("".join(diff))
    words = {
        "diff": ("--diff", "pr.diff", "--from", "0.26.0"),
        "releases": ("--before", "0.26.0", "--after", "0.27.0", "--function", f"{PROPOSER}:{NAME}"),
    }[way]
    output = "mine" if way == "diff" else tmp_path / "mine"
    done = run("new", "share-it", *words, "-o", output, "--json", cwd=tmp_path)
    said = check(done.stdout, done.returncode)
    assert said["affected"] == [">=0.25.0,<0.27.0"]
    assert said["functions"] == [f"{PROPOSER}: {NAME}"]
    file = tmp_path / "mine" / "share_it.py"
    assert (file.with_suffix(".diff").exists()) is (way == "diff")
    form = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100", str(file)]
    assert subprocess.run(form, capture_output=True, check=False).returncode == 0
    shown = run(*shlex.split(done.stderr.splitlines()[-1])[1:], cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[2:] == (tmp_path / "pr.diff").read_text().splitlines()[2:]
    if way == "diff":
        needless = (*words[:3], "0.27.0", "-o", "none/left")
        assert run("new", "share-it", *needless, cwd=tmp_path).returncode == 1
        assert not (tmp_path / "none").exists()


def test_a_call_that_says_too_little_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "pr.diff").write_text("no diff\n")
    for words, code in (
        ((), 2),
        (("--diff", "pr.diff"), 2),
        (("--diff", "pr.diff", "--pr", "1", "--from", "0.26.0"), 2),
        (("--before", "0.26.0", "--after", "0.27.0"), 2),
        (("--diff", "pr.diff", "--from", "0.26.0"), 3),
    ):
        done = run("new", "mine", *words, "-o", "out", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert not (tmp_path / "out").exists()
    words = ("--before", "0.27.0", "--after", "0.26.0", "--function", f"{PROPOSER}:{NAME}")
    done = run("new", "mine", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--before 0.27.0 is not before --after 0.26.0\n next: Swap them." in done.stderr
    assert run("new", "a b", "--diff", "pr.diff", "--from", "0.26.0", cwd=tmp_path).returncode == 2
