"""An image in a registry, read without a daemon and without a pull.

Manifest and config are read whole. Layers are streamed from the top down to the one that settles
where vLLM is and what its files are; each is hashed to its end, and nothing of it touches the
disk but the few facts that the cache keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import WrongPlatform
from patcher.oci.image import StoredImage, load_image, load_index
from patcher.oci.model import INDEXES
from patcher.oci.reference import host_platform
from patcher.registry.repository import open_registry

if TYPE_CHECKING:
    from patcher.oci.image import Cache
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.registry.repository import Registry
    from patcher.web.http import Http


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry says of a reference: its digest, and each platform's manifest digest.

    For a single manifest (no index) there is at most one platform, and its digest is the same.
    """

    digest: str
    is_index: bool
    platforms: Mapping[Platform, str]


def open_remote(
    reference: Reference, platform: Platform | None, http: Http, cache: Cache | None = None
) -> StoredImage:
    """The image that a reference leads to, for a platform.

    None is the only one there, or else this machine's. Raises `WrongPlatform`, `NotInRegistry`,
    `AccessDenied`, `RegistryFailed`, `BrokenImage`.
    """
    registry = open_registry(reference, http)
    root, descriptors = _images(registry, reference)
    alone = platform is None and len(descriptors) == 1
    wanted = platform or host_platform()
    there = {each.digest: _platform(registry, each) for each in ([] if alone else descriptors)}
    for each in descriptors:
        if alone or there[each.digest] == wanted:
            return StoredImage(registry, root.digest, load_image(registry, each), cache)
    listed = ", ".join(sorted({str(other) for other in there.values()})) or "none"
    raise WrongPlatform(
        f"{reference} is not there for {wanted}, but for: {listed}",
        next_step="Give one of these as --platform.",
    )


def ask_registry(reference: Reference, http: Http) -> Answer:
    """What a reference leads to today, as `lock add` wants it. Raises as `open_remote`."""
    registry = open_registry(reference, http)
    root, descriptors = _images(registry, reference)
    platforms = {_platform(registry, each): each.digest for each in descriptors}
    return Answer(root.digest, root.media_type in INDEXES, platforms)


def _images(registry: Registry, reference: Reference) -> tuple[Descriptor, Sequence[Descriptor]]:
    """What a reference leads to, and the images of it; their own documents are not read yet."""
    root = registry.manifest(_name(reference)).descriptor
    is_index = root.media_type in INDEXES
    return root, load_index(registry, root).images if is_index else (root,)


def _platform(registry: Registry, image: Descriptor) -> Platform:
    return image.platform or load_image(registry, image).platform


def _name(reference: Reference) -> str:
    return reference.digest or reference.tag or "latest"
