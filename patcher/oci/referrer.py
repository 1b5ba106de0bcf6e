"""A document that belongs to an image: a manifest whose `subject` is the image.

OCI image-spec 1.1, manifest.md ("Guidelines for Artifact Usage"); distribution-spec 1.1, "Listing
Referrers", and "Referrers Tag Schema" for a registry that cannot list them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from patcher.oci.blobs import Blobs, read_blob
from patcher.oci.model import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Part,
    broken,
    dump_json,
    expect,
    parse_json,
    part,
    read_descriptor,
)

if TYPE_CHECKING:
    from patcher.oci.model import Json

_EMPTY = part(b"{}", "application/vnd.oci.empty.v1+json")

# The file name under which `oras pull` and `regctl artifact get` write a blob.
_TITLE = "org.opencontainers.image.title"

# Documents about one image; more is somebody's attack on whoever reads them.
_MOST = 256
_MOST_FILES = 16


@dataclass(frozen=True, slots=True)
class File:
    """One document of an artifact."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest with a subject, and the blobs that it names."""

    kind: str
    subject: str
    manifest: Part
    blobs: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """The manifest's."""
        return self.manifest.descriptor.digest

    @property
    def size(self) -> int:
        """Bytes of payload, the manifest's too."""
        return sum(each.descriptor.size for each in (*self.blobs, self.manifest))

    @property
    def entry(self) -> Json:
        """The descriptor that a list of referrers holds of it."""
        return {**self.manifest.descriptor.document, "artifactType": self.kind}


class Referred(Blobs, Protocol):
    """A store that knows what refers to an image in it."""

    def referrers(self, subject: str, kind: str) -> list[Descriptor]:
        """The manifests of this artifact type whose subject has this digest, as the store lists
        them: each is still to be read. Raises `BrokenImage`, `Unreadable`.
        """
        ...


def make_artifact(kind: str, subject: Descriptor, files: Sequence[File]) -> Artifact:
    """The artifact of this type about an image. The same arguments give the same bytes."""
    blobs = [part(file.data, file.media_type) for file in files]
    layers = [
        {**blob.descriptor.document, "annotations": {_TITLE: file.name}}
        for blob, file in zip(blobs, files, strict=True)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": _EMPTY.descriptor.document,
        "layers": layers,
        "subject": {
            "mediaType": subject.media_type,
            "digest": subject.digest,
            "size": subject.size,
        },
    }
    manifest = part(dump_json(document), OCI_MANIFEST)
    return Artifact(kind, subject.digest, manifest, (_EMPTY, *blobs))


def read_artifact(blobs: Blobs, descriptor: Descriptor, kind: str, subject: str) -> list[File]:
    """The documents of an artifact. Raises `BrokenImage` where it is not one of this type about
    this image, `Unreadable`.
    """
    name = descriptor.digest
    manifest = parse_json(read_blob(blobs, descriptor), name)
    if manifest.get("artifactType") != kind:
        raise broken(f"{name} is not of the type {kind}")
    if read_descriptor(manifest.get("subject"), f"{name}: subject").digest != subject:
        raise broken(f"{name} is about another image than {subject}")
    entries = expect(manifest.get("layers"), list, f"{name}: layers")
    if len(entries) > _MOST_FILES:
        raise broken(f"{name} has {len(entries)} blobs")
    layers = [read_descriptor(entry, f"{name}: layers") for entry in entries]
    return [
        File(layer.annotations.get(_TITLE, ""), layer.media_type, read_blob(blobs, layer))
        for layer in layers
    ]


def referrers_tag(subject: str) -> str:
    """The tag that holds the list where a registry keeps none: `sha256-<hex>`."""
    return subject.replace(":", "-")


def listed(index: Json, kind: str) -> list[Descriptor]:
    """Those of one type in a list of referrers. Raises `BrokenImage`."""
    entries = expect(index.get("manifests"), list, "list of referrers: manifests")
    whole = [expect(entry, dict, "list of referrers") for entry in entries]
    wanted = [entry for entry in whole if entry.get("artifactType") == kind]
    if len(wanted) > _MOST:
        raise broken(f"the list of referrers has {len(wanted)} entries of {kind}")
    return [read_descriptor(entry, "list of referrers") for entry in wanted]


def with_artifact(index: Mapping[str, Any] | None, artifact: Artifact) -> Part:
    """A list of referrers with one more at its end; a new list for None."""
    known = index or {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    return part(dump_json({**known, "manifests": [*known["manifests"], artifact.entry]}), OCI_INDEX)
