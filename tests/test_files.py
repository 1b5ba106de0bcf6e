"""A write is whole or it did not happen."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from patcher.errors import Unwritable
from patcher.files import write_atomically

NOBODY = 65534


def test_a_new_file_has_the_bytes_and_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    before = os.umask(0o027)
    try:
        write_atomically(path, b"\r\n\x00")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"\r\n\x00"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444, 0o4755])
def test_an_existing_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")
    os.chown(path, NOBODY, NOBODY)
    write_atomically(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)


def test_a_symbolic_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "file.py", tmp_path / "link.py"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == [link, real.parent]


def test_a_hard_link_elsewhere_keeps_the_old_bytes(tmp_path: Path) -> None:
    path, cache = tmp_path / "installed.py", tmp_path / "cache.py"
    cache.write_bytes(b"old")
    path.hardlink_to(cache)
    write_atomically(path, b"new")
    assert (path.read_bytes(), cache.read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["os.fsync", "os.fchmod", "pathlib.Path.replace"])
def test_a_failed_or_interrupted_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, step: str
) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        expected = KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else Unwritable
        with pytest.raises(expected):
            write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_device_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(Unwritable, match=f"{path} cannot be written: it is not a regular file"):
            write_atomically(path, b"new")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match=r"gone/file\.py cannot be written: No such file"):
        write_atomically(tmp_path / "gone" / "file.py", b"new")


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "loop.py"
    link.symlink_to(link)
    with pytest.raises(Unwritable, match=r"loop\.py cannot be written"):
        write_atomically(link, b"new")


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root's rights to show the refusal")
def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(Unwritable, match="Permission denied"):
            write_atomically(path, b"new")
    finally:
        os.seteuid(0)
    assert list(tmp_path.iterdir()) == [path]
