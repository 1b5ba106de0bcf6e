"""The docker engine: images in a Docker daemon, which builds the thin layer itself.

`pull` and `local_image` give a `DockerImage`, this engine's `BaseImage`. Nothing is ever run in
an image, so any platform can be baked on any host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from patcher.cache import LayerCache
from patcher.daemon import dockerfile
from patcher.daemon.build import build, remove
from patcher.daemon.client import asking, connect, follow, progress_of
from patcher.daemon.files import find, read_files
from patcher.errors import BadReference, BrokenImage, DaemonFailed, WrongPlatform
from patcher.oci.reference import Platform, parse_platform, parse_reference
from patcher.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from docker import DockerClient

    from patcher.oci.installation import Change, Installation
    from patcher.oci.located import LocatedFile

__all__ = ["BakedDockerImage", "DockerImage", "connect", "local_image", "named_image", "pull"]


@dataclass(frozen=True, slots=True)
class DockerImage:
    """An image in the daemon. `reference` is `NAME@sha256:...`, or its id where it has no name.

    `attrs` is the daemon's inspection (Docker Engine API, ImageInspect).
    """

    client: DockerClient = field(repr=False, compare=False)
    reference: str
    platform: Platform
    attrs: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The daemon's own id, by which it is read and built on."""
        return str(self.attrs["Id"])

    @property
    def digest(self) -> str:
        """The digest that pins it: a manifest's or index's, or the id where none is known."""
        return self.reference.rpartition("@")[2]

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the image's config."""
        return (self.attrs["Config"] or {}).get("Labels") or {}

    def installation(
        self, targets: Sequence[str], root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """See `BaseImage`. Raises `DaemonFailed` too."""
        cache = LayerCache()
        return find(
            self.client, self.attrs, self.platform, targets, cache, root=root, mentions=mentions
        )

    def read(self, file: LocatedFile) -> bytes | None:
        """The bytes of a file that was located in it. Raises `DaemonFailed`, `BrokenImage`."""
        return read_files(self.client, self.id, self.platform, [file.path])[file.path].data

    def is_built_on(self, base: DockerImage) -> bool:
        """Are its lowest layers those of `base`, and is it for the same platform?"""
        below = base.attrs["RootFS"]["Layers"]
        layers = self.attrs["RootFS"]["Layers"]
        return bool(layers[: len(below)] == below) and self.platform == base.platform

    def dockerfile(self, change: Change) -> str:
        """The Dockerfile that `bake` builds, for a person to read or to build by hand."""
        return dockerfile.render(self.reference, self.platform, change)

    def bake(self, change: Change) -> BakedDockerImage:
        """Build the change on top of this image; the result has no name yet.

        Raises `BadReference` for a value that a Dockerfile cannot hold, `BrokenImage`,
        `DaemonFailed`. A failure, Ctrl-C too, leaves nothing in the daemon.
        """
        context = dockerfile.context(self.dockerfile(change), change)
        built = build(self.client, self.attrs, self.platform, context, change)
        image = DockerImage(self.client, built.attrs["Id"], self.platform, built.attrs)
        return BakedDockerImage(image, built.made)


@dataclass(frozen=True, slots=True)
class BakedDockerImage:
    """An image to be tagged. `made` are the ids of all images that its build made, in order."""

    image: DockerImage
    made: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The image's id."""
        return self.image.id

    def tag(self, names: Sequence[str]) -> None:
        """Give it these names, in this order. Raises `BadReference` before any, `DaemonFailed`."""
        references = [parse_reference(name) for name in names]
        for reference in references:
            if reference.digest is not None:
                raise BadReference(f"{reference} is not a tag", next_step="Leave the digest out.")
        for reference in references:
            with asking(f"{reference} cannot be tagged", next_step="Tag it with 'docker tag'."):
                self.image.client.api.tag(self.digest, reference.name, reference.tag or "latest")

    def discard(self) -> None:
        """Remove what the build made: the image, its names, and those that it was built through."""
        remove(self.image.client, self.made)


def pull(
    client: DockerClient,
    reference: str,
    platform: Platform,
    progress: Callable[[Progress], None] | None = None,
) -> DockerImage:
    """The image `NAME@sha256:...` for a platform; pulled unless the daemon already has it.

    `progress` is called for each step, in this thread. Raises `BadReference` where no digest
    pins the image, `DaemonFailed`, `WrongPlatform` where the daemon pulled another platform:
    its `platform=` is a wish, and an image without an index is pulled whatever it is.
    """
    wanted = parse_reference(reference)
    if wanted.digest is None:
        raise BadReference(
            f"{reference!r} pins nothing", next_step="Name the image as NAME@sha256:DIGEST."
        )
    pinned = str(wanted.pinned(wanted.digest))
    there = _find(client, pinned)
    if there is not None and _platform(there) == platform:
        return DockerImage(client, pinned, platform, there)
    doing = f"{pinned} cannot be pulled"
    next_step = "Check the digest, the network, and 'docker login' where the registry asks for it."
    if there is not None:
        next_step = (
            "A daemon may keep only one platform of an index. Name the platform's own digest, or "
            f"free the name with 'docker rmi {pinned}' ('docker tag' first what you want to keep)."
        )
    with asking(doing, next_step=next_step):
        events = client.api.pull(
            wanted.name, tag=wanted.digest, platform=str(platform), stream=True, decode=True
        )
        _show(follow(events, doing, next_step=next_step), progress)
    return _image(client, pinned, _inspect(client, pinned), platform)


def local_image(client: DockerClient, name: str, platform: Platform | None = None) -> DockerImage:
    """The image that the daemon has under a name, tag, digest or id. Nothing is pulled.

    Raises `DaemonFailed` where there is none, `WrongPlatform` where it is for another platform.
    """
    attrs = _inspect(client, name)
    return _image(client, _pin(name, attrs), attrs, platform)


def named_image(client: DockerClient, name: str) -> DockerImage | None:
    """The image that bears a name, whatever its platform; None where the name is free."""
    attrs = _find(client, name)
    return _image(client, str(attrs["Id"]), attrs, None) if attrs else None


def _find(client: DockerClient, name: str) -> Mapping[str, Any] | None:
    from docker.errors import ImageNotFound

    try:
        with asking(f"image {name!r} cannot be inspected", next_step="Check the name."):
            return client.images.get(name).attrs
    except DaemonFailed as error:
        if isinstance(error.__cause__, ImageNotFound):
            return None
        raise


def _inspect(client: DockerClient, name: str) -> Mapping[str, Any]:
    attrs = _find(client, name)
    if attrs is None:
        raise DaemonFailed(
            f"the Docker daemon has no image {name!r}",
            next_step="See 'docker images', or pull it first.",
        )
    return attrs


def _image(
    client: DockerClient, reference: str, attrs: Mapping[str, Any], wanted: Platform | None
) -> DockerImage:
    there = _platform(attrs)
    if wanted is not None and there != wanted:
        raise WrongPlatform(
            f"{reference} is for {there}, not for {wanted}",
            next_step=f"Ask for {there}, or take an image that has {wanted}.",
        )
    return DockerImage(client, reference, there, attrs)


def _platform(attrs: Mapping[str, Any]) -> Platform:
    """The platform that an image states. Its config is third-party text: it must parse."""
    parts = (attrs["Os"], attrs["Architecture"], attrs.get("Variant"))
    try:
        return parse_platform("/".join(filter(None, parts)))
    except BadReference as error:
        raise BrokenImage(
            f"the image states no platform: {error.problem}",
            next_step="Take an image whose config states its os and architecture.",
        ) from error


def _pin(name: str, attrs: Mapping[str, Any]) -> str:
    """What pins a local image: its digest in the repository asked for, or in any, or its id."""
    pins = sorted(attrs["RepoDigests"] or [])
    image = str(attrs["Id"])
    if not image.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
        repository = parse_reference(name).name
        pins = [pin for pin in pins if parse_reference(pin).name == repository]
    return pins[0] if pins else image


def _show(events: Iterable[dict[str, Any]], progress: Callable[[Progress], None] | None) -> None:
    """Read a stream to its end, telling each step."""
    for event in events:
        step = progress_of(event)
        if step is not None and progress is not None:
            progress(step)
