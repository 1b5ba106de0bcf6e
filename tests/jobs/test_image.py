"""`vllm-patcher image`, end to end: a pinned base in a real registry, a real daemon, real vLLM."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from patcher.lock.entries import Entry as Locked
from patcher.lock.entries import Lock, Original, Pin
from patcher.lock.entries import Locked as Pins
from patcher.lock.file import save
from patcher.oci.reference import host_platform, parse_platform, parse_reference
from patcher.versions import parsed
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.docker_bases import Entry, load_base, push_index, remove_all

VERSION = "0.23.1rc1.dev672+g93d8f834d"
COMMIT = "93d8f834dd8acf33eb0e2a75b2711b628cb6e226"
ROOT = "/usr/local/lib/python3.12/dist-packages"
CACHE = f"{ROOT}/vllm/model_executor/layers/attention/__pycache__"


@dataclass(frozen=True)
class World:
    """A two-platform base in a registry, and a lock that pins it as the newest 0.23.1rc1."""

    client: docker.DockerClient
    lock: Path
    base: str
    repository: str
    digests: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `vllm-patcher image` as a user does."""
        place = ["--lock", str(self.lock), "--repository", self.repository]
        one = () if "--patch" in arguments else ONE
        return run("image", *arguments, *one, *place)

    def tags(self) -> dict[str, str]:
        """The ids of the images under our repository's tags."""
        return {
            tag.rpartition(":")[2]: str(image.id)
            for image in self.client.images.list(self.repository)
            for tag in image.tags
        }


def version_file(version: str) -> bytes:
    lines = f"__version__ = version = {version!r}\n__commit_id__ = commit_id = 'g{COMMIT[:9]}'\n"
    return lines.encode()


@pytest.fixture
def world(
    daemon: docker.DockerClient, registry: str, release_file: Callable[[str], bytes], tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """`world(release, stated)`: real files of a release, in a base that states a version."""
    made: list[tuple[str, str]] = []

    def make(release: str = "0.23.0", stated: str = VERSION) -> World:
        repository = f"{registry}/base/{uuid.uuid4().hex}"
        images = {}
        for architecture in ("amd64", "arm64"):
            entries = [
                Entry(f"{ROOT}/vllm/_version.py", version_file(stated)),
                Entry(f"{ROOT}/{TARGET}", release_file(release), uid=1000, gid=1001, mode=0o640),
                Entry(f"{CACHE}/mla_attention.cpython-312.pyc", b"stale"),
                Entry(f"{CACHE}/other.cpython-312.pyc", b"kept"),
            ]
            config = {
                "Entrypoint": ["vllm", "serve"],
                "User": "2000",
                "Labels": {"ai.vllm.image.tag": "nightly", "kept": "yes"},
            }
            images[architecture] = load_base(daemon, entries, config, architecture)
        digests = push_index(daemon, repository, images)
        for image in images.values():
            remove_all(daemon, image)
        reference = parse_reference(f"{repository}:nightly-{COMMIT}")
        known = parsed(VERSION)
        assert known is not None
        pins = Pins(
            known,
            COMMIT,
            Pin(digests["index"]),
            platforms={parse_platform(f"linux/{a}"): Pin(digests[a]) for a in images},
        )
        lock = tmp_path / "images.lock"
        save(lock, Lock((Locked(Original(VERSION, reference), pins),)))
        made.append((repository, f"{registry}/patched/{uuid.uuid4().hex}"))
        return World(daemon, lock, repository, made[-1][1], digests)

    yield make
    for names in made:
        for name in names:
            for image in daemon.images.list(name):
                remove_all(daemon, str(image.id))


def test_an_image_is_baked_proven_and_tagged(world: Callable[..., World]) -> None:
    here = world()
    ran = here.run("0.23.1rc1", "--platform", "linux/amd64", "--json")
    assert ran.returncode == 0, ran.stderr
    assert f"0.23.1rc1 is vLLM {VERSION} for linux/amd64" in ran.stderr
    report = json.loads(ran.stdout)
    assert [verdict["status"] for verdict in report["platforms"][0]["before"]] == ["needed"]
    assert [verdict["status"] for verdict in report["platforms"][0]["after"]] == ["clean"]
    fixed = report["tags"][0].rpartition(":")[2]
    assert fixed.startswith("0.23.1rc1.dev672-g93d8f834d-")
    assert here.tags() == {fixed: report["digest"], "0.23.1rc1-patched": report["digest"]}
    config = (here.client.images.get(report["digest"]).attrs or {})["Config"]
    assert (config["Entrypoint"], config["User"]) == (["vllm", "serve"], "2000")
    labels = config["Labels"]
    assert labels["kept"] == "yes"
    assert labels["ai.vllm.image.tag"] == labels["org.opencontainers.image.version"] == fixed
    assert labels["org.opencontainers.image.base.digest"] == here.digests["index"]
    assert labels["org.opencontainers.image.base.name"].endswith(f":nightly-{COMMIT}")
    assert labels["dev.vllm-patcher.vllm.version"] == VERSION
    assert labels["dev.vllm-patcher.vllm.commit"] == COMMIT[:9]
    patched = report["platforms"][0]["files"][0]["patches"][0]
    prefix = "dev.vllm-patcher.patch.kv-b-proj-dtype"
    assert labels[f"{prefix}.preimage"] == f"sha256:{patched['preimage']}"
    assert labels[f"{prefix}.postimage"] == f"sha256:{patched['postimage']}"


def test_the_file_in_the_image_is_the_reported_one(world: Callable[..., World]) -> None:
    here = world()
    report = json.loads(here.run("0.23.1rc1.dev672", "--json").stdout)
    container = here.client.containers.create(report["digest"], "none")
    try:
        stream, stat = container.get_archive(report["platforms"][0]["files"][0]["path"])
        data = b"".join(stream)
    finally:
        container.remove()
    assert stat is not None
    assert stat["mode"] & 0o777 == 0o640
    content = untar(data)
    assert (
        hashlib.sha256(content).hexdigest()
        == report["platforms"][0]["files"][0]["patches"][0]["postimage"]
    )


def untar(data: bytes) -> bytes:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.next()
        assert member is not None
        assert (member.uid, member.gid) == (1000, 1001)
        file = archive.extractfile(member)
        assert file is not None
        return file.read()


def test_another_platform_is_baked_here_under_tags_of_its_own(world: Callable[..., World]) -> None:
    here = world()
    ran = here.run("0.23.1rc1", "--platform", "linux/arm64", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    attributes = here.client.images.get(report["digest"]).attrs or {}
    assert attributes["Architecture"] == "arm64"
    assert "0.23.1rc1-patched-arm64" in here.tags()


def test_a_base_that_needs_nothing_is_not_built_upon(world: Callable[..., World]) -> None:
    here = world("0.28.0")
    ran = here.run("0.23.1rc1")
    assert (ran.returncode, ran.stdout, here.tags()) == (1, "", {})
    assert f"vLLM {VERSION} already carries this: kv-b-proj-dtype" in ran.stderr


def test_a_base_that_needs_nothing_is_tagged_where_that_is_allowed(
    world: Callable[..., World],
) -> None:
    here = world("0.28.0")
    ran = here.run("0.23.1rc1", "--allow-clean", "--json")
    assert ran.returncode == 0, ran.stderr
    assert set(here.tags().values()) == {json.loads(ran.stdout)["digest"]}


@pytest.mark.parametrize("stated", ["0.23.0", "0.23.1rc1.dev672+g0123456789", "0.23.1rc1.dev673"])
def test_another_version_in_the_image_is_an_error(world: Callable[..., World], stated: str) -> None:
    here = world(stated=stated)
    ran = here.run("0.23.1rc1")
    assert (ran.returncode, ran.stdout, here.tags()) == (3, "", {})
    assert f"the image holds vLLM {stated}, not {VERSION}" in ran.stderr


def test_a_patch_that_does_not_exist_is_named(world: Callable[..., World]) -> None:
    ran = world().run("0.23.1rc1", "--patch", "no-such")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no patch is named 'no-such'" in ran.stderr


def test_a_folder_in_an_images_place_is_known(world: Callable[..., World], tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    here = world()
    ran = here.run(str(tmp_path / "venv"))
    assert f"It is a path here: `vllm-patcher patch {tmp_path}/venv --in-place`." in ran.stderr
    (tmp_path / "venv" / "oci-layout").touch()
    ran = here.run(str(tmp_path / "venv"))
    assert f"name an image in it, as oci:{tmp_path}/venv:NAME." in ran.stderr


def test_a_second_run_finds_the_fixed_tag_and_builds_nothing(world: Callable[..., World]) -> None:
    here = world()
    first = json.loads(here.run("0.23.1rc1", "--json").stdout)
    tags = here.tags()
    again = here.run("0.23.1rc1", "--json")
    second = json.loads(again.stdout)
    assert "all of it is there already: nothing to do" in again.stderr
    assert "building" not in again.stderr
    for key in ("digest", "tags", "platforms"):
        assert first[key] == second[key]
    assert second["moved"] == []
    assert here.tags() == tags


def test_an_image_that_only_the_daemon_has_is_built_on_by_its_id(
    world: Callable[..., World], release_file: Callable[[str], bytes]
) -> None:
    here = world()
    entries = [
        Entry(f"{ROOT}/vllm/_version.py", version_file("0.23.0")),
        Entry(f"{ROOT}/{TARGET}", release_file("0.23.0")),
    ]
    inherited = {"org.opencontainers.image.base.name": "docker.io/library/ubuntu:24.04"}
    base = load_base(here.client, entries, {"Labels": inherited}, host_platform().architecture)
    name = f"vllm-node-{uuid.uuid4().hex[:8]}"
    here.client.api.tag(base, name)
    try:
        ran = here.run(name, "--json")
        assert ran.returncode == 0, ran.stderr
        assert f"{name} is not in images.lock: the daemon's own image {base}" in ran.stderr
        report = json.loads(ran.stdout)
        assert (report["base_name"], report["base_digest"]) == (name, base)
        labels = (here.client.images.get(report["digest"]).attrs or {})["Config"]["Labels"]
        assert labels["org.opencontainers.image.base.digest"] == base
        assert labels["org.opencontainers.image.base.name"] == ""
        assert labels["dev.vllm-patcher.base.local"] == name
        assert run("verify", *ONE, f"docker:{report['tags'][1]}").returncode == 0
        unknown = here.run(f"{name}-other")
        assert (unknown.returncode, unknown.stdout) == (2, "")
    finally:
        remove_all(here.client, base)


def test_a_fixed_tag_of_something_else_never_moves(world: Callable[..., World]) -> None:
    here = world()
    report = json.loads(here.run("0.23.1rc1", "--json").stdout)
    fixed = report["tags"][0]
    base = here.client.images.get(f"{here.base}@{here.digests['amd64']}")
    here.client.api.tag(base.id, *fixed.rsplit(":", 1))
    ran = here.run("0.23.1rc1")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"{fixed} is something else already, and never moves" in ran.stderr
    assert here.client.images.get(fixed).id == base.id


def test_a_patched_image_as_base_is_not_patched_again(
    world: Callable[..., World], tmp_path: Path
) -> None:
    here = world()
    report: dict[str, Any] = json.loads(here.run("0.23.1rc1", "--json").stdout)
    ran = run("verify", *ONE, f"docker:{report['tags'][1]}")
    assert ran.returncode == 0, ran.stderr
    assert "clean (0 unguarded, 3 guarded)" in ran.stderr


def test_a_locked_image_is_judged_by_its_name(world: Callable[..., World]) -> None:
    here = world()
    lock = ["--lock", str(here.lock), "--platform", "linux/amd64"]
    remote = run("verify", *ONE, "0.23.1rc1", *lock)  # out of the registry: the daemon has it not
    here.client.images.pull(f"{here.base}@{here.digests['amd64']}")
    local = run("verify", *ONE, "0.23.1rc1", *lock, "--plain-http", "nobody.example")
    for judged in (remote, local):
        assert (judged.returncode, judged.stdout.count("unguarded read")) == (1, 1)


def test_a_tag_is_locked_with_what_its_registry_says(world: Callable[..., World]) -> None:
    here = world()
    lock = here.lock.with_name("other.lock")
    ran = run("lock", "add", VERSION, f"{here.base}:index", "--lock", str(lock), "--json")
    assert ran.returncode == 0, ran.stderr
    locked = json.loads(ran.stdout)["image"]
    pins = {pin["kind"]: pin["digest"] for pin in locked["pins"]}
    assert pins == {
        "index": here.digests["index"],
        "linux/amd64": here.digests["amd64"],
        "linux/arm64": here.digests["arm64"],
    }
    gone = run("lock", "add", VERSION, f"{here.base}:gone", "--lock", str(lock))
    assert (gone.returncode, gone.stdout) == (3, "")
    checked = run("lock", "check", "--lock", str(lock))
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


def test_a_patched_tag_is_published_without_a_daemon(world: Callable[..., World]) -> None:
    here = world()
    target = here.base.replace("/base/", "/published/")
    place = [*ONE, "--lock", str(here.lock), "--to", target, "--json"]
    nowhere = "unix:///no-daemon.sock"
    dry = run("image", "0.23.1rc1", *place, "--dry-run", DOCKER_HOST=nowhere)
    assert dry.returncode == 0, dry.stderr
    assert f"0.23.1rc1 is vLLM {VERSION}: {here.base}@sha256:" in dry.stderr
    named = run("image", VERSION, *place, "--dry-run", DOCKER_HOST=nowhere)
    assert f"\nvLLM {VERSION}: {here.base}@sha256:" in f"\n{named.stderr}"
    gone = run("verify", *ONE, f"registry:{target}:0.23.1rc1-patched", DOCKER_HOST=nowhere)
    assert gone.returncode == 3
    done = run("image", "0.23.1rc1", *place, DOCKER_HOST=nowhere)
    assert done.returncode == 0, done.stderr
    again = run("image", "0.23.1rc1", *place, DOCKER_HOST=nowhere)
    first, second = json.loads(done.stdout), json.loads(again.stdout)
    assert first["digest"] == second["digest"] == json.loads(dry.stdout)["digest"]
    assert [image["platform"] for image in first["platforms"]] == ["linux/amd64", "linux/arm64"]
    judged = run("verify", *ONE, f"{target}:0.23.1rc1-patched", DOCKER_HOST=nowhere)
    assert (judged.returncode, judged.stdout) == (0, ""), judged.stderr


def test_an_image_of_ours_is_not_taken_for_upstreams_fix(world: Callable[..., World]) -> None:
    here = world()
    target = here.base.replace("/base/", "/ours/")
    nowhere = "unix:///no-daemon.sock"
    place = ["--lock", str(here.lock)]
    run("image", *ONE, "0.23.1rc1", "--to", target, *place, DOCKER_HOST=nowhere)
    ours = f"{target}:0.23.1rc1-patched"
    locked = run("lock", "add", VERSION, ours, *place)
    assert locked.returncode == 0, locked.stderr
    said = run("landed", *ONE, "--images", *place, "--json", DOCKER_HOST=nowhere)
    findings = json.loads(said.stdout)
    assert said.returncode == 3
    assert "was patched by vllm-patcher" in said.stdout + said.stderr
    assert '"status": "clean"' not in json.dumps(findings)
    assert '"status": "unknown"' in json.dumps(findings)
