"""The docker engine: images in a Docker daemon, or in podman behind its Docker socket.

`pull` and `local_image` give a `DockerImage`, this engine's `BaseImage`. Nothing is ever run in
an image, so any platform can be baked on any host. A change is put on it in one of two ways: the
daemon builds the rendered Dockerfile, or loads the thin layer alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from patcher.daemon import dockerfile
from patcher.daemon.build import Built, build, remove, stated
from patcher.daemon.client import asking, follow, inspect, inspection, is_podman, progress_of
from patcher.daemon.files import find, read_files
from patcher.daemon.load import load
from patcher.errors import BadReference, BrokenImage, DaemonFailed, Unreadable, WrongPlatform
from patcher.layer_cache import LayerCache
from patcher.oci.reference import Platform, parse_platform, parse_reference
from patcher.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from docker import DockerClient

    from patcher.oci.image import Image
    from patcher.oci.installation import Installation
    from patcher.oci.layer import LayerChange
    from patcher.oci.rootfs.located import LocatedFile

# From this version of the API on, an image is inspected for a platform (Docker 28.1).
_BY_PLATFORM = (1, 49)


@dataclass(frozen=True, slots=True)
class DockerImage:
    """An image in the daemon. `reference` is `NAME@sha256:...`, or its id where it has no name.

    `attrs` is the daemon's inspection (Docker Engine API, ImageInspect). `documents` gives its
    manifest and config as its registry has them; None for an image of no registry. It raises
    `Unreadable`, `BrokenImage`, `WrongPlatform`.
    """

    client: DockerClient = field(repr=False, compare=False)
    reference: str
    platform: Platform
    attrs: Mapping[str, Any] = field(repr=False)
    documents: Callable[[], Image] | None = field(default=None, repr=False, compare=False)

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
        """The labels of the image's config, without what podman's builder says of itself."""
        return stated(self.attrs["Config"])

    def installation(
        self, targets: Sequence[str], root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """See `BaseImage`. Raises `DaemonFailed` too."""
        cache = LayerCache()
        return find(self.client, self.attrs, self.platform, cache, targets, root, mentions)

    def read(self, file: LocatedFile) -> bytes | None:
        """The bytes of a file that was located in it. Raises `DaemonFailed`, `BrokenImage`."""
        found = read_files(self.client, self.id, self.platform, [file.path]).get(file.path)
        return found.data if found else None

    def is_built_on(self, base: DockerImage) -> bool:
        """Are its lowest layers those of `base`, and is it for the same platform?"""
        below = base.attrs["RootFS"]["Layers"]
        layers = self.attrs["RootFS"]["Layers"]
        return bool(layers[: len(below)] == below) and self.platform == base.platform

    def dockerfile(self, change: LayerChange) -> str:
        """The Dockerfile that `build` builds, for a person to read or to build by hand."""
        return dockerfile.render(self.reference, self.platform, change)

    def bake(
        self, change: LayerChange, annotations: Mapping[str, str] | None = None
    ) -> BakedDockerImage:
        """Put the change on top of this image; the result has no name yet.

        Docker builds the Dockerfile, and loads the layer where that fails; podman loads it, and
        builds where the documents cannot be had. `annotations` are set on a manifest of ours.
        Raises `BadReference` for a value that a Dockerfile cannot hold, `BrokenImage`,
        `DaemonFailed`. A failure, Ctrl-C too, leaves nothing in the daemon.
        """
        if not is_podman(self.client):
            try:
                return self.build(change)
            except DaemonFailed as error:
                loaded = self._loaded(change, annotations or {})
                if loaded is None:
                    raise _deep(error) from error
                return loaded
        return self._loaded(change, annotations or {}) or self.build(change)

    def build(self, change: LayerChange) -> BakedDockerImage:
        """Let the daemon build the rendered Dockerfile. Raises as `bake` does."""
        context = dockerfile.context(self.dockerfile(change), change)
        return self._baked(
            build(self.client, self.attrs, self.platform, context, change), "dockerfile"
        )

    def load(
        self, image: Image, change: LayerChange, annotations: Mapping[str, str]
    ) -> BakedDockerImage:
        """Let the daemon load the thin layer alone; `image` are this image's documents.

        Raises `BrokenImage`, `DaemonFailed`.
        """
        return self._baked(load(self.client, self.attrs, image, change, annotations), "load")

    def _baked(self, built: Built, way: str) -> BakedDockerImage:
        image = DockerImage(self.client, built.attrs["Id"], self.platform, built.attrs)
        return BakedDockerImage(image, built.made, way)

    def _loaded(
        self, change: LayerChange, annotations: Mapping[str, str]
    ) -> BakedDockerImage | None:
        """The change, loaded; None where this image's documents cannot be had, or it fails."""
        if self.documents is None:
            return None
        try:
            return self.load(self.documents(), change, annotations)
        except (Unreadable, BrokenImage, WrongPlatform, DaemonFailed):
            return None


@dataclass(frozen=True, slots=True)
class BakedDockerImage:
    """An image to be tagged. `made` are the ids of all images that making it made, in order;
    `way` is how it was made: `dockerfile`, built, or `load`, the thin layer alone; None for one
    that was there.
    """

    image: DockerImage
    made: tuple[str, ...]
    way: str | None = None

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
    there = _find(client, pinned, platform)
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
        for event in follow(events, doing, next_step=next_step):
            step = progress_of(event)
            if step is not None and progress is not None:
                progress(step)
    return _image(client, pinned, _inspect(client, pinned, platform), platform)


def local_image(client: DockerClient, name: str, platform: Platform | None = None) -> DockerImage:
    """The image that the daemon has under a name, tag, digest or id. Nothing is pulled.

    Raises `DaemonFailed` where there is none, `WrongPlatform` where it is for another platform.
    """
    attrs = _inspect(client, name, platform)
    return _image(client, _pin(name, attrs), attrs, platform)


def named_image(client: DockerClient, name: str) -> DockerImage | None:
    """The image that bears a name, whatever its platform; None where the name is free."""
    attrs = _find(client, name)
    return _image(client, str(attrs["Id"]), attrs, None) if attrs else None


def keeps_indexes(client: DockerClient) -> bool:
    """Is it Docker with containerd's image store? An index is one image there, whatever of it was
    pulled, and before API 1.49 one platform of it cannot be asked for.
    """
    with asking("the daemon cannot be asked for its store", next_step="Try again."):
        status = client.api.info().get("DriverStatus") or []
        return ["driver-type", "io.containerd.snapshotter.v1"] in status


def _deep(error: DaemonFailed) -> DaemonFailed:
    """The error; where the base has too many layers, with what helps then."""
    if "max depth exceeded" not in error.problem:
        return error
    return DaemonFailed(
        error.problem,
        next_step="The base has as many layers as Docker's overlay store takes: bake in a daemon "
        "with containerd's image store, or publish with --to.",
    )


def _find(
    client: DockerClient, name: str, platform: Platform | None = None
) -> Mapping[str, Any] | None:
    """What the daemon says of a name, and of one platform of it where it can be asked for that."""
    from docker.errors import ImageNotFound

    try:
        doing = f"image {name!r} cannot be inspected"
        attrs = inspect(client, name, doing, next_step="Check the name.")
    except DaemonFailed as error:
        if isinstance(error.__cause__, ImageNotFound):
            return None
        raise
    own = _of_platform(client, name, platform) if platform else None
    # A container is made by the index's id, whichever of its images is meant.
    return {**own, "Id": attrs["Id"]} if own else attrs


def _of_platform(client: DockerClient, name: str, platform: Platform) -> Mapping[str, Any] | None:
    api = client.api
    if tuple(map(int, api.api_version.split("."))) < _BY_PLATFORM:
        return None
    stated = {"os": platform.os, "architecture": platform.architecture}
    if platform.variant:
        stated["variant"] = platform.variant
    with asking(f"image {name!r} cannot be inspected", next_step="Check the name."):
        answer = api.get(
            f"{api.base_url}/v{api.api_version}/images/{quote(name)}/json",
            params={"platform": json.dumps(stated)},
            timeout=api.timeout,
        )
        # Where it lacks the platform, what it has is told from the answer for the name alone.
        found = answer.json() if answer.ok else None
    return None if found is None else inspection(found, name)


def _inspect(
    client: DockerClient, name: str, platform: Platform | None = None
) -> Mapping[str, Any]:
    attrs = _find(client, name, platform)
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
    pins = sorted(attrs["RepoDigests"])
    image = str(attrs["Id"])
    if not image.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
        repository = parse_reference(name).name
        pins = [pin for pin in pins if parse_reference(pin).name == repository]
    return pins[0] if pins else image
