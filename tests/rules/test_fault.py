"""A patch file that is broken: one error that names the file, the line and the field."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from patcher.errors import BrokenCatalogue, PatcherError
from patcher.report.patches import explained
from patcher.rules.apply import apply_files
from patcher.rules.catalogue import catalogue, load_patch, select
from patcher.rules.fault import blaming
from patcher.rules.verdict import judge_files

A = "vllm/a.py"

# Line 13 is what `find` does, line 16 what `rewrite` does.
SOUND = """\
from dataclasses import dataclass

from patcher.rules.patch import Patch
from patcher.rules.rule import Found, Place, Rewritten, Words


@dataclass(frozen=True)
class Mine:
    words = Words()

    def find(self, files):
        place = Place("vllm/a.py", 1, 1, "", "x", needed=files["vllm/a.py"] == b"old")
        return Found((place,))

    def rewrite(self, files):
        return {"vllm/a.py": Rewritten(b"new", ())}

    def prove(self, before, after):
        pass

    def explain(self):
        return ("old becomes new",)


PATCH = Patch(
    name="mine", version=1, title="t", why="w", targets=("vllm/a.py",), rule=Mine(),
    upstream=((1, "issue: x"),), affected=(">=0.1",), valid=(), invalid=(), smoke=(),
)
"""

FIND, REWRITE = "return Found((place,))", 'return {"vllm/a.py": Rewritten(b"new", ())}'
TARGETS = 'targets=("vllm/a.py",)'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


def written(path: Path, old: str, new: str) -> Path:
    assert SOUND.count(old) == 1
    path.write_text(SOUND.replace(old, new))
    return path


def problem_of(call: Callable[[], object]) -> str:
    with pytest.raises(BrokenCatalogue) as caught:
        call()
    return caught.value.problem


def test_a_rule_that_holds_a_list_is_no_value(path: Path) -> None:
    written(path, "    words = Words()\n", "    words = Words()\n    held: object = None\n")
    path.write_text(path.read_text().replace("rule=Mine()", "rule=Mine([])"))
    assert "the rule of mine, Mine, is not a frozen dataclass" in problem_of(
        lambda: load_patch(path)
    )


def test_a_fault_of_the_programs_own_is_no_patchs() -> None:
    with pytest.raises(ZeroDivisionError), blaming("mine"):
        raise ZeroDivisionError


def test_the_sound_one_is_taken(path: Path) -> None:
    path.write_text(SOUND)
    patch = load_patch(path)
    assert judge_files(patch, {A: b"old"}, "x").needed == 1
    assert apply_files(patch, {A: b"old"})[A].data == b"new"
    assert "old becomes new" in "".join(explained(patch))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\0", ": cannot be loaded: SyntaxError"),
        (b"x = 1\ndef (:\n", ":2: cannot be loaded: SyntaxError: invalid syntax"),
        (b"x = 1\ny = '\xff'\n", ":2: cannot be loaded: SyntaxError"),
        (b"# coding: nope\n", ": cannot be loaded: SyntaxError: unknown encoding: nope"),
        (b"\nimport no_such_module\n", ":2: cannot be loaded: ModuleNotFoundError"),
        (b"def f():\n    raise ValueError('x\\n::add-mask::y')\nf()\n", r":2: cannot be loaded: V"),
        (b"import sys\nsys.exit(0)\n", ":2: cannot be loaded: SystemExit: 0"),
        (b"class E(BaseException): ...\nraise E\n", ":2: cannot be loaded: E"),
        (b"def f(): f()\nf()\n", ":1: cannot be loaded: RecursionError"),
        (
            b"class E(Exception):\n    def __str__(self): return 1 / 0\nraise E\n",
            ":3: cannot be loaded: E",
        ),
        (b"", " binds no PATCH"),
        (b"#" * (5 << 20), " cannot be read: it has more than 4 MiB"),
    ],
)
def test_a_file_that_does_not_run_is_told_by_its_line(
    path: Path, content: bytes, said: str
) -> None:
    path.write_bytes(content)
    problem = problem_of(lambda: load_patch(path))
    assert problem.startswith(f"{path}{said}"), problem


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name="mine"', "name=3", "the name 3 is not"),
        ('name="mine"', 'name="a\\n::x"', "the name 'a\\n::x' is not"),
        ("version=1", "version=True", "version of mine is not a number"),
        ("version=1", "version=0", "version of mine is not a number"),
        ('title="t"', "title=None", "title of mine is not a text"),
        ('why="w"', "why=b'w'", "why of mine is not a text"),
        (TARGETS, 'targets="vllm/a.py"', "targets of mine is not a tuple"),
        (TARGETS, "targets=()", "targets of mine is not a tuple"),
        (TARGETS, "targets=(1,)", "targets of mine is not a tuple"),
        (TARGETS, 'targets=("/etc/passwd",)', "'/etc/passwd', a target of mine, is not a path"),
        (TARGETS, 'targets=("vllm/../../x.py",)', "'vllm/../../x.py', a target"),
        (TARGETS, 'targets=("vllm/a\\n::x.py",)', "'vllm/a\\n::x.py', a target"),
        (TARGETS, 'targets=("vllm/a\\0.py",)', "'vllm/a\\x00.py', a target"),
        (TARGETS, 'targets=("vllm/" + "a/" * 3000,)', "'vllm/a/"),
        (TARGETS, 'targets=("vllm/a.py", "vllm/a.py")', "a target of mine is named twice"),
        (TARGETS, 'targets=tuple(f"vllm/{n}.py" for n in range(101))', "mine has 101 targets"),
        ('upstream=((1, "issue: x"),)', 'upstream=(1, "issue: x")', "upstream of mine is not"),
        ('affected=(">=0.1",)', "affected=(1,)", "affected of mine is not"),
        ('affected=(">=0.1",)', 'affected=("x",)', "the patch mine claims what is not"),
        (" valid=()", " valid=None", "valid of mine is not"),
        ("invalid=()", "invalid=(1,)", "invalid of mine is not a tuple of Examples"),
        ("smoke=()", "smoke=(1,)", "smoke of mine is not"),
        ("words = Words()", "words = Words(1)", "the words of mine's rule"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(path: Path, old: str, new: str, said: str) -> None:
    problem = problem_of(lambda: load_patch(written(path, old, new)))
    shown = said.replace("\n", "\\n").replace("\0", "\\x00")
    assert problem.startswith(f"{path}: {shown}"), problem


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (FIND, "1 / 0", ":13: the rule of mine failed: ZeroDivisionError"),
        (FIND, "raise SystemExit(0)", ":13: the rule of mine failed: SystemExit: 0"),
        (FIND, "return self.find(files)", ": the rule of mine failed: RecursionError"),
        (FIND, "return None", "find of the rule of mine does not give Found"),
        (FIND, "return Found((1,))", "find of the rule of mine does not give Found"),
        (FIND, "return Found((Place('b', 1, 1, '', 'x', True),))", "find of the rule of mine"),
        (REWRITE, "1 / 0", ":16: the rule of mine failed: ZeroDivisionError"),
        (REWRITE, "return None", "rewrite of the rule of mine does not give Rewritten"),
        (REWRITE, "return {'../b': Rewritten(b'', ())}", "rewrite of the rule of mine"),
        (REWRITE, "return {'vllm/a.py': 1}", "rewrite of the rule of mine"),
        ("pass", "del before[1]", ":19: the rule of mine failed: KeyError: 1"),
        ('return ("old becomes new",)', "1 / 0", ":22: the rule of mine failed: ZeroDivision"),
    ],
)
def test_a_rule_that_fails_is_the_patchs_fault(path: Path, old: str, new: str, said: str) -> None:
    patch = load_patch(written(path, old, new))

    def use() -> None:
        explained(patch)
        apply_files(patch, {A: b"old"})

    problem = problem_of(use)
    assert said in problem, problem


def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    """Named, or in a folder of patches."""
    folder, pipe = tmp_path / "folder.py", tmp_path / "own" / "pipe.py"
    folder.mkdir()
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    for call, path in (
        (lambda: select([str(folder)]), folder),
        (lambda: select([str(pipe)]), pipe),
        (lambda: catalogue([pipe.parent]), pipe),
    ):
        assert problem_of(call) == f"{path} cannot be read: it is not a regular file"
    (tmp_path / "loop.py").symlink_to("loop.py")
    with pytest.raises(PatcherError, match=r"loop\.py cannot be read: Too many levels of symbolic"):
        select([str(tmp_path / "loop.py")])
