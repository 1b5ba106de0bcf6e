"""The OCI layout, with the tools that read it: skopeo, a Docker daemon, a registry."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import BadReference, BrokenImage, FileAbsent, Unreadable, Unwritable
from patcher.files import write_atomically
from patcher.jobs.demo import write_base
from patcher.oci.image import load_family
from patcher.oci.installation import ImageFile
from patcher.oci.layout import Layout, create_layout, existing_layout, only_named, open_image
from patcher.oci.model import OCI_MANIFEST
from patcher.oci.reference import Platform, host_platform
from patcher.places.place import Recipe
from patcher.places.stored import Stored, StoredPlace
from tests.conftest import missing
from tests.installations import CACHE, SITE, TARGET, change_of, installed_file, vllm_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import docker

AMD64 = Platform("linux", "amd64")
PYC = f"{CACHE}/probe.{sys.implementation.cache_tag}.pyc"
RUN: Mapping[str, object] = {
    "Entrypoint": ["/usr/local/bin/python3", "-c"],
    "Env": [f"PYTHONPATH={SITE}"],
    "User": "1234:1234",
    "WorkingDir": "/usr",
    "Labels": {"org.opencontainers.image.version": "24.04", "kept": "yes"},
}


def base_layout(path: Path, files: Sequence[ImageFile] | None = None, name: str = "base") -> Path:
    write_base(path, files or vllm_files(), AMD64, RUN, name)
    return path


def bake(path: Path, names: Sequence[str] = ("patched",), data: bytes = b"ANSWER = 'new'\n") -> str:
    """Put a layer on `base`, prove it, and give it these names; its digest."""
    layout = existing_layout(path)
    image = open_image(path, "base", None)
    family = load_family(layout, image.image.descriptor)
    before = image.installation([TARGET])
    change = change_of(before, data)
    recipe = Recipe(
        (image.image.digest,), {image.image.digest: change}, change.labels, tuple(names)
    )
    made = StoredPlace("here", layout, Stored(layout, family)).plan(recipe).make(lambda _: None)
    [back] = made.read_back({image.image.digest: before}).values()
    assert back.files[TARGET].data == data
    assert back.bytecode == {TARGET: ()}
    made.name()
    return made.digest


def skopeo(*arguments: str) -> bytes:
    if shutil.which("skopeo") is None:
        missing("skopeo is not installed (apt-get install skopeo)")
    done = subprocess.run(["skopeo", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def blob(path: Path, digest: str) -> bytes:
    data = (path / "blobs" / digest.replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def snapshot(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def unchecked_bytecode(tmp_path: Path, source: bytes) -> ImageFile:
    """Bytecode that Python runs without a look at the source beside it."""
    (tmp_path / "probe.py").write_bytes(source)
    py_compile.compile(
        str(tmp_path / "probe.py"),
        cfile=str(tmp_path / "probe.pyc"),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return installed_file(PYC.removeprefix(f"{SITE}/"), (tmp_path / "probe.pyc").read_bytes())


def test_what_was_baked_reads_back_and_the_base_still_does(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout", [*vllm_files(), ImageFile(PYC, b"0", 0, 0, 0o644, 1)])
    base = open_image(path, "base", AMD64)
    before = base.installation([TARGET, "vllm/absent.py"])
    assert before.root == SITE
    assert before.version == "0.23.0"
    assert before.bytecode == {TARGET: (PYC,)}
    digest = bake(path, ["0.23.0-0123", "0.23.0-patched"])
    reopened = open_image(path, "0.23.0-patched", None)
    after = reopened.installation([TARGET, "vllm/absent.py"])
    file = after.files[TARGET]
    assert file.data == b"ANSWER = 'new'\n"
    assert (file.uid, file.gid, file.mode) == (1234, 1234, 0o640)
    assert after.bytecode == {TARGET: ()}
    assert reopened.digest == digest
    assert reopened.labels["kept"] == "yes"
    assert reopened.labels["org.opencontainers.image.version"] == "0.23.0-patched"
    assert (
        open_image(path, "base", None).installation([TARGET]).files[TARGET].data
        == b"ANSWER = 'old'\n"
    )


def test_the_layout_is_what_the_specification_says(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    digest = bake(path)
    assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((path / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {"org.opencontainers.image.ref.name": "base"},
        {"org.opencontainers.image.ref.name": "patched"},
    ]
    raw = skopeo("inspect", "--raw", f"oci:{path}:patched")
    assert raw == blob(path, digest)
    manifest = json.loads(raw)
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == OCI_MANIFEST
    for descriptor in (*index["manifests"], manifest["config"], *manifest["layers"]):
        assert descriptor.keys() >= {"mediaType", "digest", "size"}
        assert len(blob(path, descriptor["digest"])) == descriptor["size"]
    config = json.loads(blob(path, manifest["config"]["digest"]))
    assert {"architecture", "os", "rootfs"} <= config.keys()
    assert config["rootfs"]["type"] == "layers"
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == len(manifest["layers"])
    assert json.loads(skopeo("inspect", f"oci:{path}:patched"))["Layers"] == [
        layer["digest"] for layer in manifest["layers"]
    ]


def test_the_same_digest_in_another_process_clock_zone_locale_and_umask(tmp_path: Path) -> None:
    first = bake(base_layout(tmp_path / "first"))
    program = (
        "import os, sys; from pathlib import Path; os.umask(0o077)\n"
        "from tests.oci.test_layout import bake, base_layout\n"
        "print(bake(base_layout(Path(sys.argv[1]))), end='')"
    )
    root = Path(__file__).parents[2]
    environment = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    second = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "second"],
        env={**os.environ, **environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert second == first
    assert snapshot(tmp_path / "second") == snapshot(tmp_path / "first")


def test_a_second_bake_changes_no_byte(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    bake(path)
    before = snapshot(path)
    bake(path)
    assert snapshot(path) == before


def test_a_name_that_moves_keeps_its_place_and_the_others(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    bake(path, ["moving"])
    newer = bake(path, ["moving"], b"ANSWER = 'newer'\n")
    names = [entry.annotations for entry in existing_layout(path).entries()]
    assert [name["org.opencontainers.image.ref.name"] for name in names] == ["base", "moving"]
    assert open_image(path, "moving", None).digest == newer


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("write", range(4))
def test_an_interrupted_write_leaves_the_old_names_and_a_second_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, write: int
) -> None:
    """Layer, config, manifest and index.json are four writes; each is stopped in turn."""
    path = base_layout(tmp_path / "layout")
    index = (path / "index.json").read_bytes()
    real, calls = os.fsync, iter(range(100))

    def stop(descriptor: int) -> None:
        # write_atomically syncs the file and its directory: every second call is a file's.
        if next(calls) == 2 * write:
            raise fault
        real(descriptor)

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises((Unwritable, KeyboardInterrupt)):
        bake(path)
    monkeypatch.undo()
    assert (path / "index.json").read_bytes() == index
    assert not list(path.rglob("*.tmp"))
    bake(path)
    assert open_image(path, "patched", None).installation([TARGET])


def test_a_result_that_does_not_validate_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = base_layout(tmp_path / "layout")
    before = (path / "index.json").read_bytes()
    real = write_atomically
    monkeypatch.setattr(
        "patcher.oci.layout.write_atomically",
        lambda blob, data, **how: real(blob, data + b" ", **how),
    )
    with pytest.raises(BrokenImage):
        bake(path)
    assert (path / "index.json").read_bytes() == before


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_a_blobs_place_is_not_written_through(tmp_path: Path, dangling: bool) -> None:
    """Every digest that will be written can be known before: a layout's author can wait there."""
    made = base_layout(tmp_path / "made")
    before = set(snapshot(made))
    bake(made)
    path, victim = base_layout(tmp_path / "layout"), tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"theirs")
    for name in set(snapshot(made)) - before:
        (path / name).symlink_to(victim)
    bake(path)
    assert victim.exists() is not dangling
    assert dangling or victim.read_bytes() == b"theirs"
    assert snapshot(path).keys() == snapshot(made).keys()
    assert not [file for file in path.rglob("*") if file.is_symlink()]


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "blob"])
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_stands_in_a_files_place_and_never_ends_is_not_read(
    tmp_path: Path, name: str, kind: str
) -> None:
    """A pipe that nobody writes to held every reader; a link to /dev/zero filled the memory."""
    path = base_layout(tmp_path / "layout")
    blob = existing_layout(path).entries()[0].digest.replace(":", "/")
    victim = path / (f"blobs/{blob}" if name == "blob" else name)
    victim.unlink()
    if kind == "pipe":
        os.mkfifo(victim)
    else:
        victim.symlink_to("/dev/zero")
    with pytest.raises(Unreadable, match="it is not a regular file"):
        open_image(path, "base", None)


def test_a_linked_folder_of_blobs_is_not_written_into(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    (path / "blobs" / "sha256").rename(tmp_path / "elsewhere")
    (path / "blobs" / "sha256").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    with pytest.raises(Unwritable, match="sha256 is a symbolic link"):
        bake(path)
    assert snapshot(tmp_path / "elsewhere") == before


def test_a_layout_that_was_cut_between_its_first_two_files_is_finished(tmp_path: Path) -> None:
    create_layout(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    marker = (tmp_path / "whole" / "oci-layout").read_bytes()
    (tmp_path / "cut" / "oci-layout").write_bytes(marker)
    assert create_layout(tmp_path / "cut").entries() == ()
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize(
    ("platform", "name", "said"),
    [
        (None, None, "holds several images"),
        (None, "other", "no image is other"),
        (Platform("linux", "arm64"), "base", "no image is base linux/arm64"),
    ],
)
def test_an_image_that_is_not_told_apart_is_refused_with_what_is_there(
    tmp_path: Path, platform: Platform | None, name: str | None, said: str
) -> None:
    path = base_layout(tmp_path / "layout")
    bake(path)
    with pytest.raises(BadReference, match=said) as caught:
        open_image(path, name, platform)
    assert "base (linux/amd64), patched (linux/amd64)" in caught.value.next_step
    create_layout(tmp_path / "empty")
    for refuse in (open_image, lambda *_: only_named(Layout(tmp_path / "empty"), name)):
        with pytest.raises(BadReference, match="empty holds no image"):
            refuse(tmp_path / "empty", name, platform)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a..b", "a\n", "é"])
def test_a_name_that_no_layout_can_have_is_refused(tmp_path: Path, name: str) -> None:
    path = base_layout(tmp_path / "layout")
    before = (path / "index.json").read_bytes()
    with pytest.raises(BadReference):
        bake(path, ["good", name])
    assert (path / "index.json").read_bytes() == before


def test_no_layout_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="cannot be read as an image layout"):
        open_image(tmp_path, None, None)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_broken_file_of_a_layout_is_named(tmp_path: Path, name: str) -> None:
    path = base_layout(tmp_path / "layout")
    (path / name).write_text("{")
    with pytest.raises(BrokenImage) as raised:
        open_image(path, None, None)
    assert raised.value.problem.startswith(str(path / name))
    (path / name).unlink()
    if name == "index.json":
        with pytest.raises(Unreadable, match=r"layout/index\.json cannot be read .*: No such file"):
            open_image(path, None, None)


def test_a_layout_of_another_version(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    (path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(BrokenImage, match=r"version '2\.0\.0'"):
        open_image(path, None, None)


def test_an_image_without_vllm(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout", [ImageFile("/etc/passwd", b"", 0, 0, 0o644, 0)])
    with pytest.raises(FileAbsent, match="holds no vLLM"):
        open_image(path, None, None).installation([TARGET])


def test_a_damaged_base_layer_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = base_layout(tmp_path / "layout")
    largest = max((path / "blobs").rglob("*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes().replace(b"'old'", b"'0ld'"))
    with pytest.raises(BrokenImage, match="other bytes"):
        open_image(path, "base", None).installation([TARGET])


def rootfs_files(root: Path) -> list[ImageFile]:
    return [
        ImageFile(
            f"/{file.relative_to(root)}", file.read_bytes(), 0, 0, file.stat().st_mode & 0o777, 0
        )
        for file in root.rglob("*")
        if file.is_file()
    ]


@pytest.fixture(scope="module")
def runnable(python_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with `base` and `patched`; the base holds unchecked bytecode of the old source."""
    tmp_path = tmp_path_factory.mktemp("runnable")
    stale = unchecked_bytecode(tmp_path, b"ANSWER = 'stale'\n")
    files = [*rootfs_files(python_rootfs), *vllm_files(), stale]
    write_base(tmp_path / "layout", files, host_platform(), RUN, "base")
    bake(tmp_path / "layout")
    return tmp_path / "layout"


ASK = "from vllm.model_executor.layers.attention import probe; print(probe.ANSWER)"


def run_in(client: docker.DockerClient, name: str, layout: Path, source: str) -> tuple[str, Any]:
    """What Python says in a container of an image that skopeo copied into the daemon."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    skopeo("copy", "--quiet", "--dest-daemon-host", host, source, f"docker-daemon:{name}")
    try:
        said = client.containers.run(name, [ASK], network_mode="none", remove=True)
        return said.decode().strip(), client.images.get(name).attrs
    finally:
        client.images.remove(name, force=True)


def test_a_container_of_it_runs_the_patched_source(
    runnable: Path, daemon: docker.DockerClient
) -> None:
    name = f"oci-layout-test-{uuid.uuid4().hex}"
    old, _ = run_in(daemon, f"{name}:base", runnable, f"oci:{runnable}:base")
    assert old == "stale"
    new, image = run_in(daemon, f"{name}:patched", runnable, f"oci:{runnable}:patched")
    assert new == "new"
    assert {key: image["Config"][key] for key in RUN if key != "Labels"} == {
        key: value for key, value in RUN.items() if key != "Labels"
    }
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == "0.23.0-patched"


def test_a_registry_takes_it_under_the_same_digest(runnable: Path, registry: str) -> None:
    there = f"docker://{registry}/vllm:patched"
    # The base's layer in here is plain, and skopeo would compress it: another digest.
    copy = ("copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false")
    skopeo(*copy, f"oci:{runnable}:patched", there)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", there)
    digest = open_image(runnable, "patched", None).digest
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest
