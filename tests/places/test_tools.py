"""The whole command's job on a real registry, and what other tools make of the result."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import AccessDenied, BadReference
from patcher.jobs.image import Order
from patcher.jobs.opening import publish_job
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.file import save
from patcher.oci.reference import parse_reference
from patcher.rules.catalogue import select
from patcher.versions import parsed
from patcher.web.http import HttpSettings
from tests import commands
from tests.conftest import TARGET, missing, real_registry, wait_for_socket
from tests.indexes import add_index
from tests.installations import SITE, installed_file
from tests.memory import DOCKER, OCI, Memory
from tests.oci.test_layout import rootfs_files
from tests.places.test_stored import is_whole
from tests.registries import fetch, proxy_of, upload
from tests.scripted import Reply, in_turn, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    from patcher.jobs.image import Report
    from patcher.oci.installation import ImageFile

SOURCE = b"""\
class Packed:
    params_dtype = "the fallback"


class MLA:
    kv_b_proj = Packed()

    def dtype(self):
        return self.kv_b_proj.weight.dtype
"""
ASK = (
    "from vllm.model_executor.layers.attention.mla_attention import MLA\n"
    "try: print(MLA().dtype())\n"
    "except AttributeError as error: print('crash:', error)"
)
RUN = {
    "Entrypoint": ["/usr/local/bin/python3", "-c"],
    "Env": [f"PYTHONPATH={SITE}"],
    "User": "1234:1234",
}
TAG = "0.23.0-patched"


def files_of(root: Path, folder: Path) -> list[ImageFile]:
    """A root that runs Python, a vLLM that crashes, and bytecode of it that is never checked."""
    source, code = folder / "mla_attention.py", folder / "mla_attention.pyc"
    source.write_bytes(SOURCE)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(code), invalidation_mode=unchecked)
    target = Path(TARGET)
    name = f"__pycache__/mla_attention.{sys.implementation.cache_tag}.pyc"
    return [
        *rootfs_files(root),
        *(installed_file(f"{each}/__init__.py", b"") for each in target.parents if each.name),
        installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n"),
        installed_file(TARGET, SOURCE, mode=0o644, owner=1234),
        installed_file(f"{target.parent}/{name}", code.read_bytes()),
    ]


@dataclass(frozen=True)
class World:
    """A base in a registry, locked, and a cache of this test's own."""

    host: str
    lock: Path
    root: dict[str, Any]

    def publish(self, to: str, **order: Any) -> Report:
        said = Order(**{"patches": select(["kv-b-proj-dtype"]), **order})
        return publish_job("0.23.0", to, self.lock, said, HttpSettings(), lambda _: None)


def write_lock(path: Path, host: str, digest: str, repository: str = "base/vllm") -> Path:
    version = parsed("0.23.0")
    assert version is not None
    reference = parse_reference(f"{host}/{repository}:v0.23.0")
    save(path, Lock((Entry(Original("0.23.0", reference), Locked(version, index=Pin(digest))),)))
    return path


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(params=[OCI, DOCKER], ids=["oci", "docker"], scope="module")
def world(
    request: pytest.FixtureRequest,
    host: str,
    python_rootfs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    folder = tmp_path_factory.mktemp("world")
    blobs = Memory()
    root = add_index(blobs, request.param, files_of(python_rootfs, folder), RUN)
    upload(host, "base/vllm", blobs.data, root)
    return World(host, write_lock(folder / "images.lock", host, root["digest"]), root)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} is not installed (apt-get install {command[0]})")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def place(world: World, kind: str) -> str:
    return f"{world.host}/{kind}/{world.root['digest'][7:19]}"


def test_a_daemon_pulls_it_and_a_container_runs_the_patched_source(
    world: World, daemon: docker.DockerClient
) -> None:
    report = world.publish(to := place(world, "pulled"))
    for name, said in (
        (f"{world.host}/base/vllm@{world.root['digest']}", "crash: 'Packed' object has no"),
        (f"{to}:{TAG}", "the fallback"),
    ):
        image = daemon.images.pull(name)
        try:
            output = daemon.containers.run(image, [ASK], network_mode="none", remove=True)
            assert output.decode().startswith(said)
        finally:
            daemon.images.remove(str(image.id), force=True)
    assert image.attrs["RepoDigests"] == [f"{to}@{report.digest}"]


def test_skopeo_copies_every_platform_of_it(world: World, tmp_path: Path) -> None:
    report = world.publish(to := place(world, "copied"))
    layout = (
        f"oci:{tmp_path}/copy:it" if "oci" in world.root["mediaType"] else f"dir:{tmp_path}/copy"
    )
    run("skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{to}:{TAG}", layout)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{to}:{TAG}")
    assert [entry["digest"] for entry in json.loads(raw)["manifests"]] == [
        image.digest for image in report.platforms
    ]


def test_buildah_reads_it(world: World, tmp_path: Path) -> None:
    report = world.publish(to := place(world, "built"))
    storage = ["--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run"]
    buildah = ["buildah", *storage, "--storage-driver", "vfs"]
    run(*buildah, "pull", "--quiet", "--tls-verify=false", f"{to}:{TAG}")
    found = json.loads(run(*buildah, "inspect", "--type", "image", f"{to}:{TAG}"))
    assert found["FromImageDigest"] in {image.digest for image in report.platforms}
    assert found["OCIv1"]["config"]["Labels"]["dev.vllm-patcher.patches"] == "kv-b-proj-dtype@1"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The client's command for a containerd of this test's own."""
    if shutil.which("containerd") is None or os.geteuid() != 0:
        missing("containerd is not installed, or this user may not run it")
    folder = tmp_path_factory.mktemp("containerd")
    config, address = folder / "config.toml", folder / "sock"
    config.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{address}"\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    try:
        wait_for_socket(str(address), process)
        yield ["ctr", "--address", str(address)]
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_containerd_pulls_every_platform_of_it(world: World, containerd: list[str]) -> None:
    report = world.publish(to := place(world, "contained"))
    name = f"{to}:{TAG}"
    pull = ["images", "pull", "--plain-http", "--all-platforms", "--snapshotter", "native"]
    run(*containerd, *pull, name)
    assert report.digest in run(*containerd, "images", "ls", f"name=={name}")
    present = run(*containerd, "content", "ls", "-q").split()
    assert {image.digest for image in report.platforms} <= set(present)


def test_a_second_run_reads_and_sends_next_to_nothing(world: World, tmp_path: Path) -> None:
    with proxy_of(world.host) as proxy:
        through = World(
            proxy.address,
            write_lock(tmp_path / "images.lock", proxy.address, world.root["digest"]),
            world.root,
        )
        to = place(through, "twice")
        first = through.publish(to)
        layer = max(proxy.received, 1)
        proxy.forget()
        again = through.publish(to)
        assert (again.digest, again.moved, again.sent.parts) == (first.digest, (), 0)
        assert proxy.methods("PUT", "PATCH") == []
        opened, cancelled = proxy.methods("POST", "DELETE")  # it only asks whether it may write
        assert opened.startswith("POST")
        assert cancelled.startswith("DELETE")
        assert proxy.received < layer / 100, "the layers were read once, and their facts kept"


def test_an_immutable_moving_tag_is_said_and_is_no_failure(world: World, tmp_path: Path) -> None:
    with proxy_of(world.host) as proxy:
        proxy.immutable = (f"/manifests/{TAG}",)
        lock = write_lock(tmp_path / "images.lock", proxy.address, world.root["digest"])
        to = place(World(proxy.address, lock, world.root), "immutable")
        command = ["image", "0.23.0", "--to", to, *commands.ONE, "--lock", str(lock), "--json"]
        done = commands.run(*command)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert list(said["refused"]) == [f"{to}:{TAG}"]
        assert "the tag is immutable" in said["refused"][f"{to}:{TAG}"]
        [fixed] = said["tags"]
        assert said["moved"] == [fixed]
        assert f"{fixed} is published" in done.stderr
        there = place(world, "immutable").partition("/")[2]
        assert fetch(world.host, there, "manifests", TAG) is None
        assert is_whole(world.host, there, said["digest"])
        # The fixed tag itself is what a publication is about.
        proxy.immutable = ("/manifests/" + fixed.rpartition(":")[2],)
        refused = commands.run(*command[:3], f"{to}-2", *command[4:])
        assert (refused.returncode, json.loads(refused.stdout)["error"]["kind"]) == (
            3,
            "TagRefused",
        )


def test_what_is_printed(world: World) -> None:
    to = place(world, "printed")
    command = ["image", "0.23.0", "--to", to, *commands.ONE, "--lock", str(world.lock)]
    said = json.loads(commands.run(*command, "--json").stdout)
    assert said["tags"][1] == f"{to}:{TAG}"
    assert said["sent"]["parts"] == said["lacking"] < said["received"]
    lines = commands.run(*command).stdout.splitlines()
    assert f"image    {said['digest']}" in lines
    assert lines[-1] == "sent     nothing: all of it was there already"


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    world: World, own_cache: Path
) -> None:
    own_cache.write_text("a file where the folder should be")
    report = world.publish(place(world, "uncached"))
    assert is_whole(world.host, place(world, "uncached").partition("/")[2], report.digest)


def test_a_dry_run_needs_no_write_and_makes_none(world: World) -> None:
    with proxy_of(world.host) as proxy:
        to = place(World(proxy.address, world.lock, world.root), "dry")
        report = world.publish(to, dry_run=True)
        assert report.lacking > 0
        assert proxy.methods("POST", "PUT", "PATCH", "DELETE") == []


def test_a_dry_run_takes_a_place_that_it_may_not_see_for_empty(world: World) -> None:
    told: list[str] = []
    with serving(in_turn(Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))) as private:
        seen = world.publish(f"{world.host}/never/there", dry_run=True)
        order = Order(select(["kv-b-proj-dtype"]), dry_run=True)
        to = f"{private.host}/x"
        report = publish_job("0.23.0", to, world.lock, order, HttpSettings(), told.append)
        assert (report.lacking, report.base_lacking) == (seen.lacking, seen.base_lacking)
        assert told[-1].endswith("have no credentials for it: treating the destination as empty")
        with pytest.raises(AccessDenied):
            world.publish(to)


def test_who_may_not_write_is_told_before_the_base_is_read(world: World, tmp_path: Path) -> None:
    denied = Reply(403, body=b'{"errors": [{"code": "DENIED"}]}')
    with (
        proxy_of(world.host) as proxy,
        serving(lambda seen: Reply() if seen.method == "GET" else denied) as reader,
    ):
        there = World(proxy.address, world.lock, world.root)
        lock = write_lock(tmp_path / "images.lock", there.host, world.root["digest"])
        with pytest.raises(AccessDenied, match="HTTP 403"):
            World(there.host, lock, world.root).publish(f"{reader.host}/x")
        read = [each for each in proxy.seen if "/blobs/" in each]
        assert len(read) == 2, "the two configs, and no layer"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_part_of_a_blob(
    host: str, tmp_path: Path, ending: signal.Signals
) -> None:
    blobs = Memory()
    stated = installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n")
    root = add_index(blobs, OCI, [stated, installed_file(TARGET, SOURCE)], filler=3_000_000)
    upload(host, "base/large", blobs.data, root)
    large = [f"/blobs/{digest}" for digest, data in blobs.data.items() if len(data) > 3_000_000]
    half, over = threading.Event(), threading.Event()

    def stop(path: str, chunk: bytes) -> bytes:
        if path.endswith(tuple(large)) and (tmp_path / "layout/blobs").exists():
            while not list(tmp_path.rglob(".*.tmp")) and not over.wait(0.01):
                pass
            half.set()
            over.wait(30)
        return chunk

    with proxy_of(host) as proxy:
        lock = write_lock(tmp_path / "images.lock", proxy.address, root["digest"], "base/large")
        to = ["--to", f"oci:{tmp_path / 'layout'}", "--lock", str(lock)]
        command = [sys.executable, "-m", "patcher", "image", "0.23.0", *to, *commands.ONE]
        proxy.edit = stop
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert half.wait(60)
            running.send_signal(ending)
            _, said = running.communicate(timeout=60)
        finally:
            over.set()
    assert running.returncode == 128 + ending
    assert said.endswith("cannot mount\n\ninterrupted: no file, image or tag was left half-done\n")
    assert list(tmp_path.rglob(".*.tmp")) == []


def test_from_the_registry_into_a_layout_that_skopeo_reads(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "boxed"
    dry = world.publish(f"oci:{folder}:mine", dry_run=True)
    assert not folder.exists()
    report = world.publish(f"oci:{folder}:mine")
    assert (dry.digest, dry.base_lacking) == (report.digest, report.sent.streamed)
    assert report.tags[1] == f"oci:{folder}:mine"
    inspect = ["skopeo", "inspect", "--override-os", "linux", "--override-arch", "arm64"]
    said = json.loads(run(*inspect, f"oci:{folder}:mine"))
    assert said["Architecture"] == "arm64"
    assert said["Labels"]["org.opencontainers.image.base.digest"] == world.root["digest"]
    again = world.publish(f"oci:{folder}:mine")
    assert (again.digest, again.sent.parts, again.sent.streamed) == (report.digest, 0, 0)


def test_an_oci_base_has_the_same_digest_in_a_registry_and_in_a_layout(
    world: World, tmp_path: Path
) -> None:
    boxed, sent = world.publish(f"oci:{tmp_path / 'boxed'}"), world.publish(place(world, "same"))
    assert boxed.base_digest == sent.base_digest == world.root["digest"]
    assert [image.base_digest for image in boxed.platforms] == [
        image.base_digest for image in sent.platforms
    ]
    assert (boxed.digest == sent.digest) is ("oci" in world.root["mediaType"])


def test_from_a_layout_into_a_registry(world: World, tmp_path: Path) -> None:
    world.publish(f"oci:{tmp_path / 'boxed'}")
    told: list[str] = []
    order = Order(select(["kv-b-proj-dtype"]), allow_clean=True)
    name = f"oci:{tmp_path / 'boxed'}:{TAG}"
    with real_registry(tmp_path / "other") as other:
        report = publish_job(name, f"{other}/x", world.lock, order, HttpSettings(), told.append)
        assert fetch(other, "x", "manifests", TAG) is not None
        assert is_whole(other, "x", report.digest)


def test_of_several_images_in_a_layout_one_must_be_named(world: World, tmp_path: Path) -> None:
    box = tmp_path / "boxed"
    world.publish(f"oci:{box}:mine")
    index = json.loads((box / "index.json").read_bytes())
    named = [entry for entry in index["manifests"] if "artifactType" not in entry]
    [whole] = {entry["digest"]: entry for entry in named}.values()
    whole.pop("annotations")
    image = json.loads((box / "blobs/sha256" / whole["digest"][7:]).read_bytes())["manifests"][0]
    index["manifests"] = [whole, {**image, "annotations": {}}]
    (box / "index.json").write_text(json.dumps(index))
    order, settings = Order(select(["kv-b-proj-dtype"]), allow_clean=True), HttpSettings()
    with pytest.raises(BadReference, match="holds several images"):
        publish_job(f"oci:{box}", place(world, "x"), world.lock, order, settings, print)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (f"127.0.0.1:1/x@sha256:{'0' * 64}", "which only content decides"),
        ("127.0.0.1:1/UPPER", "lower case"),
        ("oci:", "names no folder"),
        ("oci::tag", "names no folder"),
    ],
)
def test_a_place_that_cannot_be_published_to(world: World, to: str, said: str) -> None:
    with pytest.raises(BadReference, match=said):
        world.publish(to)
