"""The base of a publication: which of its images are meant, and what vLLM lies in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage, WrongPlatform
from patcher.jobs.job import FileChange, check_version, judge_all, patch_all
from patcher.jobs.naming import OURS
from patcher.oci.blobs import Image, load_image, load_index
from patcher.oci.installation import Installation
from patcher.oci.model import INDEXES
from patcher.progress import Say
from patcher.registry.image import find
from patcher.rules.catalogue import Patch, Verdict
from patcher.versions import parsed

if TYPE_CHECKING:
    from packaging.version import Version

    from patcher.layer_cache import LayerCache
    from patcher.oci.blobs import Blobs
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference


@dataclass(frozen=True, slots=True)
class Origin:
    """What `root` leads to in `source`. `name` is what the pin came from, `version` what was
    asked for; None where there is none. What the layers say is kept in `cache`.

    `originals` maps the digests of converted documents to those that the publisher gave.
    """

    source: Blobs
    root: Descriptor
    name: Reference | None
    version: Version | None
    cache: LayerCache | None = None
    originals: Mapping[str, str] = field(default_factory=dict)

    def pin(self, digest: str) -> str:
        """The digest of a manifest or index of the base, as its publisher gave it."""
        return self.originals.get(digest, digest)


@dataclass(frozen=True, slots=True)
class Found:
    """One image of the base, read and judged, and what its files become."""

    image: Image
    installation: Installation
    before: tuple[Verdict, ...]
    changes: tuple[FileChange, ...]

    @property
    def digest(self) -> str:
        """The manifest's."""
        return self.image.descriptor.digest

    @property
    def platform(self) -> Platform:
        """What the index or else the config states."""
        return _platform(self.image)

    @property
    def already(self) -> str | None:
        """The patches that the image's labels say it carries; None for a base that is no work of
        ours.
        """
        return self.image.config.labels.get(f"{OURS}.patches")


def images_of(origin: Origin, platform: Platform | None) -> list[Image]:
    """The wanted images of the base: all of them, or those of a platform.

    Raises `WrongPlatform` where it has none.
    """
    source, root = origin.source, origin.root
    is_index = root.media_type in INDEXES
    descriptors = load_index(source, root).images if is_index else [root]
    images = [load_image(source, descriptor) for descriptor in descriptors]
    wanted = [image for image in images if platform in (None, _platform(image))]
    if not wanted:
        there = ", ".join(str(_platform(image)) for image in images)
        raise WrongPlatform(
            f"{root.digest} is not there for {platform or 'any platform'}, but for: {there}",
            next_step="Give one of these as --platform, or none for all.",
        )
    return wanted


def _platform(image: Image) -> Platform:
    return image.descriptor.platform or image.config.platform


def examine(origin: Origin, image: Image, patches: Sequence[Patch], say: Say) -> Found:
    """Find vLLM in an image, judge it and patch its files; nothing is written.

    Raises `WrongVersion`, and what reading and rewriting raise.
    """
    targets = sorted({patch.target for patch in patches})
    installation = find(origin.source, image.descriptor, targets, origin.cache)
    say(f"{_platform(image)}: found vLLM {installation.version} in {installation.root}")
    check_version(origin.version, installation)
    before = judge_all(patches, installation)
    return Found(image, installation, before, patch_all(patches, before, installation))


def common_version(found: Sequence[Found]) -> str:
    """vLLM's version, as all images state it; without the local part where only that differs.

    Raises `BrokenImage` where the images hold different builds.
    """
    stated = sorted({each.installation.version for each in found})
    public = {version.public for version in map(parsed, stated) if version}
    if len(stated) == 1:
        return stated[0]
    if len(public) == 1:
        return public.pop()
    raise BrokenImage(
        f"the base's platforms hold different vLLMs: {', '.join(stated)}",
        next_step="Publish them one at a time, with --platform and a name for each.",
    )
