"""A file of a fix that stands under another path in some releases: which one, in what is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from patcher.rules.backport.scope import Sides
from patcher.rules.rule import Upstream

# A file's path, and another under which some releases have it.
Moved = Sequence[tuple[str, str]]


def standing_at(moved: Moved, files: Mapping[str, bytes | None]) -> tuple[dict[str, str], str]:
    """The path of each file that is not under its own; and why it cannot be told, or "".

    It cannot where two of a file's paths are there, and where one is no target, as nobody looked.
    """
    where: dict[str, str] = {}
    for path in dict.fromkeys(path for path, _ in moved):
        paths = [path, *(other for own, other in moved if own == path)]
        if unread := next((each for each in paths if each not in files), None):
            return {}, f"{unread} is no target of the patch, and the fix's file may be there"
        there = [each for each in paths if files[each] is not None]
        if len(there) > 1:
            return {}, f"{' and '.join(there)} are both there: which is the fix's file?"
        if there and there[0] != path:
            where[path] = there[0]
    return where, ""


def placed(sides: Sequence[Sides], where: Mapping[str, str]) -> list[Sides]:
    """The scopes in the files in which they stand."""
    return [
        replace(each, scope=replace(each.scope, path=where.get(each.scope.path, each.scope.path)))
        for each in sides
    ]


# ---- where a release has the file


class Listed(Upstream, Protocol):
    """A way to vLLM's releases that also tells which files they have."""

    def names(self, version: str) -> Mapping[str, int]:
        """The Python files of a release, and their sizes in bytes. Raises `Unreadable`."""
        ...


@dataclass(frozen=True, slots=True)
class Move:
    """A file that `release` has as `other`: of its code in the release beside, `share` is there.

    `rivals` are the other files that have half of it or more, with what they have.
    """

    path: str
    other: str
    release: str
    share: float
    rivals: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        others = "".join(f", {path} {_percent(share)}" for path, share in self.rivals)
        return (
            f"{self.path}: vLLM {self.release} is taken to have it as {self.other}, which holds "
            f"{_percent(self.share)} of its code{others}"
        )


# As git takes a file for renamed.
_HALF = 0.5


def moves(paths: Sequence[str], releases: Sequence[str], upstream: Listed) -> list[Move]:
    """Where a file is in releases, each beside the one before it; the first has one of its `paths`.

    Where its paths are lacking, it is the file that has most of its lines, and half of them at
    least, of those that the release before has not. Where none has, or two have as many, the
    search ends: what is further off says less. Raises `Unreadable`.
    """
    found: list[Move] = []
    known = [*paths]
    release = here = ""
    for each in releases:
        names = upstream.names(each)
        there = next((path for path in known if path in names), None)
        if there is None:
            data, beside = upstream.read(release, here), upstream.names(release)
            move = _move(known[0], data, beside, each, upstream)
            if move is None:
                break
            found.append(move)
            known.append(move.other)
            there = move.other
        release, here = each, there
    return found


def _move(
    path: str, data: bytes, beside: Mapping[str, int], release: str, upstream: Listed
) -> Move | None:
    own = _lines(data)
    size = sum(len(line) * count for line, count in own.items())
    alike = []
    for name, length in upstream.names(release).items():
        if name in beside or length < len(data) * _HALF or _is_one_module(name, beside):
            continue
        shared = own & _lines(upstream.read(release, name))
        share = sum(len(line) * count for line, count in shared.items()) / max(1, size)
        if share >= _HALF:
            alike.append((share, name))
    alike.sort(reverse=True)
    if not alike or (len(alike) > 1 and alike[0][0] == alike[1][0]):
        return None
    share, other = alike[0]
    return Move(path, other, release, share, tuple((name, share) for share, name in alike[1:]))


def _lines(data: bytes) -> Counter[bytes]:
    """Every line of a file, without indentation: what was split off may stand in no class."""
    return Counter(line.strip() for line in data.splitlines() if line.strip())


def _is_one_module(name: str, names: Mapping[str, int]) -> bool:
    """Whether one is a module and the other a package: Python takes either for the other."""
    stem = name.removesuffix("/__init__.py")
    return f"{stem}.py" in names or f"{name.removesuffix('.py')}/__init__.py" in names


def _percent(share: float) -> str:
    return f"{int(100 * share)} %"
