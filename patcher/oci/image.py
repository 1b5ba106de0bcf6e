"""An image as a value: its manifest and config, parsed once.

A parsed image is handed on from the base to what is built on it and to what checks the result;
nobody reads its documents a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.oci.blobs import read_blob
from patcher.oci.model import (
    INDEXES,
    Config,
    Descriptor,
    Index,
    Manifest,
    broken,
    parse_config,
    parse_index,
    parse_manifest,
)

if TYPE_CHECKING:
    from patcher.oci.blobs import Blobs
    from patcher.oci.reference import Platform

# Manifests and configs of all platforms; vLLM's have some 200 KB. As JSON they take 20 times that.
MOST_DOCUMENTS = 16 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its config: one image for one platform."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def platform(self) -> Platform:
        """What the index that lists it, or else its config, states."""
        return self.descriptor.platform or self.config.platform

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its config, which an image built on it inherits."""
        return self.config.labels


@dataclass(frozen=True, slots=True)
class Family:
    """What a name or digest leads to: an index with its images, or a single image.

    `index` is None for a single image. Attestations are not among the images.
    """

    root: Descriptor
    index: Index | None
    images: tuple[Image, ...]


def load_image(blobs: Blobs, descriptor: Descriptor) -> Image:
    """The manifest and config that a descriptor leads to, which must agree."""
    manifest = parse_manifest(read_blob(blobs, descriptor), descriptor.media_type)
    config = parse_config(read_blob(blobs, manifest.config))
    if len(config.diff_ids) != len(manifest.layers):
        raise broken(
            f"{descriptor.digest}: {len(manifest.layers)} layers in the manifest, "
            f"{len(config.diff_ids)} in the config"
        )
    stated, own = descriptor.platform, config.platform
    if stated is not None:
        # Builders leave the variant out of an index or a config as they like.
        variants = {stated.variant, own.variant} - {None}
        same = (stated.os, stated.architecture) == (own.os, own.architecture)
        if not same or len(variants) > 1:
            raise broken(f"{descriptor.digest}: index says {stated}, config says {own}")
    return Image(descriptor, manifest, config)


def load_index(blobs: Blobs, descriptor: Descriptor) -> Index:
    """The index that a descriptor leads to."""
    return parse_index(read_blob(blobs, descriptor), descriptor.media_type)


def load_family(blobs: Blobs, root: Descriptor) -> Family:
    """What a manifest's or index's descriptor leads to, each document read and parsed once.

    Raises `BrokenImage`, `Unreadable`.
    """
    index = load_index(blobs, root) if root.media_type in INDEXES else None
    descriptors = index.images if index else (root,)
    images: list[Image] = []
    size = 0
    for each in descriptors:
        images.append(load_image(blobs, each))
        size += documents_of(images[-1])
        if size > MOST_DOCUMENTS:
            raise broken(f"the documents of {root.digest} have over {MOST_DOCUMENTS >> 20} MiB")
    return Family(root, index, tuple(images))


def documents_of(image: Image) -> int:
    """The bytes of an image's manifest and config."""
    return image.descriptor.size + image.manifest.config.size
