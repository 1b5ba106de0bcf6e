"""images.lock and the registries: adding a pin, what is newer, what has moved, what is gone.

A repository's tags say what it offers, in three spellings:

- `v0.23.0`: a release, whose version is the tag. Every bake proves it on the image's content.
- `nightly-COMMIT`: a build of one commit of vLLM; its version is in the image only.
- `2026070501`: a day and the build of that day; its version too is in the image only.

Newer means newer than the newest locked build of the same spelling in the same repository; a
spelling of which nothing is locked is not looked for. What a build's labels state is read first,
since it costs a manifest and a config; only a build that they do not show to be old is opened, its
layers streamed from the top down to the first installed vLLM, whose own version is what is locked.
That it is the one which runs is proven by every bake.

A digest never means other bytes; it can only be gone, as a nightly is after 14 newer ones. A tag
can move: the pin is as good as before then, and the entry no longer says where its name leads.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from patcher.errors import BrokenImage, NotLocked, PatcherError, RegistryFailed, counted
from patcher.lock.entries import Entry, Lock, Pin, add, entry_for
from patcher.lock.file import edit
from patcher.lock.picking import named
from patcher.oci.model import INDEXES, parse_index
from patcher.oci.reference import parse_reference
from patcher.progress import counting
from patcher.registry.image import ask_registry, open_remote
from patcher.registry.repository import Repository
from patcher.versions import parsed, same_commit
from patcher.web.http import Http

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from packaging.version import Version

    from patcher.cache import LayerCache
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform, Reference
    from patcher.web.http import HttpSettings

Say = Callable[[str], None]
Watch = Callable[[int, int], None]
"""Called with the entries that have been asked about, and how many there are."""

_Said = TypeVar("_Said")


def _nobody(done: int, total: int) -> None:  # noqa: ARG001
    return


@dataclass(frozen=True, slots=True)
class Looked:
    """What is looked for in an image: the targets of patches, and the texts of their rules.

    `all_over`: every platform is looked at whole, to write down where vLLM's files are.
    """

    targets: tuple[str, ...] = ()
    mentions: tuple[bytes, ...] = ()
    all_over: bool = False


def add_to_lock(
    path: Path,
    start: Path,
    version: str,
    reference: str,
    settings: HttpSettings | None,
    looked: Looked = Looked(),
    layers: LayerCache | None = None,
) -> Entry:
    """Lock a version to an image, as its registry has it; no `settings`: nobody is asked.

    A lock that is not there yet begins with what `start` has: a new one must hide no pin.
    """
    asked = parse_reference(reference)
    http = Http(settings)
    answer = ask_registry(asked, http) if settings else None
    entry = entry_for(version, asked, answer)
    if looked.all_over and settings:
        entry = _located(entry, http, looked, layers)
    edit(path, start, lambda known: add(known, entry))
    return entry


def _located(entry: Entry, http: Http, looked: Looked, layers: LayerCache | None) -> Entry:
    """The entry with where vLLM is in the image of each platform, as far as that can be said.

    Raises `BrokenImage` for another version than the entry's, and as reading does.
    """
    platforms = {}
    for platform, pin in entry.locked.platforms.items():
        pinned = entry.original.reference.pinned(pin.digest)
        image = open_remote(pinned, platform, http, layers)
        found = image.located(looked.targets, looked.mentions)
        if found is not None:
            stated, locked = parsed(found.version), entry.locked.version
            if stated is None or stated.public != locked.public:
                raise _contradiction(f"its vLLM is {found.version}, not {locked}")
        platforms[platform] = replace(pin, located=found)
    return replace(entry, locked=replace(entry.locked, platforms=platforms))


def remove_from_lock(path: Path, start: Path, names: Sequence[str]) -> list[Entry]:
    """Drop the entries that the names fit, all or none; gives them.

    A lock that is not there yet begins with what `start` has. Raises `NotLocked`.
    """
    gone: list[Entry] = []

    def without(known: Lock) -> Lock:
        gone.extend({entry.key: entry for entry in (named(known, name) for name in names)}.values())
        return Lock(tuple(entry for entry in known.entries if entry not in gone))

    edit(path, start, without)
    return gone


# What vLLM's own builds state; images made from others inherit labels that mean something else.
_BUILD_COMMIT = "ai.vllm.build.commit"
_REVISION = "org.opencontainers.image.revision"
_VERSION = "org.opencontainers.image.version"

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


class Kind(enum.Enum):
    """How a tag is spelled."""

    RELEASE = re.compile(r"v([0-9]+(?:\.[0-9]+)+(?:\.post[0-9]+)?)")
    NIGHTLY = re.compile(r"nightly-([0-9a-f]{40})")
    DATED = re.compile(r"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{2}")

    def has(self, reference: Reference) -> bool:
        """Is the reference's tag spelled so?"""
        return self.value.fullmatch(reference.tag or "") is not None


@dataclass(frozen=True, slots=True)
class Unread:
    """An image, or a whole repository, that could not be read."""

    image: str
    problem: str


@dataclass(frozen=True, slots=True)
class Update:
    """A lock with what is newer; `added` and `unread` are in the order of the search."""

    lock: Lock
    repositories: tuple[str, ...]
    added: tuple[Entry, ...]
    unread: tuple[Unread, ...]


@dataclass(frozen=True, slots=True)
class _Search:
    """One repository, and what is locked of it."""

    repository: Reference
    locked: tuple[Entry, ...]
    http: Http
    cache: LayerCache | None
    looked: Looked


def update(
    lock: Lock,
    names: Sequence[str],
    http: Http,
    layers: LayerCache | None,
    say: Say,
    looked: Looked = Looked(),
) -> Update:
    """Look for newer builds in the lock's repositories, or in those that are named.

    Drops nothing. An image or repository that cannot be read is reported, and the others are
    looked at all the same. Raises `BadReference`, and `NotLocked` for a repository without entry.
    """
    added: list[Entry] = []
    unread: list[Unread] = []
    repositories = _repositories(lock, names)
    for repository in repositories:
        locked = tuple(entry for entry in lock.entries if repository_of(entry) == repository)
        search = _Search(repository, locked, http, layers, looked)
        for found in _found(search, say):
            if isinstance(found, Unread):
                unread.append(found)
            else:
                added.append(found)
    for entry in added:
        lock = add(lock, entry)
    return Update(lock, tuple(map(str, repositories)), tuple(added), tuple(unread))


def _repositories(lock: Lock, names: Sequence[str]) -> list[Reference]:
    """Those of the lock, in its order; or the named ones, which must be among them."""
    there = dict.fromkeys(map(repository_of, lock.entries))
    wanted = dict.fromkeys(_bare(parse_reference(name)) for name in names)
    for repository in wanted:
        if repository not in there:
            raise NotLocked(
                f"no image of {repository} is in images.lock",
                next_step="Lock a first one with `vllm-patcher lock add`: newer than that is "
                "looked for.",
            )
    return list(wanted or there)


def repository_of(entry: Entry) -> Reference:
    """The repository of an entry's image."""
    return _bare(entry.original.reference)


def _bare(reference: Reference) -> Reference:
    return replace(reference, tag=None, digest=None)


def _found(search: _Search, say: Say) -> Iterator[Entry | Unread]:
    try:
        tags = Repository(search.repository, search.http).tags()
    except PatcherError as error:
        yield Unread(str(search.repository), error.problem)
        return
    say(f"{search.repository}: {counted(len(tags), 'tag')}")
    offered = [(kind, each) for kind in Kind for each in _candidates(search, kind, tags)]
    with counting(f"asking for {search.repository}") as watch:
        for done, (kind, reference) in enumerate(offered):
            watch(done, len(offered))
            try:
                entry = _entry(search, kind, reference)
                if entry is not None and search.looked.all_over:
                    entry = _located(entry, search.http, search.looked, search.cache)
            except PatcherError as error:
                yield Unread(str(reference), error.problem)
                continue
            if entry is not None:
                say(f"newer: {reference} is vLLM {entry.locked.version}")
                yield entry


def _candidates(search: _Search, kind: Kind, tags: Iterable[str]) -> list[Reference]:
    """The tags of one spelling that are not locked and do not themselves say they are old.

    Whoever keeps releases only does not want every nightly.
    """
    if not _of(search, kind):
        return []
    there = {replace(search.repository, tag=tag) for tag in tags}
    ours = {entry.original.reference for entry in _of(search, kind)}
    spelled = sorted(filter(kind.has, there - ours), key=str)
    if kind is Kind.RELEASE:
        return [each for each in spelled if _is_newer(search, kind, _release(each))]
    if kind is Kind.DATED:
        newest = max(ours, key=str)
        return [each for each in spelled if str(each) > str(newest)]
    return spelled


def _of(search: _Search, kind: Kind) -> list[Entry]:
    return [entry for entry in search.locked if kind.has(entry.original.reference)]


def _release(reference: Reference) -> Version | None:
    return parsed((reference.tag or "").removeprefix("v"))


def _is_newer(search: _Search, kind: Kind, version: Version | None) -> bool:
    """Is a version higher than all the locked ones of its spelling?"""
    ours = [entry.locked.version for entry in _of(search, kind)]
    return version is not None and all(version > each for each in ours)


def _entry(search: _Search, kind: Kind, reference: Reference) -> Entry | None:
    """The entry for a tag, by what its image is; None where that is not newer."""
    answer = ask_registry(reference, search.http)
    platform = next(iter(answer.platforms), None)
    pinned = reference.pinned(answer.digest)
    image = open_remote(pinned, platform, search.http, search.cache)
    labels = image.labels
    stated = _stated(labels)
    if kind is Kind.RELEASE:
        wanted = _release(reference)
        if stated is not None and stated.public != str(wanted):
            raise _contradiction(f"its label {_VERSION} says {stated}")
        commit = _commit(labels, None, None)
        return _with_commit(entry_for(str(wanted), reference, answer), commit)
    # Only a nightly's own version can show it to be old: some labels name the last release.
    if stated is not None and stated.is_devrelease and not _is_newer(search, kind, stated):
        return None
    version, built_from = image.stated_version(search.looked.targets, search.looked.mentions)
    if not _is_newer(search, kind, parsed(version)):
        return None
    entry = entry_for(version, reference, answer)
    tagged = (reference.tag or "").partition("-")[2] or None
    return _with_commit(entry, _commit(labels, built_from, tagged))


def _stated(labels: Mapping[str, str]) -> Version | None:
    """The version in the labels of vLLM's own builds. A release's, and of some only the tag."""
    if _BUILD_COMMIT not in labels:
        return None
    return parsed(labels.get(_VERSION, "").removeprefix("v"))


def _commit(labels: Mapping[str, str], content: str | None, tagged: str | None) -> str | None:
    """vLLM's commit, in full where anything that fits the content has it so.

    The content is believed. A tag that names another commit is a contradiction; a label that does
    is one that the image inherited.
    """
    if content and tagged and not same_commit(content, tagged):
        raise _contradiction(f"its vLLM was built from {content}")
    proof = content or tagged or labels.get(_BUILD_COMMIT, "")
    known = [proof, tagged or "", labels.get(_BUILD_COMMIT, ""), labels.get(_REVISION, "")]
    fitting = [text for text in known if _COMMIT.fullmatch(text) and same_commit(text, proof)]
    return max(fitting, key=len, default=None)


def _with_commit(entry: Entry, commit: str | None) -> Entry:
    return replace(entry, locked=replace(entry.locked, commit=commit or entry.locked.commit))


def _contradiction(problem: str) -> BrokenImage:
    return BrokenImage(
        f"the tag and the image disagree: {problem}",
        next_step="Lock it with `vllm-patcher lock add`, if you know better.",
    )


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
    lock: Lock, open_at: Callable[[Reference], Repository], watch: Watch = _nobody
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
    watch: Watch,
) -> Iterator[tuple[Entry, _Said | PatcherError]]:
    """Each entry with its registry's answer, or why there is none.

    A host that gave no answer is not asked again: waiting for it takes 8 s an image.
    """
    opened: dict[Reference, Repository] = {}
    silent: dict[str, PatcherError] = {}
    for done, entry in enumerate(lock.entries, start=1):
        repository = repository_of(entry)
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
    if index and index.media_type not in INDEXES:
        yield _drifted(entry, Drift.WRONG, f"index {index.digest} is one platform's manifest")
    if not index or index.media_type not in INDEXES:
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
    """A lock without what is gone. What could not be asked after stays in it."""

    lock: Lock
    gone: tuple[Gone, ...]
    unread: tuple[Unread, ...]


def prune(lock: Lock, http: Http, watch: Watch = _nobody) -> Pruned:
    """Drop the pins whose digest is gone, and the entries that have no other.

    A tag that moved or went drops nothing: what it named can still be pulled. Nothing is dropped
    where a registry does not answer or denies access.
    """
    kept: list[Entry] = []
    gone: list[Gone] = []
    unread: list[Unread] = []
    for entry, lost in _ask_all(lock, partial(Repository, http=http), _lost, watch):
        if isinstance(lost, PatcherError):
            unread.append(Unread(str(entry.original.reference), lost.problem))
            kept.append(entry)
            continue
        left = _without(entry, lost)
        if lost:
            gone.append(Gone(entry, lost, whole=left is None))
        if left is not None:
            kept.append(left)
    return Pruned(Lock(tuple(kept)), tuple(gone), tuple(unread))


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
