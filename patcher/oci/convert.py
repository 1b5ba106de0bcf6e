"""A base with docker's media types, written anew with OCI's, as an OCI layout must hold it.

A layout's index may lead to docker's types by the letter, and skopeo 1.9 then finds nothing under
the name (seen). Configs and layers keep their bytes and digests: the two families differ in the
names of their types alone (image-spec, media-types.md, "Compatibility Matrix").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from patcher.oci.image import Family, Image
from patcher.oci.model import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Json,
    Part,
    dump_json,
    parse_index,
    parse_manifest,
    part,
    read_descriptor,
)

if TYPE_CHECKING:
    from patcher.oci.blobs import Blobs

_OCI_OF = {
    DOCKER_INDEX: OCI_INDEX,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    f"{DOCKER_LAYER}.zstd": f"{OCI_LAYER}+zstd",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """A source with some of its manifests and indexes written anew.

    `documents` are their bytes by the new digest; `originals` maps that to the digest before.
    """

    source: Blobs
    documents: Mapping[str, bytes]
    originals: Mapping[str, str]

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        """See `Blobs`."""
        if descriptor.digest in self.documents:
            return BytesIO(self.documents[descriptor.digest][start:])
        return self.source.open(descriptor, start, size)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.source.check(descriptors)


def as_oci(source: Blobs, family: Family) -> tuple[Converted, Family]:
    """An image or index in OCI's media types. What is OCI's already keeps its bytes.

    Raises `BrokenImage`.
    """
    made = {image.digest: _converted(image) for image in family.images}
    images = {old: image for old, (image, _) in made.items()}
    parts = {old: new for old, (_, new) in made.items() if new}
    if family.index is None:
        [image] = images.values()
        root, index = image.descriptor, None
    else:
        new_index = _converted_index(family, images)
        root = new_index.descriptor if new_index else family.root
        index = parse_index(new_index.data, root.media_type) if new_index else family.index
        parts |= {family.root.digest: new_index} if new_index else {}
    documents = {new.descriptor.digest: new.data for new in parts.values()}
    originals = {new.descriptor.digest: old for old, new in parts.items()}
    return Converted(source, documents, originals), Family(root, index, tuple(images.values()))


def _converted(image: Image) -> tuple[Image, Part | None]:
    """The image with a new manifest, and that manifest; None where it is OCI's already."""
    old = image.manifest
    was = [each.document for each in (old.config, *old.layers)]
    config, *layers = now = [_renamed(entry) for entry in was]
    if now == was and old.media_type not in _OCI_OF:
        return image, None
    media_type = _OCI_OF.get(old.media_type, old.media_type)
    document = {**old.document, "mediaType": media_type, "config": config, "layers": layers}
    new = part(dump_json(document), media_type)
    entry = {**image.descriptor.document, **new.descriptor.document}
    manifest = parse_manifest(new.data, media_type)
    return Image(read_descriptor(entry, "manifest"), manifest, image.config), new


def _converted_index(family: Family, images: Mapping[str, Image]) -> Part | None:
    index = family.index
    assert index is not None  # noqa: S101 - the caller has looked
    now = [images[image.digest].descriptor.document for image in family.images]
    if index.media_type not in _OCI_OF and all(old == new.digest for old, new in images.items()):
        return None
    media_type = _OCI_OF.get(index.media_type, index.media_type)
    # Attestations are left out: they vouch for digests that are gone.
    return part(
        dump_json({**index.document, "mediaType": media_type, "manifests": now}), media_type
    )


def _renamed(entry: Json) -> Json:
    media_type = entry["mediaType"]
    return {**entry, "mediaType": _OCI_OF.get(media_type, media_type)}
