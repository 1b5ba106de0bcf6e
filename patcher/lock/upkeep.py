"""What is newer in the registries than images.lock has it.

A repository's tags say what it offers, in three spellings:

- `v0.23.0`: a release, whose version is the tag. Every bake proves it on the image's content.
- `nightly-COMMIT`: a build of one commit of vLLM; its version is in the image only.
- `2026070501`: a day and the build of that day; so is its version.

Newer is: than the newest locked build of the same spelling in the same repository; a spelling of
which nothing is locked is not looked for. What a build's labels state is read first, since it
costs a manifest and a config; only a build that they do not show to be old is opened, its layers
streamed down to vLLM, whose own version is what is locked.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage, NotLocked, PatcherError
from patcher.lock.drift import Drifted, check_pins
from patcher.lock.entries import Entry, Lock, add, entry_for
from patcher.lock.file import edit, load
from patcher.oci.reference import parse_reference
from patcher.registry.image import ask_registry, open_remote
from patcher.registry.repository import open_registry
from patcher.versions import parsed, same_commit
from patcher.web.http import Http

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from packaging.version import Version

    from patcher.layer_cache import LayerCache
    from patcher.oci.reference import Reference
    from patcher.web.http import HttpSettings

Say = Callable[[str], None]

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
    """An image, or a whole repository, that no answer was got for."""

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


def update(
    lock: Lock, names: Sequence[str], http: Http, layers: LayerCache | None, say: Say
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
        search = _Search(repository, locked, http, layers)
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
    """Where an entry's image lies."""
    return _bare(entry.original.reference)


def _bare(reference: Reference) -> Reference:
    return replace(reference, tag=None, digest=None)


def _found(search: _Search, say: Say) -> Iterator[Entry | Unread]:
    try:
        tags = open_registry(search.repository, search.http).tags()
    except PatcherError as error:
        yield Unread(str(search.repository), error.problem)
        return
    say(f"{search.repository}: {len(tags)} tags")
    for kind in Kind:
        for reference in _candidates(search, kind, tags):
            try:
                entry = _entry(search, kind, reference)
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
    found = image.installation([])
    if not _is_newer(search, kind, parsed(found.named_version())):
        return None
    entry = entry_for(found.version, reference, answer)
    tagged = (reference.tag or "").partition("-")[2] or None
    return _with_commit(entry, _commit(labels, found.commit, tagged))


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


def add_to_lock(
    path: Path, start: Path, version: str, reference: str, settings: HttpSettings | None
) -> Entry:
    """Lock a version to an image, as its registry has it; no `settings`: nobody is asked.

    A lock that is not there yet begins with what `start` has: a new one must hide no pin.
    """
    asked = parse_reference(reference)
    answer = ask_registry(asked, Http(settings)) if settings else None
    entry = entry_for(version, asked, answer)
    edit(path, start, lambda known: add(known, entry))
    return entry


def others_of(path: Path, version: str, reference: str) -> tuple[str, ...]:
    """Other references that the lock has for a version: a name can mean but one of them."""
    if not path.exists():
        return ()
    asked = str(parse_reference(reference))
    known = [entry for entry in load(path).entries if entry.original.version == version]
    references = [str(entry.original.reference) for entry in known]
    return tuple(other for other in references if other != asked)


def drifts_of(lock: Lock, settings: HttpSettings) -> tuple[Drifted, ...]:
    """What the registries say of the lock's pins today."""
    return tuple(check_pins(lock, partial(open_registry, http=Http(settings))))
