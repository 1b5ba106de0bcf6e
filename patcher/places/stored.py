"""A place that is a store of blobs: an image goes there layer by layer, without a daemon.

The order is the whole safety: the base's blobs, our layers and configs, manifests, the index;
what was published is read back and validated; the tags move last. Cut off anywhere, every old
tag is as it was, and a second run sends only what is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from patcher.errors import TagRefused
from patcher.oci.append import append
from patcher.oci.blobs import Blobs, read_blob
from patcher.oci.image import MOST_DOCUMENTS
from patcher.oci.model import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    Part,
    broken,
    expect,
    parse_json,
    read_descriptor,
)
from patcher.oci.referrer import make_artifact
from patcher.oci.validate import validate
from patcher.places.place import Outline, Sent, changed

if TYPE_CHECKING:
    from patcher.oci.blobs import Watch
    from patcher.oci.image import Family
    from patcher.oci.installation import Installation
    from patcher.oci.referrer import Artifact, File
    from patcher.places.place import Recipe

_DOCUMENTS = INDEXES | MANIFESTS


class Store(Blobs, Protocol):
    """A store of blobs that can be written to: a registry's repository, or an OCI layout."""

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a blob, manifest or index. After it returns, it is there, whole."""
        ...

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """The blobs and manifests that are not there, in their order."""
        ...

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """Get blobs from `source`; gives the bytes that were moved for them, 0 for a mount.

        After it returns they are there, whole. Raises `BrokenImage`, `Unreadable`, `Unwritable`.
        """
        ...

    def named(self, name: str) -> str | None:
        """The digest that a name leads to; None for a free name."""
        ...

    def attach(self, artifact: Artifact) -> int:
        """Store an artifact and list it with its subject; gives the bytes sent, 0 for nothing.

        After it returns, it is there, whole, and listed.
        """
        ...

    def name(self, root: Part, names: Sequence[str]) -> None:
        """Let these names lead to `root`, in this order."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A base whose blobs a store holds: the store, and its documents, parsed."""

    blobs: Blobs
    family: Family


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """A store as a place (see `Place`) for the results of a base in another store, or the same."""

    repository: str
    store: Store
    base: Stored

    def plan(self, recipe: Recipe, *, blind: bool = False) -> StoredPlan:
        """See `Place`. Raises `BrokenImage`, `Unreadable`, `AccessDenied`."""
        whole = _appended(self.base, recipe) if recipe.changes else _unchanged(self.base, recipe)
        descriptors = [_descriptor(item) for item in whole.items]
        absent = {
            each.digest for each in (descriptors if blind else self.store.lacking(descriptors))
        }
        lacking = [item for item in whole.items if _descriptor(item).digest in absent]
        held = {tag: None if blind else self.store.named(tag) for tag in recipe.tags}
        moving = tuple(tag for tag, there in held.items() if there != whole.root.descriptor.digest)
        return StoredPlan(
            place=self,
            recipe=recipe,
            root=whole.root,
            images=whole.images,
            borrowed=tuple(item for item in lacking if isinstance(item, Descriptor)),
            parts=tuple(item for item in lacking if isinstance(item, Part)),
            moving=moving,
            taken=frozenset(tag for tag in moving if held[tag]),
        )


@dataclass(frozen=True, slots=True)
class _Whole:
    """All that a result consists of, in the order of sending, and its new images."""

    root: Part
    items: tuple[Part | Descriptor, ...]
    images: Mapping[str, str]


def _appended(base: Stored, recipe: Recipe) -> _Whole:
    made = append(base.family, recipe.changes, recipe.annotations)
    wanted = [image for image in base.family.images if image.digest in recipe.changes]
    below = [layer for image in wanted for layer in image.manifest.layers]
    # Layers and configs before the manifests that name them; the sort is stable.
    parts = sorted(made.parts, key=lambda part: part.descriptor.media_type in _DOCUMENTS)
    images = {old: new.digest for old, new in made.images.items()}
    return _Whole(parts[-1], _once([*below, *parts]), images)


def _unchanged(base: Stored, recipe: Recipe) -> _Whole:
    """The base itself, attestations too; or the one image of it that was asked for."""
    roots = {image.digest: image.descriptor for image in base.family.images}
    alone = len(recipe.images) == 1 and len(roots) > 1
    root = _document(base.blobs, roots[recipe.images[0]] if alone else base.family.root)
    items = _once(_walk(base.blobs, root, _Seen()))
    return _Whole(root, items, {digest: digest for digest in recipe.images})


def _once(
    items: Sequence[Part | Descriptor] | Iterator[Part | Descriptor],
) -> tuple[Part | Descriptor, ...]:
    """Platforms share layers: each is asked for and sent once."""
    return tuple({_descriptor(item).digest: item for item in items}.values())


# A manifest below an index; no known tool nests indexes deeper than two.
_MOST_DEPTH = 8


@dataclass(slots=True)
class _Seen:
    """The documents that were met, and their bytes in all."""

    digests: set[str] = field(default_factory=set)
    size: int = 0


def _walk(
    source: Blobs, document: Part, seen: _Seen, depth: int = 0
) -> Iterator[Part | Descriptor]:
    """Everything that a document leads to, what is led to first; each document is read once."""
    if depth > _MOST_DEPTH:
        raise broken(f"{document.descriptor.digest}: indexes lead to indexes {depth} times over")
    for child in _references(document):
        if child.media_type not in _DOCUMENTS:
            yield child
        elif child.digest not in seen.digests:
            seen.digests.add(child.digest)
            seen.size += child.size
            if seen.size > MOST_DOCUMENTS:
                raise broken(f"the documents below it have over {MOST_DOCUMENTS >> 20} MiB")
            yield from _walk(source, _document(source, child), seen, depth + 1)
    yield document


def _references(document: Part) -> list[Descriptor]:
    """What a manifest or index leads to. Raises `BrokenImage`, also for a foreign layer: it is
    kept at some other address and may not be passed on.
    """
    content = parse_json(document.data, document.descriptor.digest)
    if document.descriptor.media_type in INDEXES:
        values = expect(content.get("manifests"), list, "index: manifests")
    else:
        values = [*expect(content.get("layers"), list, "manifest: layers"), content.get("config")]
    found = [read_descriptor(value, document.descriptor.digest) for value in values]
    for descriptor in found:
        if descriptor.document.get("urls"):
            raise broken(f"{document.descriptor.digest}: {descriptor.digest} is foreign")
    return found


def _document(source: Blobs, descriptor: Descriptor) -> Part:
    return Part(descriptor, read_blob(source, descriptor))


def _descriptor(item: Part | Descriptor) -> Descriptor:
    return item.descriptor if isinstance(item, Part) else item


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """What the store lacks of a result, in the order of sending (see `Plan`).

    `borrowed` are the base's blobs, `parts` ours and, where the base itself is published, its
    manifests.
    """

    place: StoredPlace
    recipe: Recipe
    root: Part
    images: Mapping[str, str]
    borrowed: tuple[Descriptor, ...]
    parts: tuple[Part, ...]
    moving: tuple[str, ...]
    taken: frozenset[str]

    @property
    def outline(self) -> Outline:
        """See `Plan`."""
        return Outline(
            digest=self.root.descriptor.digest,
            images=self.images,
            lacking=sum(part.descriptor.size for part in self.parts),
            base_lacking=sum(blob.size for blob in self.borrowed),
            blobs=len(self.borrowed),
            moving=self.moving,
            taken=self.taken,
        )

    def make(self, watch: Watch) -> StoredResult:
        """See `Plan`. Raises `Unreadable`, `BrokenImage`, `Unwritable`."""
        store, source = self.place.store, self.place.base.blobs
        streamed = store.fetch(self.borrowed, source, watch)
        for part in self.parts:
            store.put(part.descriptor, part.data)
        return StoredResult(self, Sent(self.outline.lacking, streamed))


@dataclass(frozen=True, slots=True)
class StoredResult:
    """An image or index in a store (see `Made`)."""

    plan: StoredPlan
    sent: Sent

    @property
    def digest(self) -> str:
        """The manifest's or index's."""
        return self.plan.root.descriptor.digest

    @property
    def images(self) -> Mapping[str, str]:
        """See `Made`."""
        return self.plan.images

    @property
    def way(self) -> str | None:
        """See `Made`."""
        return "append" if self.plan.recipe.changes and self.plan.parts else None

    def read_back(self, before: Mapping[str, Installation]) -> Mapping[str, Installation]:
        """See `Made`: what `validate` unpacked, in the place of what was there."""
        place, recipe = self.plan.place, self.plan.recipe
        if not recipe.changes:
            left = place.plan(recipe)
            if left.borrowed or left.parts:
                raise broken("not all of the base is there")
            return before
        new = self.plan.root.descriptor
        added = validate(place.store, place.base.family, new, recipe.changes, recipe.annotations)
        return {
            digest: changed(before[digest], files, recipe.changes[digest].bytecode)
            for digest, files in added.items()
        }

    def attach(self, kind: str, files: Sequence[File]) -> str | None:
        """See `Made`. Raises `BrokenImage`, `Unreadable`, `Unwritable`."""
        artifact = make_artifact(kind, self.plan.root.descriptor, files)
        self.plan.place.store.attach(artifact)
        return artifact.digest

    def name(self) -> Mapping[str, str]:
        """See `Made`. A registry with immutable tags refuses to move one that is there."""
        try:
            self.plan.place.store.name(self.plan.root, self.plan.moving)
        except TagRefused as error:
            if error.tag == self.plan.recipe.tags[0]:
                raise
            return {error.tag: error.problem}
        return {}

    def discard(self) -> None:
        """See `Made`. Blobs without a name stay: the next run, or another's, may use them."""
