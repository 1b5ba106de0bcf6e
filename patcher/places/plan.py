"""Publishing an image: what the target lacks, and sending it so that no name leads to a gap.

The order is the whole safety: the base's blobs, our layers and configs, manifests, the index;
what was published is read back and validated; the names move last. Cut off anywhere, every old
name is as it was, and a second run sends only what is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from patcher.oci.blobs import Blobs, read_blob
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

if TYPE_CHECKING:
    from patcher.oci.append import Appended
    from patcher.oci.blobs import Blobs
    from patcher.places.place import Target, Watch

_DOCUMENTS = INDEXES | MANIFESTS


@dataclass(frozen=True, slots=True)
class Plan:
    """What a target lacks of an image, in the order of sending.

    `borrowed` are the base's blobs, `parts` ours and, where the base itself is published, its
    manifests. `names` do not lead to `root` yet; those in `taken` lead to something else.
    """

    root: Part
    borrowed: tuple[Descriptor, ...]
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    taken: frozenset[str] = frozenset()

    @property
    def nothing(self) -> bool:
        """Is all of it there already?"""
        return not (self.borrowed or self.parts or self.names)

    @property
    def part_bytes(self) -> int:
        """The size of what is sent in any case."""
        return sum(part.descriptor.size for part in self.parts)

    @property
    def borrowed_bytes(self) -> int:
        """The size of the base's blobs: sent where the target's registry cannot mount them."""
        return sum(blob.size for blob in self.borrowed)


@dataclass(frozen=True, slots=True)
class Sent:
    """Payload that went to the target, in bytes; headers are not counted."""

    parts: int = 0
    streamed: int = 0


class Asked(Protocol):
    """Of a place to publish to, what a plan asks. A `Target` is one."""

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """See `Target`."""
        ...

    def named(self, name: str) -> str | None:
        """See `Target`."""
        ...


@dataclass(frozen=True, slots=True)
class Unseen:
    """A place that may not be looked into: what a dry run takes for empty."""

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """All of them."""
        return list(descriptors)

    def named(self, name: str) -> str | None:
        """Nothing is."""
        del name
        return None


def plan(source: Blobs, target: Asked, appended: Appended, names: Sequence[str]) -> Plan:
    """What publishing must do. Nothing is written.

    `appended` may be the base itself, with no parts. Raises `BrokenImage`, `Unreadable`.
    """
    made = {part.descriptor.digest: part for part in appended.parts}
    root = made.get(appended.root.digest) or _document(source, appended.root)
    whole = {_descriptor(item).digest: item for item in _walk(source, made, root)}
    absent = target.lacking([_descriptor(item) for item in whole.values()])
    lacking = [whole[descriptor.digest] for descriptor in absent]
    parts = [item for item in lacking if isinstance(item, Part)]
    parts.sort(key=lambda part: part.descriptor.media_type in _DOCUMENTS)  # stable: blobs first
    borrowed = tuple(item for item in lacking if isinstance(item, Descriptor))
    held = {name: target.named(name) for name in names}
    moving = tuple(name for name, there in held.items() if there != appended.root.digest)
    taken = frozenset(name for name in moving if held[name])
    return Plan(root, borrowed, tuple(parts), moving, taken)


def send(plan: Plan, source: Blobs, target: Target, watch: Watch) -> Sent:
    """Send what the plan says, but move no name. Raises `Unreadable`, `BrokenImage`,
    `Unwritable`; what was sent till then is found there by the next run.
    """
    streamed = target.fetch(plan.borrowed, source, watch)
    for part in plan.parts:
        target.put(part.descriptor, part.data)
    return Sent(plan.part_bytes, streamed)


def _walk(source: Blobs, made: Mapping[str, Part], document: Part) -> Iterator[Part | Descriptor]:
    """Everything that a document leads to, what is led to first."""
    for child in references(document):
        if child.media_type in _DOCUMENTS:
            yield from _walk(source, made, made.get(child.digest) or _document(source, child))
        else:
            yield made.get(child.digest, child)
    yield document


def _document(source: Blobs, descriptor: Descriptor) -> Part:
    return Part(descriptor, read_blob(source, descriptor))


def references(document: Part) -> list[Descriptor]:
    """What a manifest or index leads to, attestations too: a base is copied as it is.

    Raises `BrokenImage`, also for a foreign layer: it lies elsewhere and may not be passed on.
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


def _descriptor(item: Part | Descriptor) -> Descriptor:
    return item.descriptor if isinstance(item, Part) else item


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The target as `validate` must see it: the base's manifests and configs come from the
    source, which has them, and everything else from where it was published.
    """

    target: Blobs
    source: Blobs
    base: frozenset[str]

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`."""
        store = self.source if descriptor.digest in self.base else self.target
        return store.open(descriptor, start)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.target.check(descriptors)
