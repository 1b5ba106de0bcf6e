"""An index that leads to indexes, to itself, or to very many images ends in one error, and soon."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import BrokenImage
from patcher.oci.append import append
from patcher.oci.image import MOST_DOCUMENTS, load_family
from patcher.oci.layout import create_layout, open_image
from patcher.oci.model import part
from patcher.oci.rootfs.layers import StoredImage
from patcher.places.place import Recipe
from patcher.places.stored import Stored, StoredPlace
from tests.installations import TARGET, change_of
from tests.memory import DOCKER, OCI, Memory, add_image

if TYPE_CHECKING:
    from patcher.oci.model import Descriptor
    from patcher.places.place import Plan


@dataclass
class Counted(Memory):
    """A store that counts what is read of it."""

    opened: list[str] = field(default_factory=list)

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BytesIO:
        self.opened.append(descriptor.digest)
        return super().open(descriptor, start, size)


def add_index(blobs: Memory, types: tuple[str, ...], *entries: dict[str, Any]) -> dict[str, Any]:
    return blobs.add(
        {"schemaVersion": 2, "mediaType": types[0], "manifests": list(entries)}, types[0]
    )


@pytest.mark.parametrize("types", [OCI, DOCKER])
@pytest.mark.parametrize("depth", [2, 3, 500])
def test_an_index_in_an_index_is_refused_and_not_followed(
    types: tuple[str, ...], depth: int
) -> None:
    blobs = Counted()
    root = add_image(blobs, types)
    for _ in range(depth):
        root = add_index(blobs, types, root)
    with pytest.raises(BrokenImage, match="is not the media type of a manifest"):
        load_family(blobs, blobs.descriptor(root))
    assert len(blobs.opened) <= 2


def test_an_index_that_says_it_holds_itself_is_read_once(tmp_path: Path) -> None:
    """No document holds its own digest; a store that hands it out all the same is caught."""
    said = part(b"whatever has this digest", OCI[0]).descriptor
    for kind in (OCI[0], OCI[1]):
        entry = {**said.document, "mediaType": kind}
        index = {"schemaVersion": 2, "mediaType": OCI[0], "manifests": [entry]}
        data = json.dumps(index).encode()
        blobs = Counted({said.digest: data})
        with pytest.raises(BrokenImage):
            load_family(blobs, said)
        assert blobs.opened == [said.digest]
        layout = create_layout(tmp_path / kind.partition(".v1.")[2].partition("+")[0])
        folder = layout.path / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / said.digest.removeprefix("sha256:")).write_bytes(data)
        (layout.path / "index.json").write_bytes(data)
        with pytest.raises(BrokenImage):
            open_image(layout.path, None, None)


@pytest.mark.parametrize("count", [5_000, 10_001])
def test_a_very_wide_index_ends_in_its_bound(count: int) -> None:
    """In that of all documents, or in that of entries."""
    blobs = Counted()
    image = add_image(blobs, OCI, settings={"comment": "x" * 8000})
    size = image["size"] + blobs.json(image["digest"])["config"]["size"]
    root = add_index(blobs, OCI, *[image] * count)
    with pytest.raises(BrokenImage, match=r"MiB|10001 manifests"):
        load_family(blobs, blobs.descriptor(root))
    assert len(blobs.opened) <= 2 * (MOST_DOCUMENTS // size + 1) + 1


def test_one_image_of_two_that_are_listed_twice_is_not_appended_to() -> None:
    blobs = Memory()
    one, two = (add_image(blobs, OCI, each) for each in ("amd64", "arm64"))
    family = load_family(blobs, blobs.descriptor(add_index(blobs, OCI, one, one, two, two)))
    found = StoredImage(blobs, two["digest"], family.images[-1]).installation([TARGET])
    with pytest.raises(BrokenImage, match=f"lists {two['digest']} more than once"):
        append(family, {two["digest"]: change_of(found)}, {})


def nested(blobs: Memory, depth: int) -> dict[str, Any]:
    """An image, and an index so deep beside it that nobody takes for an image."""
    root = add_image(blobs, OCI, "arm64")
    for _ in range(depth):
        root = add_index(blobs, OCI, root)
    unknown = {**root, "platform": {"os": "unknown", "architecture": "unknown"}}
    return add_index(blobs, OCI, add_image(blobs, OCI), unknown)


def planned(blobs: Memory, root: dict[str, Any], folder: Path) -> Plan:
    """What is to be sent of a base that goes as it is."""
    family = load_family(blobs, blobs.descriptor(root))
    place = StoredPlace("here", create_layout(folder), Stored(blobs, family))
    return place.plan(Recipe((family.images[0].digest,), {}, {}, ("a",)))


def test_what_lies_beside_the_images_is_copied_so_deep_and_no_deeper(tmp_path: Path) -> None:
    blobs = Counted()
    assert planned(blobs, nested(blobs, 7), tmp_path / "a").outline.digest
    for depth in (8, 1000):
        root = nested(blobs, depth)
        blobs.opened.clear()
        with pytest.raises(BrokenImage, match="indexes lead to indexes 9 times over"):
            planned(blobs, root, tmp_path / "b")
        assert len(blobs.opened) < 20


def test_what_lies_beside_the_images_is_bounded_in_all(tmp_path: Path) -> None:
    blobs = Counted()
    wide = [
        {**add_image(blobs, OCI, "arm64", annotations={"x": f"{number}" + "x" * 2**20}),
         "artifactType": "x"}
        for number in range(20)
    ]  # fmt: skip
    with pytest.raises(BrokenImage, match="have over 16 MiB"):
        planned(blobs, add_index(blobs, OCI, add_image(blobs, OCI), *wide), tmp_path / "a")
