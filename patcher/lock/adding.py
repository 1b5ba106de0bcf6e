"""Adding a pin to images.lock, as its registry has it, and dropping one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage
from patcher.lock.entries import Entry, Lock, add, entry_for
from patcher.lock.file import edit
from patcher.lock.picking import named
from patcher.oci.reference import parse_reference
from patcher.registry.image import ask_registry, open_remote
from patcher.versions import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from patcher.layer_cache import LayerCache
    from patcher.web.http import Http


@dataclass(frozen=True, slots=True)
class Looked:
    """What is looked for in an image: the targets of patches, and the texts of their rules.

    `locate`: every platform is read whole, to write down where vLLM's files are.
    """

    targets: tuple[str, ...]
    mentions: tuple[bytes, ...]
    locate: bool


def add_to_lock(
    path: Path,
    start: Path,
    version: str,
    reference: str,
    http: Http | None,
    looked: Looked | None,
    layers: LayerCache,
) -> Entry:
    """Lock a version to an image, as its registry has it; without `http` none is asked.

    `looked` is what to locate in the image, None for nothing.
    A lock that is not there yet begins with what `start` has: a new one must hide no pin.
    """
    asked = parse_reference(reference)
    entry = entry_for(version, asked, ask_registry(asked, http) if http else None)
    if looked and http:
        entry = located(entry, http, looked, layers)
    edit(path, start, lambda known: add(known, entry))
    return entry


def located(entry: Entry, http: Http, looked: Looked, layers: LayerCache) -> Entry:
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
                raise contradiction(f"its vLLM is {found.version}, not {locked}")
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


def contradiction(problem: str) -> BrokenImage:
    """The error for an image that is not what its tag says."""
    return BrokenImage(
        f"the tag and the image disagree: {problem}",
        next_step="Lock it with `vllm-patcher lock add`, if you know better.",
    )
