"""A base in docker's media types, seen in OCI's: what an OCI layout must hold to be read.

A layout's index may lead to docker's types by the letter, and skopeo 1.9 then finds nothing under
the name (seen). Configs and layers keep their bytes and digests: the two families differ in the
names of their types alone (image-spec, media-types.md, "Compatibility Matrix").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from patcher.oci.blobs import read_blob
from patcher.oci.model import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
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
)

if TYPE_CHECKING:
    from patcher.oci.blobs import Blobs
    from patcher.oci.model import Manifest

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

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`."""
        if descriptor.digest in self.documents:
            return BytesIO(self.documents[descriptor.digest][start:])
        return self.source.open(descriptor, start)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.source.check(descriptors)


def as_oci(source: Blobs, root: Descriptor) -> tuple[Converted, Descriptor]:
    """The image or index that `root` leads to, in OCI's media types.

    What is OCI's already keeps its bytes. Raises `BrokenImage`, `Unreadable`.
    """
    made: dict[str, Part] = {}
    _convert(source, root, made)
    documents = {new.descriptor.digest: new.data for new in made.values()}
    originals = {new.descriptor.digest: old for old, new in made.items()}
    return Converted(source, documents, originals), made[root.digest].descriptor


def _convert(source: Blobs, old: Descriptor, made: dict[str, Part]) -> Json:
    """Put what a manifest or index becomes into `made`, by the old digest; gives its entry."""
    data = read_blob(source, old)
    if old.media_type in INDEXES:
        index = parse_index(data, old.media_type)
        document, was = index.document, [image.document for image in index.images]
        now = [_convert(source, image, made) for image in index.images]
        # An attestation would vouch for a digest that is no more.
        new = {**document, "manifests": now}
    else:
        manifest = parse_manifest(data, old.media_type)
        document, was = manifest.document, [d.document for d in _blobs(manifest)]
        config, *layers = now = [_renamed(entry) for entry in was]
        new = {**document, "config": config, "layers": layers}
    if now != was or old.media_type in _OCI_OF:
        data = dump_json({**new, "mediaType": _OCI_OF.get(old.media_type, old.media_type)})
    made[old.digest] = part(data, _OCI_OF.get(old.media_type, old.media_type))
    return {**old.document, **made[old.digest].descriptor.document}


def _blobs(manifest: Manifest) -> list[Descriptor]:
    return [manifest.config, *manifest.layers]


def _renamed(entry: Json) -> Json:
    media_type = entry["mediaType"]
    return {**entry, "mediaType": _OCI_OF.get(media_type, media_type)}
