"""What the registries have that is newer than images.lock.

A repository's tags say what it offers, in three spellings (`Kind`). Newer means newer than the
newest locked build of the same spelling in the same repository; a spelling of which nothing is
locked is not looked for. A release's version is its tag, which every bake proves on the image's
content. That of the others is in the image only. What a build's labels state is read first,
since it costs a manifest and a config; only a build that they do not show to be old is opened, its
layers streamed from the top down to the first installed vLLM, whose own version is what is locked.
That it is the one which runs is proven by every bake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import NotLocked, PatcherError
from patcher.lock.adding import contradiction, located
from patcher.lock.entries import Entry, Kind, Lock, Unread, entry_for, tag_commit
from patcher.oci.reference import parse_reference
from patcher.progress import counting
from patcher.registry.image import ask_registry, open_remote
from patcher.registry.repository import Repository
from patcher.text import counted
from patcher.versions import parsed, same_commit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from packaging.version import Version

    from patcher.layer_cache import LayerCache
    from patcher.lock.adding import Looked
    from patcher.oci.reference import Reference
    from patcher.progress import Say
    from patcher.web.http import Http

# What vLLM's own builds state; images made from others inherit labels that mean something else.
_BUILD_COMMIT = "ai.vllm.build.commit"
_REVISION = "org.opencontainers.image.revision"
_VERSION = "org.opencontainers.image.version"

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class Update:
    """What is newer than the lock, in the order of the search."""

    repositories: tuple[str, ...]
    added: tuple[Entry, ...]
    unread: tuple[Unread, ...]


@dataclass(frozen=True, slots=True)
class _Search:
    """One repository, and what is locked of it."""

    repository: Reference
    locked: tuple[Entry, ...]
    http: Http
    cache: LayerCache
    looked: Looked


def find_newer(
    lock: Lock,
    names: Sequence[str],
    http: Http,
    layers: LayerCache,
    say: Say,
    looked: Looked,
) -> Update:
    """Look for newer builds in the lock's repositories, or in those that are named.

    Drops nothing. An image or repository that cannot be read is reported, and the others are
    looked at all the same. Raises `BadReference`, and `NotLocked` for a repository without entry.
    """
    added: list[Entry] = []
    unread: list[Unread] = []
    repositories = _repositories(lock, names)
    for repository in repositories:
        locked = tuple(entry for entry in lock.entries if entry.repository == repository)
        search = _Search(repository, locked, http, layers, looked)
        for found in _found(search, say):
            if isinstance(found, Unread):
                unread.append(found)
            else:
                added.append(found)
    return Update(tuple(map(str, repositories)), tuple(added), tuple(unread))


def _repositories(lock: Lock, names: Sequence[str]) -> list[Reference]:
    """Those of the lock, in its order; or the named ones, which must be among them."""
    there = dict.fromkeys(entry.repository for entry in lock.entries)
    wanted = dict.fromkeys(parse_reference(name).bare for name in names)
    for repository in wanted:
        if repository not in there:
            raise NotLocked(
                f"no image of {repository} is in images.lock",
                next_step="Lock a first one with `vllm-patcher lock add`: newer than that is "
                "looked for.",
            )
    return list(wanted or there)


def _found(search: _Search, say: Say) -> Iterator[Entry | Unread]:
    """What one repository offers that is newer, and what could not be read."""
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
                if entry is not None and search.looked.locate:
                    entry = located(entry, search.http, search.looked, search.cache)
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
            raise contradiction(f"its label {_VERSION} says {stated}")
        commit = _commit(labels, None, None)
        return _with_commit(entry_for(str(wanted), reference, answer), commit)
    # Only a nightly's own version can show it to be old: some labels name the last release.
    if stated is not None and stated.is_devrelease and not _is_newer(search, kind, stated):
        return None
    version, built_from = image.stated_version(search.looked.targets, search.looked.mentions)
    if not _is_newer(search, kind, parsed(version)):
        return None
    entry = entry_for(version, reference, answer)
    return _with_commit(entry, _commit(labels, built_from, tag_commit(reference)))


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
        raise contradiction(f"its vLLM was built from {content}")
    proof = content or tagged or labels.get(_BUILD_COMMIT, "")
    known = [proof, tagged or "", labels.get(_BUILD_COMMIT, ""), labels.get(_REVISION, "")]
    fitting = [text for text in known if _COMMIT.fullmatch(text) and same_commit(text, proof)]
    return max(fitting, key=len, default=None)


def _with_commit(entry: Entry, commit: str | None) -> Entry:
    return replace(entry, locked=replace(entry.locked, commit=commit or entry.locked.commit))
