"""The catalogue: which patches there are, by name, in a folder and in a file."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from patcher.errors import BrokenCatalogue, UnknownPatch
from patcher.files import data_path
from patcher.rules.catalogue import catalogue, load_patch, select

GUARD = Path(data_path("patches"), "kv_b_proj_dtype.py").read_text()


def mine(folder: Path, name: str = "mine", file: str = "mine.py") -> Path:
    path = folder / file
    path.write_text(GUARD.replace('"kv-b-proj-dtype"', repr(name), 1))
    return path


def test_the_catalogue_is_in_the_order_of_the_names(tmp_path: Path) -> None:
    mine(tmp_path, "aaa", "zzz.py")
    mine(tmp_path, "passed-over", "_not_a_patch.py")
    names = [patch.name for patch in catalogue([tmp_path])]
    assert names == sorted(names)
    assert names[0] == "aaa"
    assert "passed-over" not in names


def test_a_patch_is_named_by_its_file_too(tmp_path: Path) -> None:
    path = str(mine(tmp_path))
    assert [patch.name for patch in select([path, "kv-b-proj-dtype"])] == [
        "kv-b-proj-dtype",
        "mine",
    ]


def test_what_cannot_be_named_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownPatch, match="Did you mean kv-b-proj-dtype"):
        select(["kv-b-proj-dtyp"])
    with pytest.raises(UnknownPatch) as caught:
        select(["qqqq"])
    assert "Did you mean" not in str(caught.value)
    with pytest.raises(UnknownPatch, match="there is no file"):
        select([str(tmp_path / "none.py")])
    same = str(mine(tmp_path, "kv-b-proj-dtype"))
    with pytest.raises(BrokenCatalogue, match="as another does"):
        select([same])
    with pytest.raises(BrokenCatalogue, match="both name their patch 'kv-b-proj-dtype'"):
        catalogue([tmp_path])
    with pytest.raises(BrokenCatalogue, match=r"mine\.py is not a folder"):
        catalogue([Path(same)])


def test_a_folder_that_cannot_be_listed_is_said(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(BrokenCatalogue) as caught:
            catalogue([tmp_path])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.problem.endswith("patches cannot be read: Too many open files")


def test_what_is_no_patch_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokenCatalogue, match="cannot be read"):
        load_patch(tmp_path)
    (tmp_path / "a.txt").write_text(GUARD)
    with pytest.raises(BrokenCatalogue, match="is not a Python file"):
        load_patch(tmp_path / "a.txt")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(BrokenCatalogue, match="binds no PATCH"):
        load_patch(tmp_path / "a.py")


def test_ctrl_c_while_a_patch_is_loaded_is_no_fault_of_its(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(f"import os, signal\nos.kill({os.getpid()}, signal.SIGINT)\nwhile True: pass\n")
    with pytest.raises(KeyboardInterrupt):
        load_patch(path)
