"""`vllm-patcher patches`, and patches of one's own beside the catalogue's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.commands import ONE, run
from tests.test_schemas import said

if TYPE_CHECKING:
    from pathlib import Path

MINE = """
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace

PATCH = Patch(
    name={name!r},
    version=1,
    title="ask for less",
    why="Too much is asked for.",
    targets=("vllm/one.py",),
    rule=Replace((Change("vllm/one.py", "limit", old="return 1", new="return 2"),)),
    upstream=((7, "issue: too much"), (8, "fix, in 0.29.0")),
    affected=(">=0.28.0,<0.29.0", ">=0.31.0"),
)
"""
FILE = b"def limit():\n    return 1\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a patch, and a tree that needs it."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(MINE.format(name="mine"))
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    (tmp_path / "vllm" / "_version.py").write_text("__version__ = version = '0.28.0'\n")
    (tmp_path / "vllm" / "one.py").write_bytes(FILE)
    return tmp_path


def test_the_catalogue_is_a_table() -> None:
    done = run("patches")
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["PATCH", "CLAIMED", "FOR", "LANDED", "IN", "WHAT", "IT", "DOES"]
    guard = next(row for row in rows if row.startswith("kv-b-proj-dtype"))
    cells = re.split(" {2,}", guard)
    assert cells[1:3] == [">=0.15.0,<0.18.0 or >=0.20.0,<0.28.0", "0.18.0, 0.28.0"]


def test_a_patch_is_explained(own: Path) -> None:
    done = run("patches", "./own/mine.py", cwd=own)
    assert done.returncode == 0, done.stderr
    assert "Too much is asked for." in done.stdout
    assert "landed in    0.29.0, no release yet" in done.stdout
    assert "https://github.com/vllm-project/vllm/issues/7  issue: too much" in done.stdout
    assert "https://github.com/vllm-project/vllm/pull/8  fix, in 0.29.0" in done.stdout
    assert "vllm/one.py: limit: `return 1` becomes `return 2`" in done.stdout


def test_as_data(own: Path) -> None:
    whole = said("patches", "--patches", "own", cwd=own)["patches"]
    assert [each["name"] for each in whole] == sorted(each["name"] for each in whole)
    mine = next(each for each in whole if each["name"] == "mine")
    assert mine["landed"] == ["0.29.0", None]
    assert said("patches", "mine", "--patches", "own", cwd=own)["patches"] == [mine]


@pytest.mark.parametrize("how", ["file", "folder", "variable"])
def test_a_patch_of_ones_own_is_named_in_every_way(own: Path, how: str) -> None:
    named = {
        "file": ["--patch", "own/mine.py"],
        "folder": ["--patches", "own", "--patch", "mine"],
        "variable": ["--patch", "mine"],
    }[how]
    variables = {"VLLM_PATCHER_PATCHES": "own"} if how == "variable" else {}
    for command, code in (("verify", 1), ("diff", 0), ("landed", 0)):
        done = run(command, ".", *named, cwd=own, **variables)
        assert done.returncode == code, done.stderr
        assert "mine" in done.stdout + done.stderr or "+    return 2" in done.stdout
    done = run("patch", ".", "--in-place", *named, cwd=own, **variables)
    assert done.returncode == 0, done.stderr
    assert (own / "vllm" / "one.py").read_bytes() == b"def limit():\n    return 2\n"
    assert run("verify", ".", *named, cwd=own, **variables).returncode == 0


def test_what_cannot_be_meant_is_told_with_its_file(own: Path) -> None:
    other = own / "other.py"
    other.write_text(MINE.format(name="mine"))
    twice = run("patches", "./other.py", "mine", "--patches", "own", cwd=own)
    assert twice.returncode == 3
    assert "other.py names its patch 'mine', as another does" in twice.stderr
    for text, problem in (
        ("raise ValueError('no')", "other.py:1: cannot be loaded: ValueError: no"),
        ("PATCH = 1", "other.py binds no PATCH"),
        (MINE.format(name="two words"), "other.py: the name 'two words' is not of letters"),
        (MINE.format(name="b").replace('("vllm/one.py",)', '("../one.py",)'), "'../one.py'"),
        (MINE.format(name="b").replace('">=0.31.0")', '">=0.31.0", 1)'), "affected of b is not"),
        (MINE.format(name="b").replace(">=0.31", "about 1"), "is not a version specifier"),
        (MINE.format(name="b").replace("rule=Rep", "rule=(1, ), version=Rep"), "cannot be loaded"),
    ):
        other.write_text(text)
        wrong = run("patches", "./other.py", cwd=own)
        assert wrong.returncode == 3, text
        assert problem in wrong.stderr
        assert "Traceback" not in wrong.stderr
    assert run("verify", ".", "--patch", "./none.py", cwd=own).returncode == 2
    unknown = run("verify", ".", "--patch", "none", *ONE, cwd=own)
    assert unknown.returncode == 2
    assert "no patch is named 'none'" in unknown.stderr
