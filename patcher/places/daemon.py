"""The Docker daemon as a place: it bakes on a base that it has (see `DockerImage.bake`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.daemon.client import is_podman
from patcher.daemon.engine import BakedDockerImage, DockerImage, named_image
from patcher.daemon.files import read_files
from patcher.oci.model import broken
from patcher.places.place import Outline, Sent, changed
from patcher.progress import waiting

if TYPE_CHECKING:
    from patcher.oci.blobs import Watch
    from patcher.oci.installation import Installation
    from patcher.oci.referrer import File
    from patcher.places.place import Recipe


@dataclass(frozen=True, slots=True)
class DaemonPlace:
    """The daemon that has the base, which is one image for one platform (see `Place`)."""

    repository: str
    base: DockerImage

    def plan(self, recipe: Recipe, *, blind: bool = False) -> DaemonPlan:
        """See `Place`. What a daemon builds has its clock in it, so what bears the fixed tag is
        known by its labels, which state the base and each file, and not by its digest.
        """
        del blind
        client, names = self.base.client, [f"{self.repository}:{tag}" for tag in recipe.tags]
        held = {name: named_image(client, name) for name in names}
        change = recipe.changes.get(self.base.digest)
        wanted = {**self.base.labels, **(change.labels if change else {})}
        fixed = held[names[0]]
        there = self.base if change is None else None
        if fixed and fixed.labels == wanted and fixed.is_built_on(self.base):
            there = fixed
        moving = tuple(
            tag
            for tag, image in zip(recipe.tags, held.values(), strict=True)
            if there is None or image is None or image.id != there.id
        )
        taken = frozenset(tag for tag in moving if held[f"{self.repository}:{tag}"])
        return DaemonPlan(self, recipe, there, moving, taken)


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """A build to be done, or an image that is there already (see `Plan`)."""

    place: DaemonPlace
    recipe: Recipe
    there: DockerImage | None
    moving: tuple[str, ...]
    taken: frozenset[str]

    @property
    def outline(self) -> Outline:
        """See `Plan`. A daemon tells no digest before it has built."""
        digest = self.there.id if self.there else ""
        images = {self.place.base.digest: digest} if digest else {}
        return Outline(digest, images, moving=self.moving, taken=self.taken)

    def make(self, watch: Watch) -> DaemonResult:
        """See `Plan`. Raises `BadReference`, `BrokenImage`, `DaemonFailed`."""
        del watch
        base = self.place.base
        if self.there is not None:
            return DaemonResult(self, BakedDockerImage(self.there, ()))
        change = self.recipe.changes[base.digest]
        with waiting("the daemon is making the image"):
            return DaemonResult(self, base.bake(change, self.recipe.annotations))


@dataclass(frozen=True, slots=True)
class DaemonResult:
    """An image in the daemon (see `Made`).

    Nothing is `sent`: the daemon has the base, and gets a few KB of files by its socket.
    """

    plan: DaemonPlan
    baked: BakedDockerImage
    sent: Sent = field(default_factory=Sent)

    @property
    def digest(self) -> str:
        """The daemon's image id."""
        return self.baked.digest

    @property
    def images(self) -> Mapping[str, str]:
        """See `Made`."""
        return {self.plan.place.base.digest: self.digest}

    @property
    def way(self) -> str | None:
        """See `Made`: the Dockerfile built, or the layer loaded."""
        return self.baked.way

    def read_back(self, before: Mapping[str, Installation]) -> Mapping[str, Installation]:
        """See `Made`. The new image is asked for the changed files alone: `build` and `plan` have
        held it against the base, whose layers are below them. Podman is asked for all of it.
        """
        image, recipe = self.baked.image, self.plan.recipe
        back: dict[str, Installation] = {}
        for digest, installation in before.items():
            change = recipe.changes.get(digest)
            if change is None:
                return before
            if is_podman(image.client):
                # A file that it hands out belongs to the container's user (5.4, 5.8), whoever
                # owns it in the image: what it exports does not.
                targets = {target for each in installation.all for target in each.files}
                root = None if installation.others else installation.root
                back[digest] = image.installation(sorted(targets), root)
                continue
            wanted = [*(file.path for file in change.files), *change.bytecode]
            found = read_files(image.client, image.id, image.platform, wanted)
            # A built image has an empty .pyc: Python passes over it and reads the source.
            gone = [path for path in change.bytecode if path not in found or not found[path].data]
            lost = next((file.path for file in change.files if file.path not in found), None)
            if lost is not None:
                raise broken(f"{lost} is not in the image")
            files = [found[file.path] for file in change.files]
            back[digest] = changed(installation, files, gone)
        return back

    def attach(self, kind: str, files: Sequence[File]) -> None:
        """See `Made`: a daemon keeps images alone."""

    def name(self) -> Mapping[str, str]:
        """See `Made`."""
        self.baked.tag([f"{self.plan.place.repository}:{tag}" for tag in self.plan.moving])
        return {}

    def discard(self) -> None:
        """See `Made`: the image, its names, and those that it was built through."""
        self.baked.discard()
