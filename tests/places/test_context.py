"""`image --context DIR`: what is written is what another builder needs, and all of it."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import docker
import pytest

from patcher.errors import BadReference
from patcher.jobs.demo import write_base
from patcher.jobs.image import Order
from patcher.jobs.opening import context_job
from patcher.oci.reference import Platform
from patcher.web.http import HttpSettings
from tests.bases import Base, write_lock
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.docker_bases import remove_all
from tests.installations import installed_file

NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"


@pytest.fixture
def lock(registry: str, tmp_path: Path) -> Path:
    base, repository = Base("v0.23.0", "0.23.0", NEEDED), f"context/{uuid.uuid4().hex}"
    digest = base.push(registry, repository)
    write_lock(tmp_path / "images.lock", base.entry(f"{registry}/{repository}", digest))
    return tmp_path / "images.lock"


def write(lock: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("image", "0.23.0", *ONE, "--lock", lock, "--context", folder, *more)


def test_what_docker_builds_of_it_is_patched(
    lock: Path, daemon: docker.DockerClient, tmp_path: Path
) -> None:
    name = f"built-of-a-context-{uuid.uuid4().hex}"
    ran = write(lock, tmp_path / "out", "--platform", "linux/amd64", "--repository", name, "--json")
    assert ran.returncode == 0, ran.stderr
    assert f"written to {tmp_path / 'out'}" in ran.stderr
    report = json.loads(ran.stdout)
    assert report["way"] == "context"
    made, _ = daemon.images.build(
        path=str(tmp_path / "out"), platform="linux/amd64", tag=report["tags"][0], rm=True
    )
    try:
        judged = run("verify", *ONE, report["tags"][0])
        assert (judged.returncode, judged.stderr.count("error:")) == (0, 0), judged.stderr
        labels = made.attrs["Config"]["Labels"]
        assert labels["dev.vllm-patcher.patches"].startswith("kv-b-proj-dtype@")
        again = run(
            "image", "0.23.0", *ONE, "--lock", lock, "--repository", name, "--platform",
            "linux/amd64", "--json",
        )  # fmt: skip
        assert json.loads(again.stdout)["way"] is None, "the daemon's own way takes it as made"
    finally:
        remove_all(daemon, str(made.id))


def test_the_same_base_and_patches_give_the_same_context(lock: Path, tmp_path: Path) -> None:
    reports = [
        json.loads(write(lock, tmp_path / name, "--platform", "linux/arm64", "--json").stdout)
        for name in ("one", "other")
    ]
    assert reports[0]["digest"] == reports[1]["digest"]
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "other")
    )
    assert one == other
    assert sorted(one) == ["0.patched", "Dockerfile", "empty.pyc"]
    assert (tmp_path / "one" / "0.patched").stat().st_mode & 0o777 == 0o640


def test_what_is_said_claims_no_image(lock: Path, tmp_path: Path) -> None:
    ran = write(lock, tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "way      the Dockerfile and its files were written" in ran.stdout
    assert "sent " not in ran.stdout


def test_a_folder_that_holds_something_stays_as_it_is(lock: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\n")
    ran = write(lock, folder)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "is there already" in ran.stderr
    assert [path.name for path in folder.iterdir()] == ["Dockerfile"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("mode", [0o664, 0o444, 0o777, 0o600])
def test_a_files_mode_is_the_bases(registry: str, tmp_path: Path, mode: int) -> None:
    """Whatever the umask and Python's tar filter make of it: COPY takes it from here."""
    base = tmp_path / "base"
    stated = installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n")
    files = [stated, installed_file(TARGET, NEEDED, mode=mode)]
    write_base(base, files, Platform("linux", "amd64"), {}, "base")
    place = f"{registry}/context/{uuid.uuid4().hex}"
    copied = [
        "skopeo",
        "copy",
        "--dest-tls-verify=false",
        f"oci:{base}:base",
        f"docker://{place}:b",
    ]
    subprocess.run(copied, check=True, capture_output=True)
    (tmp_path / "images.lock").write_text("schema = 1\n")
    locked = run("lock", "add", "0.23.0", f"{place}:b", "--lock", tmp_path / "images.lock")
    assert locked.returncode == 0, locked.stderr
    ran = write(tmp_path / "images.lock", tmp_path / "out", "--platform", "linux/amd64")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "0.patched").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("name", ["a:b", "A", "x y", "-t", "a\n::add-mask::b", ""])
def test_what_is_no_repository_is_refused_before_anything_is_read(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadReference):
        context_job(
            "0.23.0", tmp_path / "x", name, tmp_path / "none", Order(()), HttpSettings(), print
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "/", "a" * 300, "link"])
def test_a_name_that_cannot_be_had_is_refused_before_the_base_is_read(
    lock: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    ran = run("image", "0.23.0", *ONE, "--lock", lock, "--context", name, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "unexpected" not in ran.stderr
    assert "is vLLM" not in ran.stderr


def test_what_does_not_go_with_it_is_a_wrong_call(lock: Path, tmp_path: Path) -> None:
    for more in (["--to", "oci:x"], ["--dry-run"], ["--allow-clean"]):
        ran = write(lock, tmp_path / "out", *more)
        assert (ran.returncode, ran.stdout) == (2, "")
    files = [installed_file(TARGET, NEEDED)]
    write_base(tmp_path / "base", files, Platform("linux", "amd64"), {}, "base")
    layout = run("image", f"oci:{tmp_path / 'base'}:base", "--context", tmp_path / "out")
    assert layout.returncode == 2
    assert "which no Dockerfile can name" in layout.stderr
    assert not (tmp_path / "out").exists()
