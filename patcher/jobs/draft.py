"""A backport drafted: on the nearest release that a diff fits, with where others have its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.errors import UsageError
from patcher.rules.backport.draft import of_diff
from patcher.rules.backport.hunks import NotFitting
from patcher.rules.backport.moved import moves
from patcher.versions import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from packaging.version import Version

    from patcher.rules.backport.draft import Draft
    from patcher.rules.backport.moved import Listed, Move
    from patcher.rules.rule import Upstream

# How many earlier releases are tried: a fix for a release branch may be written on an older one.
_EARLIER = 6


def draft_near(
    diff: str, version: str, upstream: Upstream, known: Callable[[], Iterable[Version]]
) -> tuple[Draft, str]:
    """A draft of a diff, and the release that it was made on: `version`, or one near it.

    A fix is written on main, ahead of the release that a user runs: the later of the `known`
    releases are tried first, nearest first, then the earlier. One that has the fix does as well.
    Raises what `of_diff` raises of `version`, where none fits.
    """
    asked = parsed(version)
    if asked is None:
        raise UsageError(f"{version!r} is not a version", next_step="Write it as 0.26.0.")
    try:
        return of_diff(diff, version, upstream), version
    except NotFitting as error:
        ordered = sorted(known())
        later = [each for each in ordered if each > asked]
        earlier = [each for each in reversed(ordered) if each < asked]
        for each in (*later, *earlier[:_EARLIER]):
            try:
                return of_diff(diff, str(each), upstream), str(each)
            except NotFitting:
                continue
        raise NotFitting(
            f"{error.problem}; the diff fits no release near it either",
            next_step="Was it merged to main, and whole? If a release has the fix, name --before, "
            "--after and --function.",
        ) from error


def moved_files(
    draft: Draft, releases: Sequence[tuple[str, Collection[str]]], upstream: Listed
) -> list[Move]:
    """Where releases have a draft's files that they lack, each told by the release beside it.

    `releases` are in their order, each with the targets that it was found to have. Raises
    `Unreadable`.
    """
    versions = [version for version, _ in releases]
    found: list[Move] = []
    for path in draft.changed:
        paths = [path, *(each.other for each in draft.moved if each.path == path)]
        has = [at for at, (_, targets) in enumerate(releases) if {*paths} & {*targets}]
        if not has:
            continue
        for outward in (versions[: has[0] + 1][::-1], versions[has[-1] :]):
            more = moves(paths, outward, upstream) if len(outward) > 1 else []
            paths += [each.other for each in more]
            found += more
    return found
