"""The same base to a layout, to a registry and into a daemon: one job, one result."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import Finding
from patcher.files import data_path
from patcher.jobs.image import Order, Report
from patcher.jobs.opening import daemon_job, publish_job
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.file import save
from patcher.oci.layout import open_image
from patcher.oci.reference import Platform, host_platform, parse_reference
from patcher.rules.catalogue import load_patch
from patcher.versions import parsed
from patcher.web.http import HttpSettings
from tests.conftest import TARGET
from tests.docker_bases import remove_all
from tests.indexes import add_index
from tests.installations import installed_file
from tests.memory import OCI, Memory
from tests.registries import fetch, upload

if TYPE_CHECKING:
    import docker

    from patcher.rules.patch import Patch

SOURCE = b"""\
class MLA:
    def dtype(self):
        return self.kv_b_proj.weight.dtype

    def other(self):
        return self.q_b_proj.weight.dtype
"""
PLACES = ["layout", "registry", "daemon"]


def patches() -> tuple[Patch, Patch]:
    """The guard of one layer, and that of another in the same file."""
    first = load_patch(data_path("patches") / "kv_b_proj_dtype.py")
    rule = dataclasses.replace(first.rule, receiver="q_b_proj")
    return first, dataclasses.replace(first, name="other", rule=rule)


@dataclass(frozen=True)
class World:
    """A two-platform base in a registry, and a place of each kind that nothing is in yet."""

    host: str
    folder: Path
    lock: Path
    root: dict[str, Any]
    client: docker.DockerClient

    def make(self, place: str, name: str, *patches: Patch) -> Report:
        """Patch the base that `name` means for this machine's platform."""
        order = Order(patches, platform=host_platform())
        if place == "daemon":
            return daemon_job(
                name, self.repository, self.lock, order, HttpSettings(), lambda _: None
            )
        to = f"oci:{self.folder / 'box'}" if place == "layout" else f"{self.host}/made/vllm"
        return publish_job(name, to, self.lock, order, HttpSettings(), lambda _: None)

    @property
    def repository(self) -> str:
        """Where the daemon's tags go."""
        return f"{self.host}/made-here/vllm"

    def config(self, place: str, report: Report) -> dict[str, Any]:
        """The part of the result's config that says how it is run."""
        if place == "daemon":
            return dict((self.client.images.get(report.digest).attrs or {})["Config"])
        box = self.folder / "box" / "blobs" / "sha256"

        def read(kind: str, digest: str) -> Any:
            if place == "layout":
                return json.loads((box / digest.removeprefix("sha256:")).read_bytes())
            data = fetch(self.host, "made/vllm", kind, digest)
            assert data is not None
            return json.loads(data)

        manifest = read("manifests", report.platforms[0].digest)
        return dict(read("blobs", manifest["config"]["digest"])["config"])


@pytest.fixture
def world(
    registry: str, daemon: docker.DockerClient, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    blobs = Memory()
    stated = b"__version__ = version = '0.23.0'\n"
    files = [
        installed_file("vllm/_version.py", stated),
        installed_file(TARGET, SOURCE, mode=0o640, owner=1234),
        installed_file(f"{Path(TARGET).parent}/__pycache__/mla_attention.cpython-312.pyc", b"old"),
    ]
    # A base of this test's own: two tests beside each other would else take away one image's names.
    labels = {"kept": "yes", "unique": uuid.uuid4().hex}
    run = {"Entrypoint": ["vllm"], "User": "7", "Labels": labels}
    name = f"places/{tmp_path.name.lower().replace('_', '-')}"
    root = add_index(blobs, OCI, files, run)
    upload(registry, name, blobs.data, root)
    reference, version = parse_reference(f"{registry}/{name}:v0.23.0"), parsed("0.23.0")
    assert version is not None
    # As `lock add` locks it: the index, and each platform's own manifest.
    index = json.loads(blobs.data[root["digest"]])["manifests"]
    platforms = {
        Platform("linux", each["platform"]["architecture"]): Pin(each["digest"])
        for each in index
        if each["platform"]["os"] == "linux"
    }
    locked = Locked(version, index=Pin(root["digest"]), platforms=platforms)
    entry = Entry(Original("0.23.0", reference), locked)
    save(tmp_path / "images.lock", Lock((entry,)))
    yield World(registry, tmp_path, tmp_path / "images.lock", root, daemon)
    for repository in (f"{registry}/made-here/vllm", f"{registry}/{name}"):
        for image in daemon.images.list(repository):
            remove_all(daemon, str(image.id))


def test_three_places_get_the_same_image(world: World) -> None:
    first, other = patches()
    made = {place: world.make(place, "0.23.0", first, other) for place in PLACES}
    layout, registry = made["layout"], made["registry"]
    assert layout.digest == registry.digest
    assert {report.tags[0].rpartition(":")[2] for report in (layout, registry)} == {
        layout.tags[0].rpartition(":")[2]
    }
    for report in made.values():
        [image], [wanted] = report.platforms, layout.platforms
        assert [verdict.status for verdict in image.before] == ["needed", "needed"]
        assert (image.before, image.after) == (wanted.before, wanted.after)
        assert image.changes == wanted.changes, "the same files, byte for byte"
        assert (image.root, image.vllm, report.base_digest) == (
            wanted.root,
            wanted.vllm,
            world.root["digest"],
        )
    configs = [world.config(place, made[place]) for place in PLACES]
    versioned = "org.opencontainers.image.version"
    assert configs[0]["Labels"] == configs[1]["Labels"]
    # The daemon's tag for this machine's own platform does not name it.
    told = [config["Labels"].pop(versioned) for config in configs]
    assert told[0].startswith(told[2])
    assert configs[0]["Labels"] == configs[2]["Labels"]
    assert configs[2]["Labels"]["dev.vllm-patcher.patches"] == "kv-b-proj-dtype@1,other@1"
    for config in configs:
        assert (config["Entrypoint"], config["User"]) == (["vllm"], "7")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_stacked_in_any_place(world: World, place: str) -> None:
    first, other = patches()
    made = world.make(place, "0.23.0", first)
    again = relocked(world, place, made)
    with pytest.raises(Finding, match="patched already, with kv-b-proj-dtype@1") as error:
        world.make(place, again, first, other)
    with pytest.raises(Finding, match="patched already"):
        world.make(place, again, other)
    base = f"places/{world.folder.name.lower().replace('_', '-')}:v0.23.0@{world.root['digest']}"
    assert base in error.value.next_step
    assert " @sha256" not in error.value.next_step


def relocked(world: World, place: str, made: Report) -> str:
    """The name of a base which is what was made: in the layout, or locked in a registry."""
    if place == "layout":
        return f"oci:{world.folder / 'box'}:{made.tags[0].rpartition(':')[2]}"
    tag = made.tags[0].rpartition(":")[2]
    if place == "daemon":
        world.client.api.push(world.repository, tag=tag)
        pins = world.client.images.get(f"{world.repository}:{tag}").attrs or {}
        [pin] = pins["RepoDigests"]
        reference, digest = parse_reference(f"{world.repository}:{tag}"), pin.partition("@")[2]
    else:
        reference, digest = parse_reference(made.tags[0]), made.digest
    version = parsed("0.23.0")
    assert version is not None
    locked = Locked(version, platforms={host_platform(): Pin(digest)})
    save(world.lock, Lock((Entry(Original("0.23.0", reference), locked),)))
    return "0.23.0"


def test_what_a_layout_got_is_judged_clean_there(world: World) -> None:
    first, _ = patches()
    made = world.make("layout", "0.23.0", first)
    image = open_image(world.folder / "box", made.tags[1].rpartition(":")[2], None)
    assert image.installation([TARGET]).bytecode == {TARGET: ()}
