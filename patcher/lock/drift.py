"""What registries say of the pins in images.lock today.

A digest never means other bytes; it can only be gone, as a nightly is after 14 newer ones. A tag
is a name, and can move: the pin is as good as before then, and the entry no longer says what its
name leads to.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from patcher.errors import PatcherError
from patcher.oci.model import INDEXES, parse_index

if TYPE_CHECKING:
    from patcher.lock.entries import Entry, Lock
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.registry.repository import Registry


class Drift(enum.StrEnum):
    """What a registry says that the lock does not."""

    GONE = "gone"  # a digest that the registry no longer has: nothing can be built upon it
    WRONG = "wrong"  # a digest that is no index, or not the one for its platform
    MOVED = "moved"  # a tag that leads elsewhere, or nowhere
    UNKNOWN = "unknown"  # the registry did not answer


@dataclass(frozen=True, slots=True)
class Drifted:
    """One thing about an entry that a person should look at. `image` is its reference."""

    image: str
    drift: Drift
    problem: str


def check_pins(lock: Lock, open_at: Callable[[Reference], Registry]) -> Iterator[Drifted]:
    """Ask for every tag and digest of the lock; entry by entry, in its order.

    `open_at` gives the repository that a reference lies in. A registry that does not answer is
    reported, and the other entries are asked for all the same.
    """

    @cache
    def registry(name: str) -> Registry:
        return open_at(references[name])

    references = {entry.original.reference.name: entry.original.reference for entry in lock.entries}
    for entry in lock.entries:
        try:
            yield from _drifts(entry, registry(entry.original.reference.name), lock)
        except PatcherError as error:
            yield _drifted(entry, Drift.UNKNOWN, error.problem)


def _drifts(entry: Entry, registry: Registry, lock: Lock) -> Iterator[Drifted]:
    there = {pin.digest: registry.head(pin.digest) for _, pin in entry.locked.pins()}
    tag = entry.original.reference.tag
    tagged = registry.head(tag) if tag else None
    for kind, pin in entry.locked.pins():
        if there[pin.digest] is None:
            left = _left(entry, there, tagged, registry, lock)
            yield _drifted(
                entry, Drift.GONE, f"{kind} {pin.digest} is gone. There is still: {left}"
            )
    yield from _wrong(entry, there, registry)
    if tag and tagged is None:
        yield _drifted(entry, Drift.MOVED, f"the tag {tag} is gone")
    elif tagged and not _is_locked(tagged, entry, registry):
        yield _drifted(entry, Drift.MOVED, f"the tag {tag} leads to {tagged.digest} now")


def _left(
    entry: Entry,
    there: Mapping[str, Descriptor | None],
    tagged: Descriptor | None,
    registry: Registry,
    lock: Lock,
) -> str:
    """What of the build still exists, or else the newest locked build that does."""
    kinds = {pin.digest: kind for kind, pin in entry.locked.pins()}
    left = [f"{kinds[digest]} {digest}" for digest, found in there.items() if found]
    if tagged:
        left.append(f"the tag {entry.original.reference.tag} ({tagged.digest})")
    return ", ".join(left) or _newest_there(entry, registry, lock)


def _newest_there(entry: Entry, registry: Registry, lock: Lock) -> str:
    name = entry.original.reference.name
    beside = [other for other in lock.entries if other.original.reference.name == name]
    for other in sorted(beside, key=lambda each: each.key, reverse=True):
        if any(registry.head(pin.digest) for _, pin in other.locked.pins()):
            return f"{other.locked.version} ({other.original.reference})"
    return f"nothing that is locked in {name}"


def _wrong(
    entry: Entry, there: Mapping[str, Descriptor | None], registry: Registry
) -> Iterator[Drifted]:
    """Pins whose digest is there, and is another thing than the lock says."""
    index = there.get(entry.locked.index.digest) if entry.locked.index else None
    if index and index.media_type not in INDEXES:
        yield _drifted(entry, Drift.WRONG, f"index {index.digest} is one platform's manifest")
    if not index or index.media_type not in INDEXES:
        return
    stated = _platforms(index, registry)
    for platform, pin in entry.locked.platforms.items():
        if stated.get(platform, pin.digest) != pin.digest:
            problem = f"{platform} {pin.digest} is locked, and the index has {stated[platform]}"
            yield _drifted(entry, Drift.WRONG, problem)


def _platforms(index: Descriptor, registry: Registry) -> dict[Platform, str]:
    found = parse_index(registry.manifest(index.digest).data, index.media_type)
    return {image.platform: image.digest for image in found.images if image.platform}


def _is_locked(tagged: Descriptor, entry: Entry, registry: Registry) -> bool:
    """Is what a tag leads to locked, or is it the index of a manifest that is, where the index
    itself is not?
    """
    digests = {pin.digest for _, pin in entry.locked.pins()}
    if tagged.digest in digests or entry.locked.index or tagged.media_type not in INDEXES:
        return tagged.digest in digests
    return not digests.isdisjoint(_platforms(tagged, registry).values())


def _drifted(entry: Entry, drift: Drift, problem: str) -> Drifted:
    return Drifted(str(entry.original.reference), drift, problem)
