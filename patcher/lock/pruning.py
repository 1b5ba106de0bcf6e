"""images.lock without the digests that its registries no longer have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from patcher.errors import PatcherError
from patcher.lock.entries import Entry, Lock, Pin
from patcher.lock.upkeep import Unread, repository_of
from patcher.registry.repository import open_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.oci.reference import Reference
    from patcher.registry.repository import Registry
    from patcher.web.http import Http


@dataclass(frozen=True, slots=True)
class Gone:
    """The pins of an entry that its registry no longer has. `whole`: no other is left."""

    entry: Entry
    pins: tuple[tuple[str, Pin], ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """A lock without what is gone. What could not be asked after stays in it."""

    lock: Lock
    gone: tuple[Gone, ...]
    unread: tuple[Unread, ...]


def prune(lock: Lock, http: Http) -> Pruned:
    """Drop the pins whose digest is gone, and the entries that have no other.

    A tag that moved or went drops nothing: what it named can still be pulled. A registry that
    does not answer, or lets nobody look, drops nothing either.
    """

    @cache
    def registry(repository: Reference) -> Registry:
        return open_registry(repository, http)

    kept: list[Entry] = []
    gone: list[Gone] = []
    unread: list[Unread] = []
    for entry in lock.entries:
        try:
            lost = _lost(entry, registry(repository_of(entry)))
        except PatcherError as error:
            unread.append(Unread(str(entry.original.reference), error.problem))
            lost = ()
        left = _without(entry, lost)
        if lost:
            gone.append(Gone(entry, lost, whole=left is None))
        if left is not None:
            kept.append(left)
    return Pruned(Lock(tuple(kept)), tuple(gone), tuple(unread))


def _lost(entry: Entry, registry: Registry) -> tuple[tuple[str, Pin], ...]:
    return tuple(
        (kind, pin) for kind, pin in entry.locked.pins() if registry.head(pin.digest) is None
    )


def _without(entry: Entry, lost: Sequence[tuple[str, Pin]]) -> Entry | None:
    """The entry with the pins that are left; None for none."""
    digests = {pin.digest for _, pin in lost}

    def left(pin: Pin | None) -> Pin | None:
        return None if pin is None or pin.digest in digests else pin

    locked = entry.locked
    platforms = {key: pin for key, pin in locked.platforms.items() if left(pin)}
    rest = replace(
        locked, index=left(locked.index), unknown=left(locked.unknown), platforms=platforms
    )
    return replace(entry, locked=rest) if any(rest.pins()) else None
