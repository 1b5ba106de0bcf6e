"""An OCI layout on disk as a place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.oci.layout import existing_layout, layout_at, only_named, split_spec
from patcher.places.stored import StoredPlace

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.layout import Layout
    from patcher.oci.model import Descriptor
    from patcher.places.stored import Stored

PREFIX = "oci:"


def layout_place(folder: Path, base: Stored) -> StoredPlace:
    """The layout at `folder` as the place for a base; made with its first blob if missing.

    `base` must be in OCI's media types (see `patcher.oci.convert`): a layout's index may lead to
    docker's by the letter, and skopeo 1.9 then finds nothing under the name (seen).
    """
    return StoredPlace(f"{PREFIX}{folder}", layout_at(folder), base)


def open_named(spec: str) -> tuple[Layout, Descriptor]:
    """The layout and the image in it that `oci:DIR[:NAME]` means. Raises as `only_named`."""
    folder, name = split_spec(spec.removeprefix(PREFIX))
    layout = existing_layout(folder)
    return layout, only_named(layout, name)
