"""Each thing that `validate` promises, broken alone in an image that is otherwise right."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import BrokenImage
from patcher.oci.append import append
from patcher.oci.image import load_family
from patcher.oci.model import (
    DOCKER_LAYER_GZIP,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    digest_of,
)
from patcher.oci.validate import validate
from tests.memory import EXTRA, OCI, Memory, add_image, change_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from patcher.oci.layer import LayerChange
    from patcher.oci.model import Descriptor


class Baked:
    """A right image, taken apart so that a test can put it together wrongly."""

    def __init__(self) -> None:
        self.blobs = Memory()
        base = add_image(self.blobs, OCI, annotations={"a": "b"})
        self.base = self.blobs.descriptor(base)
        change = change_for(self.blobs, base)
        self.change: LayerChange = replace(
            change, bytecode=(f"{change.directories[-1].path}/x.pyc",)
        )
        self.family = load_family(self.blobs, self.base)
        new = append(self.family, {self.base.digest: self.change}, EXTRA)
        layer, config, manifest = new.parts
        for blob in new.parts:
            self.blobs.put(blob.descriptor, blob.data)
        self.layer = layer.data
        self.layer_type = OCI_LAYER_GZIP
        self.config: dict[str, Any] = self.blobs.json(config.descriptor.digest)
        self.manifest: dict[str, Any] = self.blobs.json(manifest.descriptor.digest)

    def root(self) -> Descriptor:
        """The manifest of the parts as they are now, every digest right."""
        layer = self.blobs.add(self.layer, self.layer_type)
        self.manifest["layers"][-1] = layer
        self.manifest["config"] = self.blobs.add(self.config, self.manifest["config"]["mediaType"])
        return self.blobs.descriptor(self.blobs.add(self.manifest, OCI_MANIFEST))

    def validate(self, root: Descriptor | None = None) -> None:
        changes = {self.base.digest: self.change}
        validate(self.blobs, self.family, root or self.root(), changes, EXTRA)

    def relayer(self, edit: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
        """Write the added layer again with other entries."""
        with tarfile.open(fileobj=io.BytesIO(self.layer), mode="r:gz") as archive:
            files = [(m, archive.extractfile(m)) for m in archive.getmembers()]
            members = [(member, file.read() if file else b"") for member, file in files]
        edit(members)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member, data in members:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        self.repack(buffer.getvalue())

    def repack(self, tar: bytes) -> None:
        """Let this be the added layer, its diff_id right."""
        self.layer = gzip.compress(tar)
        self.config["rootfs"]["diff_ids"][-1] = digest_of(tar)


@pytest.fixture
def baked() -> Baked:
    return Baked()


def test_the_image_as_it_was_made_passes(baked: Baked) -> None:
    baked.validate()


@pytest.mark.parametrize(
    ("said", "pack"),
    [
        ("not gzip", gzip.decompress),
        ("last diff_id", gzip.compress),
        ("not one gzip file", lambda layer: layer + b"\0"),
        ("not one gzip file", lambda layer: layer + gzip.compress(b"")),
        ("not one gzip file", lambda layer: layer[:-1]),
        ("not gzip", lambda layer: layer[:-8] + bytes(4) + layer[-4:]),
        ("not one gzip file", lambda _: gzip.compress(bytes(65 << 20))),
    ],
)
def test_a_layer_that_is_not_packed_as_its_media_type_says(
    baked: Baked, said: str, pack: Callable[[bytes], bytes]
) -> None:
    baked.layer = pack(baked.layer)
    with pytest.raises(BrokenImage, match=said):
        baked.validate()


def test_a_layer_that_is_no_tar(baked: Baked) -> None:
    baked.repack(b"x" * 1024)
    with pytest.raises(BrokenImage, match="not a tar"):
        baked.validate()


def edit_member(name: str, **values: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        [member] = [each for each, _ in members if each.name.endswith(name)]
        for key, value in values.items():
            assert getattr(member, key) != value
            setattr(member, key, value)

    return edit


def add_member(name: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    return lambda members: members.append((tarfile.TarInfo(name), b""))


ENTRIES: list[tuple[str, Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]]] = [
    ("holds /etc/x, which was not declared", add_member("etc/x")),
    ("which was not declared", add_member("../x")),
    ("which was not declared", add_member("/etc/x")),
    ("twice", lambda members: members.append(members[-1])),
    ("lacks .*probe.py", lambda members: members.__delitem__(-1)),
    ("lacks /usr$", lambda members: members.__delitem__(0)),
    ("lacks .*wh", lambda members: members.__delitem__(-2)),
    ("probe.py has not", lambda members: members.__setitem__(-1, (members[-1][0], b"other"))),
    ("x.pyc has not", lambda members: members.__setitem__(-2, (members[-2][0], b"full"))),
    ("/usr/local has not", edit_member("usr/local", mode=0o777)),
    ("/usr/local has not", edit_member("usr/local", uid=1)),
    ("/usr/local has not", edit_member("usr/local", mtime=5)),
    ("/usr/local has not", edit_member("usr/local", type=tarfile.SYMTYPE, linkname="/x")),
    ("probe.py has not", edit_member("probe.py", mode=0o4640)),
    ("probe.py has not", edit_member("probe.py", gid=0)),
    ("probe.py has not", edit_member("probe.py", mtime=5)),
    ("owner's name", edit_member("probe.py", uname="root")),
]


@pytest.mark.parametrize(("said", "edit"), ENTRIES)
def test_an_entry_that_is_not_as_declared(
    baked: Baked, said: str, edit: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]
) -> None:
    baked.relayer(lambda members: members.sort(key=lambda pair: pair[0].name))
    baked.validate()
    baked.relayer(edit)
    with pytest.raises(BrokenImage, match=said.removesuffix("$")):
        baked.validate()


def set_at(*path: str | int, value: object) -> Callable[[Baked], None]:
    """Set `baked.manifest[...]` or `baked.config[...]`."""

    def edit(baked: Baked) -> None:
        place: Any = getattr(baked, str(path[0]))
        for key in path[1:-1]:
            place = place[key]
        place[path[-1]] = value

    return edit


ZERO = f"sha256:{'0' * 64}"

DOCUMENTS: list[tuple[str, Callable[[Baked], None]]] = [
    ("last diff_id", set_at("config", "rootfs", "diff_ids", -1, value=ZERO)),
    ("diff_ids do not begin with the base", set_at("config", "rootfs", "diff_ids", 0, value=ZERO)),
    (
        "2 layers in the manifest, 1 in the config",
        set_at("config", "rootfs", "diff_ids", value=[ZERO]),
    ),
    ("history was changed", set_at("config", "history", 0, "created_by", value="z")),
    ("history has 0 steps", set_at("config", "history", value=[])),
    ("history has 2 steps", lambda baked: baked.config["history"].pop(1)),
    ("history has 2 steps", lambda baked: baked.config["history"].pop()),
    ("labels", set_at("config", "config", "Labels", "old", value="2")),
    ("labels", set_at("config", "config", "Labels", "more", value="2")),
    ("labels", lambda baked: baked.config["config"]["Labels"].pop("dev.vllm-patcher.vllm")),
    ("settings changed", set_at("config", "config", "Env", value=[])),
    ("settings changed", set_at("config", "config", "User", value="root")),
    ("settings changed", set_at("config", "created", value="2027-01-01T00:00:00Z")),
    ("settings changed", set_at("config", "architecture", value="arm64")),
    ("annotations", set_at("manifest", "annotations", "a", value="c")),
    ("annotations", set_at("manifest", "annotations", value={})),
    ("other fields", set_at("manifest", "artifactType", value="x")),
    (
        "layers do not begin with the base",
        set_at("manifest", "layers", 0, "mediaType", value=OCI_LAYER_GZIP),
    ),
    (
        "config's media type",
        set_at(
            "manifest",
            "config",
            "mediaType",
            value="application/vnd.docker.container.image.v1+json",
        ),
    ),
    ("added layer's media type", lambda baked: setattr(baked, "layer_type", OCI_LAYER)),
    ("added layer's media type", lambda baked: setattr(baked, "layer_type", DOCKER_LAYER_GZIP)),
    (
        "3 layers in the manifest",
        lambda baked: baked.manifest["layers"].insert(0, baked.manifest["layers"][0]),
    ),
]


@pytest.mark.parametrize(("said", "edit"), DOCUMENTS)
def test_a_document_that_is_not_as_declared(
    baked: Baked, said: str, edit: Callable[[Baked], None]
) -> None:
    edit(baked)
    with pytest.raises(BrokenImage, match=said):
        baked.validate()


def test_two_layers_added_are_one_too_many(baked: Baked) -> None:
    baked.manifest["layers"].append(baked.manifest["layers"][-1])
    baked.config["rootfs"]["diff_ids"].append(baked.config["rootfs"]["diff_ids"][-1])
    baked.config["history"].append(baked.config["history"][-1])
    with pytest.raises(BrokenImage, match="do not begin with the base"):
        baked.validate()


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_whose_bytes_are_damaged(baked: Baked, layer: int) -> None:
    root = baked.root()
    digest = baked.manifest["layers"][layer]["digest"]
    baked.blobs.data[digest] = baked.blobs.data[digest][:-1] + b"x"
    with pytest.raises(BrokenImage):
        baked.validate(root)


@pytest.mark.parametrize("which", ["manifest", "config"])
def test_a_document_whose_bytes_are_damaged(baked: Baked, which: str) -> None:
    root = baked.root()
    digest = root.digest if which == "manifest" else baked.manifest["config"]["digest"]
    baked.blobs.data[digest] = baked.blobs.data[digest][:-1] + b" "
    with pytest.raises(BrokenImage, match="other bytes"):
        baked.validate(root)


def test_a_size_that_is_not_the_blobs(baked: Baked) -> None:
    root = baked.root()
    with pytest.raises(BrokenImage, match="longer than"):
        baked.validate(replace(root, size=root.size - 1))
    with pytest.raises(BrokenImage, match=f"has {root.size} bytes, not {root.size + 1}"):
        baked.validate(replace(root, size=root.size + 1))


def index_of(blobs: Memory, *entries: dict[str, Any], **more: Any) -> Descriptor:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries], **more}
    return blobs.descriptor(blobs.add(document, OCI_INDEX))


def test_an_index_that_is_not_as_declared() -> None:
    blobs = Memory()
    images = [add_image(blobs, OCI, name) for name in ("amd64", "arm64")]
    entries = [
        {**image, "platform": {"os": "linux", "architecture": name}, "annotations": {"n": name}}
        for image, name in zip(images, ("amd64", "arm64"), strict=True)
    ]
    base = index_of(blobs, *entries)
    changes = {image["digest"]: change_for(blobs, image) for image in images}
    family = load_family(blobs, base)
    new = append(family, changes, EXTRA)
    for blob in new.parts:
        blobs.put(blob.descriptor, blob.data)
    validate(blobs, family, new.root, changes, EXTRA)
    one, two = blobs.json(new.root.digest)["manifests"]
    wrong = [
        ("has 1 images", index_of(blobs, one, annotations=EXTRA)),
        ("has 3 images", index_of(blobs, one, two, entries[0], annotations=EXTRA)),
        ("otherwise than the base's", index_of(blobs, two, one, annotations=EXTRA)),
        ("otherwise", index_of(blobs, one, {**two, "annotations": {}}, annotations=EXTRA)),
        ("annotations", index_of(blobs, one, two)),
        ("do not begin", index_of(blobs, one, entries[1], annotations=EXTRA)),
        ("has 1 images", index_of(blobs, one, {**two, "artifactType": "x"}, annotations=EXTRA)),
        ("media type", blobs.descriptor(blobs.add({}, OCI_MANIFEST))),
    ]
    for said, root in wrong:
        with pytest.raises(BrokenImage, match=said):
            validate(blobs, family, root, changes, EXTRA)
