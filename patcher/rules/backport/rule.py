"""Backport: upstream's fix of some functions, taken back to an image that lacks it.

Two independent readings are behind it. They share `scope.py` and what knows of no fix: how source
is parsed and where a statement begins (`patcher.syntax`), and difflib with a bound on its time
(`patcher.diff`):

- `merging` finds the functions by name, merges their lines three ways, and says what that tells.
- `proving` (the standard library's ast) holds the result against both sides of the fix.

The two sides are read from vLLM's own releases, so no line of vLLM is kept here; or from a diff
of the user's own whose context is the whole function (`git diff -W`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, ProofFailed, RewriteRefused, Unreadable
from patcher.rules.backport.scope import Scope, Sides
from patcher.rules.edits import rewritten
from patcher.rules.rule import Found, Place, Words

if TYPE_CHECKING:
    from patcher.rules.backport.merging.merge import Merged
    from patcher.rules.replace import Shape
    from patcher.rules.rule import Files, Rewritten, Upstream


@dataclass(frozen=True, slots=True)
class Backport:
    """The rule: each scope becomes what vLLM `after` made of it, taken from vLLM `before`.

    The scopes' digests are those of the two releases' functions: what is read must be what the
    patch's author read. `diff` is a unified diff with whole functions, instead of the releases;
    it needs no digests. `instead` are upstream's other fixes: where one stands, nothing is needed.
    A fix that upstream took out again for another one merges cleanly, and must not be applied.
    `moved` are pairs: a file's path, and another under which some releases have that file. Each of
    them is a target of the patch, and where two are there, nothing is known.
    """

    scopes: tuple[Scope, ...] = ()
    before: str = ""
    after: str = ""
    diff: str = ""
    instead: tuple[Shape, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    upstream: Upstream | None = field(default=None, compare=False, repr=False)

    words = Words(
        needed="lacking",
        clean="fixed",
        place="function",
        places="functions",
        why="lacks upstream's fix",
        none="the fix is in",
        told="function",
    )

    def __post_init__(self) -> None:
        """What `moved` means must be plain: one pair of paths is easily written without its comma.

        Raises `ValueError`.
        """
        for pair in self.moved:
            if not (isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1]):
                raise ValueError(f"moved has {pair!r}, which is no pair of two paths of a file")
            if self.scopes and pair[0] not in {scope.path for scope in self.scopes}:
                raise ValueError(f"moved has {pair[0]!r}, and no scope is of that file")

    def with_upstream(self, upstream: Upstream) -> Backport:
        """The same rule, able to read both releases."""
        return replace(self, upstream=upstream)

    def sides(self) -> list[Sides]:
        """Both sides of every scope.

        Raises `Unreadable` where a release cannot be read or is not what the patch was made of.
        """
        from patcher.rules.backport.imports import used

        if self.diff:
            from patcher.rules.backport.wholes import sides_of_diff

            return used(sides_of_diff(self.diff))
        return used([self._read(scope) for scope in self.scopes])

    def explain(self) -> tuple[str, ...]:
        """Each function, where its two sides are from, its file's other paths; other fixes."""
        from patcher.rules.replace import explained

        if self.diff:
            try:
                scopes = [each.scope for each in self.sides()]
            except Unreadable as error:
                return (error.problem,)
            own = [f"{scope}: as the patch's own diff has it" for scope in scopes]
        else:
            own = [
                f"{scope}: what vLLM {self.after} made of it, taken from {self.before}"
                for scope in self.scopes
            ]
        moved = [f"{path}: some releases have it as {other}" for path, other in self.moved]
        return (*own, *moved, *explained(self.instead))

    def _read(self, scope: Scope) -> Sides:
        """A scope out of the two releases. Raises `Unreadable` where it is another."""
        from patcher.rules.backport.changed import read_sides

        files = [self._released(version, scope.path) for version in (self.before, self.after)]
        sides = read_sides(scope.path, scope.name, *files)
        if (sides.scope.before, sides.scope.after) != (scope.before, scope.after):
            version = self.before if sides.scope.before != scope.before else self.after
            raise Unreadable(
                f"{scope} in vLLM {version} is not the one that this patch was made of",
                next_step="Check the digests and versions in the patch's file.",
            )
        return sides

    def _released(self, version: str, path: str) -> bytes | None:
        """A file of a release, under its own path or the first of the others that is there."""
        paths = (path, *(other for own, other in self.moved if own == path))
        found = (self._file(version, each) for each in paths)
        return next((data for data in found if data is not None), None)

    def _file(self, version: str, path: str) -> bytes | None:
        if self.upstream is None:
            raise Unreadable(
                f"{path} of vLLM {version} is needed, and there is no way to it",
                next_step="Hand the patch a way to vLLM's releases: with_upstream.",
            )
        try:
            return self.upstream.read(version, path)
        except FileAbsent:
            return None

    def find(self, files: Files) -> Found:
        """Every scope: it lacks the fix, or has it. Unknown where the merge cannot be proven.

        Raises `NotPython`, and `Unreadable` where the releases cannot be read.
        """
        from patcher.rules.backport.moved import placed, standing_at
        from patcher.rules.replace import standing

        where, problem = standing_at(self.moved, files)
        if problem:
            return Found(unknown=problem)
        shapes = [replace(each, path=where.get(each.path, each.path)) for each in self.instead]
        if other := standing(files, shapes):
            return Found((other,))
        present = _present(files)
        if self.scopes and not self._mentioned(present):
            first = self.scopes[0]
            return Found(absent=f"there is no {first.name} in {where.get(first.path, first.path)}")
        own = self.sides()
        sides = placed(own, where)
        if len(_by_path(sides)) < len(_by_path(own)):
            return Found(unknown=f"{' and '.join(where.values())}: two files of the fix are one")
        lacking = [each.scope.path for each in sides if each.scope.path not in present]
        if len(lacking) == len(sides):
            others = [other for path, other in self.moved if path == lacking[0]]
            return Found(absent=f"there is no {', nor '.join([lacking[0], *others])}")
        if lacking:
            return Found(unknown=f"there is no {lacking[0]}, but the fix's other files are there")
        moved = [each for each in sides if each.scope.path in where.values()]
        return self._judge(files, sides, moved)

    def _judge(self, files: Files, sides: list[Sides], moved: list[Sides]) -> Found:
        """What the scopes say together, where all their files are there; `moved` are those of
        files that are at another path here.
        """
        from patcher.rules.backport import imports
        from patcher.rules.backport.merging.state import State, overall

        present = _present(files)
        merged = _merge(present, sides)
        scopes = [each for one in merged.values() for each in one.said]
        verdict = overall(scopes)
        places = tuple(
            _place(each.scope, each.line, needed=each.state is State.NEEDED)
            for each in scopes
            if each.state in (State.NEEDED, State.LANDED)
        )
        if verdict.state is State.ABSENT:
            return Found(absent=f"{verdict.scope.path}: {verdict.reason}")
        known = f"; vLLM {self.after} has the fix" if self.after else ""
        if verdict.state is State.UNKNOWN:
            return Found(places, unknown=f"{verdict.scope.path}: {verdict.reason}{known}")
        if verdict.state is State.LANDED and (lost := imports.not_imported(present, sides)):
            return Found(places, unknown=lost)
        if verdict.state is State.NEEDED:
            if lost := imports.missing(files, sides) or imports.unread(files, moved):
                return Found(places, unknown=lost)
            try:
                _prove(present, {path: one.data for path, one in merged.items()}, sides)
            except ProofFailed as error:
                return Found(places, unknown=f"{error.problem}{known}")
        return Found(places)

    def _mentioned(self, present: Mapping[str, bytes]) -> bool:
        """Whether the files hold the end of any scope's name: a cheap test, without a network."""
        return any(
            None in (scope.before, scope.after)
            or scope.name.startswith("<")
            or scope.name.rpartition(".")[2].encode() in data
            for scope in self.scopes
            for data in present.values()
        )

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """Merge the fix in. Raises `RewriteRefused` where that is not the whole of it."""
        found = self.find(files)
        if found.unknown or found.absent:
            raise RewriteRefused(
                found.unknown or found.absent or "",
                next_step="Take the fix over by hand, or choose another release.",
            )
        present = _present(files)
        merged = _merge(present, self._sides_in(files))
        return {path: rewritten(present[path], one.data) for path, one in merged.items()}

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """Hold the result against both sides of the fix. Raises `ProofFailed`."""
        results = {path: one.data for path, one in after.items()}
        _prove(_present(before), results, self._sides_in(before))

    def _sides_in(self, files: Files) -> list[Sides]:
        """Both sides of every scope, under the paths that its file has here."""
        from patcher.rules.backport.moved import placed, standing_at

        return placed(self.sides(), standing_at(self.moved, files)[0])


def _present(files: Files) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if data is not None}


def _place(scope: Scope, line: int | None, *, needed: bool) -> Place:
    name = scope.name
    return Place(scope.path, line or 1, 1, name, name.rpartition(".")[2], needed)


def _by_path(sides: list[Sides]) -> dict[str, list[Sides]]:
    paths = dict.fromkeys(each.scope.path for each in sides)
    return {path: [each for each in sides if each.scope.path == path] for path in paths}


def _merge(files: Mapping[str, bytes], sides: list[Sides]) -> dict[str, Merged]:
    from patcher.rules.backport.merging.merge import merge_file

    return {path: merge_file(files[path], own) for path, own in _by_path(sides).items()}


def _prove(before: Mapping[str, bytes], after: Mapping[str, bytes], sides: list[Sides]) -> None:
    from patcher.rules.backport.proving.prove import prove

    for path, own in _by_path(sides).items():
        prove(before[path], after[path], own)
