"""What the registries say of images.lock today: what has moved, and what is gone.

A digest never means other bytes; it can only be gone, as a nightly is after 14 newer ones. A tag
can move: the pin is as good as before then, and the entry no longer says where its name leads.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from patcher.errors import PatcherError, RegistryFailed
from patcher.lock.entries import Entry, Lock, Pin, Unread
from patcher.oci.model import INDEXES, parse_index
from patcher.registry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.progress import Tell
    from patcher.web.http import Http

_Said = TypeVar("_Said")


class Drift(enum.StrEnum):
    """What a registry says that the lock does not."""

    GONE = "gone"  # a digest that the registry no longer has: nothing can be built on it
    WRONG = "wrong"  # not an index, or not the digest of its platform
    MOVED = "moved"  # a tag that leads elsewhere, or nowhere
    UNKNOWN = "unknown"  # the registry did not answer


@dataclass(frozen=True, slots=True)
class Drifted:
    """One thing about an entry that a person should look at. `image` is its reference."""

    image: str
    drift: Drift
    problem: str


def check_pins(
    lock: Lock, open_at: Callable[[Reference], Repository], watch: Tell
) -> Iterator[Drifted]:
    """Ask for every tag and digest of the lock; entry by entry, in its order.

    `open_at` gives the repository of a reference. A registry that does not answer is reported, and
    the others are asked all the same.
    """
    for entry, said in _ask_all(lock, open_at, partial(_drifts, lock), watch):
        if isinstance(said, PatcherError):
            yield _drifted(entry, Drift.UNKNOWN, said.problem)
        else:
            yield from said


def _ask_all(
    lock: Lock,
    open_at: Callable[[Reference], Repository],
    question: Callable[[Entry, Repository], _Said],
    watch: Tell,
) -> Iterator[tuple[Entry, _Said | PatcherError]]:
    """Each entry with its registry's answer, or why there is none.

    A host that gave no answer is not asked again: waiting for it takes 8 s an image.
    """
    opened: dict[Reference, Repository] = {}
    silent: dict[str, PatcherError] = {}
    for done, entry in enumerate(lock.entries, start=1):
        repository = entry.repository
        said: _Said | PatcherError
        if repository.registry in silent:
            said = silent[repository.registry]
        else:
            try:
                if repository not in opened:
                    opened[repository] = open_at(repository)
                said = question(entry, opened[repository])
            except PatcherError as error:
                said = error
                if type(error) is RegistryFailed:  # not a refusal, nor what is not there
                    silent[repository.registry] = error
        yield entry, said
        watch(done, len(lock.entries))


def _drifts(lock: Lock, entry: Entry, repository: Repository) -> list[Drifted]:
    found = []
    there = {pin.digest: repository.head(pin.digest) for _, pin in entry.locked.pins()}
    tag = entry.original.reference.tag
    tagged = repository.head(tag) if tag else None
    for kind, pin in entry.locked.pins():
        if there[pin.digest] is None:
            left = _left(entry, there, tagged, repository, lock)
            problem = f"{kind} {pin.digest} is gone. There is still: {left}"
            found.append(_drifted(entry, Drift.GONE, problem))
    found += _wrong(entry, there, repository)
    if tag and tagged is None:
        found.append(_drifted(entry, Drift.MOVED, f"the tag {tag} is gone"))
    elif tagged and not _is_locked(tagged, entry, repository):
        found.append(_drifted(entry, Drift.MOVED, f"the tag {tag} leads to {tagged.digest} now"))
    return found


def _left(
    entry: Entry,
    there: Mapping[str, Descriptor | None],
    tagged: Descriptor | None,
    repository: Repository,
    lock: Lock,
) -> str:
    """What of the build still exists, or else the newest locked build that does."""
    kinds = {pin.digest: kind for kind, pin in entry.locked.pins()}
    left = [f"{kinds[digest]} {digest}" for digest, found in there.items() if found]
    if tagged:
        left.append(f"the tag {entry.original.reference.tag} ({tagged.digest})")
    return ", ".join(left) or _newest_there(entry, repository, lock)


def _newest_there(entry: Entry, repository: Repository, lock: Lock) -> str:
    name = entry.original.reference.name
    beside = [other for other in lock.entries if other.original.reference.name == name]
    for other in sorted(beside, key=lambda each: each.key, reverse=True):
        if any(repository.head(pin.digest) for _, pin in other.locked.pins()):
            return f"{other.locked.version} ({other.original.reference})"
    return f"nothing that is locked in {name}"


def _wrong(
    entry: Entry, there: Mapping[str, Descriptor | None], repository: Repository
) -> Iterator[Drifted]:
    """Pins whose digest is there, and is another thing than the lock says."""
    index = there.get(entry.locked.index.digest) if entry.locked.index else None
    if index is None:
        return
    if index.media_type not in INDEXES:
        yield _drifted(entry, Drift.WRONG, f"index {index.digest} is one platform's manifest")
        return
    stated = _platforms(index, repository)
    for platform, pin in entry.locked.platforms.items():
        if stated.get(platform, pin.digest) != pin.digest:
            problem = f"{platform} {pin.digest} is locked, and the index has {stated[platform]}"
            yield _drifted(entry, Drift.WRONG, problem)


def _platforms(index: Descriptor, repository: Repository) -> dict[Platform, str]:
    found = parse_index(repository.manifest(index.digest).data, index.media_type)
    return {image.platform: image.digest for image in found.images if image.platform}


def _is_locked(tagged: Descriptor, entry: Entry, repository: Repository) -> bool:
    """Is what a tag leads to locked, or is it the index of a manifest that is, where the index
    itself is not?
    """
    digests = {pin.digest for _, pin in entry.locked.pins()}
    if tagged.digest in digests or entry.locked.index or tagged.media_type not in INDEXES:
        return tagged.digest in digests
    return not digests.isdisjoint(_platforms(tagged, repository).values())


def _drifted(entry: Entry, drift: Drift, problem: str) -> Drifted:
    return Drifted(str(entry.original.reference), drift, problem)


@dataclass(frozen=True, slots=True)
class Gone:
    """The pins of an entry that its registry no longer has. `whole`: no other is left."""

    entry: Entry
    pins: tuple[tuple[str, Pin], ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is gone upstream, and what could not be asked after."""

    gone: tuple[Gone, ...]
    unread: tuple[Unread, ...]


def find_gone(lock: Lock, http: Http, watch: Tell) -> Pruned:
    """Find the pins whose digest is gone: `dropped` drops them, and the entries that have no other.

    A tag that moved or went drops nothing: what it named can still be pulled. Nothing is dropped
    where a registry does not answer or denies access.
    """
    gone: list[Gone] = []
    unread: list[Unread] = []
    for entry, lost in _ask_all(lock, partial(Repository, http=http), _lost, watch):
        if isinstance(lost, PatcherError):
            unread.append(Unread(str(entry.original.reference), lost.problem))
        elif lost:
            gone.append(Gone(entry, lost, whole=_without(entry, lost) is None))
    return Pruned(tuple(gone), tuple(unread))


def dropped(lock: Lock, gone: Iterable[Gone]) -> Lock:
    """A lock without what is gone; it may have got other entries since that was asked."""
    lost = {each.entry.key: each.pins for each in gone}
    left = (_without(entry, lost.get(entry.key, ())) for entry in lock.entries)
    return Lock(tuple(entry for entry in left if entry is not None))


def _lost(entry: Entry, repository: Repository) -> tuple[tuple[str, Pin], ...]:
    return tuple(
        (kind, pin) for kind, pin in entry.locked.pins() if repository.head(pin.digest) is None
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
