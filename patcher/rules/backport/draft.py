"""A backport drafted: of a diff that fits a release, or of functions in two releases."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, RewriteRefused, Unreadable, UsageError
from patcher.rules.backport.changed import changed_scopes, is_stub, read_sides
from patcher.rules.backport.hunks import Hunk, NotFitting, applied, hunks_of, is_compiled, turned
from patcher.rules.backport.imports import bound, brought, modules, used, words
from patcher.rules.backport.moved import moves, placed
from patcher.rules.backport.scope import IMPORTS, MODULE, Sides
from patcher.syntax import parse_block

if TYPE_CHECKING:
    from patcher.rules.backport.moved import Listed, Move
    from patcher.rules.rule import Upstream


@dataclass(frozen=True, slots=True)
class Draft:
    """What a patch is to change, and what was left out of it, with the reason.

    `before` and `after` are the releases that the functions are read from; empty where they are
    a diff's, which the patch then carries in a file of its own. `imported` are the files that hold
    what the fix imports: whether a vLLM has it is asked of them. `moved` is where else
    releases have the files that change.
    """

    sides: tuple[Sides, ...]
    dropped: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    imported: tuple[str, ...] = ()
    moved: tuple[Move, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The files that are read: those that change, where else they may be, and `imported`."""
        others = (each.other for each in self.moved)
        return tuple(dict.fromkeys([*self.changed, *others, *self.imported]))

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that the fix changes."""
        return tuple(dict.fromkeys(each.scope.path for each in self.sides))


def of_releases(functions: Sequence[str], before: str, after: str, upstream: Listed) -> Draft:
    """A draft of functions, each `FILE:NAME`, as two releases have them.

    Raises `UsageError` for one that neither changed nor is there, `Unreadable`.
    """
    found = []
    moved: list[Move] = []
    files: dict[str, list[bytes | None]] = {}
    for each in functions:
        path, colon, name = each.rpartition(":")
        if not (path and colon and name):
            raise UsageError(f"{each!r} is not FILE:NAME", next_step="vllm/a/b.py:Class.method")
        if path not in files:
            files[path] = [_file(upstream, version, path) for version in (before, after)]
            moved += _moved_between(path, files[path], before, after, upstream)
        sides = read_sides(path, name, *files[path])
        if sides.before is None and sides.after is None:
            raise UsageError(
                f"neither {before} nor {after} has one {name} in {path}",
                next_step="Write the qualified name: Class.method.",
            )
        if sides.before == sides.after:
            raise UsageError(
                f"{name} in {path} is the same in {before} and {after}",
                next_step="Name the last release without the fix and the first with it.",
            )
        found.append(sides)
    taken = _with_imports(found, files)
    draft = Draft(taken, (), before, after, _imported(taken, after, upstream))
    return with_moves(draft, moved, upstream)


def _moved_between(
    path: str, files: list[bytes | None], before: str, after: str, upstream: Listed
) -> list[Move]:
    """Where the release before the fix has the file, if elsewhere; its bytes are put in `files`.

    Raises `UsageError` where the release with the fix has none of that path.
    """
    if files == [None, None] or None not in files:
        return []
    there, lacking = (after, before) if files[0] is None else (before, after)
    found = moves([path], [there, lacking], upstream)
    if lacking == after:
        named = f" {after} has it as {found[0].other}." if found else ""
        raise UsageError(
            f"vLLM {after} has no {path}", next_step=f"Name a file as {after} has it.{named}"
        )
    if found:
        files[0] = upstream.read(before, found[0].other)
    return found


def with_moves(draft: Draft, found: Sequence[Move], upstream: Upstream) -> Draft:
    """The draft with what is known of where releases have its files.

    What a moved file imports relative to its folder is a file of another name there.
    """
    imported = list(draft.imported)
    for move in found:
        own = [each for each in draft.sides if each.scope.path == move.path]
        imported += _imported(placed(own, {move.path: move.other}), move.release, upstream)
    return replace(draft, imported=tuple(imported), moved=(*draft.moved, *found))


def _with_imports(
    functions: list[Sides], files: Mapping[str, Sequence[bytes | None]]
) -> tuple[Sides, ...]:
    """The functions, and the imports of their files that they need."""
    taken: list[Sides] = []
    for path, both in files.items():
        own = [each for each in functions if each.scope.path == path]
        imports = read_sides(path, IMPORTS, *both)
        is_named = any(each.scope.name == IMPORTS for each in own)
        if not is_named and brought(used([imports, *own])[0]):
            own = [imports, *own]
        taken += own
    return tuple(taken)


def _imported(sides: Sequence[Sides], version: str, upstream: Upstream) -> tuple[str, ...]:
    """The files of a release that hold what the fix imports."""
    there = (path for path in modules(sides) if _file(upstream, version, path) is not None)
    return tuple(there)


def of_diff(diff: str, version: str, upstream: Upstream) -> Draft:
    """A draft of what a pull request's diff changes, on the files of a release that it fits.

    Also on those of a release that has all of it: what was before is then what undoing it gives.
    Only Python below vllm/ is taken. Raises `RewriteRefused` for what cannot be taken by half,
    `NotFitting`, and `Unreadable` for what is not a diff.
    """
    dropped, hunks = _of_the_package(diff)
    files = {path: _file(upstream, version, path) for path in hunks}
    if gone := next((path for path, data in files.items() if data is None), None):
        raise NotFitting(
            f"vLLM {version} has no {gone}",
            next_step="A whole file is not taken back. Name a release that has it.",
        )
    there = {path: data for path, data in files.items() if data is not None}
    changed = {
        path: changed_scopes(path, *both) for path, both in _both(there, hunks, version).items()
    }
    functions = [each for own in changed.values() for each in own if _is_function(each)]
    sides: list[Sides] = []
    left: list[str] = []
    for path, found in changed.items():
        own, others = _chosen(path, found, functions)
        sides += own
        left += others
    if not sides:
        raise _nothing(left, list(hunks), dropped)
    imported = _imported(sides, version, upstream)
    return Draft(tuple(sides), (*dropped, *left), imported=imported)


def _of_the_package(diff: str) -> tuple[list[str], dict[str, list[Hunk]]]:
    """What a diff changes outside the package, and the hunks of the package's Python files."""
    dropped: list[str] = []
    taken: dict[str, list[Hunk]] = {}
    for path, hunks in hunks_of(diff).items():
        if is_compiled(path):
            raise RewriteRefused(
                f"{path} is compiled code: the fix needs another build of vLLM",
                next_step="A patch of Python alone would be half of it: wait for a release.",
            )
        if not path.startswith("vllm/"):
            dropped.append(f"{path}: not in the package")
        elif not path.endswith(".py"):
            raise RewriteRefused(
                f"{path} is not Python",
                next_step="Give the diff without it, and a patch of its own, with DataFile.",
            )
        elif hunks and not (any(hunk.before for hunk in hunks) and any(h.after for h in hunks)):
            does = "brings" if any(hunk.after for hunk in hunks) else "takes away"
            raise RewriteRefused(
                f"{path} is a file that the fix {does}, and a whole file is not taken",
                next_step="If the rest of the fix does without it, give the diff without it.",
            )
        else:
            taken[path] = hunks
    return dropped, taken


def _both(
    files: Mapping[str, bytes], hunks: Mapping[str, Sequence[Hunk]], version: str
) -> dict[str, tuple[bytes, bytes]]:
    """Each file before and after the fix. Raises `NotFitting`."""
    try:
        return {
            path: (data, applied(path, data, hunks[path], version)) for path, data in files.items()
        }
    except NotFitting as error:
        if not error.is_in:
            raise
        try:
            return {
                path: (applied(path, data, turned(hunks[path]), version), data)
                for path, data in files.items()
            }
        except NotFitting:
            raise error from None


def _nothing(left: Sequence[str], paths: Sequence[str], dropped: Sequence[str]) -> Unreadable:
    """The error of a diff that leaves no function to take."""
    if left:
        return Unreadable(
            f"no function changes in the diff, but {left[0].partition(': nothing')[0]}",
            next_step="Once a release has the fix, name --before, --after and --function FILE:NAME "
            "with the name of the class, or <module>; or write it as a Replace.",
        )
    if paths:
        return Unreadable(
            f"nothing but comments, docstrings or blank lines changes in {paths[0]}",
            next_step="There is nothing to take back. Is it the pull request of the fix?",
        )
    outside = dropped[0].partition(":")[0] if dropped else "nothing"
    return Unreadable(
        f"the diff changes nothing in vllm/, but {outside}",
        next_step="Tests and documentation alone change no vLLM: give the fix's own diff.",
    )


def _file(upstream: Upstream, version: str, path: str) -> bytes | None:
    try:
        return upstream.read(version, path)
    except FileAbsent:
        return None


def _chosen(
    path: str, changed: Sequence[Sides], every: Sequence[Sides]
) -> tuple[list[Sides], list[str]]:
    """A file's functions that change, and what is left out; `every` are those of all files.

    Raises `RewriteRefused`.
    """
    functions = [each for each in every if each.scope.path == path]
    read = {word for each in functions for word in words(each.after)}
    taken: list[Sides] = []
    dropped: list[str] = []
    for each in changed:
        if _is_function(each):
            continue
        if each.before is None and each.after is None:
            raise RewriteRefused(
                f"{path} has several {each.scope.name}, and the fix changes one of them",
                next_step="No rule takes one of several of a name: change the file by hand.",
            )
        if each.scope.name == IMPORTS:
            imports = _alone(each, functions)
            if bound(imports.after) & read:
                taken.append(imports)
            else:
                dropped.append(f"{path}: imports: nothing that is taken uses them")
            continue
        if user := _user(each, functions, every):
            names = sorted(_rebound(each) & words(user.after))
            comes = "comes" if len(names) == 1 else "come"
            raise RewriteRefused(
                f"{user.scope} uses {', '.join(names)}, which {comes} with the {_kind(each)}",
                next_step="Write it into the function in a diff of your own; or, once a release "
                "has the fix, name --before, --after and each --function, "
                f"{path}:{each.scope.name} too.",
            )
        dropped.append(f"{path}: {_kind(each)}: nothing that is taken uses what they bind")
    return [*taken, *functions], dropped


def _user(lines: Sides, functions: Sequence[Sides], every: Sequence[Sides]) -> Sides | None:
    """A function that reads what a class's or module's own lines bind, if one does.

    One of another file makes or asks an object of that class: it names the class as well.
    """
    name, new = lines.scope.name.rpartition(".")[2], _rebound(lines)
    for each in every:
        read = words(each.after)
        if new & read and (each in functions or name in read):
            return each
    return None


def _alone(imports: Sides, functions: Sequence[Sides]) -> Sides:
    """The new imports that the functions use, and those that go and had one of their names."""
    (cut,) = (each for each in used([imports, *functions]) if each.scope.name == IMPORTS)
    came = "".join(f"{ast.unparse(node)}\n" for node in brought(cut)).encode()
    back = replace(imports, before=imports.after, after=imports.before)
    lines = [f"{ast.unparse(node)}\n".encode() for node in brought(back)]
    went = b"".join(line for line in lines if bound(line) & bound(came))
    return replace(cut, before=went, after=came)


def _is_function(sides: Sides) -> bool:
    if sides.scope.name in (IMPORTS, MODULE):
        return False
    body = parse_block(sides.after or sides.before or b"").body
    return bool(body) and not isinstance(body[0], ast.ClassDef)


def _kind(sides: Sides) -> str:
    name = sides.scope.name
    return {IMPORTS: "imports", MODULE: "module's own lines"}.get(name, f"lines of {name}")


def _rebound(sides: Sides) -> set[str]:
    """The names that the new side of a class's or module's own lines binds, or binds otherwise."""
    old, new = (_statements(text) for text in (sides.before, sides.after))
    return {name for code in new.keys() - old.keys() for name in bound(new[code].encode())}


def _statements(text: bytes | None) -> dict[str, str]:
    """A class's or module's own statements, by their syntax; a class's first line is one."""
    body = parse_block(text or b"").body
    if len(body) == 1 and isinstance(body[0], ast.ClassDef):
        head = body[0]
        body = [
            *head.body,
            ast.ClassDef(head.name, head.bases, head.keywords, [ast.Pass()], head.decorator_list),
        ]
    kept = [each for each in body if not is_stub(each)]
    return {ast.dump(each): ast.unparse(each) for each in kept}
