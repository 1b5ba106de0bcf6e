"""The rule seam: rules of other kinds, from a folder of their own, through every command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.errors import BrokenCatalogue, FileAbsent, ProofFailed, Undecided, Unreadable
from patcher.files import data_path
from patcher.jobs.demo import PLATFORM, RUN, write_base
from patcher.oci.rootfs.installed import VERSION_FILE
from patcher.rules.apply import apply_files
from patcher.rules.catalogue import PATCHES_VARIABLE, load_patch, select
from patcher.rules.patch import Patch
from patcher.rules.rule import (
    Edit,
    Files,
    Found,
    Place,
    Rewritten,
    Upstream,
    Words,
    check_bytes,
    present,
)
from patcher.rules.verdict import Status, judge_files
from patcher.sources.everywhere import notices, searched_for
from tests.commands import run
from tests.conftest import TARGET
from tests.installations import installed_file
from tests.test_schemas import check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OWN = Path(__file__).parent / "own"
NAMES = ("kv-b-proj-dtype", "larger-workspace", "pageable-zeros")
PATCHES = tuple(word for name in NAMES for word in ("--patch", name))


def said(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(*arguments, *PATCHES, cwd=cwd, **{PATCHES_VARIABLE: str(OWN)})


def data(ran: subprocess.CompletedProcess[str]) -> object:
    return check(ran.stdout, ran.returncode, 0, 1)


@pytest.fixture
def file(tmp_path: Path, release_file: Callable[[str], bytes]) -> Path:
    path = tmp_path / "mla_attention.py"
    path.write_bytes(release_file("0.23.0"))
    return path


def test_verify_says_it_in_each_rules_own_words(file: Path, tmp_path: Path) -> None:
    ran = said("verify", file.name, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "mla_attention.py: kv-b-proj-dtype: needed (1 unguarded, 2 guarded)",
        "mla_attention.py: larger-workspace: needed (1 old, 0 new)",
        "mla_attention.py: pageable-zeros: needed (2 pinned, 0 pageable)",
    ]
    lines = ran.stdout.splitlines()
    assert len(lines) == 4
    assert lines[1] == (
        "mla_attention.py:1401:13: old expression 64 * 1024 in "
        "determine_chunked_prefill_workspace_size: is too small [larger-workspace]"
    )
    assert lines[2].startswith("mla_attention.py:1673:")
    assert lines[2].endswith("pin_memory=True): fails in WSL [pageable-zeros]")
    data(said("verify", file.name, "--json", cwd=tmp_path))


def test_three_patches_of_three_kinds_go_onto_one_file(file: Path, tmp_path: Path) -> None:
    before = file.read_text()
    shown = said("diff", file.name, cwd=tmp_path).stdout
    patched = said("patch", file.name, "--in-place", cwd=tmp_path)
    assert patched.stderr == "mla_attention.py: patched 4 places, proven\n"
    after = file.read_text()
    # One diff for the file, which git takes too.
    (tmp_path / TARGET).parent.mkdir(parents=True)
    (tmp_path / TARGET).write_text(before)
    subprocess.run(["git", "apply", "-"], input=shown, text=True, check=True, cwd=tmp_path)
    assert (tmp_path / TARGET).read_text() == after
    assert after.count("pin_memory=False") == before.count("pin_memory=False") + 2
    assert "128 * 1024" in after
    assert after.count('hasattr(self.kv_b_proj, "weight")') == 3
    assert said("verify", file.name, cwd=tmp_path).returncode == 0
    assert said("diff", file.name, cwd=tmp_path).returncode == 1


def test_they_go_into_one_layer_of_an_image(
    tmp_path: Path, release_file: Callable[[str], bytes]
) -> None:
    stated = b"__version__ = version = '0.23.0'\n"
    files = {TARGET: release_file("0.23.0"), VERSION_FILE: stated}
    base = write_base(
        tmp_path / "base",
        [installed_file(target, data) for target, data in files.items()],
        PLATFORM,
        RUN,
        "0.23.0",
    )
    ran = said("image", "oci:base:0.23.0", "--to", "oci:out", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["base_digest"] == base.digest
    (platform,) = report["platforms"]
    assert [each["status"] for each in platform["before"]] == ["needed"] * 3
    assert [each["status"] for each in platform["after"]] == ["clean"] * 3
    (changed,) = platform["files"]
    steps = changed["patches"]
    assert [each["patch"] for each in steps] == list(NAMES)
    assert [each["preimage"] for each in steps[1:]] == [each["postimage"] for each in steps[:-1]]
    assert said("verify", report["tags"][0], cwd=tmp_path).returncode == 0


def test_landed_gives_each_its_own_table(file: Path, tmp_path: Path) -> None:
    ran = said("landed", file.name, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    heads = [line.split() for line in ran.stdout.splitlines() if line.startswith("releases")]
    assert heads == [
        ["releases", "verdict", *words, "evidence"]
        for words in (("unguarded", "guarded"), ("old", "new"), ("pinned", "pageable"))
    ]
    document = data(said("landed", file.name, "--json", cwd=tmp_path))
    assert isinstance(document, dict)
    counts = [
        [each["bands"][0][key] for key in ("needed", "clean")] for each in document["patches"]
    ]
    assert counts == [[1, 2], [1, 0], [2, 0]]
    page = said("landed", file.name, "--format", "html", cwd=tmp_path).stdout
    assert all(words in page for words in ("1 of 3 unguarded", "1 of 1 old", "2 of 2 pinned"))


def test_an_unknown_name_is_answered_with_those_of_both_folders(tmp_path: Path) -> None:
    ran = run("verify", "a.py", "--patch", "nope", cwd=tmp_path, **{PATCHES_VARIABLE: str(OWN)})
    assert ran.returncode == 2
    assert all(name in ran.stderr for name in NAMES)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("object()", "object, is not a rule: it lacks find, rewrite, prove, words"),
        ("Half()", "Half, is not a rule: it lacks rewrite, words"),
        ("Half", "is a class, Half, and not one made of it"),
        ("Loose()", "Loose, is not a frozen dataclass"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(tmp_path: Path, rule: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from patcher.rules.patch import Patch\n"
        "from patcher.rules.rule import Words\n"
        "class Half:\n    words = 'x'\n    def find(self): ...\n    def prove(self): ...\n"
        "class Loose(Half):\n    words = Words()\n    def rewrite(self): ...\n"
        f"PATCH = Patch('mine', 1, 't', 'w', ('vllm/a.py',), {rule}, (), (), (), ())\n"
    )
    with pytest.raises(BrokenCatalogue) as caught:
        load_patch(path)
    assert str(path) in caught.value.problem
    assert reason in caught.value.problem


def test_a_patch_that_is_saved_again_at_once_is_the_new_one(tmp_path: Path) -> None:
    """Python's own bytecode goes by a file's size and second."""
    path = tmp_path / "mine.py"
    text = Path(data_path("patches"), "kv_b_proj_dtype.py").read_text()
    for title in ("old", "new"):
        path.write_text(text.replace("title=", f"title='{title}' or "))
        os.utime(path, (1, 1))
        assert load_patch(path).title == title


def test_one_name_in_two_folders_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_bytes((OWN / "expression.py").read_bytes())
    folders = f"{OWN}:{tmp_path}"
    ran = run("verify", "a.py", cwd=tmp_path, **{PATCHES_VARIABLE: folders})
    assert ran.returncode == 3
    assert str(OWN / "expression.py") in ran.stderr
    assert str(tmp_path / "again.py") in ran.stderr


# ---- rules over several files, that cannot tell, that lie, that read upstream's artifacts


@dataclass(frozen=True, slots=True)
class Both:
    """A fix of several files: each `old` becomes `new`. `lazy` forgets the second one."""

    lazy: bool = False
    upstream: Upstream | None = field(default=None, compare=False)
    words = Words()

    def find(self, files: Files) -> Found:
        held = {target: data.strip() for target, data in present(files).items()}
        if b"none" in held.values():
            return Found(absent="there is no such function")
        if b"ask" in held.values():
            assert self.upstream is not None
            return Found(unknown=self.upstream.read("0.27.0", "vllm/a.py").decode())
        if len(set(held.values())) > 1 and not self.lazy:
            return Found(unknown="half of it is in")
        return Found(tuple(Place(t, 1, 1, "", "x", data == b"old") for t, data in held.items()))

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        edits = (Edit(0, 3, b"old", b"new", 1),)
        return {
            target: Rewritten(b"new\n", edits) for target in list(files)[: 1 if self.lazy else 2]
        }

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        for target in after:
            check_bytes(present(before)[target], after[target])

    def with_upstream(self, upstream: Upstream) -> Both:
        return dataclasses.replace(self, upstream=upstream)


A, B = "vllm/a.py", "vllm/b.py"
BOTH = Patch("both", 1, "t", "w", (A, B), Both(), (), (), (), ())


@pytest.mark.parametrize(
    ("a", "b", "status", "reason"),
    [
        (b"old\n", b"old\n", Status.NEEDED, None),
        (b"new\n", b"new\n", Status.CLEAN, None),
        (b"new\n", b"old\n", Status.UNKNOWN, "half of it is in"),
        (b"none", b"old\n", Status.ABSENT, "there is no such function"),
        (b"old\n", None, Status.ABSENT, "there is no vllm/b.py"),
    ],
)
def test_one_verdict_is_on_all_files_of_a_patch(
    a: bytes, b: bytes | None, status: Status, reason: str | None
) -> None:
    verdict = judge_files(BOTH, {A: a, B: b}, "x")
    assert (verdict.status, verdict.reason) == (status, reason)
    assert [each.target for each in verdict.files] == [A, B][: 1 if b is None else 2]


def test_a_fix_of_two_files_is_made_whole_or_not_at_all() -> None:
    done = apply_files(BOTH, {A: b"old\n", B: b"old\n"})
    assert {target: each.data for target, each in done.items()} == {A: b"new\n", B: b"new\n"}
    assert apply_files(BOTH, {A: b"new\n", B: b"new\n"}) == {}
    with pytest.raises(Undecided, match="half of it is in"):
        apply_files(BOTH, {A: b"new\n", B: b"old\n"})
    with pytest.raises(FileAbsent, match="no such function"):
        apply_files(BOTH, {A: b"none", B: b"old\n"})


def test_what_a_rule_calls_proven_and_still_finds_needed_is_not_taken() -> None:
    lazy = dataclasses.replace(BOTH, rule=Both(lazy=True))
    with pytest.raises(ProofFailed, match="both is still needed"):
        apply_files(lazy, {A: b"old\n", B: b"old\n"})


def test_an_edit_that_says_less_than_it_did_is_no_proof() -> None:
    with pytest.raises(ProofFailed, match="a byte outside the edits"):
        check_bytes(b"a = 1\n", Rewritten(b"a = 2\n", ()))


def test_a_rule_reads_upstream_through_what_it_is_handed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        def read(self, version: str, target: str) -> bytes:
            if target != A:
                raise Unreadable("away", next_step="Wait.")
            return f"{target} of {version}".encode()

    (tmp_path / "both.py").write_text("from tests.rules.test_rule import BOTH as PATCH\n")
    monkeypatch.setenv(PATCHES_VARIABLE, str(tmp_path))
    (patch,) = select(["both"], Known())
    verdict = judge_files(patch, {A: b"ask", B: b"ask"}, "x")
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "vllm/a.py of 0.27.0")
    # It is the same rule to every cache.
    assert patch == BOTH


def test_a_rule_of_ones_own_may_look_into_any_file() -> None:
    own = load_patch(OWN / "expression.py")

    class Anywhere(type(own.rule)):  # type: ignore[misc]
        mention = b"workspace"

    rule = Anywhere("determine_chunked_prefill_workspace_size", "64 * 1024", "128 * 1024")
    wide = dataclasses.replace(own, rule=rule)
    assert searched_for([own, wide]) == [b"workspace"]
    files = [("vllm/copy.py", own.invalid[0].before.encode()), ("vllm/other.py", b"x = 1\n")]
    assert [(each.path, each.needed) for each in notices(files, wide)] == [("vllm/copy.py", True)]
    assert notices(files, own) == ()
