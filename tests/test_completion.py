"""What Tab offers, as click's scripts for bash, zsh and fish ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete, get_completion_class

from patcher.cli import cli
from patcher.files import data_path
from patcher.lock.file import load
from patcher.rules.catalogue import catalogue

if TYPE_CHECKING:
    from pathlib import Path

LOCKED = [str(entry.locked.version) for entry in load(data_path("images.lock")).entries]
PATCHES = [each.name for each in catalogue()]


def offered(line: str) -> list[str]:
    """The values that the last word of a line is completed to."""
    *words, typed = line.split(" ")
    complete = ShellComplete(cli, {}, "vllm-patcher", "_VLLM_PATCHER_COMPLETE")
    return [each.value for each in complete.get_completions(words, typed)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without an images.lock: the shipped one counts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_a_version_of_the_lock(folder: Path) -> None:
    assert sorted(offered("image ")) == sorted(set(LOCKED))
    assert offered("lock remove 0.30.") == offered("verify 0.30.") == ["0.30.0"]
    (folder / "images.lock").write_bytes(data_path("images.lock").read_bytes())
    assert offered("lock update docker.io/vllm/vllm-o") == ["docker.io/vllm/vllm-openai"]


def test_a_lock_that_is_named_counts_and_a_broken_one_offers_nothing(folder: Path) -> None:
    (folder / "images.lock").write_text("schema = 1\n[[image]\n")
    assert offered("image 0.30") == []
    shipped = data_path("images.lock")
    assert offered(f"image --lock {shipped} 0.30") == ["0.30.0"]


def test_a_patch_is_one_of_the_catalogue() -> None:
    assert offered("verify --patch kv-b") == [each for each in PATCHES if each.startswith("kv-b")]
    assert offered("patches ") == PATCHES
    assert offered("smoke --case w4") == ["w4a16"]


def test_a_title_is_one_line_to_the_shell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zsh reads three lines an item: what a title breaks off would be typed for the next one."""
    shipped = (data_path("patches") / "kv_b_proj_dtype.py").read_text()
    title = next(line for line in shipped.splitlines() if line.startswith("    title="))
    said = shipped.replace(title, r'    title="x\nplain\n$(id)\x1b[2J",')
    (folder / "mine.py").write_text(said.replace('name="kv-b-proj-dtype"', 'name="zz"'))
    monkeypatch.setenv("VLLM_PATCHER_PATCHES", str(folder))
    complete = ShellComplete(cli, {}, "vllm-patcher", "_VLLM_PATCHER_COMPLETE")
    [item] = complete.get_completions(["verify", "--patch"], "zz")
    assert (item.value, item.help) == ("zz", r"x\nplain\n$(id)\x1b[2J")


def test_a_platform_is_one_that_the_version_has() -> None:
    assert offered("diff --platform ") == ["linux/amd64", "linux/arm64"]
    alone = next(
        entry
        for entry in load(data_path("images.lock")).entries
        if len(entry.locked.platforms) == 1 and LOCKED.count(str(entry.locked.version)) == 1
    )
    [platform] = map(str, alone.locked.platforms)
    assert offered(f"image {alone.locked.version} --platform ") == [platform]


def test_a_source_that_no_version_fits_is_a_file() -> None:
    complete = ShellComplete(cli, {}, "vllm-patcher", "_VLLM_PATCHER_COMPLETE")
    [item] = complete.get_completions(["verify"], "some/fi")
    assert item.type == "file"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    found = get_completion_class(shell)
    assert found is not None
    assert (
        "_VLLM_PATCHER_COMPLETE"
        in found(cli, {}, "vllm-patcher", "_VLLM_PATCHER_COMPLETE").source()
    )
