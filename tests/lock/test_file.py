"""images.lock as a file: the same text each time, and each fault with its line."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patcher
from patcher.errors import BrokenLock, Unreadable
from patcher.lock.entries import Lock, check
from patcher.lock.file import dump, load, loads, save
from tests.locks import LOCKS, digest, entry

SHIPPED = Path(patcher.__file__).parents[1] / "images.lock"

SOUND = f"""\
schema = 1

[[image]]

[image.original]
version = "0.23.0"
reference = "docker.io/vllm/vllm-openai:v0.23.0"

[image.locked]
version = "0.23.0"

[image.locked.index]
digest = "{digest(1)}"
stated_by = 2

[[image]]

[image.original]
version = "0.24.0"
reference = "docker.io/vllm/vllm-openai:v0.24.0"

[image.locked]
version = "0.24.0"
commit = "93d8f834d"

[image.locked.platforms."linux/amd64"]
digest = "{digest(2)}"
"""


def test_the_shipped_lock_is_what_dump_writes() -> None:
    assert dump(load(SHIPPED)) == SHIPPED.read_text(encoding="utf-8")


def test_the_shipped_lock_has_no_flaws() -> None:
    assert check(load(SHIPPED)) == ()


def test_the_shipped_lock_holds_the_pins_that_were_collected() -> None:
    entries = load(SHIPPED).entries
    kinds = Counter(kind for known in entries for kind, _ in known.locked.pins())
    releases = [known for known in entries if not known.locked.version.is_prerelease]
    spark = [known for known in entries if known.original.reference.registry == "ghcr.io"]
    assert len(entries) == 47
    assert (len(releases), len(spark)) == (20, 22)
    assert kinds == {"index": 21, "linux/amd64": 16, "linux/arm64": 29, "unknown": 4}
    assert all(known.locked.index and known.locked.index.stated_by for known in releases)
    assert {str(known.locked.version)[:9] for known in spark} == {"0.23.1rc1"}
    assert all([kind for kind, _ in known.locked.pins()] == ["linux/arm64"] for known in spark)


@given(LOCKS)
def test_what_is_written_is_read_back_and_written_again_alike(lock: Lock) -> None:
    text = dump(lock)
    again = loads(text.encode(), "images.lock")
    assert sorted(again.entries, key=lambda known: known.key) == list(again.entries)
    assert {known.key: known for known in again.entries} == {
        known.key: known for known in lock.entries
    }
    assert dump(again) == text


def test_a_lock_is_saved_in_one_step(tmp_path: Path) -> None:
    lock = Lock((entry("0.23.0", index=1),))
    save(tmp_path / "images.lock", lock)
    assert load(tmp_path / "images.lock") == lock
    assert os.listdir(tmp_path) == ["images.lock"]  # noqa: PTH208


@pytest.mark.parametrize(
    "text", [SOUND.replace("\n", "\r\n"), "\ufeff" + SOUND, SOUND + "\n# a remark\n"]
)
def test_what_an_editor_leaves_is_read(text: str) -> None:
    assert loads(text.encode(), "images.lock") == loads(SOUND.encode(), "images.lock")


def test_an_unsorted_lock_is_read_and_reported() -> None:
    first, second = loads(SOUND.encode(), "images.lock").entries
    text = SOUND.replace("0.23.0", "0.25.0")
    (flaw,) = check(loads(text.encode(), "images.lock"))
    assert "not sorted" in flaw.problem
    assert (first.locked.version < second.locked.version) is True


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("schema = 1", "schema = 2", 1, "schema: this program knows 1 only"),
        ("schema = 1", "schema = true", 1, "schema: not a whole number"),
        ("schema = 1\n", "", 1, "schema: it is missing"),
        ("schema = 1", "schema = 1\nextra = 1", 2, "extra: this key is not known"),
        (
            '[[image]]\n\n[image.original]\nversion = "0.23',
            '[[image]\n\n[image.original]\nversion = "0.23',
            3,
            "Expected",
        ),
        ('"0.23.0"', '"0.23.0', 6, "Illegal character"),
        ('version = "0.23.0"', "version = 23", 6, "image[0].original.version: not a string"),
        ('version = "0.23.0"', 'version = "latest"', 6, "'latest' is not a version"),
        ('version = "0.23.0"', 'version = "0.23.0\\n"', 6, r"'0.23.0\n' is not a version"),
        ('version = "0.23.0"\nref', "ref", 5, "image[0].original.version: it is missing"),
        ('version = "0.24.0"\ncommit', 'version = "\\u001b[31m"\ncommit', 23, "is not a version"),
        ("openai:v0.23.0", "OpenAI:v0.23.0", 7, "lower case"),
        ("v0.24.0", "v0.24.0\\nRUN x", 20, "is not a valid tag"),
        (digest(1), digest(1)[:-1], 13, "is not a digest"),
        ("stated_by = 2", "stated_by = 0", 14, "index.stated_by: not above 0"),
        ("schema = 1", "schema = 0", 1, "schema: this program knows 1 only"),
        ("stated_by = 2", "stated_by = true", 14, "not a whole number"),
        ("stated_by = 2", 'stated_by = "2"', 14, "not a whole number"),
        ("stated_by = 2", "stated = 2", 14, "image[0].locked.index.stated: this key is not known"),
        ("93d8f834d", "93D8F834D", 24, "not a commit"),
        ("linux/amd64", "linux", 26, "'linux' is not a platform"),
        ("[image.locked.index]", "[image.locked.indexes]", 12, "indexes: this key is not known"),
        (f'[image.locked.platforms."linux/amd64"]\ndigest = "{digest(2)}"\n', "", 22, "no digest"),
        (
            f'[image.locked.platforms."linux/amd64"]\ndigest = "{digest(2)}"\n',
            "platforms = {}",
            22,
            "no digest",
        ),
        (
            '[image.locked.platforms."linux/amd64"]',
            "platforms = 1\n[image.x]",
            27,
            "image[1].x: this key is not known",
        ),
        ("0.24.0", "0.23.0", 16, "is there twice"),
        (
            '[[image]]\n\n[image.original]\nversion = "0.24',
            '[[image]]\n\n[image.origin]\nversion = "0.24',
            18,
            "image[1].origin: this key is not known",
        ),
    ],
)
def test_a_hand_broken_lock_gives_the_file_the_line_and_the_reason(
    old: str, new: str, line: int, reason: str
) -> None:
    assert old in SOUND
    with pytest.raises(BrokenLock) as caught:
        loads(SOUND.replace(old, new).encode(), "some/images.lock")
    assert caught.value.problem.startswith(f"some/images.lock, line {line}: ")
    assert reason in caught.value.problem
    assert str(caught.value).isprintable()


def test_one_platform_under_two_names_is_refused() -> None:
    text = SOUND + f'[image.locked.platforms."linux/x86_64"]\ndigest = "{digest(3)}"\n'
    with pytest.raises(
        BrokenLock, match=r"line 28: .*platforms.linux/x86_64: write it as linux/amd64"
    ):
        loads(text.encode(), "images.lock")


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 1, "schema: it is missing"),
        (b"image = []", 1, "schema: it is missing"),
        (b"schema = 1\nimage = 1", 2, "image: not an array"),
        (b"schema = 1\nimage = [1]", 2, "image[0]: not a table"),
        (b"schema = 1\n[image]\nx = 1", 2, "image: not an array"),
        (b"schema = 1\nimage = [{original = 1, locked = 2}]", 2, "original: not a table"),
        (b"schema = 1\n# \xff", 2, "not UTF-8"),
        (b"schema = 1\rimage = []", 1, "Expected newline"),
        (b"\xff\xfes\0c\0", 1, "not UTF-8"),
        (b"schema = 1\nimage = [", 2, "Invalid value"),
        (b"schema = " + b"1" * 9000, 1, "ValueError"),
        (b"a = " + b"[" * 100_000, 1, "RecursionError"),
        (b"schema = 1\n" + b".".join([b"a"] * 20_000) + b" = 1", 2, "more than 11 parts"),
        (b"schema = 1\n[" + b".".join([b'"a"'] * 12) + b"]", 2, "more than 11 parts"),
        (b"schema = 1\n# " + b"." * 99 + b'\nx = "' + b"." * 99 + b'"', 3, "not known"),
    ],
)
def test_what_is_no_lock_at_all_gives_a_line_too(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(BrokenLock) as caught:
        loads(data, "images.lock")
    assert caught.value.problem.startswith(f"images.lock, line {line}: ")
    assert reason in caught.value.problem


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_lock_or_broken(data: bytes) -> None:
    with pytest.raises(BrokenLock):
        loads(data, "images.lock")


LINES = SOUND.splitlines()


@given(
    st.lists(st.integers(0, len(LINES) - 1)),
    st.lists(st.sampled_from([*LINES, "x = 1", "[image]"])),
)
def test_any_shuffle_of_lines_is_a_lock_or_broken(taken: list[int], added: list[str]) -> None:
    text = "\n".join([*(LINES[number] for number in taken), *added])
    try:
        lock = loads(text.encode(), "images.lock")
    except BrokenLock as error:
        line = int(error.problem.split("line ")[1].split(":")[0])
        valid = 1 <= line <= text.count("\n") + 1
    else:
        valid = loads(dump(lock).encode(), "images.lock") == lock
    assert valid


def test_a_missing_or_unreadable_lock_is_named(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "images.lock", "there is no {}"),
        (tmp_path, "{} cannot be read"),
    ):
        with pytest.raises(Unreadable, match=said.format(path)):
            load(path)


def test_the_vllm_that_is_meant_is_kept_and_must_be_a_whole_path() -> None:
    stated = SOUND.replace(
        'commit = "93d8f834d"\n', 'commit = "93d8f834d"\nroot = "/opt/venv/lib"\n'
    )
    lock = loads(stated.encode(), "x")
    assert [entry.locked.root for entry in lock.entries] == [None, "/opt/venv/lib"]
    assert loads(dump(lock).encode(), "x") == lock
    with pytest.raises(BrokenLock, match="root"):
        loads(stated.replace('"/opt', '"opt').encode(), "x")
