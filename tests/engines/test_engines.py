"""The image that a user bakes, in each engine that people have: `make engines`.

Docker builds the rendered Dockerfile and podman loads the thin layer; what either has is held
against what a layout gets.
"""

from __future__ import annotations

import dataclasses

import pytest
import requests

from patcher.daemon import engine as daemon
from patcher.errors import DaemonFailed, Finding, PatcherError
from patcher.jobs.image import Order
from patcher.jobs.opening import daemon_job
from patcher.oci.append import append
from patcher.oci.image import load_family
from patcher.oci.layer import LayerChange
from patcher.oci.reference import parse_platform
from patcher.rules.verdict import Status, judge
from patcher.sources.spec import open_source
from patcher.web.http import HttpSettings
from tests.conftest import TARGET
from tests.engines.conftest import FILE, RUN, STALE, Base, Here, guard
from tests.indexes import ARCHITECTURES
from tests.memory import DOCKER

pytestmark = pytest.mark.engines

GUARDED = b'hasattr(self.kv_b_proj, "weight")'
both = pytest.mark.parametrize("architecture", ARCHITECTURES)


def expect_baked(here: Here, image: str, architecture: str) -> None:
    """The patched file has the old one's owner and mode, and no stale bytecode wins over it."""
    found, stale = (here.file(image, path, architecture) for path in (FILE, STALE))
    assert found is not None
    assert GUARDED in found[1]
    owner = (found[0].uid, found[0].gid, found[0].mode & 0o7777)
    assert owner == (1234, 1234, 0o640)
    assert stale is None or stale[1] == b""


# Bases of every kind


@both
def test_an_index_with_attestations(here: Here, architecture: str) -> None:
    made = here.bake(here.push(), architecture)
    assert made.platforms[0].platform.architecture == architecture
    assert here.attrs(made.digest)["Architecture"] == architecture
    for tag in made.tags:
        assert here.attrs(tag)["Id"] == made.digest
    expect_baked(here, made.digest, architecture)
    assert made.way == ("load" if here.engine.is_podman else "dockerfile")


def test_both_platforms_of_one_index_after_another(here: Here) -> None:
    base = here.push()
    made = {each: here.bake(base, each) for each in ("arm64", "amd64", "arm64")}
    for architecture, report in made.items():
        expect_baked(here, report.digest, architecture)
        assert report.base_digest == base.digests["index"]
    assert made["amd64"].digest != made["arm64"].digest


@both
def test_a_platform_s_own_digest(here: Here, architecture: str) -> None:
    base = here.push()
    made = here.bake(base, architecture, pin=architecture)
    expect_baked(here, made.digest, architecture)
    assert made.base_digest == base.digests[architecture]


@both
def test_an_index_in_docker_s_media_types(here: Here, architecture: str) -> None:
    expect_baked(here, here.bake(here.push(types=DOCKER), architecture).digest, architecture)


def test_layers_in_zstd(here: Here) -> None:
    base = here.push(packed="+zstd")
    version = str(here.client.version()["Version"])
    if not here.engine.is_podman and int(version.partition(".")[0]) < 23:
        with pytest.raises(DaemonFailed, match="cannot be pulled"):
            here.bake(base)
        return
    expect_baked(here, here.bake(base).digest, "amd64")


def test_a_base_with_as_many_layers_as_an_overlay_store_takes(here: Here) -> None:
    base = here.push(layers=125, architectures=("amd64",))
    if here.has_overlay_store:
        with pytest.raises(DaemonFailed, match=r"max depth exceeded.*with --to"):
            here.bake(base)
        assert len(here.mine(base)) == 1
        return
    try:
        made = here.bake(base)
    except DaemonFailed as error:
        assert "layers" in error.problem  # noqa: PT017
        return
    expect_baked(here, made.digest, "amd64")


def test_one_layer_below_that_is_loaded_where_two_cannot_be_built(here: Here) -> None:
    base = here.push(layers=124, architectures=("amd64",))
    made = here.bake(base)
    expect_baked(here, made.digest, "amd64")
    assert made.way == ("dockerfile" if here.engine.containerd else "load")


# What is kept, and what is left


def test_what_decides_how_it_starts_is_kept(here: Here) -> None:
    made = here.bake(here.push())
    config = here.attrs(made.digest)["Config"]
    assert {key: config[key] for key in RUN} == RUN
    assert config["Labels"]["kept"] == "yes"
    assert config["Labels"]["dev.vllm-patcher.patches"] == "kv-b-proj-dtype@1"
    assert config["Labels"]["org.opencontainers.image.base.digest"] == made.base_digest


def test_nothing_is_left_but_the_base_and_the_result(here: Here) -> None:
    base = here.push()
    made = here.bake(base)
    left = here.mine(base) - {made.digest}
    # The overlay store keeps what the result was built through as its parents, out of sight.
    shown = {
        str(image["Id"])
        for image in here.client.api.images(filters={"label": f"unique={base.unique}"})
    }
    assert len(shown) == 2
    assert len(left) == (1 if made.way == "load" or here.engine.containerd else 3)
    assert not here.client.api.images(
        filters={"dangling": True, "label": "dev.vllm-patcher.patches=kv-b-proj-dtype@1"}
    )
    containers = here.client.api.containers(all=True, filters={"ancestor": made.digest})
    assert containers == []


def test_a_second_run_makes_nothing(here: Here) -> None:
    base = here.push()
    first = here.bake(base)
    there = here.mine(base)
    again = here.bake(base)
    assert (again.digest, again.moved, again.way) == (first.digest, (), None)
    assert here.mine(base) == there


def test_an_interrupt_before_the_tags_leaves_the_base_alone(here: Here) -> None:
    base = here.push()

    def press(text: str) -> None:
        if text.startswith("read back"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.bake(base, say=press)
    assert len(here.mine(base)) == 1


def test_a_fixed_tag_that_is_something_else_never_moves(here: Here) -> None:
    base, other = here.push(), here.push()
    first = here.bake(base)
    fixed = first.tags[0]
    taken = here.bake(other)
    repository, _, tag = fixed.rpartition(":")
    here.client.api.tag(taken.digest, repository, tag, force=True)
    with pytest.raises(Finding, match="never moves"):
        here.bake(base)
    assert here.attrs(fixed)["Id"] == taken.digest


def test_the_moving_tag_moves_on(here: Here) -> None:
    first, second = here.bake(here.push()), here.bake(here.push())
    assert here.attrs(first.tags[0])["Id"] == first.digest
    assert here.attrs(first.tags[1])["Id"] == second.digest


def test_the_result_outlives_the_base_s_name(here: Here) -> None:
    base = here.push()
    made = here.bake(base, pin="amd64")
    here.client.api.remove_image(f"{base.name}@{base.digests['amd64']}", noprune=True)
    expect_baked(here, made.tags[0], "amd64")


# Verifying, and the ways beside each other


def status_of(here: Here, spec: str, architecture: str) -> Status:
    """What `vllm-patcher verify` says, in this process."""
    platform = parse_platform(f"linux/{architecture}")
    return judge(guard(), open_source(spec, here.folder / "images.lock", platform)).status


@both
def test_a_base_and_its_result_are_verified(here: Here, architecture: str) -> None:
    base = here.push()
    made = here.bake(base, architecture)
    assert status_of(here, f"docker:{made.tags[0]}", architecture) is Status.CLEAN
    pinned = f"{base.name}@{base.digests['index']}"
    assert status_of(here, pinned, architecture) is Status.NEEDED


def test_an_image_that_only_the_engine_has(here: Here) -> None:
    base = here.push()
    pinned = f"{base.name}@{base.digests['amd64']}"
    image = daemon.pull(here.client, pinned, parse_platform("linux/amd64"))
    here.client.api.tag(image.id, f"{here.repository}/own", "built")
    (here.folder / "images.lock").write_text("schema = 1\n")
    order = Order((guard(),), platform=parse_platform("linux/amd64"))
    made = daemon_job(
        f"{here.repository}/own:built",
        here.repository,
        here.folder / "images.lock",
        order,
        HttpSettings(),
        lambda _: None,
    )
    expect_baked(here, made.digest, "amd64")
    assert made.way == "dockerfile"


def test_a_registry_that_is_gone_leaves_the_dockerfile(here: Here) -> None:
    base = here.push()
    daemon.pull(here.client, f"{base.name}@{base.digests['amd64']}", parse_platform("linux/amd64"))
    path = base.name.partition("/")[2]
    url = f"http://{here.host}/v2/{path}/manifests/{base.digests['amd64']}"
    requests.delete(url, timeout=30).raise_for_status()
    made = here.bake(base, pin="amd64")
    expect_baked(here, made.digest, "amd64")
    assert made.way == "dockerfile"


def test_a_platform_that_the_index_lacks(here: Here) -> None:
    base = here.push()
    with pytest.raises(PatcherError):
        here.bake(base, "s390x")
    assert here.mine(base) == set()


def image_and_change(here: Here, base: Base) -> tuple[daemon.DockerImage, LayerChange]:
    pinned = f"{base.name}@{base.digests['amd64']}"
    image = daemon.pull(here.client, pinned, parse_platform("linux/amd64"))
    found = image.installation([TARGET])
    file = dataclasses.replace(found.files[TARGET], data=b"patched\n")
    return image, LayerChange((file,), found.bytecode[TARGET], found.directories, {"a": 'b "c"'})


def test_the_two_ways_make_the_same_files_and_labels(here: Here) -> None:
    base = here.push()
    image, change = image_and_change(here, base)
    family = load_family(base.blobs, base.blobs.descriptor(base.root))
    built, loaded = image.build(change), image.load(family.images[0], change, {})
    assert (built.way, loaded.way) == ("dockerfile", "load")
    assert built.image.labels == loaded.image.labels == {**image.labels, **change.labels}
    for each in (built, loaded):
        found = here.file(each.digest, FILE, "amd64")
        assert found is not None
        member, data = found
        assert (data, member.uid, member.gid, member.mode & 0o7777, int(member.mtime)) == (
            b"patched\n", 1234, 1234, 0o640, 1_700_000_000,
        )  # fmt: skip
        each.discard()
    assert here.mine(base) == {image.id}


def test_what_is_loaded_is_what_a_layout_gets(here: Here) -> None:
    base = here.push()
    image, change = image_and_change(here, base)
    family = load_family(base.blobs, base.blobs.descriptor(base.root))
    alone = dataclasses.replace(family, root=family.images[0].descriptor, index=None)
    wanted = append(
        dataclasses.replace(alone, images=family.images[:1]), {base.digests["amd64"]: change}, {}
    )
    loaded = image.load(family.images[0], change, {})
    config = wanted.parts[1].descriptor.digest
    assert loaded.digest == (wanted.root.digest if here.engine.containerd else config)


def test_a_result_is_pushed_and_verified_in_the_registry(here: Here) -> None:
    made = here.bake(here.push())
    name, _, tag = made.tags[0].rpartition(":")
    for event in here.client.api.push(name, tag=tag, stream=True, decode=True):
        assert "error" not in event, event
    assert status_of(here, f"registry:{made.tags[0]}", "amd64") is Status.CLEAN
