"""A store of blobs in memory, and small images in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from patcher.errors import BrokenImage
from patcher.oci.image import load_image
from patcher.oci.layer import write_tar
from patcher.oci.model import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    dump_json,
    part,
)
from patcher.oci.rootfs.running import find_installation
from patcher.oci.rootfs.scan import scan_layer
from patcher.oci.rootfs.start import Start
from tests.installations import TARGET, change_of, vllm_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.oci.layer import LayerChange

OCI = (OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
DOCKER = (DOCKER_INDEX, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)
EXTRA = {"org.opencontainers.image.base.name": "docker.io/vllm/vllm-openai"}


@dataclass
class Memory:
    """A store of blobs in memory, as strict about what it hands out as any."""

    data: dict[str, bytes] = field(default_factory=dict)

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BytesIO:
        del size
        return BytesIO(self.data[descriptor.digest][start:])

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        self.data[descriptor.digest] = data

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        for descriptor in descriptors:
            made = part(self.data[descriptor.digest], "").descriptor
            if (made.digest, made.size) != (descriptor.digest, descriptor.size):
                raise BrokenImage(f"{descriptor.digest} is not there", next_step="")

    def add(self, data: bytes | dict[str, Any], media_type: str) -> dict[str, Any]:
        """Store a blob; its descriptor as JSON."""
        blob = part(dump_json(data) if isinstance(data, dict) else data, media_type)
        self.put(blob.descriptor, blob.data)
        return dict(blob.descriptor.document)

    def descriptor(self, document: dict[str, Any]) -> Descriptor:
        return Descriptor(document["mediaType"], document["digest"], document["size"])

    def json(self, digest: str) -> Any:
        return json.loads(self.data[digest])


def add_image(
    blobs: Memory, types: tuple[str, ...], architecture: str = "amd64", **changes: Any
) -> dict[str, Any]:
    """A base image of one layer; `changes` replace parts of its manifest, `settings` of its
    config.
    """
    _, manifest_type, config_type, layer_type = types
    layer = blobs.add(write_tar(vllm_files()), layer_type)
    config = {
        "created": "2026-01-02T03:04:05Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["A=b"], "Labels": {"old": "1", "org.opencontainers.image.version": "u"}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True}],
        **changes.pop("settings", {}),
    }
    document = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": blobs.add(config, config_type),
        "layers": [layer],
        **changes,
    }
    return blobs.add(document, manifest_type)


def change_for(blobs: Memory, manifest: dict[str, Any]) -> LayerChange:
    layers = load_image(blobs, blobs.descriptor(manifest)).manifest.layers
    found = find_installation(
        lambda wanted: [scan_layer(partial(blobs.open, layer), layer, wanted) for layer in layers],
        Start({}),
        [TARGET],
    )
    return change_of(found)


@dataclass
class Opened:
    """Blobs in memory as a source; `short` leaves bytes away, `altered` changes one."""

    blobs: Memory
    short: int = 0
    altered: bool = False

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        del size
        data = self.blobs.data[descriptor.digest][start:]
        if descriptor.media_type.endswith(".tar"):
            data = data[: len(data) - self.short]
            data = bytes([data[0] ^ 1]) + data[1:] if self.altered else data
        return BytesIO(data)

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        self.blobs.put(descriptor, data)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        self.blobs.check(descriptors)
