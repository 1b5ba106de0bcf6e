"""vLLM on this machine, under each name that a person may give it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from patcher.errors import BadSource, FileAbsent, Unreadable
from patcher.jobs.verify import verify_source
from patcher.rules.catalogue import select
from patcher.sources.bytecode import stale_bytecode
from patcher.sources.everywhere import everywhere
from patcher.sources.path import FileSource, TreeSource, concerned, open_path
from tests.conftest import TARGET

CONTENT = b"X = 1\n"
VERSION = b'__version__ = version = "0.23.1rc1.dev672+g93d8f834d"\n'


def install(root: Path) -> Path:
    """A package folder of vLLM under `root`; returns the root."""
    target = root / TARGET
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    (root / "vllm" / "__init__.py").touch()
    (root / "vllm" / "_version.py").write_bytes(VERSION)
    return root


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[None]:
    """The rights of nobody, who may still enter tmp_path."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_file_answers_for_every_target(tmp_path: Path) -> None:
    path = tmp_path / "any.py"
    path.write_bytes(CONTENT)
    source = open_path(path)
    assert isinstance(source, FileSource)
    assert source.read(TARGET) == source.read("vllm/other.py") == CONTENT
    assert (source.label, source.version(), source.locate(TARGET)) == (str(path), None, path)


@pytest.mark.parametrize(
    ("installed", "named"),
    [
        (".", "."),
        (".", "vllm"),
        ("lib/python3.12/site-packages", "."),
        ("lib/python3.12/site-packages", "lib/python3.12/site-packages"),
        ("lib/python3.12/site-packages", "lib/python3.12/site-packages/vllm"),
        ("lib/python3.12/dist-packages", "."),
        ("lib/python3/dist-packages", "."),
        ("lib64/python3.11/site-packages", "."),
        ("Lib/site-packages", "."),
    ],
)
def test_a_tree_is_found_under_each_of_its_names(
    tmp_path: Path, installed: str, named: str
) -> None:
    root = install(tmp_path / installed)
    source = open_path(tmp_path / named)
    assert isinstance(source, TreeSource)
    assert source.root.samefile(root)
    assert source.read(TARGET) == CONTENT
    assert source.version() == "0.23.1rc1.dev672+g93d8f834d"
    assert source.label == str(tmp_path / named)


def test_a_relative_name_is_kept_as_the_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    monkeypatch.chdir(tmp_path / "vllm")
    source = open_path(Path())
    assert (source.label, source.read(TARGET)) == (".", CONTENT)


def test_a_real_virtual_environment_is_read_once_though_lib64_links_to_lib(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    install(packages)
    if not (environment / "lib64").exists():
        (environment / "lib64").symlink_to("lib")
    source = open_path(environment)
    assert isinstance(source, TreeSource)
    assert source.root == packages.resolve()


def test_two_installations_are_refused_and_both_are_named(tmp_path: Path) -> None:
    roots = [install(tmp_path / f"lib/python3.{minor}/site-packages") for minor in (11, 12)]
    with pytest.raises(BadSource) as caught:
        open_path(tmp_path)
    assert all(str(root) in str(caught.value) for root in roots)


def test_a_checkout_is_the_folder_that_holds_the_package_though_it_is_named_vllm(
    tmp_path: Path,
) -> None:
    root = install(tmp_path / "vllm")
    (root / "vllm" / "_version.py").unlink()
    source = open_path(root)
    assert isinstance(source, TreeSource)
    assert source.root.samefile(root)
    assert source.version() is None


def test_a_version_file_that_states_none_gives_none(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "vllm" / "_version.py").write_bytes(b"version = compute()\n")
    assert open_path(tmp_path).version() is None


def test_what_is_not_there_is_a_bad_source(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="there is no"):
        open_path(tmp_path / "gone")


def test_a_folder_without_vllm_is_a_bad_source(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    with pytest.raises(BadSource, match="no installed vLLM"):
        open_path(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "python", "wheel.whl"])
def test_a_file_that_is_no_python_is_a_bad_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(BadSource, match="neither a Python file nor a folder"):
        open_path(tmp_path / name)


def test_a_pipe_is_a_bad_source_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(BadSource):
        open_path(tmp_path / "pipe.py")


def test_an_absent_target_is_file_absent(tmp_path: Path) -> None:
    source = open_path(install(tmp_path))
    with pytest.raises(FileAbsent):
        source.read("vllm/gone.py")
    with pytest.raises(FileAbsent):
        source.read("vllm/__init__.py/inside.py")


def test_a_file_that_went_away_is_file_absent(tmp_path: Path) -> None:
    path = tmp_path / "any.py"
    path.touch()
    source = open_path(path)
    path.unlink()
    with pytest.raises(FileAbsent):
        source.read(TARGET)


def test_a_folder_or_pipe_in_the_targets_place_is_unreadable(tmp_path: Path) -> None:
    source = open_path(install(tmp_path))
    os.mkfifo(tmp_path / "vllm" / "pipe.py")
    for target in ("vllm/model_executor", "vllm/pipe.py"):
        with pytest.raises(Unreadable, match="regular file"):
            source.read(target)


def test_a_huge_file_is_unreadable(tmp_path: Path) -> None:
    source = open_path(install(tmp_path))
    with (tmp_path / TARGET).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match="16 MiB"):
        source.read(TARGET)


def test_a_linked_target_is_read_and_a_loop_is_unreadable(tmp_path: Path) -> None:
    source = open_path(install(tmp_path))
    (tmp_path / "vllm" / "link.py").symlink_to(tmp_path / TARGET)
    (tmp_path / "vllm" / "loop.py").symlink_to("loop.py")
    assert source.read("vllm/link.py") == CONTENT
    with pytest.raises(Unreadable, match="symbolic links"):
        source.read("vllm/loop.py")


def test_no_permission_is_unreadable(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    install(tmp_path / "tree")
    (tmp_path / "tree" / TARGET).chmod(0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(Unreadable, match="Permission denied"):
        open_path(tmp_path / "tree").read(TARGET)
    with pytest.raises(Unreadable, match="Permission denied"):
        open_path(tmp_path / "closed" / "any.py")


def test_a_path_with_a_nul_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="null"):
        open_path(Path("a\0b"))


def compile_beside(source: Path, *, optimization: str = "") -> Path:
    cached = Path(importlib.util.cache_from_source(str(source), optimization=optimization))
    cached.parent.mkdir(exist_ok=True)
    cached.touch()
    return cached


def test_stale_bytecode_is_that_of_every_python_and_optimisation(tmp_path: Path) -> None:
    source = install(tmp_path) / TARGET
    cached = {compile_beside(source), compile_beside(source, optimization="2")}
    cached.add(compile_beside(source).with_name(f"{source.stem}.cpython-313.pyc"))
    compile_beside(source).with_name(f"{source.stem}.cpython-313.pyc").touch()
    compile_beside(source.with_name("mla_attention_other.py"))
    assert set(stale_bytecode(source)) == cached


def test_stale_bytecode_beside_a_linked_file_is_that_of_others(tmp_path: Path) -> None:
    source = install(tmp_path / "tree") / TARGET
    link = tmp_path / "mla_attention.py"
    link.symlink_to(source)
    compile_beside(source)
    own = compile_beside(link)
    assert stale_bytecode(link) == (own,)


def test_stale_bytecode_is_found_under_the_cache_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = install(tmp_path / "tree") / TARGET
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "prefix"))
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert stale_bytecode(source) == (cached,)


def test_without_the_bytecode_that_was_named_python_runs_the_source(tmp_path: Path) -> None:
    """An unchecked-hash .pyc is run though the source beside it has changed, until it is gone."""
    module = tmp_path / "module.py"
    module.write_text("print('old')\n")
    compile_all = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    subprocess.run([*compile_all, str(module)], check=True)
    module.write_text("print('new')\n")

    def run() -> str:
        command = [sys.executable, "-c", "import module"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == "old"
    for path in stale_bytecode(module):
        path.unlink()
    assert run() == "new"


def test_no_cache_is_no_bytecode_and_a_closed_one_is_unreadable(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = install(tmp_path) / TARGET
    assert stale_bytecode(source) == ()
    compile_beside(source).parent.chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(Unreadable, match="Permission denied"):
        stale_bytecode(source)


# --- What Python would run.


def environment(path: Path) -> Path:
    """The site-packages of an empty virtual environment."""
    site = path / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    (path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    return site


def test_an_editable_install_is_followed(tmp_path: Path) -> None:
    site, clone = environment(tmp_path / "env"), tmp_path / "clone"
    install(clone)
    (site / "__editable__.vllm-0.23.0.pth").write_text(f"{clone}\n")
    source = open_path(tmp_path / "env")
    assert isinstance(source, TreeSource)
    assert source.root == clone


def test_an_editable_install_with_a_finder_is_followed(tmp_path: Path) -> None:
    site, clone = environment(tmp_path / "env"), tmp_path / "clone"
    install(clone)
    (site / "__editable___vllm_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'vllm': {str(clone / 'vllm')!r}}}\n"
    )
    start = "import __editable___vllm_finder; __editable___vllm_finder.install()"
    (site / "__editable__.vllm.pth").write_text(start)
    source = open_path(tmp_path / "env")
    assert isinstance(source, TreeSource)
    assert source.root == clone


def test_what_may_lead_the_import_elsewhere_is_told(tmp_path: Path) -> None:
    site = environment(tmp_path / "env")
    install(site)
    (site / "plain.pth").write_text("import os; os.name\n/nowhere\n")
    report = verify_source(open_path(tmp_path / "env"), select([]), elsewhere=False)
    assert report.notes == ()
    (site / "led.pth").write_text("import sys; sys.meta_path.insert(0, None)\n")
    (site / "sitecustomize.py").write_text("import vllm\n")
    (site / "packed.pth").write_text("/opt/vllm.egg\n")
    report = verify_source(open_path(tmp_path / "env"), select([]), elsewhere=False)
    assert [note.split()[0] for note in report.notes] == [
        f"{site.resolve()}/led.pth",
        f"{site.resolve()}/sitecustomize.py",
        "/opt/vllm.egg",
    ]


MODULE = "vllm/model_executor/layers/attention/mla_attention"


@pytest.mark.parametrize(
    "beside",
    [f"{MODULE}/__init__.py", f"{MODULE}.abi3.so", f"{MODULE}.so", "vllm/model_executor.so"],
)
def test_what_runs_in_a_files_place_is_named_and_nothing_is_judged(
    tmp_path: Path, beside: str
) -> None:
    """Python itself says what it would run: the other file."""
    site = install(tmp_path / "site-packages")
    target = site / f"{MODULE}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"x = 1\n")
    assert open_path(site).read(f"{MODULE}.py") == b"x = 1\n"
    (site / beside).parent.mkdir(parents=True, exist_ok=True)
    (site / beside).write_bytes(b"")
    with pytest.raises(Unreadable, match=f"Python runs {re.escape(str(site / beside))}"):
        open_path(site).read(f"{MODULE}.py")
    if beside.startswith(MODULE):
        ask = f"import importlib.util as u; print(u.find_spec({MODULE.replace('/', '.')!r}).origin)"
        environment = {"PYTHONPATH": str(site)}
        said = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, check=True, env=environment
        )
        assert said.stdout.strip() == str(site / beside)


def test_an_extension_module_of_another_python_is_passed_over(tmp_path: Path) -> None:
    site = environment(tmp_path)
    install(site)
    target = site / f"{MODULE}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"x = 1\n")
    Path(f"{site}/{MODULE}.cpython-39-x86_64-linux-gnu.so").write_bytes(b"")
    assert open_path(tmp_path).read(f"{MODULE}.py") == b"x = 1\n"
    Path(f"{site}/{MODULE}.cpython-312-x86_64-linux-gnu.so").write_bytes(b"")
    with pytest.raises(Unreadable, match="cpython-312"):
        open_path(tmp_path).read(f"{MODULE}.py")


def test_plugins_beside_vllm_are_named(tmp_path: Path) -> None:
    site = install(tmp_path)
    read = b"import vllm\nclass A:\n def f(self): return self.kv_b_proj.weight.dtype\n"
    for path, data in (("vllm_metax/a.py", read), ("atom/b.py", read), ("other/c.py", read[12:])):
        (site / path).parent.mkdir()
        (site / path).write_bytes(data)
    found = everywhere(site, select(["kv-b-proj-dtype"])[0])
    assert [(notice.path, notice.line) for notice in found] == [
        ("atom/b.py", 3),
        ("vllm_metax/a.py", 3),
    ]


def test_of_two_targets_of_one_name_a_file_is_the_one_in_whose_folder_it_is(tmp_path: Path) -> None:
    """A file that was moved has a target for each place."""
    targets = ("vllm/new/protocol.py", "vllm/old/protocol.py")
    patch = replace(select(["kv-b-proj-dtype"])[0], targets=targets)
    file = tmp_path / "old" / "protocol.py"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    source, named = concerned(open_path(file), [patch])
    assert named == [patch]
    assert source.read("vllm/old/protocol.py") == CONTENT
    with pytest.raises(FileAbsent):
        source.read("vllm/new/protocol.py")
    alone = file.rename(tmp_path / "protocol.py")
    source, _ = concerned(open_path(alone), [patch])
    assert [source.read(target) for target in targets] == [CONTENT, CONTENT]
