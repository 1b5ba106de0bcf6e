"""A clone as a source: real git, hostile clones, and nothing written to any of them."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from patcher.errors import BadSource, FileAbsent, PatcherError, Unreadable
from patcher.landed.history import touches
from patcher.rules.catalogue import select
from patcher.rules.verdict import Status, judge
from patcher.sources.git import Clone, open_git, split
from tests.clones import Workshop, workshop
from tests.conftest import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = b"dtype = self.kv_b_proj.weight.dtype\n"


@pytest.fixture
def made(tmp_path: Path) -> Workshop:
    shop = workshop(tmp_path / "clone")
    shop.commit("First", SOURCE)
    return shop


def test_a_real_file_is_read_from_a_tag_as_it_was_committed(
    tmp_path: Path, release_file: Callable[..., bytes]
) -> None:
    shop = workshop(tmp_path)
    shop.commit("Release", release_file("0.23.0"))
    shop.git("tag", "v0.23.0")
    shop.commit("Later", SOURCE)
    source = open_git(f"{tmp_path}@v0.23.0")
    assert source.read(TARGET) == release_file("0.23.0")
    verdict = judge(select(["kv-b-proj-dtype"])[0], source)
    assert (verdict.status, verdict.needed, verdict.clean) == (Status.NEEDED, 1, 2)
    assert source.label == f"git:{tmp_path}@v0.23.0"
    assert source.version() is None


def test_a_clone_without_a_name_means_its_head(made: Workshop) -> None:
    assert open_git(str(made.path)).read(TARGET) == SOURCE


def test_a_change_that_is_not_committed_is_not_read(made: Workshop) -> None:
    made.write(b"changed\n")
    assert open_git(str(made.path)).read(TARGET) == SOURCE


def test_a_bare_clone_and_a_folder_inside_a_clone_are_clones(
    made: Workshop, tmp_path: Path
) -> None:
    made.git("clone", "-q", "--bare", str(made.path), str(tmp_path / "bare"))
    assert open_git(str(tmp_path / "bare")).read(TARGET) == SOURCE
    assert open_git(str(made.path / "vllm")).read(TARGET) == SOURCE


def test_a_file_that_python_runs_instead_makes_the_target_unreadable(made: Workshop) -> None:
    module = TARGET.removesuffix(".py")
    folder, _, stem = module.rpartition("/")
    for name in (
        f"{module}/__init__.py",
        f"{module}.abi3.so",
        f"{folder}.py",
        f"{folder}/__pycache__/{stem}.cpython-312.pyc",
        "vllm.py",
    ):
        made.commit("Other", b"", name)
        with pytest.raises(Unreadable, match=f"Python runs its {name}, and not"):
            open_git(str(made.path)).read(TARGET)
        made.git("rm", "-q", name)
    head = made.git("rev-parse", "HEAD")
    for mode, each in (
        ("160000", head),
        ("120000", made.git("hash-object", "-w", "--stdin", data=b"/usr/lib/other")),
    ):
        # A submodule, and a link that leads elsewhere: nobody knows what is there.
        made.git("update-index", "--add", "--cacheinfo", f"{mode},{each},{module}")
        made.git("commit", "-qm", "Other")
        with pytest.raises(Unreadable, match=f"Python runs its {module}/__init__.py, and not"):
            open_git(str(made.path)).read(TARGET)
        made.git("rm", "-q", "--cached", module)
    for name in (f"{module}/data.json", f"{module}_2.py", f"{folder}/__init__.py"):
        made.commit("Beside", b"", name)
    assert open_git(str(made.path)).read(TARGET) == SOURCE


def test_one_process_answers_for_all_reads(made: Workshop) -> None:
    source = open_git(str(made.path))
    source.read(TARGET)
    children = _children()
    assert len(children) == 1
    for _ in range(5):
        source.read(TARGET)
    assert _children() == children
    source.clone.close()
    assert _children() == set()
    assert source.read(TARGET) == SOURCE


def test_the_process_ends_with_the_clone(made: Workshop) -> None:
    source = open_git(str(made.path))
    source.read(TARGET)
    assert _children()
    del source
    gc.collect()
    assert _children() == set()


def _children() -> set[str]:
    """The git processes that this one has, by their ids."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {line.split()[0] for line in listed.stdout.splitlines() if line.split()[1] == "git"}


@pytest.mark.parametrize(
    "path", ["vllm/none.py", f"{TARGET}/below", "a b", "a\nb", "/etc/passwd", "../outside", ""]
)
def test_a_path_that_the_commit_lacks_is_absent(made: Workshop, path: str) -> None:
    source = open_git(str(made.path))
    with pytest.raises((FileAbsent, Unreadable)) as caught:
        source.read(path)
    assert isinstance(caught.value, FileAbsent) or path in {"/etc/passwd", "../outside", ""}
    assert source.read(TARGET) == SOURCE


def test_a_folder_in_the_files_place_is_not_absence(made: Workshop) -> None:
    with pytest.raises(Unreadable, match="not a file"):
        open_git(str(made.path)).read("vllm")


def test_a_link_inside_the_tree_is_followed_and_one_that_leads_out_is_not(made: Workshop) -> None:
    (made.path / "inside.py").symlink_to(TARGET)
    (made.path / "outside.py").symlink_to("/etc/hostname")
    made.commit("Links")
    source = open_git(str(made.path))
    assert source.read("inside.py") == SOURCE
    with pytest.raises(Unreadable, match="not a file"):
        source.read("outside.py")


def test_a_lost_object_is_unreadable_and_never_absent(made: Workshop) -> None:
    blob = made.git("rev-parse", f"HEAD:{TARGET}")
    (made.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Unreadable, match="lost"):
        open_git(str(made.path)).read(TARGET)


def test_a_damaged_object_is_unreadable_and_the_next_read_works(made: Workshop) -> None:
    made.commit("Other", b"other\n", "other.py")
    blob = made.git("rev-parse", f"HEAD:{TARGET}")
    file = made.path / ".git" / "objects" / blob[:2] / blob[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:10])
    source = open_git(str(made.path))
    with pytest.raises(Unreadable):
        source.read(TARGET)
    assert source.read("other.py") == b"other\n"


def test_a_partial_clone_asks_no_network_for_what_it_lacks(made: Workshop, tmp_path: Path) -> None:
    made.git("config", "uploadpack.allowFilter", "true")
    part = tmp_path / "part"
    made.git("clone", "-q", "--bare", "--filter=blob:none", f"file://{made.path}", str(part))
    before = _snapshot(part)
    with pytest.raises(Unreadable):
        open_git(str(part)).read(TARGET)
    assert _snapshot(part) == before


def test_an_object_of_absurd_size_is_refused(made: Workshop) -> None:
    made.commit("Big", b"\n" * ((16 << 20) + 1))
    source = open_git(str(made.path))
    with pytest.raises(Unreadable, match="claims 16777217 bytes"):
        source.read(TARGET)
    assert open_git(f"{made.path}@HEAD~1").read(TARGET) == SOURCE


@pytest.mark.parametrize(
    "revision",
    ["nope", "--help", "-x", "HEAD^{tree}", "HEAD:vllm", "a\nb", "\x1b[31m", "..", "HEAD..HEAD"],
)
def test_what_names_no_commit_is_refused(made: Workshop, revision: str) -> None:
    with pytest.raises(BadSource) as caught:
        open_git(f"{made.path}@{revision}")
    assert str(caught.value).isprintable()


def test_a_folder_that_is_no_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="not a git repository"):
        open_git(str(tmp_path))


@pytest.mark.parametrize("spec", ["", "@HEAD", "no/such/folder", "nul\0"])
def test_a_folder_that_is_not_there_is_a_wrong_call(spec: str) -> None:
    with pytest.raises(BadSource):
        split(spec)


def test_an_at_sign_may_stand_in_the_folder_and_in_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    folder.mkdir()
    assert split(f"{folder}") == (folder, "HEAD")
    assert split(f"{folder}@HEAD@{{1}}") == (folder, "HEAD@{1}")


def test_an_empty_clone_has_no_commit(tmp_path: Path) -> None:
    workshop(tmp_path)
    with pytest.raises(BadSource, match="no commit"):
        open_git(str(tmp_path))


def test_git_is_missed_by_name(made: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unreadable, match="git is not installed"):
        open_git(str(made.path))


def test_no_program_that_the_clone_names_is_run(made: Workshop, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    for setting in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.smudge",
        "gpg.program",
        "gpg.openpgp.program",
        "alias.log",
        "alias.cat-file",
    ):
        made.git("config", setting, str(script))
    made.git("config", "log.showSignature", "true")
    made.git("config", "diff.orderFile", "no-such-file")
    made.git("config", "core.hooksPath", str(tmp_path))
    (made.path / ".gitattributes").write_text("* diff=evil filter=evil\n")
    tree = made.git("rev-parse", "HEAD^{tree}")
    signed = (
        f"tree {tree}\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 1 +0000\n"
        "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\nSigned\n"
    )
    sha = made.git("hash-object", "-t", "commit", "-w", "--stdin", data=signed.encode())
    source = open_git(f"{made.path}@{sha}")
    assert source.read(TARGET) == SOURCE
    assert [each.commit for each in touches(source.clone, sha, TARGET)] == [sha]
    assert source.clone.commit(sha).subject == "Signed"
    assert not trap.exists()


def test_a_replaced_object_is_read_as_it_was_committed(made: Workshop) -> None:
    blob = made.git("rev-parse", f"HEAD:{TARGET}")
    other = made.git("hash-object", "-w", "--stdin", data=b"pass\n")
    made.git("replace", blob, other)
    assert open_git(str(made.path)).read(TARGET) == SOURCE


def test_the_environment_points_at_no_other_clone(
    made: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = workshop(tmp_path / "other")
    other.commit("Other", b"other\n")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert open_git(str(made.path)).read(TARGET) == SOURCE


def test_nothing_is_written_to_the_clone(made: Workshop) -> None:
    made.write(b"dirty\n")
    before = _snapshot(made.path)
    source = open_git(str(made.path))
    source.read(TARGET)
    touches(source.clone, source.commit, TARGET)
    source.clone.close()
    assert _snapshot(made.path) == before


def _snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Each file's time of change and digest."""
    return {
        str(file): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_commits_date_and_subject_are_its_own(made: Workshop) -> None:
    sha = made.commit("A subject\nthat goes on\n\nand a body")
    commit = Clone(made.path).commit(sha)
    assert commit.subject == "A subject that goes on"
    assert commit.date == datetime(2026, 1, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("committer", "encoding", "subject", "shown"),
    [
        ("C <c@d> 99999999999999999999 +0000", "", b"far", "far"),
        ("C <c@d> -1 +0000x", "", b"odd", "odd"),
        ("nobody", "", b"", ""),
        ("C <c@d> 1 +0000", "encoding ISO-8859-1\n", b"caf\xe9", "café"),
        ("C <c@d> 1 +0000", "encoding nope\n", b"caf\xe9", "caf\ufffd"),
        ("C <c@d> 1 +0000", "", b"caf\xe9", "caf\ufffd"),
    ],
)
def test_a_commit_as_nobody_writes_it_is_read_all_the_same(
    made: Workshop, committer: str, encoding: str, subject: bytes, shown: str
) -> None:
    tree = made.git("rev-parse", "HEAD^{tree}")
    head = f"tree {tree}\nauthor A <a@b> 1 +0000\ncommitter {committer}\n{encoding}\n"
    sha = made.git(
        *("hash-object", "-t", "commit", "-w", "--literally", "--stdin"),
        data=head.encode() + subject,
    )
    assert Clone(made.path).commit(sha).subject == shown


def test_what_is_no_commit_has_no_date(made: Workshop) -> None:
    blob = made.git("rev-parse", f"HEAD:{TARGET}")
    clone = Clone(made.path)
    with pytest.raises(PatcherError, match="no commit"):
        clone.commit(blob)
    with pytest.raises(PatcherError, match="no blob"):
        clone.blob("0" * 40)
