"""A write is whole or it did not happen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from patcher.errors import BrokenCatalogue, Unreadable, Unwritable
from patcher.files import (
    all_or_none,
    is_file,
    is_folder,
    is_there,
    open_file,
    read_file,
    replacing,
    scratch_folder,
    write_atomically,
)
from patcher.rules.catalogue import _files
from tests.conftest import missing

NOBODY = 65534


@contextlib.contextmanager
def closed(folder: Path, mode: int = 0) -> Iterator[None]:
    """A folder that whoever runs this may not look into; root becomes somebody else for it."""
    is_root = os.geteuid() == 0
    folder.chmod(mode)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_what_may_not_be_looked_at_is_unreadable_and_not_a_fault_of_the_program(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    with closed(tmp_path):
        for question in (is_there, is_file, is_folder):
            with pytest.raises(Unreadable, match="folder cannot be read: Permission denied"):
                question(tmp_path / "folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Unreadable, match="Too many levels of symbolic links"):
        is_there(tmp_path / "loop" / "x")


def test_what_cannot_be_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("gone", "file/x", "x" * 300, "x/" * 3000):
        assert not is_there(tmp_path / name)
        assert not is_folder(tmp_path / name)
    assert is_there(tmp_path / "file")
    assert is_file(tmp_path / "file")
    assert not is_file(tmp_path)
    assert not is_folder(tmp_path / "file")
    assert is_folder(tmp_path)


def test_a_folder_of_patches_that_cannot_be_listed_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("_not.py", "one.py", "readme.md"):
        (tmp_path / name).touch()
    assert _files(Path()) == [Path("one.py")]
    with closed(tmp_path, 0o111), pytest.raises(BrokenCatalogue, match="Permission denied"):
        _files(Path())


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


def test_a_symbolic_link_is_cut_and_its_file_keeps_the_old_bytes(tmp_path: Path) -> None:
    shared = tmp_path / "shared.py"
    shared.write_bytes(b"old")
    shared.chmod(0o4640)
    link = tmp_path / "installed.py"
    link.symlink_to(shared)
    write_atomically(link, b"new")
    assert not link.is_symlink()
    assert (link.read_bytes(), shared.read_bytes()) == (b"new", b"old")
    assert stat.S_IMODE(link.stat().st_mode) == 0o640, "a set-user-id bit is not inherited"


def test_below_a_folder_of_ours_no_link_is_followed(tmp_path: Path) -> None:
    box, elsewhere = tmp_path / "box", tmp_path / "elsewhere"
    box.mkdir()
    elsewhere.mkdir()
    (box / "blobs").symlink_to(elsewhere)
    with pytest.raises(Unwritable, match="blobs is a symbolic link"):
        write_atomically(box / "blobs" / "sha256" / "x", b"new", within=box)
    assert list(elsewhere.iterdir()) == []
    write_atomically(box / "made" / "on" / "the" / "way", b"new", within=box)
    assert (box / "made/on/the/way").read_bytes() == b"new"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it (linux/posix_acl_xattr.h): tag, rights, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_acl_and_other_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")
    any_id = 2**32 - 1
    denied = acl((1, 7, any_id), (2, 7, 1000), (4, 0, any_id), (16, 7, any_id), (32, 0, any_id))
    try:
        os.setxattr(path, "system.posix_acl_access", denied)
        os.setxattr(path, "user.note", b"kept")
    except OSError as error:
        missing(f"this file system has no ACL: {error}")
    write_atomically(path, b"new")
    assert os.getxattr(path, "system.posix_acl_access") == denied, "the group still has nothing"
    assert os.getxattr(path, "user.note") == b"kept"


def test_a_name_is_as_long_as_the_system_takes_it(tmp_path: Path) -> None:
    """Of 255 bytes, in letters of one byte or of four."""
    for name in ("x" * 255, "\U0001f600" * 63, "é" * 127, "\udcff" * 255):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
        (tmp_path / name).unlink()
        with scratch_folder(tmp_path / name) as folder:
            assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_was_put_there_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.touch()

    def write() -> None:
        with replacing(path, expected=b"") as file:
            file.write(b"new")
            path.unlink()
            path.symlink_to("/dev/null")

    with pytest.raises(Unwritable, match="it was changed meanwhile"):
        write()
    assert path.is_symlink()


def test_a_file_that_was_changed_meanwhile_keeps_the_change(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    path.write_bytes(b"an edit")
    with pytest.raises(Unwritable, match="it was changed meanwhile"):
        write_atomically(path, b"new", expected=b"as it was read")
    assert path.read_bytes() == b"an edit"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError(errno.EINVAL, "Invalid argument"), KeyboardInterrupt()])
def test_after_the_new_name_nothing_makes_it_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")
    real = os.fsync

    def of_a_folder(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise fault
        real(descriptor)

    monkeypatch.setattr(os, "fsync", of_a_folder)
    with contextlib.suppress(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("nothing_cleared")
def test_what_a_killed_run_left_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    left, written, other = (
        tmp_path / f".{name}.tmp"
        for name in ("a.py.0123456789abcdef", "a.py.fedcba9876543210", "b.py.0123456789abcdef")
    )
    for partial in (left, written, other):
        partial.write_bytes(b"a part")
        os.utime(partial, (0, 0))
    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, written, other])


@pytest.mark.usefixtures("nothing_cleared")
def test_in_a_folder_of_ours_it_is_cleared_whatever_it_was_to_become(tmp_path: Path) -> None:
    left = tmp_path / f".{'a' * 64}.0123456789abcdef.tmp"
    left.write_bytes(b"a part")
    new = tmp_path / f".{'b' * 64}.0123456789abcdef.tmp"
    new.write_bytes(b"a part")
    os.utime(left, (0, 0))
    write_atomically(tmp_path / "other", b"new", within=tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "other", new])


@pytest.mark.usefixtures("nothing_cleared")
def test_a_folder_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look through a cache of 10,000 entries for each new one took most of the time."""
    looks: list[int] = []
    listdir = os.listdir

    def counted(folder: int) -> list[str]:
        looks.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", counted)
    for name in ("one", "two", "three"):
        write_atomically(tmp_path / name, b"new", within=tmp_path)
    assert len(looks) == 1


def test_a_scratch_folder_goes_and_takes_those_of_killed_runs_along(tmp_path: Path) -> None:
    left, other = tmp_path / ".demo.0123456789abcdef.tmp", tmp_path / ".demo.mine.tmp"
    for folder in (left, other):
        (folder / "inner").mkdir(parents=True)
        os.utime(folder, (0, 0))
    with scratch_folder(tmp_path / "demo") as first:
        os.utime(first, (0, 0))
        with scratch_folder(tmp_path / "demo") as second:
            assert sorted(tmp_path.iterdir()) == sorted([first, second, other])
    assert list(tmp_path.iterdir()) == [other]


def test_only_a_regular_file_is_read_and_no_more_of_it_than_is_asked_for(tmp_path: Path) -> None:
    pipe, link, whole = tmp_path / "pipe", tmp_path / "link", tmp_path / "whole"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    whole.write_bytes(b"x" * 10)
    assert read_file(whole, 10) == b"x" * 10
    for path in (pipe, link, tmp_path):
        with pytest.raises(OSError, match="it is not a regular file"):
            open_file(path)
    with pytest.raises(OSError, match="it has more than 0 MiB"):
        read_file(whole, 9)


def test_a_hard_link_elsewhere_keeps_the_old_bytes(tmp_path: Path) -> None:
    path, cache = tmp_path / "installed.py", tmp_path / "cache.py"
    cache.write_bytes(b"old")
    path.hardlink_to(cache)
    write_atomically(path, b"new")
    assert (path.read_bytes(), cache.read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["os.fsync", "os.fchmod", "os.rename"])
def test_a_failed_or_interrupted_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, step: str
) -> None:
    path = tmp_path / "old.py"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
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
        with pytest.raises(Unwritable, match="Permission denied"):
            write_atomically(tmp_path / "new" / "a.py", b"new", within=tmp_path)
    finally:
        os.seteuid(0)
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_run_has_written_stays(tmp_path: Path) -> None:
    """Be it the same: three at once took each other's away."""
    own, another = tmp_path / "own.diff", tmp_path / "mine.py"

    def written() -> None:
        with all_or_none() as write:
            write(own, "diff")
            write(another, "first")
            another.write_text("another's")
            write(another, "second")

    with pytest.raises(Unwritable, match="changed meanwhile"):
        written()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    another.write_text("first")
    with pytest.raises(Unwritable, match="changed meanwhile"):
        written()
    assert another.read_text() == "first"
    assert not own.exists()
