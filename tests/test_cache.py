"""The cache: damaged, shared, full, forbidden; never wrong, never in the way."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher import cache
from patcher.cache import Cache, Kept

KEY, DATA = b"key \x00 ../../etc", b'{"status": "clean"}'


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, told: list[str]) -> Cache:
    """A cache with one entry."""
    made = Cache(tmp_path / "deep" / "verdicts", told.append)
    made.save(KEY, DATA)
    return made


def entry(kept: Cache) -> Path:
    (path,) = kept.folder.iterdir()
    return path


def test_what_is_kept_is_found_by_its_key_alone(kept: Cache, told: list[str]) -> None:
    assert kept.load(KEY) == DATA
    assert kept.load(b"other") is None
    assert Cache(kept.folder, told.append).load(KEY) == DATA
    kept.save(KEY, b"newer")
    assert kept.load(KEY) == b"newer"
    assert told == []


def test_no_key_becomes_a_path(kept: Cache, tmp_path: Path) -> None:
    kept.save(b"../../../escaped", DATA)
    kept.save("\x1b[31m\u202e".encode(), DATA)
    assert all(len(path.name) == 64 and path.name.isalnum() for path in kept.folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@given(position=st.integers(0, 31 + len(DATA)), change=st.integers(1, 255))
def test_any_changed_byte_makes_it_no_entry(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    made = Cache(tmp_path_factory.mktemp("cache"), print)
    made.save(KEY, DATA)
    data = bytearray(entry(made).read_bytes())
    data[position] ^= change
    entry(made).write_bytes(data)
    assert made.load(KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: data * 40_000,
    ],
)
def test_a_damaged_entry_is_none_and_is_replaced(
    kept: Cache, told: list[str], damage: Callable[[bytes], bytes]
) -> None:
    entry(kept).write_bytes(damage(entry(kept).read_bytes()))
    assert kept.load(KEY) is None
    kept.save(KEY, DATA)
    assert kept.load(KEY) == DATA
    assert told == []


def test_an_entry_under_another_ones_name_is_none(kept: Cache) -> None:
    first = entry(kept)
    kept.save(b"other", b"another verdict")
    (other,) = set(kept.folder.iterdir()) - {first}
    other.replace(first)
    assert kept.load(KEY) is None


def test_a_folder_that_is_none_is_said_once_and_then_left_alone(
    tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "file").touch()
    made = Cache(tmp_path / "file" / "verdicts\x1b[31m", told.append)
    for _ in range(2):
        assert made.load(KEY) is None
        made.save(KEY, DATA)
    (line,) = told
    assert line.startswith("going on without the cache in ")
    assert line.endswith("is not a folder, or is a symbolic link")
    assert line.isprintable()


def process(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


FULL = """
import resource, sys
from pathlib import Path
from patcher.cache import Cache
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))  # bytes; a disk with so much room
made = Cache(Path(sys.argv[1]), print)
made.save(b"key", bytes(1000))
made.save(b"key", bytes(1000))
print(made.load(b"key"), list(made.folder.iterdir()))
"""


def test_a_full_disk_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    out, _ = process(FULL, tmp_path).communicate()
    first, second = out.splitlines()
    assert first.startswith(f"going on without the cache in {tmp_path}: ")
    assert second == "None []"


SHARED = """
import sys
from pathlib import Path
from patcher.cache import Cache
made = Cache(Path(sys.argv[1]), print)
for turn in range(300):
    data = bytes([turn % 250]) * (1 + turn * 7)
    made.save(b"key", data)
    found = made.load(b"key")
    assert found is not None and len(set(found)) == 1, found
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    both = [process(SHARED, tmp_path) for _ in range(2)]
    assert [(each.communicate()[0], each.returncode) for each in both] == [("", 0), ("", 0)]
    assert len(list(tmp_path.iterdir())) == 1


def test_clear_removes_this_users_entries_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other" / "tool").mkdir(parents=True)
    assert cache.clear() == 0
    for name in ("verdicts", "layers"):
        Cache(cache.default_folder() / name, print).save(KEY, DATA)
    assert cache.clear() == 2
    assert cache.clear() == 0
    assert (tmp_path / "other" / "tool").exists()


def lay_open(folder: Path) -> None:
    folder.chmod(0o770)


def give_away(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, -1)


def put_a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize("harm", [lay_open, give_away, put_a_link])
@pytest.mark.parametrize("above", [False, True])
def test_what_others_could_have_put_there_is_not_believed(
    kept: Cache, told: list[str], harm: Callable[[Path], None], above: bool
) -> None:
    """What an entry says of a layer's file is patched and published."""
    harm(kept.folder.parent if above else kept.folder)
    before = [path.read_bytes() for path in kept.folder.iterdir()]
    made = Cache(kept.folder, told.append)
    assert made.load(KEY) is None
    made.save(KEY, b"newer")
    assert [path.read_bytes() for path in kept.folder.iterdir()] == before
    (line,) = told
    assert line.startswith("going on without the cache in ")


def test_the_folders_are_made_for_the_user_alone(kept: Cache) -> None:
    for folder in (kept.folder, kept.folder.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_an_entry_that_is_a_link_is_ignored_and_replaced(kept: Cache, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    entry(kept).rename(precious)
    path = kept.folder / hashlib.sha256(KEY).hexdigest()
    path.symlink_to(precious)
    before = precious.read_bytes()
    assert kept.load(KEY) is None
    kept.save(KEY, b"newer")
    assert kept.load(KEY) == b"newer"
    assert (precious.read_bytes(), path.is_symlink()) == (before, False)


def test_info_counts_and_clear_goes_through_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.kept() == ()
    Cache(cache.default_folder() / "verdicts", print).save(KEY, DATA)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (cache.default_folder() / "layers").symlink_to(precious)
    assert cache.kept() == (Kept("verdicts", 1, 32 + len(DATA)),)
    assert cache.clear() == 1
    assert (precious / "file").exists()
