"""The files at the top of the repository, held against what they speak of."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ONE

ROOT = Path(__file__).parents[1]


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_a_commit_is_checked_by_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    lint = makefile.partition("\nlint:")[2].partition("\n\n")[0]
    [repository] = document(".pre-commit-config.yaml")["repos"]
    assert repository["hooks"]
    for hook in repository["hooks"]:
        entry = hook["entry"].replace(" --force-exclude", "")
        assert f"\t{entry}" in lint


def test_the_hook_for_others_fails_on_what_needs_a_patch_and_passes_what_does_not(
    tmp_path: Path,
) -> None:
    [hook] = document(".pre-commit-hooks.yaml")
    program, *arguments = shlex.split(hook["entry"])
    assert (program, hook["language"]) == ("vllm-patcher", "python")
    for source, code in (("x = kv_b_proj.weight.dtype\n", 1), ("x = 1\n", 0)):
        (tmp_path / "b.py").write_text(source)
        (tmp_path / "a.py").touch()
        command = [sys.executable, "-m", "patcher", *arguments, *ONE, "a.py", "b.py"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert ran.returncode == code, ran.stderr


def test_the_list_of_make_fits_a_terminal() -> None:
    listed = re.findall(r"^([a-z]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(listed) == 14
    assert [name for name, said in listed if len(said) > 80 - len("  make engines  ")] == []


def test_make_says_what_it_installs_before_it_does() -> None:
    rules = (ROOT / "Makefile").read_text().split("\n\n")
    installing = [rule for rule in rules if "/python $(PIP)" in rule]
    assert len(installing) == 5
    for rule in installing:
        assert 'echo "' in rule.partition("$(PIP)")[0], rule
    assert sum(rule.count("pip install") for rule in rules) == 1, "in PIP"


def test_what_is_not_counted_is_not_traced(request: pytest.FixtureRequest) -> None:
    """Under `make test`, in a worker: pytest-cov's own pause leaves one tracer of two."""
    assert not request.config.pluginmanager.hasplugin("_cov") or sys.gettrace() is None
