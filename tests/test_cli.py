"""The commands as a user meets them: output, talk, exit codes, and never a traceback."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from patcher.cli import cli
from patcher.rules.catalogue import select
from patcher.talk import Volume, set_volume
from tests.commands import ONE, run, start
from tests.conftest import TARGET
from tests.one_file import apply

PATCH = select(["kv-b-proj-dtype"])[0]
ReleaseFile = Callable[[str], bytes]


@pytest.fixture(autouse=True)
def volume() -> Iterator[None]:
    """Whatever a call in this process has set, the next test has the usual one."""
    yield
    set_volume(Volume.USUAL)


def in_process(*arguments: str | Path) -> Result:
    """The command in this process: a tenth of the time of a new one."""
    return CliRunner().invoke(cli, [str(each) for each in arguments], prog_name="vllm-patcher")


@pytest.fixture
def file(tmp_path: Path, release_file: ReleaseFile) -> Path:
    """The real target file of 0.23.0, alone."""
    path = tmp_path / "mla_attention.py"
    path.write_bytes(release_file("0.23.0"))
    return path


@pytest.fixture
def venv(tmp_path: Path, release_file: ReleaseFile) -> Path:
    """A virtual environment's tree with the real file in it, and bytecode that never checks."""
    packages = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    target = packages / TARGET
    target.parent.mkdir(parents=True)
    target.write_bytes(release_file("0.23.0"))
    (packages / "vllm" / "__init__.py").touch()
    (packages / "vllm" / "_version.py").write_text("__version__ = version = '0.23.0'\n")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(target), invalidation_mode=mode, doraise=True)
    return tmp_path / "venv"


def test_verify_names_file_line_column_function_and_text(file: Path) -> None:
    ran = run("verify", *ONE, file)
    assert ran.returncode == 1
    assert ran.stdout == (
        f"{file}:2094:46: unguarded read self.kv_b_proj.weight.dtype in "
        "MLACommonImpl._compute_prefill_context: fails where there is no .weight "
        "[kv-b-proj-dtype]\n"
    )
    assert ran.stderr == f"{file}: kv-b-proj-dtype: needed (1 unguarded, 2 guarded)\n"


def test_verify_of_a_clean_file_is_silent_on_stdout(
    tmp_path: Path, release_file: ReleaseFile
) -> None:
    (tmp_path / "a.py").write_bytes(release_file("0.33.0"))
    ran = run("verify", *ONE, "a.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "a.py: kv-b-proj-dtype: clean (0 unguarded, 1 guarded)\n"


def test_verify_reads_a_virtual_environment_and_a_release(venv: Path) -> None:
    ran = run("verify", *ONE, venv, "pypi:0.28.0", "--json")
    assert ran.returncode == 1
    document = json.loads(ran.stdout)
    assert (document["schema"], document["command"]) == (2, "verify")
    assert [verdict["status"] for verdict in document["verdicts"]] == ["needed", "clean"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def f(:\n", "line 1: not Python source"),
        (b"\x00", "null bytes"),
        (b"# -*- coding: utf-8 -*-\nx = '\xff'\n", "not Python source"),
        (b"# -*- coding: no-such -*-\n", "encoding"),
        (b"x = " + b"(" * 5000, "not Python source"),
    ],
)
def test_what_is_not_python_is_unknown_and_never_clean(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "a.py").write_bytes(content)
    ran = run("verify", *ONE, "a.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "a.py: kv-b-proj-dtype: unknown" in ran.stderr
    assert reason in ran.stderr


def test_a_tree_without_the_target_is_absent_and_never_clean(venv: Path) -> None:
    next(venv.rglob("mla_attention.py")).unlink()
    ran = run("verify", *ONE, venv)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "kv-b-proj-dtype: absent" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "no/such.py"], "there is no no/such.py"),
        (["verify", "."], "holds no installed vLLM"),
        (["verify"], "Missing argument"),
        (["patch", "x.py"], "say where the result goes"),
        (["patch", "x.py", "-o", "y.py", "--in-place"], "say where the result goes"),
        (["patch", "x.py", "-o", "y.py", "--backup"], "-o OUT leaves the originals alone"),
        (["image", "9.9.9", "--to", "x.test/y"], "'9.9.9' is not in images.lock"),
        (["image", "0.23.0", "--platform", "a b"], "platform"),
        (["verify", "x.py", "--patch", "no"], "no patch is named 'no'"),
        (["verify", "pypi:99.0"], "PyPI has no vLLM '99.0'"),
        (["verify", "\x1b[31mred.py"], "there is no \\x1b[31mred.py"),
    ],
)
def test_a_wrong_call_is_told_with_the_next_step(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    ran = run(*arguments, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_call_that_click_refuses_is_json_too() -> None:
    ran = run("verify", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["error"]["kind"]) == (2, "UsageError")


def test_a_second_image_of_a_locked_version_is_mentioned(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    for name in ("a.example/vllm", "b.example/vllm"):
        ran = run("lock", "add", "0.23.0", f"{name}@{digest}", "--offline", cwd=tmp_path)
    others = f"a.example/vllm@{digest}, docker.io/vllm/vllm-openai:v0.23.0"
    assert f"note: 0.23.0 is locked as {others} too" in ran.stderr
    assert f"note: 0.23.0 means b.example/vllm@{digest}; name a reference" in ran.stderr


def test_a_nightly_under_a_version_that_is_not_its_own_is_mentioned(tmp_path: Path) -> None:
    reference = f"a.example/vllm:nightly-{'0' * 40}@sha256:{'0' * 64}"
    ran = run("lock", "add", "0.24.1rc1", reference, "--offline", cwd=tmp_path)
    assert ran.returncode == 0
    assert "note: 0.24.1rc1 sorts above all its nightlies" in ran.stderr


def test_a_tag_of_another_version_is_mentioned(tmp_path: Path) -> None:
    """`image` finds it out, after the pull."""
    reference = f"a.example/vllm:v0.23.0@sha256:{'0' * 64}"
    ran = run("lock", "add", "0.24.0", reference, "--offline", cwd=tmp_path)
    assert "note: the tag is that of vLLM 0.23.0, and is locked as 0.24.0" in ran.stderr
    ran = run("lock", "add", "0.23.0+cu129", reference, "--offline", cwd=tmp_path)
    assert "note: the tag" not in ran.stderr


def test_an_image_is_dropped_from_the_lock_by_a_name_that_fits_it_alone(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    run("lock", "add", "0.23.0", f"a.example/vllm@{digest}", "--offline", cwd=tmp_path)
    before = (tmp_path / "images.lock").read_bytes()
    ran = run("lock", "remove", "0.24.0", "0.23.0", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"fits several images: a.example/vllm@{digest}, docker.io/vllm/" in ran.stderr
    assert (tmp_path / "images.lock").read_bytes() == before
    ran = run("lock", "remove", "0.24.0", f"a.example/vllm@{digest}", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "removed 2 images from images.lock\n")
    assert digest in ran.stdout
    listed = run("lock", "list", cwd=tmp_path).stdout
    assert "a.example" not in listed
    assert "v0.24.0" not in listed
    assert "docker.io/vllm/vllm-openai:v0.23.0" in listed


def test_of_one_reference_under_two_versions_one_is_dropped(tmp_path: Path) -> None:
    """The advice for a wrong pin led to "name one of them", and all had the same name."""
    wrong = f"a.example/vllm:v0.23.0@sha256:{'0' * 64}"
    for version in ("0.23.0", "0.24.0"):
        run("lock", "add", version, wrong, "--offline", cwd=tmp_path)
    ran = run("lock", "remove", wrong, cwd=tmp_path)
    assert f"fits several images: 0.23.0={wrong}, 0.24.0={wrong}" in ran.stderr
    ran = run("lock", "remove", f"0.24.0={wrong}", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "removed 1 image from images.lock\n")
    listed = run("lock", "list", cwd=tmp_path).stdout
    assert [line.split()[0] for line in listed.splitlines() if wrong in line] == ["0.23.0"]


def test_a_shipped_pin_is_dropped_from_a_lock_of_ones_own(tmp_path: Path) -> None:
    shipped = len(json.loads(run("lock", "list", "--json").stdout)["images"])
    assert run("lock", "remove", "vllm/vllm-openai:v0.23.0", cwd=tmp_path).returncode == 0
    listed = json.loads(run("lock", "list", "--json", cwd=tmp_path).stdout)["images"]
    assert len(listed) == shipped - 1
    ran = run("lock", "remove", "nothing", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "'nothing' is not in images.lock" in ran.stderr


def test_an_error_is_json_too_where_json_was_asked(tmp_path: Path) -> None:
    ran = run("verify", *ONE, "no/such.py", "--json", cwd=tmp_path)
    document = json.loads(ran.stdout)
    assert (ran.returncode, document["exit"]) == (2, 2)
    assert document["error"]["kind"] == "BadSource"


def test_a_diff_applies_with_patch(file: Path, release_file: ReleaseFile, tmp_path: Path) -> None:
    ran = run("diff", *ONE, file)
    assert ran.returncode == 0
    tree = tmp_path / "tree" / TARGET
    tree.parent.mkdir(parents=True)
    tree.write_bytes(release_file("0.23.0"))
    applied = subprocess.run(
        ["git", "apply", "-p1", "-"],
        input=ran.stdout,
        text=True,
        cwd=tmp_path / "tree",
        check=False,
    )
    assert applied.returncode == 0
    assert tree.read_bytes() == apply(PATCH, release_file("0.23.0"))


def test_a_diff_of_nothing_is_a_finding() -> None:
    ran = run("diff", *ONE, "pypi:0.33.0")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "nothing to patch" in ran.stderr


def test_patching_to_another_file_leaves_the_first(file: Path, release_file: ReleaseFile) -> None:
    output = file.with_name("out.py")
    ran = run("patch", *ONE, file, "-o", output)
    assert (ran.returncode, ran.stdout) == (0, f"{output}\n")
    assert output.read_bytes() == apply(PATCH, release_file("0.23.0"))
    assert file.read_bytes() == release_file("0.23.0")


def test_patching_a_tree_in_place_removes_bytecode_that_would_win(
    venv: Path, release_file: ReleaseFile
) -> None:
    target = next(venv.rglob("mla_attention.py"))
    target.chmod(0o640)
    ran = run("patch", *ONE, venv, "--in-place", "--json")
    assert ran.returncode == 0, ran.stderr
    assert target.read_bytes() == apply(PATCH, release_file("0.23.0"))
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(venv.rglob("*.pyc*")) == []
    assert json.loads(ran.stdout)["files"][0]["edits"] == 1


def test_a_second_run_says_that_nothing_is_to_patch(venv: Path) -> None:
    run("patch", *ONE, venv, "--in-place")
    before = {path: path.stat().st_mtime_ns for path in venv.rglob("*")}
    ran = run("patch", *ONE, venv, "--in-place")
    assert ran.returncode == 0
    assert "nothing to patch" in ran.stderr
    assert {path: path.stat().st_mtime_ns for path in venv.rglob("*")} == before


def test_a_tree_can_be_patched_into_a_folder(venv: Path, tmp_path: Path) -> None:
    ran = run("patch", *ONE, venv, "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert run("verify", *ONE, tmp_path / "out" / TARGET).returncode == 0


def test_reads_in_other_files_of_a_tree_are_noticed_and_do_not_decide(venv: Path) -> None:
    run("patch", *ONE, venv, "--in-place")
    other = next(venv.rglob("vllm")) / "other.py"
    other.write_text("x = self.kv_b_proj.weight.dtype\n")
    ran = run("verify", *ONE, venv, "--everywhere")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "vllm/other.py:1: notice: unguarded self.kv_b_proj.weight.dtype" in ran.stderr
    assert run("verify", *ONE, other, "--everywhere").returncode == 2


def test_a_refused_rewrite_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\nprint(f().kv_b_proj.weight.dtype)\n")
    before = path.read_bytes()
    ran = run("patch", *ONE, path, "--in-place")
    assert (ran.returncode, ran.stdout, path.read_bytes()) == (1, "", before)
    assert "line 2" in ran.stderr
    assert "side effects" in ran.stderr


def test_a_failed_write_leaves_every_byte(venv: Path) -> None:
    before = {path: path.read_bytes() for path in venv.rglob("*") if path.is_file()}
    # No file may grow beyond a block: the new source cannot be written out.
    command = (
        f"ulimit -f 1; exec {sys.executable} -B -m patcher patch {venv} --in-place {' '.join(ONE)}"
    )
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "error: " in ran.stderr
    assert {path: path.read_bytes() for path in venv.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fault", ["OSError(22, 'Invalid argument')", "KeyboardInterrupt()"])
def test_cut_after_the_rename_the_tree_is_new_or_old_and_never_mixed(
    venv: Path, fault: str
) -> None:
    """The folder's sync comes after the new file has its name: what is said must fit."""
    [source] = venv.rglob("mla_attention.py")
    old = source.read_bytes()
    stale = Path(importlib.util.cache_from_source(str(source)))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(stale), invalidation_mode=unchecked)
    program = (
        "import os, stat, sys\n"
        "real, armed = os.fsync, [True]\n"
        "def sync(fd):\n"
        "    if stat.S_ISDIR(os.fstat(fd).st_mode) and armed.pop():\n"
        "        armed.append(False)\n"
        f"        raise {fault}\n"
        "    real(fd)\n"
        "os.fsync = sync\n"
        "from patcher.__main__ import main\n"
        f"sys.argv = ['vllm-patcher', 'patch', {str(venv)!r}, '--in-place', *{ONE}]\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    if ran.returncode == 0:
        assert b"hasattr" in source.read_bytes()
        assert not stale.exists(), "Python would run it and not look at the source"
    else:
        assert ran.returncode == 130
        assert (source.read_bytes(), stale.exists()) == (old, True)
    assert list(venv.rglob("*.tmp")) == list(venv.rglob("*.removed")) == []


def test_the_shipped_lock_is_whole() -> None:
    ran = run("lock", "check", "--offline")
    assert (ran.returncode, ran.stdout) == (0, "")
    listed = run("lock", "list", "--json")
    assert len(json.loads(listed.stdout)["images"]) == 47
    header, *rows = run("lock", "list").stdout.splitlines()
    assert header.split() == ["VERSION", "PIN", "DIGEST", "REFERENCE"]
    pins = [pin for image in json.loads(listed.stdout)["images"] for pin in image["pins"]]
    assert [row.split()[1:3] for row in rows] == [[pin["kind"], pin["digest"]] for pin in pins]
    assert any(row.startswith("0.23.1rc1.dev672+g93d8f834d ") for row in rows)


def test_a_reference_with_a_digest_is_locked_as_it_is(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    ran = run("lock", "add", "0.23.0", f"example.com/vllm@{digest}", "--offline", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert digest in (tmp_path / "images.lock").read_text()
    assert run("lock", "check", "--offline", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("command", [["diff"], ["patch", "--in-place"]])
def test_what_is_no_python_is_named_with_its_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bin.py").write_bytes(b"x = 1\n(\n")
    ran = run(*command, *ONE, "bin.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.startswith("error: bin.py: line 2: not Python source")


def test_a_new_lock_hides_no_shipped_pin(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    ran = run("lock", "add", "0.34.0", f"example.com/v@{digest}", "--offline", cwd=tmp_path)
    assert "created images.lock with the pins that came with the program" in ran.stderr
    assert len(json.loads(run("lock", "list", "--json", cwd=tmp_path).stdout)["images"]) == 48
    named = ["--offline", "--lock", "mine.lock"]
    run("lock", "add", "0.34.0", f"example.com/v@{digest}", *named, cwd=tmp_path)
    assert (tmp_path / "mine.lock").read_text().count("[[image]]") == 1


def test_locks_that_are_added_to_at_once_lose_nothing(tmp_path: Path) -> None:
    named = ["--offline", "--lock", "x.lock"]
    running = [
        start(
            "lock",
            "add",
            f"0.23.{number}",
            f"example.com/v@sha256:{number:064}",
            *named,
            cwd=tmp_path,
        )
        for number in range(6)
    ]
    assert [each.wait().returncode for each in running] == [0] * 6
    assert (tmp_path / "x.lock").read_text().count("[[image]]") == 6


def test_a_broken_lock_is_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "images.lock").write_text("schema = 1\n[[image]\n")
    ran = run("lock", "list", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "images.lock, line 2" in ran.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry-run"], "--dry-run goes with --to"),
        (["--to", "x.test/y", "--repository", "z"], "--to says the repository too"),
        (["--to", "127.0.0.1:99999/a"], "'127.0.0.1:99999' is not a registry's address"),
    ],
)
def test_options_that_do_not_fit_are_a_wrong_call(options: list[str], said: str) -> None:
    ran = run("image", "0.23.0", *options)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


def test_no_daemon_is_told_with_the_next_step(tmp_path: Path) -> None:
    ran = run("image", "0.23.0", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "next: Start Docker" in ran.stderr
    assert "Or publish without one: --to REGISTRY/REPO or --to oci:DIR.\n" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_closed_stream_that_nothing_is_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    for closed in ("2>&-", ">&-"):
        command = f"exec {sys.executable} -m patcher verify a.py {' '.join(ONE)} {closed}"
        ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False)
        assert ran.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["imge"], "No such command 'imge'. Did you mean 'image'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["verify", "--patch", "kv-b-proj-dtpe", "a.py"], "Did you mean kv-b-proj-dtype"),
        (["landed", "--since", "0.30", "--until", "0.20"], "--since 0.30 is after --until 0.20"),
    ],
)
def test_a_name_that_is_near_is_told(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert ("Did you mean" in done.stderr) is ("Did you mean" in said)


def test_the_version_has_a_short_option() -> None:
    assert run("-V").stdout == run("--version").stdout != ""


def test_a_repository_with_a_tag_is_refused_before_anything_is_pulled() -> None:
    done = run("image", "0.23.0", "--repository", "me/x:tag", DOCKER_HOST="tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert "'me/x:tag' has a tag or digest" in done.stderr


def test_a_clone_is_named_as_verify_names_it(tmp_path: Path) -> None:
    done = run("landed", "--git", "git:nope", cwd=tmp_path)
    assert "there is no folder nope" in done.stderr


def test_a_quiet_run_prints_data_and_errors_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = self.kv_b_proj.weight.dtype\n")
    (tmp_path / "b.py").write_text("(")
    usual = in_process("verify", *ONE, tmp_path / "a.py", tmp_path / "b.py")
    quiet = in_process("-q", "verify", *ONE, tmp_path / "a.py", tmp_path / "b.py")
    assert usual.stdout == quiet.stdout != ""
    assert (usual.exit_code, quiet.exit_code) == (1, 1)
    assert [line.split(": ")[2][:7] for line in usual.stderr.splitlines()] == ["needed ", "unknown"]
    assert quiet.stderr == f"{usual.stderr.splitlines()[1]}\n"
    assert in_process("verify", "-q", *ONE, tmp_path / "a.py").stderr == ""
    assert in_process("verify", *ONE, tmp_path / "a.py").stderr != "", "the next run is not quiet"


def test_quiet_and_verbose_exclude_each_other() -> None:
    for call in (["-q", "-v", "patches"], ["patches", "-q", "-v"], ["-q", "patches", "-v"]):
        assert "exclude each other" in in_process(*call).stderr
