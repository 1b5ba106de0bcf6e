"""An image in a registry, read without a daemon and without a pull.

Manifest and config are read whole. Layers are streamed from the top down to the one that settles
where vLLM lies and what its files are; each is hashed to its end, and nothing of it touches the
disk but the few facts that the cache keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from patcher.errors import WrongPlatform
from patcher.oci.blobs import Blobs, load_image, load_index, read_blob
from patcher.oci.filesystem import enough, find_installation
from patcher.oci.model import INDEXES, parse_manifest
from patcher.oci.reference import host_platform
from patcher.oci.scan import scan_layer
from patcher.registry.repository import open_registry

if TYPE_CHECKING:
    from patcher.layer_cache import LayerCache
    from patcher.oci.installation import Installation
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.oci.scan import Traces, Wanted
    from patcher.web.http import Http


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry says of a reference: its digest, and each platform's manifest digest.

    For a single manifest (no index) there is at most one platform, and its digest is the same.
    """

    digest: str
    is_index: bool
    platforms: Mapping[Platform, str]


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """One image in a registry.

    `root` is what the reference leads to: the image's manifest, or an index that it is one of.
    """

    blobs: Blobs
    root: Descriptor
    image: Descriptor
    cache: LayerCache | None

    @property
    def digest(self) -> str:
        """`sha256:...` of what the reference leads to."""
        return self.root.digest

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the image's config."""
        return load_image(self.blobs, self.image).config.labels

    @property
    def platform(self) -> Platform:
        """What the index or else the config states."""
        return _platform(self.blobs, self.image)

    def installation(self, targets: Sequence[str]) -> Installation:
        """vLLM in the image, with these targets. See `find`."""
        return find(self.blobs, self.image, targets, self.cache)


def open_remote(
    reference: Reference, platform: Platform | None, http: Http, cache: LayerCache | None = None
) -> RemoteImage:
    """The image that a reference leads to, for a platform.

    None is the only one there, or else this machine's. Raises `WrongPlatform`, `NotInRegistry`,
    `AccessDenied`, `RegistryFailed`, `BrokenImage`.
    """
    registry = open_registry(reference, http)
    root = registry.manifest(_name(reference)).descriptor
    is_index = root.media_type in INDEXES
    images = load_index(registry, root).images if is_index else (root,)
    if platform is None and len(images) == 1:
        return RemoteImage(registry, root, images[0], cache)
    wanted = platform or host_platform()
    there = {image.digest: _platform(registry, image) for image in images}
    for image in images:
        if there[image.digest] == wanted:
            return RemoteImage(registry, root, image, cache)
    listed = ", ".join(sorted({str(other) for other in there.values()})) or "none"
    raise WrongPlatform(
        f"{reference} is not there for {wanted}, but for: {listed}",
        next_step="Give one of these as --platform.",
    )


def ask_registry(reference: Reference, http: Http) -> Answer:
    """What a reference leads to today, as `lock add` wants it. Raises as `open_remote`."""
    registry = open_registry(reference, http)
    root = registry.manifest(_name(reference)).descriptor
    is_index = root.media_type in INDEXES
    images = load_index(registry, root).images if is_index else (root,)
    platforms = {_platform(registry, image): image.digest for image in images}
    return Answer(root.digest, is_index, platforms)


def _name(reference: Reference) -> str:
    return reference.digest or reference.tag or "latest"


def find(
    blobs: Blobs, image: Descriptor, targets: Sequence[str], cache: LayerCache | None = None
) -> Installation:
    """vLLM in the image that a manifest's descriptor leads to, wherever its blobs lie.

    No more layers are streamed than settle the answer, and none that the cache knows: then the
    manifest alone is read. What such an early end cannot see is said at `enough`. Raises
    `FileAbsent` where no vLLM is found, `BrokenImage`, `Unreadable`.
    """
    layers = parse_manifest(read_blob(blobs, image), image.media_type).layers

    def scan(wanted: Wanted) -> list[Traces]:
        return enough(_traces(blobs, layers, wanted, cache), wanted)

    return find_installation(scan, targets)


def _traces(
    blobs: Blobs, layers: Sequence[Descriptor], wanted: Wanted, cache: LayerCache | None
) -> Iterator[Traces]:
    """Each layer's traces, the topmost (last) first, read as they are asked for."""
    for layer in reversed(layers):
        known = cache.load(layer, wanted) if cache else None
        if known is None:
            known = scan_layer(partial(blobs.open, layer), layer, wanted)
            if cache:
                cache.save(layer, wanted, known)
        yield known


def _platform(blobs: Blobs, image: Descriptor) -> Platform:
    return image.platform or load_image(blobs, image).config.platform
