"""Patching in place: many at once, and somebody else at the same file."""

from __future__ import annotations

import importlib.util
import py_compile
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from patcher.errors import Unreadable, Unwritable, UsageError
from patcher.jobs.in_place import Edit, patch_path, replace_sources
from patcher.rules.catalogue import select
from patcher.rules.datafile import DataFile
from tests.commands import ONE, start
from tests.conftest import TARGET

NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"


def tree_of(folder: Path) -> tuple[Path, Path]:
    """A source file in a tree, and its bytecode, which Python runs without a look at the source."""
    source = folder / TARGET
    source.parent.mkdir(parents=True)
    for package in (source.parent, *source.parent.parents[:2], folder / "vllm"):
        (package / "__init__.py").touch()
    source.write_bytes(NEEDED)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), invalidation_mode=unchecked)
    return source, Path(importlib.util.cache_from_source(str(source)))


def test_ten_runs_at_once_patch_a_tree_once_and_leave_no_bytecode(tmp_path: Path) -> None:
    source, stale = tree_of(tmp_path / "tree")
    command: list[str | Path] = ["patch", source.parents[4], "--in-place", *ONE]
    runs = [run.wait() for run in [start(*command, as_one=True) for _ in range(10)]]
    said = [run.stdout for run in runs]
    assert [run.returncode for run in runs] == [0] * 10, said
    assert sum("patched 1 place" in each for each in said) == 1
    assert sum("nothing to patch" in each for each in said) == 9
    assert b"hasattr" in source.read_bytes()
    assert list(stale.parent.iterdir()) == []


def test_what_another_has_written_meanwhile_is_not_taken_back(tmp_path: Path) -> None:
    """Be it the same that we would have written: the bytecode must not come back over it."""
    source, stale = tree_of(tmp_path / "tree")
    edit = Edit(NEEDED, b"patched\n")
    source.write_bytes(b"patched\n")
    with pytest.raises(Unwritable, match="it was changed meanwhile"):
        replace_sources({source: edit})
    assert source.read_bytes() == edit.after
    assert stale.exists()


def test_an_output_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Also where an earlier file was there, and no folder that was made for it is left."""
    tree_of(tmp_path / "tree")
    output = tmp_path / "new" / "output"
    tuned = DataFile("vllm/tuned.json", b"{}")
    [one] = select(["kv-b-proj-dtype"])
    both = (one, replace(one, name="tuned", targets=(tuned.path,), rule=tuned))
    patch_path(tmp_path / "tree", both, output)
    assert (output / tuned.path).read_bytes() == b"{}"
    shutil.rmtree(output.parent)
    for before in (None, b"old"):
        if before:
            (output / TARGET).parent.mkdir(parents=True)
            (output / TARGET).write_bytes(before)
        (output / tuned.path).mkdir(parents=True)
        with pytest.raises(Unreadable, match=r"tuned\.json cannot be read"):
            patch_path(tmp_path / "tree", both, output)
        (output / tuned.path).rmdir()
        there = [path for path in output.rglob("*") if path.is_file()]
        assert there == ([output / TARGET] if before else [])
        assert not before or (output / TARGET).read_bytes() == before
        assert before or list(output.rglob("*")) == [output / "vllm"]


def test_bytecode_that_a_killed_run_set_aside_is_cleared(tmp_path: Path) -> None:
    _, stale = tree_of(tmp_path / "tree")
    left = stale.with_name(f"{stale.name}.4242.removed")
    other = stale.with_name("another.cpython-311.pyc.4242.removed")
    for path in (left, other):
        path.write_bytes(b"old")
    patch_path(tmp_path / "tree", select(["kv-b-proj-dtype"]), None)
    assert list(stale.parent.iterdir()) == [other]


def test_an_output_is_no_folder_for_a_file_and_not_what_is_patched(tmp_path: Path) -> None:
    """`-o` over the file itself left bytecode beside it that Python may go on to run."""
    source, _ = tree_of(tmp_path / "tree")
    [one] = select(["kv-b-proj-dtype"])
    before = source.read_bytes()
    with pytest.raises(UsageError, match=rf"is a folder\. .*-o {tmp_path}/{source.name}"):
        patch_path(source, [one], tmp_path)
    for path, output in (
        (source, source),
        (tmp_path / "tree", tmp_path / "tree"),
        (tmp_path / "tree", tmp_path / "tree" / "vllm" / ".."),
    ):
        with pytest.raises(UsageError, match=r"that is to be patched\. Give --in-place"):
            patch_path(path, [one], output)
    assert source.read_bytes() == before


def test_an_output_is_not_written_through_a_link_in_it(tmp_path: Path) -> None:
    tree_of(tmp_path / "tree")
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "output"
    elsewhere.mkdir()
    output.mkdir()
    (output / "vllm").symlink_to(elsewhere)
    with pytest.raises(Unwritable, match="vllm is a symbolic link"):
        patch_path(tmp_path / "tree", select(["kv-b-proj-dtype"]), output)
    assert list(elsewhere.iterdir()) == []
