"""The entry of images.lock that a name means, on a platform.

A name is one of:

- a version: `0.23.1rc1` means the newest locked build of that version, a release or a nightly;
- one build's version, its local part left out or not: `0.23.1rc1.dev672`;
- an image reference as the lock has it: `vllm/vllm-openai:v0.23.0`;
- a commit of vLLM, or its first seven digits and more: `93d8f834d`;
- `VERSION=REFERENCE`, where neither means one entry alone.

Of several images of one version, what a person has locked goes before what came with the program.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.errors import BadReference, NotLocked
from patcher.oci.reference import Platform, host_platform, parse_reference
from patcher.versions import base, nearest, parsed, same_commit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from packaging.version import Version

    from patcher.lock.entries import Entry, Lock

_COMMIT = re.compile(r"g?([0-9a-f]{7,40})")

# What `verify` writes before a name to say where it is.
_KINDS = ("pypi", "docker", "registry")

_LIST = "Name a version, a commit or a reference that `vllm-patcher lock list` shows."

# What vLLM is published for. An entry that states no platforms may have either.
_USUAL = (Platform("linux", "amd64"), Platform("linux", "arm64"))

# An entry, and whether the name can mean no other build.
_Match = tuple["Entry", bool]


@dataclass(frozen=True, slots=True)
class Standing:
    """A build's place among the locked ones of its version.

    `suffix` is the one platform that its tags must name, since the plain ones belong to a build
    that has more; None where they are its own. `newest`: the moving tag is its to have. Where it
    is not, `holder` is the build that has it, None where the version means no single build.
    """

    suffix: Platform | None
    newest: bool
    holder: Entry | None = field(default=None, compare=False)


FIRST = Standing(None, newest=True)
"""The standing of an image that no lock compares with others."""


def resolve(lock: Lock, name: str, platform: Platform) -> tuple[Entry, str]:
    """The newest build that the name means and that has the platform, and the digest to pull.

    Raises `NotLocked`, naming what is locked near it or for other platforms.
    """
    matches = _matches(lock, name)
    if not matches:
        raise _unknown(lock, name)
    usable = [
        (entry, pin)
        for entry, exact in matches
        if (pin := entry.locked.pin(platform, exact=exact)) is not None
    ]
    if not usable:
        raise _without_platform(lock, name, platform, [entry for entry, _ in matches])
    entry, pin = max(usable, key=lambda pair: pair[0].rank)
    return entry, pin.digest


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
    indexed = [pair for pair in found if pair[0].locked.index]
    entry, digest = max(indexed or found, key=lambda pair: pair[0].rank)
    # One platform that a person locked goes before the index of that version from public files.
    asked = [pair for pair in found if pair[0].rank[:2] == (entry.locked.version, True)]
    if asked and not entry.is_asked:
        entry, digest = max(asked, key=lambda pair: pair[0].rank)
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
    version = str(base(entry.locked.version))
    holder = meant_by(lock, version)
    if platform is None and holder is not None and holder.key == entry.key:
        return FIRST
    alone = platform or _only_platform(entry)
    if alone is not None:
        holder = meant_by(lock, version, alone)
    newest = alone is not None and holder is not None and holder.key == entry.key
    return Standing(alone, newest, None if newest else holder)


def meant_by(lock: Lock, name: str, platform: Platform | None = None) -> Entry | None:
    """The build that a name means; None where it means no single one."""
    try:
        return whole(lock, name, platform)[0]
    except NotLocked:
        return None


def named(lock: Lock, name: str) -> Entry:
    """The only entry that a name fits. Raises `NotLocked` where it fits none or several."""
    matches = _matches(lock, name)
    found = [entry for entry, exact in matches if exact] or [entry for entry, _ in matches]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _unknown(lock, name)
    there = ", ".join(_own_name(lock, entry) for entry in found)
    raise NotLocked(f"{name!r} fits several images: {there}", next_step="Name one of them.")


def _own_name(lock: Lock, entry: Entry) -> str:
    """A name that fits no other entry."""
    reference = entry.original.reference
    alike = [each for each in lock.entries if each.original.reference == reference]
    return str(reference) if len(alike) == 1 else f"{entry.original.version}={reference}"


def _matches(lock: Lock, name: str) -> list[_Match]:
    version, equals, reference = name.partition("=")
    if equals:
        stated = _by_reference(lock, reference)
        return [each for each in stated if each[0].original.version == version]
    return _by_version(lock, name) or _by_reference(lock, name) or _by_commit(lock, name)


def _only_platform(entry: Entry) -> Platform | None:
    platforms = () if entry.locked.index else tuple(entry.locked.platforms)
    return platforms[0] if len(platforms) == 1 else None


def _by_version(lock: Lock, name: str) -> list[_Match]:
    wanted = parsed(name)
    if wanted is None:
        return []
    matches = [(entry, _is_build(entry.locked.version, wanted)) for entry in lock.entries]
    return [
        (entry, exact) for entry, exact in matches if exact or base(entry.locked.version) == wanted
    ]


def _is_build(locked: Version, wanted: Version) -> bool:
    return locked == wanted or (wanted.local is None and locked.public == wanted.public)


def _by_reference(lock: Lock, name: str) -> list[_Match]:
    try:
        reference = parse_reference(name)
    except BadReference:
        return []
    return [(entry, True) for entry in lock.entries if entry.original.reference == reference]


def _by_commit(lock: Lock, name: str) -> list[_Match]:
    """Builds of one commit. Raises `NotLocked` where the digits fit several."""
    match = _COMMIT.fullmatch(name)
    if match is None:
        return []
    found = [
        (entry, entry.locked.commit)
        for entry in lock.entries
        if entry.locked.commit and same_commit(entry.locked.commit, match[1])
    ]
    commits = sorted({commit for _, commit in found}, key=len)
    if not all(same_commit(commit, commits[-1]) for commit in commits):
        raise NotLocked(
            f"{name!r} fits several commits: {', '.join(sorted(commits))}",
            next_step="Give more digits.",
        )
    return [(entry, True) for entry, _ in found]


def _unknown(lock: Lock, name: str) -> NotLocked:
    wanted = parsed(name)
    versions = [entry.locked.version for entry in lock.entries]
    if wanted is None or wanted.dev is None:
        versions = [base(version) for version in versions]
    kind, _, rest = name.partition(":")
    if "://" in name:
        next_step = f"Write it as {name.partition('://')[2]}."
    elif kind in _KINDS:
        next_step = f"Leave {kind}: out: {rest}." if rest else _LIST
    elif "/" in name:
        next_step = f"Lock it under its version first: `vllm-patcher lock add VERSION {name}`"
    elif wanted is None:
        next_step = _LIST
    else:
        next_step = f"{nearest(name, versions)} All of them: `vllm-patcher lock list`"
    return NotLocked(f"{name!r} is not in images.lock", next_step=next_step)


def _without_platform(
    lock: Lock, name: str, platform: Platform, matched: Sequence[Entry]
) -> NotLocked:
    """The refusal that says what there is instead. No match has an index: one would have done."""
    there = sorted({kind for entry in matched for kind, _ in entry.locked.pins()})
    bases = {base(entry.locked.version) for entry in matched}
    of_base = [entry for entry in lock.entries if base(entry.locked.version) in bases]
    fitting = [entry for entry in of_base if entry.locked.pin(platform, exact=False)]
    unproven = [entry for entry in matched if entry.locked.unknown]
    if fitting:
        next_step = f"The newest build for {platform} is {_newest(fitting)}."
    elif unproven:
        next_step = f"The platform of {_newest(unproven)} is not known: name that to try it."
    else:
        next_step = "Add such a build with `vllm-patcher lock add`."
    return NotLocked(
        f"{name!r} is not locked for {platform}, but for: {', '.join(there)} "
        f"(newest: {_newest(matched)})",
        next_step=next_step,
    )


def _newest(entries: Iterable[Entry]) -> str:
    return str(max(entry.locked.version for entry in entries))
