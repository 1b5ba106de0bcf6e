"""images.lock: which image a name means, pinned by digest.

One entry for each build. What was asked (`Original`) and what it is pinned to (`Locked`) are kept
apart, so that an entry can be asked again. A pin is a statement until a pull by its digest proves
it: `stated_by` counts the independent projects whose public files state it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.errors import UsageError
from patcher.versions import base, parsed, same_commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packaging.version import Version

    from patcher.oci.reference import Platform, Reference
    from patcher.oci.rootfs.located import Located
    from patcher.registry.image import Resolved

# GitHub refuses a larger matrix, all of it (its docs, "Running variations of jobs in a workflow").
_MOST_JOBS = 256


class Kind(enum.Enum):
    """How a build's tag is spelled: `v0.23.0`; `nightly-COMMIT`, a build of one commit of vLLM;
    `2026070501`, a day and the build of that day.
    """

    RELEASE = re.compile(r"v([0-9]+(?:\.[0-9]+)+(?:\.post[0-9]+)?)")
    NIGHTLY = re.compile(r"nightly-([0-9a-f]{40})")
    DATED = re.compile(r"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{2}")

    def has(self, reference: Reference) -> bool:
        """Is the reference's tag spelled so?"""
        return self.value.fullmatch(reference.tag or "") is not None


@dataclass(frozen=True, slots=True)
class Pin:
    """A digest, and how many independent projects state it; None: a registry was asked.

    `located` says where vLLM is in the image of this digest, where that was looked up.
    """

    digest: str
    stated_by: int | None = None
    located: Located | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Original:
    """What was asked for."""

    version: str
    reference: Reference


@dataclass(frozen=True, slots=True)
class Locked:
    """What it is pinned to.

    `index` is a multi-platform manifest, `platforms` are single ones, `unknown` is a digest that
    may be either. At least one of them is there. `root` is the folder of the vLLM that is meant,
    in an image that holds several.
    """

    version: Version
    commit: str | None = None
    index: Pin | None = None
    unknown: Pin | None = None
    platforms: Mapping[Platform, Pin] = field(default_factory=dict, hash=False)
    root: str | None = None

    def pins(self) -> Iterator[tuple[str, Pin]]:
        """Every pin, with what it is: `index`, `unknown` or a platform."""
        if self.index:
            yield "index", self.index
        if self.unknown:
            yield "unknown", self.unknown
        yield from sorted((str(platform), pin) for platform, pin in self.platforms.items())

    def pin(self, platform: Platform, *, exact: bool) -> Pin | None:
        """The pin to pull for a platform: its own, else the index, which a pull proves to have it.

        A digest of unknown kind serves only where this build was picked exactly.
        """
        return self.platforms.get(platform) or self.index or (self.unknown if exact else None)


@dataclass(frozen=True, slots=True)
class Entry:
    """One build."""

    original: Original
    locked: Locked

    @property
    def key(self) -> tuple[Version, str]:
        """What no two entries share, and the order of the file."""
        return self.locked.version, str(self.original.reference)

    @property
    def repository(self) -> Reference:
        """Where its image is, without tag and digest."""
        return self.original.reference.bare

    @property
    def is_asked(self) -> bool:
        """Did a person lock it? What comes from public files says how many of them state it."""
        return all(pin.stated_by is None for _, pin in self.locked.pins())

    @property
    def rank(self) -> tuple[Version, bool, str]:
        """The higher one is picked: the newer version; of one version what a person locked."""
        return self.locked.version, self.is_asked, str(self.original.reference)


@dataclass(frozen=True, slots=True)
class Lock:
    """All entries of images.lock, in the file's order."""

    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something in a lock that a person should look at."""

    image: str
    problem: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An image, or a whole repository, that could not be read."""

    image: str
    problem: str


def entry_for(version: str, reference: Reference, answer: Resolved | None = None) -> Entry:
    """The entry for a version and a reference, with what a registry answered about it.

    Without an answer the reference's own digest is locked, of unknown kind; so is a single
    manifest whose platform the answer does not state. The commit is read from the version or from
    a `nightly-COMMIT` tag. Raises `UsageError`.
    """
    known = parsed(version)
    if known is None:
        raise UsageError(f"{version!r} is not a version", next_step="Write it as 0.23.0 (PEP 440).")
    original = Original(version, reference)
    commit = tag_commit(reference) or _version_commit(known)
    if answer is not None:
        pin = Pin(answer.digest)
        platforms = {platform: Pin(digest) for platform, digest in answer.platforms.items()}
        if answer.is_index:
            return Entry(original, Locked(known, commit, index=pin, platforms=platforms))
        if not platforms:
            return Entry(original, Locked(known, commit, unknown=pin))
        return Entry(original, Locked(known, commit, platforms=platforms))
    if reference.digest is None:
        raise UsageError(
            f"{reference} has no digest", next_step="Add @sha256:DIGEST, or ask a registry for it."
        )
    return Entry(original, Locked(known, commit, unknown=Pin(reference.digest)))


def tag_commit(reference: Reference) -> str | None:
    """The commit that a nightly's tag names; None for another tag."""
    match = Kind.NIGHTLY.value.fullmatch(reference.tag or "")
    return match[1] if match else None


def _version_commit(version: Version) -> str | None:
    """The commit in a local version such as `+g93d8f834d.d20260705`."""
    match = re.match(r"g([0-9a-f]{7,40})(?:\.|$)", version.local or "")
    return match[1] if match else None


def add(lock: Lock, entry: Entry) -> Lock:
    """The lock with the entry in its place; one with the same key is replaced."""
    others = [known for known in lock.entries if known.key != entry.key]
    return Lock(tuple(sorted([*others, entry], key=lambda known: known.key)))


def check(lock: Lock) -> tuple[Flaw, ...]:
    """What is doubtful in a lock that can be seen without asking a registry."""
    flaws = [flaw for entry in lock.entries for flaw in _doubts(entry)]
    for before, after in zip(lock.entries, lock.entries[1:], strict=False):
        if after.key < before.key:
            flaws.append(_flaw(after, f"is after {before.original.reference}: not sorted"))
    if len(lock.entries) > _MOST_JOBS:
        problem = f"{len(lock.entries)} images: a workflow's matrix takes {_MOST_JOBS} at most"
        flaws.append(Flaw("images.lock", problem))
    return tuple(flaws + list(_shared_digests(lock)))


def _doubts(entry: Entry) -> Iterator[Flaw]:
    """Where the parts of one entry contradict each other."""
    original, locked = entry.original, entry.locked
    asked = parsed(original.version)
    if asked is None or base(asked) != base(locked.version):
        yield _flaw(entry, f"{original.version!r} was asked and {locked.version} is locked")
    for commit in (tag_commit(original.reference), _version_commit(locked.version)):
        if commit and locked.commit and not same_commit(commit, locked.commit):
            yield _flaw(entry, f"commit {locked.commit} is locked, and its name says {commit}")
    digests = {pin.digest for _, pin in locked.pins()}
    if original.reference.digest not in {None, *digests}:
        yield _flaw(entry, "the digest that was asked is not among the locked ones")


def _shared_digests(lock: Lock) -> Iterator[Flaw]:
    """One digest is one manifest: it cannot be two kinds or two builds."""
    seen: dict[str, str] = {}
    for entry in lock.entries:
        for kind, pin in entry.locked.pins():
            name = f"{kind} of {entry.locked.version}"
            first = seen.setdefault(pin.digest, name)
            if first != name:
                yield _flaw(entry, f"{pin.digest} is both {first} and {name}")


def _flaw(entry: Entry, problem: str) -> Flaw:
    return Flaw(str(entry.original.reference), problem)
