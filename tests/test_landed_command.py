"""`landed` as a user meets it: what is read, what is printed, and the exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from patcher.errors import Exit
from tests.certificates import make_certificate
from tests.clones import Workshop, workshop
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.scripted import Reply, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def clone(tmp_path: Path, release_file: Callable[..., bytes]) -> Workshop:
    made = workshop(tmp_path / "clone")
    for version in ("0.17.1", "0.18.0", "0.20.0", "0.22.0", "0.24.0", "0.28.0"):
        made.commit(f"Work for {version}", release_file(version))
    return made


@pytest.fixture
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be reached, and the cache is empty."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_a_clones_turns_are_printed_with_commit_date_and_subject(clone: Workshop) -> None:
    done = run("landed", *ONE, "--git", clone.path)
    assert done.returncode == Exit.OK, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["needed", "landed", "regressed", "landed"]
    assert lines[2].endswith("(2026-01-04) “Work for 0.20.0”")
    assert "builds of this commit need no patch" in done.stdout


def test_a_bisection_names_the_newest_turn_and_says_what_it_may_miss(clone: Workshop) -> None:
    done = run("landed", *ONE, "--git", clone.path, "--bisect", "--json")
    (found,) = json.loads(done.stdout)["histories"]
    assert [step["commit"]["subject"] for step in found["steps"]] == ["Work for 0.28.0"]
    assert found["bisected"] is True
    assert "does not see that" in " ".join(run("landed", "--help").stdout.split())


def test_a_clone_that_never_held_the_file_is_undecided(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Empty")
    done = run("landed", *ONE, "--git", tmp_path)
    assert done.returncode == Exit.UNDECIDED
    assert "there is no such file" in done.stdout


@pytest.mark.parametrize("suffix", ["md", "html", "json", "txt"])
def test_a_file_is_written_in_the_format_that_it_names(tmp_path: Path, suffix: str) -> None:
    made = workshop(tmp_path / "clone")
    made.commit("Read it", b"x = kv_b_proj.weight.dtype\n")
    out = tmp_path / f"answer.{suffix}"
    done = run("landed", *ONE, "--git", made.path, "-o", out)
    assert (done.returncode, done.stdout) == (Exit.OK, "")
    start = {"md": "## ", "html": "<!doctype html>", "json": "{", "txt": "needed in"}[suffix]
    assert out.read_text().startswith(start)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bisect",),
        ("--since", "new"),
        ("--json", "--format", "html", "-o", "answer.html"),
        ("--format", "pdf"),
        ("-o", "answer.pdf"),
        ("--until", "0.1.0"),
        ("-o", "nowhere/answer.html"),
        ("--patch", "nope"),
        ("--git", "no-such-folder"),
        ("--git", ".", "--check"),
        ("--git", ".", "--since", "0.20"),
        ("--git", ".", "pypi:0.23.0"),
        ("--git", ".", "--images"),
        ("no-such-file.py",),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_read(
    arguments: tuple[str, ...], tmp_path: Path, offline: None
) -> None:
    done = run("landed", *arguments, cwd=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "Traceback" not in done.stderr
    assert not done.stdout or json.loads(done.stdout)["command"] == "error"
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_judged_without_an_index(
    tmp_path: Path, release_file: Callable[..., bytes], offline: None
) -> None:
    file = tmp_path / "mla_attention.py"
    file.write_bytes(release_file("0.23.0"))
    done = run("landed", *ONE, file)
    assert done.returncode == Exit.OK, done.stderr
    assert done.stdout.splitlines()[1].split()[1:4] == ["needed", "1", "2"]


def test_a_checkout_of_a_version_is_checked_against_the_claim(
    tmp_path: Path, release_file: Callable[..., bytes], offline: None
) -> None:
    target = tmp_path / "site-packages" / TARGET
    target.parent.mkdir(parents=True)
    target.write_bytes(release_file("0.28.0"))
    package = tmp_path / "site-packages" / "vllm"
    (package / "__init__.py").touch()
    (package / "_version.py").write_text("__version__ = version = '0.23.0'\n")
    done = run("landed", *ONE, tmp_path / "site-packages", "--check")
    assert done.returncode == Exit.FINDING, done.stderr
    assert "kv-b-proj-dtype: newly landed in 0.23.0, against the claim" in done.stdout
    target.write_bytes(release_file("0.23.0"))
    assert run("landed", *ONE, tmp_path / "site-packages", "--check").returncode == Exit.OK
    target.write_bytes(b"not python (")
    lost = run("landed", *ONE, tmp_path / "site-packages", "--check")
    assert lost.returncode == Exit.UNDECIDED


def test_an_index_that_cannot_be_reached_is_undecided(offline: None, tmp_path: Path) -> None:
    # Final, where a connection that is refused is tried again for 7.5 seconds.
    with serving(lambda _: Reply(), make_certificate(tmp_path / "nobody-trusts-it")) as wall:
        done = run("landed", *ONE, HTTPS_PROXY=wall.url, ALL_PROXY=wall.url)
    assert done.returncode == Exit.UNDECIDED
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cache_can_be_cleared(offline: None) -> None:
    done = run("cache", "clear", "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert json.loads(done.stdout)["cleared"] == 0
