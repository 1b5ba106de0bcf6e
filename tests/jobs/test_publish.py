"""The job that publishes every platform of a base: what it makes, refuses and repeats."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import (
    AlreadyClean,
    BrokenImage,
    Finding,
    ProofFailed,
    WrongPlatform,
    WrongVersion,
)
from patcher.jobs.base import Base
from patcher.jobs.image import Order, Report, make_image
from patcher.lock.picking import Standing
from patcher.oci.image import load_family
from patcher.oci.layout import Layout, create_layout
from patcher.oci.model import INDEXES, Part
from patcher.oci.reference import Reference, parse_platform, parse_reference
from patcher.oci.rootfs.layers import StoredImage
from patcher.places.stored import Stored, StoredPlace
from patcher.report.document import as_json
from patcher.report.image import image_json, image_lines
from patcher.rules.catalogue import select
from patcher.rules.guard.rule import AttributeGuard
from patcher.versions import parsed
from tests.conftest import TARGET
from tests.indexes import add_index
from tests.installations import SITE, installed_file
from tests.memory import DOCKER, OCI, Memory, Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from patcher.oci.installation import ImageFile
    from patcher.oci.model import Descriptor

PATCHES = select(["kv-b-proj-dtype"])
NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"
CLEAN = b"class MLA:\n    def dtype(self):\n        return None\n"
NAME = parse_reference("vllm/vllm-openai:v0.23.0")
BOTH = ["linux/amd64", "linux/arm64"]


def vllm(source: bytes = NEEDED, version: str = "0.23.0") -> list[ImageFile]:
    stated = f"__version__ = version = {version!r}\n".encode()
    return [
        installed_file("vllm/_version.py", stated),
        installed_file(TARGET, source, mode=0o640, owner=1234),
    ]


@dataclass
class World:
    """A base in memory, and an empty layout to publish to."""

    blobs: Memory
    root: dict[str, Any]
    target: Layout
    asked: str | None = "0.23.0"
    name: Reference = NAME

    def publish(self, **order: Any) -> Report:
        source = Opened(self.blobs)
        family = load_family(source, self.blobs.descriptor(self.root))
        images = tuple(StoredImage(source, each.digest, each) for each in family.images)
        asked = parsed(self.asked) if self.asked else None
        base = Base(family.root.digest, images, self.name, asked)
        place = StoredPlace("here", self.target, Stored(source, family))
        standing = Standing(order.get("platform"), newest=True)
        said = Order(**{"patches": PATCHES, "standing": standing, **order})
        return make_image(base, said, place, self.said.append)

    def __post_init__(self) -> None:
        self.said: list[str] = []

    def stored(self, digest: str) -> Any:
        """A JSON document as it lies at the target."""
        return json.loads((self.target.path / "blobs/sha256" / digest[7:]).read_bytes())

    def config(self, manifest: str) -> Any:
        return self.stored(self.stored(manifest)["config"]["digest"])


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    def make(types: tuple[str, ...] = OCI, **options: Any) -> World:
        blobs = Memory()
        root = add_index(blobs, types, **{"files": vllm(), **options})
        return World(blobs, root, create_layout(tmp_path / "target"))

    return make


@pytest.mark.parametrize("types", [OCI, DOCKER])
def test_every_platform_of_a_real_release_is_patched_under_one_name(
    world: Callable[..., World], types: tuple[str, ...], release_file: Callable[[str], bytes]
) -> None:
    here = world(types, files=vllm(release_file("0.23.0")))
    report = here.publish()
    fixed, moving = report.tags
    assert fixed.startswith("here:0.23.0-")
    assert moving == "here:0.23.0-patched"
    assert report.moved == report.tags
    assert [str(image.platform) for image in report.platforms] == BOTH
    for image in report.platforms:
        assert [verdict.status for verdict in image.before] == ["needed"]
        assert [verdict.status for verdict in image.after] == ["clean"]
    for tag in report.tags:
        assert here.target.named(tag.removeprefix("here:")) == report.digest
    index = here.stored(report.digest)
    assert index["mediaType"] == types[0]
    assert [entry["digest"] for entry in index["manifests"]] == [
        image.digest for image in report.platforms
    ]
    base = {
        "org.opencontainers.image.base.name": str(NAME),
        "org.opencontainers.image.base.digest": here.root["digest"],
    }
    told = {
        **base,
        "org.opencontainers.image.source": "https://github.com/vllm-project/vllm",
        "org.opencontainers.image.version": fixed.removeprefix("here:"),
    }
    assert index["annotations"] == told
    added = set()
    for image in report.platforms:
        manifest = here.stored(image.digest)
        old = here.blobs.json(image.base_digest)
        assert manifest["annotations"] == told
        assert manifest["layers"][:-1] == old["layers"]
        added.add(manifest["layers"][-1]["digest"])
        said = here.config(image.digest)["config"]["Labels"]
        assert said.items() >= base.items()
        assert said["org.opencontainers.image.version"] == fixed.removeprefix("here:")
        assert said["dev.vllm-patcher.vllm.version"] == "0.23.0"
    assert len(added) == 1, "platforms that share the file share the layer"


def test_one_platform_of_several_does_not_take_their_name(world: Callable[..., World]) -> None:
    here = world()
    report = here.publish(platform=parse_platform("linux/arm64"))
    assert [str(image.platform) for image in report.platforms] == ["linux/arm64"]
    assert all(tag.endswith("-arm64") for tag in report.tags)
    assert len(here.stored(report.digest)["manifests"]) == 1


def test_a_single_manifest_is_a_base_too(world: Callable[..., World]) -> None:
    here = world()
    entry = here.blobs.json(here.root["digest"])["manifests"][0]
    here.root = {key: entry[key] for key in ("mediaType", "digest", "size")}
    report = here.publish()
    assert report.tags[1] == "here:0.23.0-patched"
    assert report.digest == report.platforms[0].digest
    assert here.stored(report.digest)["mediaType"] not in INDEXES


def test_a_platform_that_the_base_lacks(world: Callable[..., World]) -> None:
    with pytest.raises(WrongPlatform, match="but for: linux/amd64, linux/arm64"):
        world().publish(platform=parse_platform("linux/s390x"))


def test_a_tag_of_ones_own_stands_in_for_the_moving_one(world: Callable[..., World]) -> None:
    report = world().publish(tag="mine")
    assert report.tags[1] == "here:mine"
    assert report.tags[0].startswith("here:0.23.0-")


def test_a_dry_run_writes_nothing_and_says_what_would_be_sent(
    world: Callable[..., World], tmp_path: Path
) -> None:
    here = world()
    before = sorted((tmp_path / "target").rglob("*"))
    report = here.publish(dry_run=True)
    assert sorted((tmp_path / "target").rglob("*")) == before
    done = here.publish()
    assert (report.digest, report.lacking, report.base_lacking) == (
        done.digest,
        done.sent.parts,
        done.sent.streamed,
    )
    assert image_lines(report)[-1] == (
        f"sent     nothing, this is a dry run: it would be {done.sent.parts:,} bytes, and up to "
        f"{done.sent.streamed:,} of the base where it cannot be mounted"
    )


def test_publishing_again_sends_nothing_and_says_so(world: Callable[..., World]) -> None:
    here = world()
    first = here.publish()
    again = here.publish()
    assert (again.digest, again.tags) == (first.digest, first.tags)
    assert (again.moved, again.sent.parts, again.sent.streamed) == ((), 0, 0)
    assert "all of it is there already: nothing to do" in here.said
    assert image_lines(again)[-1] == "sent     nothing: all of it was there already"
    tagged = replace(again, moved=again.tags[1:])
    assert image_lines(tagged)[-1] == "sent     the tags alone: the image was there already"
    built = image_lines(replace(first, way="dockerfile"))
    assert not any(line.startswith("sent ") for line in built), "a daemon counts none"


def test_a_clean_base_is_refused_and_published_unchanged_where_that_is_allowed(
    world: Callable[..., World],
) -> None:
    here = world(files=vllm(CLEAN))
    with pytest.raises(AlreadyClean, match="already carries this: kv-b-proj-dtype"):
        here.publish()
    assert here.target.entries() == ()
    report = here.publish(allow_clean=True)
    assert report.digest == here.root["digest"]
    assert here.target.named("0.23.0-patched") == here.root["digest"]
    assert len(here.stored(report.digest)["manifests"]) == 4


def test_of_a_clean_base_one_platform_is_published_alone(world: Callable[..., World]) -> None:
    here = mixed(world(), vllm(CLEAN))
    arm = parse_platform("linux/arm64")
    report = here.publish(platform=arm, allow_clean=True, tag="mine")
    [image] = report.platforms
    entries = {each["digest"]: each for each in here.blobs.json(here.root["digest"])["manifests"]}
    assert report.digest == image.digest == image.base_digest
    assert entries[report.digest]["platform"]["architecture"] == "arm64"
    assert here.target.named("mine") == report.digest
    assert here.stored(report.digest)["mediaType"] not in INDEXES


def test_an_older_build_leaves_the_moving_tag_where_it_is(world: Callable[..., World]) -> None:
    here = world()
    report = here.publish(standing=Standing(None, newest=False))
    assert any(line.startswith("0.23.0-patched is not set: it belongs to") for line in here.said)
    [fixed] = report.tags
    assert fixed.startswith("here:0.23.0-")
    assert not fixed.endswith("patched")


def test_a_fixed_tag_never_moves(world: Callable[..., World]) -> None:
    here = world()
    first = here.publish()
    fixed = first.tags[0].removeprefix("here:")
    # Another base of the same version comes to another fixed tag, and moves the moving one.
    other = world(files=vllm(), filler=20_000)
    second = other.publish()
    assert second.tags[0] != first.tags[0]
    assert second.tags[1] == first.tags[1]
    assert here.target.named(fixed) == first.digest
    # Whatever else has the tag, keeps it.
    here.target.name(
        Part(here.blobs.descriptor({**here.root, "digest": second.digest}), b""), [fixed]
    )
    for dry_run in (True, False):
        with pytest.raises(Finding, match=f"{fixed} is something else already, and never moves"):
            here.publish(dry_run=dry_run)
    assert here.target.named(fixed) == second.digest


def test_a_base_by_another_name_is_published_too(world: Callable[..., World]) -> None:
    here = world()
    first = here.publish()
    here.name = parse_reference("mirror.example/vllm:v0.23.0")
    second = here.publish()
    assert first.base_digest == second.base_digest
    assert first.tags[0] != second.tags[0], "its labels name the base, so its bytes differ"
    assert first.tags[1] == second.tags[1]


class Altering(Layout):
    """A target that stores another layer than it was given."""

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        is_layer = descriptor.media_type.endswith("gzip")
        # Its last byte: a gzip file ends with its length.
        super().put(descriptor, data[:-1] + b"\1" if is_layer else data)


def test_what_was_not_stored_as_it_was_sent_is_never_named(world: Callable[..., World]) -> None:
    here = world()
    here.target = Altering(here.target.path)
    with pytest.raises(ProofFailed, match=r"has other bytes.*\. No tag was moved"):
        here.publish()
    assert here.target.entries() == ()


def patched_world(here: World) -> World:
    """A world whose base is what was published in another."""
    report = here.publish()
    folder = here.target.path / "blobs/sha256"
    blobs = Memory({f"sha256:{file.name}": file.read_bytes() for file in folder.iterdir()})
    kind = here.stored(report.digest)["mediaType"]
    size = len(blobs.data[report.digest])
    root = {"mediaType": kind, "digest": report.digest, "size": size}
    return World(blobs, root, here.target)


def test_a_patched_base_is_recognised_and_nothing_is_stacked(world: Callable[..., World]) -> None:
    here = patched_world(world())
    entries = here.target.entries()
    with pytest.raises(AlreadyClean, match=r"its labels: kv-b-proj-dtype@1"):
        here.publish()
    assert here.target.entries() == entries


def test_a_patched_base_that_needs_another_patch_is_not_stacked_upon(
    world: Callable[..., World],
) -> None:
    first = world(
        files=vllm(NEEDED + b"    def other(self):\n        return self.q.weight.dtype\n")
    )
    here = patched_world(first)
    rule = AttributeGuard("q", "weight", "dtype", "params_dtype")
    other = dataclasses.replace(PATCHES[0], name="other", rule=rule)
    with pytest.raises(Finding, match="patched already, with kv-b-proj-dtype@1") as error:
        here.publish(patches=[*PATCHES, other])
    assert f"docker.io/vllm/vllm-openai:v0.23.0@{first.root['digest']}" in error.value.next_step


def test_another_version_than_the_one_asked_for(world: Callable[..., World]) -> None:
    wrong = r"the image holds vLLM 0\.22\.0, not 0\.23\.0.*`vllm-patcher lock remove docker\.io/"
    with pytest.raises(WrongVersion, match=wrong):
        world(files=vllm(version="0.22.0")).publish()


def mixed(here: World, files: Sequence[ImageFile]) -> World:
    """The world with another vLLM in its second platform."""
    other = here.blobs.json(add_index(here.blobs, OCI, files)["digest"])["manifests"]
    index = here.blobs.json(here.root["digest"])
    index["manifests"][2:] = other[2:]
    here.root = here.blobs.add(index, OCI[0])
    return here


def test_platforms_with_different_vllms_have_no_common_name(world: Callable[..., World]) -> None:
    here = mixed(world(), vllm(version="0.24.0"))
    here.asked = None
    with pytest.raises(BrokenImage, match=r"different vLLMs: 0\.23\.0, 0\.24\.0"):
        here.publish()


def test_platforms_that_differ_in_the_local_version_are_named_without_it(
    world: Callable[..., World],
) -> None:
    here = mixed(world(files=vllm(version="0.23.0+cu130")), vllm(version="0.23.0"))
    assert here.publish().tags[0].startswith("here:0.23.0-")


def test_a_clean_platform_beside_one_that_needs_it_gets_the_labels_alone(
    world: Callable[..., World],
) -> None:
    here = mixed(world(), vllm(CLEAN))
    report = here.publish()
    assert [len(image.changes) for image in report.platforms] == [1, 0]
    for image in report.platforms:
        assert [verdict.status for verdict in image.after] == ["clean"]
        assert "dev.vllm-patcher.patches" in here.config(image.digest)["config"]["Labels"]


def test_the_report_is_json(world: Callable[..., World]) -> None:
    said = json.loads(as_json("image", **image_json(world().publish())))
    assert [image["platform"] for image in said["platforms"]] == BOTH
    assert said["sent"]["parts"] == said["lacking"]
    patched = said["platforms"][0]["files"][0]["patches"][0]
    assert patched["patch"] == "kv-b-proj-dtype"


def test_a_path_of_the_image_is_shown_and_does_nothing(world: Callable[..., World]) -> None:
    root = "/opt/\x1b]0;title\x07\udcff/site-packages"
    files = [replace(file, path=file.path.replace(SITE, root)) for file in vllm()]
    report = world(files=files).publish()
    lines = "\n".join(image_lines(report))
    assert "in /opt/\\x1b]0;title\\x07\\udcff/site-packages" in lines
    assert lines.isascii()


SCRIPT = """
import os, sys, time
os.umask(int(sys.argv[2], 8))
time.time = lambda: float(sys.argv[3])
time.time_ns = lambda: int(float(sys.argv[3]) * 1e9)
from pathlib import Path
from patcher.oci.model import Part
from patcher.oci.image import load_family
from patcher.oci.rootfs.layers import StoredImage
from patcher.oci.layout import Layout, create_layout
from tests.indexes import add_index
from tests.memory import OCI, Memory
from tests.jobs.test_publish import World, vllm
blobs = Memory()
root = add_index(blobs, OCI, vllm())
report = World(blobs, root, create_layout(Path(sys.argv[1]))).publish()
print(report.digest, *report.tags, *(image.digest for image in report.platforms))
"""


def test_the_digests_are_the_same_in_another_process_at_another_time_and_place(
    world: Callable[..., World], tmp_path: Path
) -> None:
    here = world().publish()
    wanted = [here.digest, *here.tags, *(image.digest for image in here.platforms)]
    for number, (umask, clock, environment) in enumerate(
        [
            ("077", "1", {"LC_ALL": "C", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1"}),
            ("000", "4e9", {"LC_ALL": "tr_TR.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "2"}),
        ]
    ):
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / str(number)), umask, clock],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env={"PATH": "/usr/bin:/bin", **environment},
        )
        assert ran.stdout.split() == wanted, ran.stderr
