"""Images in an OCI image layout: a base of one, and what is baked upon it.

What is baked goes into the same layout, beside its base, and has no name until `tag`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import BadReference
from patcher.jobs.naming import annotations_of
from patcher.oci.append import append
from patcher.oci.blobs import load_image, load_index
from patcher.oci.filesystem import find_installation
from patcher.oci.layout import Layout, existing_layout
from patcher.oci.model import INDEXES, MANIFESTS, REF_NAME
from patcher.oci.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.installation import Change, Installation
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform


def open_layout(path: Path, platform: Platform | None, name: str | None) -> LayoutImage:
    """The one image in the layout at `path` of that platform and name; None leaves it open.

    Raises `BadReference` where none or several fit, `Unreadable`, `BrokenImage`.
    """
    layout = existing_layout(path)
    images = [image for image in _images(layout) if name in (None, image.name)]
    fitting = [image for image in images if platform in (None, image.platform)]
    if len({image.image.digest for image in fitting}) == 1:
        return fitting[0]
    known = ", ".join(f"{image.name} ({image.platform})" for image in _images(layout))
    wanted = " ".join(str(part) for part in (name, platform) if part) or "not named"
    raise BadReference(
        f"{path}: {'several images are' if fitting else 'no image is'} {wanted}",
        next_step=f"Give name and platform of one. It holds: {known or 'nothing'}.",
    )


def _images(layout: Layout) -> list[LayoutImage]:
    return [
        LayoutImage(layout, root, image)
        for root in layout.entries()
        for image in (load_index(layout, root).images if root.media_type in INDEXES else [root])
    ]


@dataclass(frozen=True, slots=True)
class LayoutImage:
    """One image of a layout, as a base (see `BaseImage`).

    `root` is what the name leads to: the image, or an index that it is one of.
    """

    layout: Layout
    root: Descriptor
    image: Descriptor

    @property
    def digest(self) -> str:
        """See `BaseImage`."""
        return self.root.digest

    @property
    def name(self) -> str | None:
        """What index.json calls it."""
        return self.root.annotations.get(REF_NAME)

    @property
    def platform(self) -> Platform:
        """What the index or else its config states."""
        return self.image.platform or load_image(self.layout, self.image).config.platform

    @property
    def labels(self) -> Mapping[str, str]:
        """See `BaseImage`."""
        return load_image(self.layout, self.image).config.labels

    def installation(self, targets: Sequence[str]) -> Installation:
        """See `BaseImage`."""
        layers = load_image(self.layout, self.image).manifest.layers
        return find_installation(lambda wanted: self.layout.scan(layers, wanted), targets)

    def bake(self, change: Change) -> LayoutResult:
        """See `BaseImage`. The result has passed `validate`. Nothing is left of one that fails."""
        said = annotations_of(self.labels, change.labels)
        changes = {self.image.digest: change}
        appended = append(self.layout, self.root, changes, said)
        new = [part.descriptor for part in appended.parts if not self.layout.has(part.descriptor)]
        [image] = [
            part.descriptor for part in appended.parts if part.descriptor.media_type in MANIFESTS
        ]
        result = LayoutResult(self.layout, appended.root, image, tuple(new))
        with contextlib.ExitStack() as undo:
            undo.callback(result.discard)
            for part in appended.parts:
                self.layout.put(part.descriptor, part.data)
            validate(self.layout, self.root, appended.root, changes, said)
            undo.pop_all()
        return result

    def unchanged(self) -> LayoutResult:
        """See `BaseImage`."""
        return LayoutResult(self.layout, self.root, self.image, ())


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """An image that was put into a layout and has no name yet (see `BakedImage`).

    `new` are the blobs that were not there before.
    """

    layout: Layout
    root: Descriptor
    image: Descriptor
    new: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """See `BakedImage`."""
        return self.root.digest

    def installation(self, targets: Sequence[str]) -> Installation:
        """See `BakedImage`."""
        return LayoutImage(self.layout, self.root, self.image).installation(targets)

    def tag(self, names: Sequence[str]) -> None:
        """See `BakedImage`: all names in one step. Raises `BadReference` for a name that a layout
        cannot have.
        """
        self.layout.name(self.root, names)

    def discard(self) -> None:
        """See `BakedImage`. What a name leads to, stays."""
        if self.digest not in [entry.digest for entry in self.layout.entries()]:
            for descriptor in self.new:
                self.layout.remove(descriptor)
