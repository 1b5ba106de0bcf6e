"""One layer more: media types, indexes, annotations, history, as the base has them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import BrokenImage
from patcher.oci.append import Appended, append
from patcher.oci.image import load_family, load_image, load_index
from patcher.oci.model import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    digest_of,
)
from patcher.oci.validate import validate
from tests.memory import DOCKER, EXTRA, OCI, Memory, add_image, change_for

if TYPE_CHECKING:
    pass

# The family of the base, and gzip: what every registry and runtime takes.
PACKED = {OCI_LAYER: OCI_LAYER_GZIP, DOCKER_LAYER: DOCKER_LAYER_GZIP}


def appended(blobs: Memory, root: dict[str, Any], *images: dict[str, Any]) -> Appended:
    """Append to these images of `root`, publish, validate."""
    base = blobs.descriptor(root)
    changes = {image["digest"]: change_for(blobs, image) for image in images or [root]}
    family = load_family(blobs, base)
    new = append(family, changes, EXTRA)
    for blob in new.parts:
        blobs.put(blob.descriptor, blob.data)
    validate(blobs, family, new.root, changes, EXTRA)
    return new


@pytest.mark.parametrize("types", [OCI, DOCKER])
def test_a_single_manifest_keeps_its_family_and_all_its_settings(types: tuple[str, ...]) -> None:
    blobs = Memory()
    root = add_image(blobs, types, annotations={"org.opencontainers.image.version": "u", "a": "b"})
    new = appended(blobs, root)
    made = [blob.descriptor.media_type for blob in new.parts]
    assert made == [PACKED[types[3]], types[2], types[1]]
    old_manifest, manifest = blobs.json(root["digest"]), blobs.json(new.root.digest)
    assert manifest["mediaType"] == types[1]
    assert manifest["layers"][:-1] == old_manifest["layers"]
    assert manifest["annotations"] == {
        "org.opencontainers.image.version": "0.23.0-patched",
        "a": "b",
        **EXTRA,
    }
    old, config = (blobs.json(each["config"]["digest"]) for each in (old_manifest, manifest))
    tar = gzip.decompress(new.parts[0].data)
    assert config["rootfs"]["diff_ids"] == [*old["rootfs"]["diff_ids"], digest_of(tar)]
    assert config["history"] == [
        *old["history"],
        {"created": "2026-01-02T03:04:05Z", "created_by": "vllm-patcher"},
    ]
    assert config["config"]["Labels"]["old"] == "1"
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "0.23.0-patched"
    for key in ("created", "architecture", "os"):
        assert config[key] == old[key]
    assert config["config"]["Env"] == ["A=b"]


@pytest.mark.parametrize("types", [OCI, DOCKER])
def test_an_index_has_each_wanted_image_replaced(types: tuple[str, ...]) -> None:
    blobs = Memory()
    amd, arm, ppc = (add_image(blobs, types, name) for name in ("amd64", "arm64", "ppc64le"))
    vouch = add_image(blobs, types, "unknown")
    entries = [
        {**amd, "platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"k": "v"}},
        {
            **arm,
            "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
            "data": "eA==",
        },
        {**ppc, "platform": {"os": "linux", "architecture": "ppc64le"}},
        {**vouch, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**vouch, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "manifests": entries,
        "annotations": {"i": "x"},
    }
    root = blobs.add(index, types[0])
    new = appended(blobs, root, amd, arm)
    document = blobs.json(new.root.digest)
    assert document["annotations"] == {"i": "x", **EXTRA}
    made = [blob.descriptor for blob in new.parts if blob.descriptor.media_type == types[1]]
    assert document["manifests"] == [
        {**entries[0], "digest": made[0].digest, "size": made[0].size},
        {**arm, "platform": entries[1]["platform"], "digest": made[1].digest, "size": made[1].size},
    ]
    assert new.parts[-1].descriptor == new.root
    layers = {
        blob.descriptor.digest
        for blob in new.parts
        if blob.descriptor.media_type == PACKED[types[3]]
    }
    assert len(layers) == 1, "platforms that share the file share the layer"


def test_a_copy_of_the_old_config_is_not_carried_along() -> None:
    blobs = Memory()
    document = blobs.json(add_image(blobs, OCI)["digest"])
    document["config"] |= {"data": "e30=", "annotations": {"k": "v"}}
    new = appended(blobs, blobs.add(document, OCI_MANIFEST))
    config = blobs.json(new.root.digest)["config"]
    assert config.keys() == {"mediaType", "digest", "size", "annotations"}


def test_the_same_inputs_give_the_same_bytes() -> None:
    one, two = Memory(), Memory()
    assert appended(one, add_image(one, OCI)).root == appended(two, add_image(two, OCI)).root


def test_an_oci_1_0_manifest_without_a_media_type_stays_without() -> None:
    blobs = Memory()
    image = add_image(blobs, OCI)
    document = blobs.json(image["digest"])
    del document["mediaType"]
    new = appended(blobs, blobs.add(document, OCI_MANIFEST))
    assert "mediaType" not in blobs.json(new.root.digest)


@pytest.mark.parametrize("absent", ["history", "created", "config"])
def test_what_the_base_does_not_state_is_not_made_up(absent: str) -> None:
    blobs = Memory()
    image = add_image(blobs, OCI)
    document = blobs.json(image["digest"])
    config = blobs.json(document["config"]["digest"])
    del config[absent]
    document["config"] = blobs.add(config, OCI_CONFIG)
    new = appended(blobs, blobs.add(document, OCI_MANIFEST))
    made = blobs.json(blobs.json(new.root.digest)["config"]["digest"])
    if absent == "config":
        assert made["config"].keys() == {"Labels"}
    else:
        assert absent not in made


@pytest.mark.parametrize(
    ("stated", "steps"),
    [
        (
            [{"created_by": "all", "empty_layer": True}],
            ["all", "not told by the base", "vllm-patcher"],
        ),
        ([{}, {}], None),
        ("x", None),
        (["x"], None),
        ([], None),
        (None, None),
    ],
)
def test_a_history_that_does_not_fit_is_made_whole_or_left_out(
    stated: object, steps: list[str] | None
) -> None:
    """docker run takes any, and docker load none but one that fits."""
    blobs = Memory()
    base = add_image(blobs, OCI, settings={"history": stated})
    made = blobs.json(blobs.json(appended(blobs, base).root.digest)["config"]["digest"])
    told = made.get("history")
    assert (told and [step["created_by"] for step in told]) == steps


def test_what_the_base_referred_to_is_not_referred_to_again() -> None:
    blobs = Memory()
    root = add_image(blobs, OCI, subject=blobs.add(b"", OCI_MANIFEST))
    assert "subject" not in blobs.json(appended(blobs, root).root.digest)


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("schemaVersion 1, not 2", {"schemaVersion": 1}),
    ("schemaVersion is true or false", {"schemaVersion": True}),
    ("it has manifests as well", {"manifests": []}),
    ("inside, .* outside", {"mediaType": DOCKER_MANIFEST}),
    ("layers is missing", {"layers": None}),
    ("layer 0 is a text", {"layers": ["x"]}),
    ("config is a list", {"config": []}),
    ("'sha512:00' is not a digest", {"layers": [{"digest": "sha512:00"}]}),
    ("../../etc", {"layers": [{"digest": "sha256:../../etc"}]}),
    ("-1 bytes", {"layers": [{"digest": f"sha256:{'0' * 64}", "size": -1}]}),
    (
        "foreign",
        {
            "layers": [
                {
                    "digest": f"sha256:{'0' * 64}",
                    "size": 1,
                    "mediaType": DOCKER_LAYER_GZIP,
                    "urls": ["http://x"],
                }
            ]
        },
    ),
    (
        "foreign or unknown",
        {
            "layers": [
                {
                    "digest": f"sha256:{'0' * 64}",
                    "size": 1,
                    "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                }
            ]
        },
    ),
    ("annotations: a is a whole number", {"annotations": {"a": 1}}),
    ("0 layers in the manifest, 1 in the config", {"layers": []}),
]


@pytest.mark.parametrize(("said", "changes"), BROKEN)
def test_a_broken_manifest_is_refused(said: str, changes: dict[str, Any]) -> None:
    blobs = Memory()
    with pytest.raises(BrokenImage, match=said):
        load_image(blobs, blobs.descriptor(add_image(blobs, OCI, **changes)))


@pytest.mark.parametrize(
    ("said", "config"),
    [
        ("rootfs is missing", {"rootfs": None}),
        ("diff_ids is an object", {"rootfs": {"diff_ids": {}}}),
        ("'x' is not a digest", {"rootfs": {"diff_ids": ["x"]}}),
        ("Labels: a is missing", {"config": {"Labels": {"a": None}}}),
        ("os is missing", {"os": None}),
        ("architecture is a whole number", {"architecture": 64}),
    ],
)
def test_a_broken_config_is_refused(said: str, config: dict[str, Any]) -> None:
    blobs = Memory()
    with pytest.raises(BrokenImage, match=said):
        load_image(blobs, blobs.descriptor(add_image(blobs, OCI, settings=config)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_that_readers_could_differ_on_is_refused(data: bytes) -> None:
    blobs = Memory()
    with pytest.raises(BrokenImage):
        load_image(blobs, blobs.descriptor(blobs.add(data, OCI_MANIFEST)))


def test_a_platform_that_index_and_config_differ_on_is_refused() -> None:
    blobs = Memory()
    image = add_image(blobs, OCI, "amd64")
    entry = {**image, "platform": {"os": "linux", "architecture": "arm64"}}
    root = blobs.add({"schemaVersion": 2, "manifests": [entry]}, OCI_INDEX)
    [listed] = load_index(blobs, blobs.descriptor(root)).images
    with pytest.raises(BrokenImage, match="index says linux/arm64, config says linux/amd64"):
        load_image(blobs, listed)


def test_an_artifact_that_is_no_container_image_is_refused() -> None:
    blobs = Memory()
    chart = ("", OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", OCI_LAYER)
    with pytest.raises(BrokenImage, match="not a container image's config"):
        load_image(blobs, blobs.descriptor(add_image(blobs, chart)))


def test_an_image_that_is_listed_twice_is_refused_by_name() -> None:
    blobs = Memory()
    image = add_image(blobs, OCI)
    entries = [
        {**image, "platform": {"os": "linux", "architecture": "amd64", "variant": variant}}
        for variant in ("v1", "v2")
    ]
    root = blobs.add({"schemaVersion": 2, "manifests": entries}, OCI_INDEX)
    with pytest.raises(BrokenImage, match=f"lists {image['digest']} more than once"):
        append(
            load_family(blobs, blobs.descriptor(root)),
            {image["digest"]: change_for(blobs, image)},
            {},
        )
