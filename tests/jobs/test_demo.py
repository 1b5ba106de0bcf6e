"""`vllm-patcher demo`: the whole job on the real wheel, the same on every run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patcher.jobs.demo import _take_place
from patcher.oci.layout import create_layout
from tests.commands import run


def test_the_demo_gives_the_same_digest_on_every_run(tmp_path: Path) -> None:
    first = run("demo", "-o", tmp_path / "a", "--json")
    second = run(
        "demo", "-o", tmp_path / "b", "--json",
        TZ="Pacific/Kiritimati", LC_ALL="C", PYTHONHASHSEED="7", SOURCE_DATE_EPOCH="1",
    )  # fmt: skip
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    reports = [json.loads(ran.stdout) for ran in (first, second)]
    assert reports[0]["digest"] == reports[1]["digest"]
    # Written down in the README: another machine, Python or zlib must come to the same bytes.
    # Where a change is meant to alter them, `naming._FORM` is raised: a fixed tag never moves.
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for digest in (reports[0]["base_digest"], reports[0]["digest"]):
        assert f" {digest}\n" in readme
    for tag in reports[0]["tags"]:
        assert f"tag      oci:out/demo:{tag.rpartition(':')[2]}\n" in readme
    assert reports[0]["bytes_read"] < 2_000_000 < 200_000_000 < reports[0]["wheel_size"]


def test_the_demo_shows_diff_verdicts_digests_and_what_to_do_next(tmp_path: Path) -> None:
    ran = run("demo", "-o", tmp_path / "a")
    for shown in (
        '+                    if hasattr(self.kv_b_proj, "weight")',
        "needed (1 unguarded, 2 guarded), now clean (0 unguarded, 3 guarded)",
        f"tag      oci:{tmp_path / 'a'}:0.23.0-patched",
    ):
        assert shown in ran.stdout
    assert "skopeo copy" in ran.stderr
    [command] = [line for line in ran.stderr.splitlines() if "vllm-patcher verify" in line]
    assert run(*command.split()[1:]).returncode == 0


def test_a_demo_never_removes_what_is_no_demo(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    ran = run("demo", "-o", tmp_path)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert (tmp_path / "precious").exists()


def test_a_layout_of_something_else_is_no_demo(tmp_path: Path) -> None:
    create_layout(tmp_path / "precious")
    before = sorted(tmp_path.rglob("*"))
    ran = run("demo", "-o", tmp_path / "precious")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "is not an earlier demo" in ran.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_release_that_needs_nothing_says_so_and_an_earlier_demo_stays(tmp_path: Path) -> None:
    assert run("demo", "-o", tmp_path / "a").returncode == 0
    before = sorted(tmp_path.rglob("*"))
    ran = run("demo", "0.33.0", "-o", tmp_path / "a")
    assert ran.returncode == 1
    assert "vLLM 0.33.0 already carries this" in ran.stderr
    assert "--allow-clean" not in ran.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_earlier_demo_is_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, one of the two has the name."""
    made, output = tmp_path / "made", tmp_path / "demo"
    for folder in (made, output):
        folder.mkdir()
        (folder / ".vllm-patcher-demo").touch()
        (folder / "which").write_text(folder.name)
    with monkeypatch.context() as without:
        without.setattr("pathlib.Path.rename", None)
        _take_place(made, output)
    assert [(folder / "which").read_text() for folder in (output, made)] == ["made", "demo"]
    monkeypatch.setattr("patcher.jobs.demo._exchanged", lambda *_: False)
    _take_place(made, output)
    assert (output / "which").read_text() == "demo"
    assert (tmp_path / "before" / "which").read_text() == "made"
