"""What a name in images.lock means to a publication: a build with all its platforms, and which of
the version's moving tags that build may have.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import NotLocked
from patcher.lock.picking import resolve
from patcher.oci.reference import Platform, host_platform
from patcher.versions import base

if TYPE_CHECKING:
    from patcher.lock.entries import Entry, Lock

# What vLLM is published for. An entry that states no platforms may have either.
_USUAL = (Platform("linux", "amd64"), Platform("linux", "arm64"))


@dataclass(frozen=True, slots=True)
class Standing:
    """A build's place among the locked ones of its version.

    `suffix` is the one platform that its tags must name, since the plain ones belong to a build
    that has more; None where they are its own. `newest`: the moving tag is its to have.
    """

    suffix: Platform | None
    newest: bool


FIRST = Standing(None, newest=True)
"""That of an image which no lock compares with others."""


def whole(lock: Lock, name: str, platform: Platform | None) -> tuple[Entry, str]:
    """The newest build that the name means, and the digest of all its platforms.

    Without a platform a build whose index is pinned goes before one that has a single platform's
    manifest. Raises `NotLocked`.
    """
    stated = {known for entry in lock.entries for known in entry.locked.platforms}
    found = []
    for each in [platform] if platform else sorted(stated.union(_USUAL), key=str):
        with contextlib.suppress(NotLocked):
            found.append(resolve(lock, name, each))
    if not found:
        return resolve(lock, name, platform or host_platform())
    indexed = [(entry, digest) for entry, digest in found if entry.locked.index]
    entry, digest = max(indexed or found, key=lambda pair: pair[0].key)
    if entry.locked.index:
        return entry, entry.locked.index.digest
    if platform is None and len(entry.locked.platforms) > 1:
        there = ", ".join(sorted(map(str, entry.locked.platforms)))
        raise NotLocked(
            f"{name!r} is locked for {there} one by one, without an index",
            next_step="Give one of them as --platform.",
        )
    return entry, digest


def standing(lock: Lock, entry: Entry, platform: Platform | None) -> Standing:
    """Which tags a build of the lock has, published whole or for one platform.

    `0.23.1rc1-patched` is what `0.23.1rc1` means: the newest build with an index, if there is one.
    A newer one for DGX Spark alone is the newest for its platform, `0.23.1rc1-patched-arm64`.
    """
    if platform is None and _is_meant(lock, entry, None):
        return FIRST
    alone = platform or _only_platform(entry)
    return Standing(alone, newest=alone is not None and _is_meant(lock, entry, alone))


def _is_meant(lock: Lock, entry: Entry, platform: Platform | None) -> bool:
    """Does the bare version mean this build?"""
    try:
        meant, _ = whole(lock, str(base(entry.locked.version)), platform)
    except NotLocked:
        return False
    return meant.key == entry.key


def _only_platform(entry: Entry) -> Platform | None:
    platforms = () if entry.locked.index else tuple(entry.locked.platforms)
    return platforms[0] if len(platforms) == 1 else None
