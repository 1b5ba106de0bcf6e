"""What a reference leads to in a registry: an image, or an index of one for each platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import WrongPlatform
from patcher.oci.image import load_image, load_index
from patcher.oci.model import INDEXES
from patcher.oci.reference import host_platform
from patcher.oci.rootfs.layers import StoredImage
from patcher.registry.repository import Repository

if TYPE_CHECKING:
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.oci.rootfs.layers import Cache
    from patcher.web.http import Http


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference leads to: its digest, and each platform's manifest digest.

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
    repository = Repository(reference, http)
    root, descriptors = _images(repository, reference)
    alone = platform is None and len(descriptors) == 1
    wanted = platform or host_platform()
    there = {each.digest: _platform(repository, each) for each in ([] if alone else descriptors)}
    for each in descriptors:
        if alone or there[each.digest] == wanted:
            return StoredImage(repository, root.digest, load_image(repository, each), cache)
    listed = ", ".join(sorted({str(other) for other in there.values()})) or "none"
    raise WrongPlatform(
        f"{reference} is not there for {wanted}, but for: {listed}",
        next_step="Give one of these as --platform.",
    )


def ask_registry(reference: Reference, http: Http) -> Resolved:
    """What a reference leads to today. Raises as `open_remote`."""
    repository = Repository(reference, http)
    root, descriptors = _images(repository, reference)
    platforms = {_platform(repository, each): each.digest for each in descriptors}
    return Resolved(root.digest, root.media_type in INDEXES, platforms)


def _images(
    repository: Repository, reference: Reference
) -> tuple[Descriptor, Sequence[Descriptor]]:
    """What a reference leads to, and the images of it; their own documents are not read yet."""
    root = repository.manifest(reference.asked).descriptor
    is_index = root.media_type in INDEXES
    return root, load_index(repository, root).images if is_index else (root,)


def _platform(repository: Repository, image: Descriptor) -> Platform:
    return image.platform or load_image(repository, image).platform
