"""A backport drafted: of a diff that fits a release, or of functions in two releases."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, RewriteRefused, Unreadable, UsageError
from patcher.rules.backport.changed import changed_scopes, read_sides
from patcher.rules.backport.imports import bound, brought, modules, used, words
from patcher.rules.backport.scope import IMPORTS, MODULE, Sides

if TYPE_CHECKING:
    from patcher.rules.rule import Upstream

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@")
# Names a file that no hunk need follow for: a rename, an empty one, one that is not text.
_HEADER = re.compile(r"diff --git a/(\S+) b/(\S+)\s*")
# What a file's header says of the whole file, where hunks do not tell all.
_WHOLE = ("Binary files ", "GIT binary patch", "rename from ", "copy from ", "deleted file mode ")
_COMPILED = (".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".rs")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a patch is to change, and what was left out of it, with the reason.

    `before` and `after` are the releases that the functions are read from; empty where they are
    a diff's, which the patch then carries in a file of its own. `imported` are the files that hold
    what the fix imports: whether a vLLM has it is asked of them.
    """

    sides: tuple[Sides, ...]
    dropped: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    imported: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The files that are read: those that change, in their order, and `imported`."""
        return tuple(dict.fromkeys([*self.changed, *self.imported]))

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that the fix changes."""
        return tuple(dict.fromkeys(each.scope.path for each in self.sides))


def of_releases(functions: Sequence[str], before: str, after: str, upstream: Upstream) -> Draft:
    """A draft of functions, each `FILE:NAME`, as two releases have them.

    Raises `UsageError` for one that neither changed nor is there, `Unreadable`.
    """
    found = []
    for each in functions:
        path, colon, name = each.rpartition(":")
        if not (path and colon and name):
            raise UsageError(f"{each!r} is no FILE:NAME", next_step="vllm/a/b.py:Class.method")
        files = [_file(upstream, version, path) for version in (before, after)]
        sides = read_sides(path, name, *files)
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
    taken = _with_imports(found, before, after, upstream)
    return Draft(taken, (), before, after, _imported(taken, after, upstream))


def _with_imports(
    functions: list[Sides], before: str, after: str, upstream: Upstream
) -> tuple[Sides, ...]:
    """The functions, and the imports of their files that they need."""
    taken: list[Sides] = []
    for path in dict.fromkeys(each.scope.path for each in functions):
        files = [_file(upstream, version, path) for version in (before, after)]
        own = [each for each in functions if each.scope.path == path]
        imports = read_sides(path, IMPORTS, *files)
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

    Only Python below vllm/ is taken. Raises `RewriteRefused` for what cannot be taken by half,
    `Unreadable` for a diff that is none or does not fit.
    """
    sides: list[Sides] = []
    dropped: list[str] = []
    for path, hunks in _files(diff).items():
        if _is_compiled(path):
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
        else:
            before = _file(upstream, version, path)
            if before is None:
                raise RewriteRefused(
                    f"vLLM {version} has no {path}",
                    next_step="A whole file is not taken back. Name a release that has it.",
                )
            own, left = _chosen(path, before, _applied(path, before, hunks, version))
            sides += own
            dropped += left
    if not sides:
        raise Unreadable(
            "no function of vllm/ changes in the diff",
            next_step="Give the diff of a pull request: https://github.com/.../pull/N.diff.",
        )
    imported = _imported(sides, version, upstream)
    return Draft(tuple(sides), tuple(dropped), imported=imported)


def _is_compiled(path: str) -> bool:
    return path.startswith("csrc/") or path.endswith(_COMPILED)


def _file(upstream: Upstream, version: str, path: str) -> bytes | None:
    try:
        return upstream.read(version, path)
    except FileAbsent:
        return None


@dataclass(frozen=True, slots=True)
class _Hunk:
    line: int
    before: list[str]
    after: list[str]


def _files(diff: str) -> dict[str, list[_Hunk]]:
    """The hunks of each file. Raises `Unreadable`."""
    found: dict[str, list[_Hunk]] = {}
    old = path = ""
    lines = diff.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if header := _HEADER.fullmatch(line):
            path = header[2]
            found.setdefault(path, [])
        elif line.startswith(_WHOLE) and (path.startswith("vllm/") or _is_compiled(path)):
            raise RewriteRefused(
                f"{path} is moved, taken away, or not text: that is not taken back",
                next_step="Give the diff without it, if the fix does not need it.",
            )
        elif line.startswith("--- "):
            old = line[4:].split("\t")[0].strip().removeprefix("a/")
        elif line.startswith("+++ "):
            path = line[4:].split("\t")[0].strip().removeprefix("b/")
            path = old if path == "/dev/null" else path
            found.setdefault(path, [])
        elif hunk := _HUNK.match(line):
            if not path:
                raise _no_diff(at, "a hunk before the name of its file")
            sizes = [int(count if count is not None else 1) for count in hunk.group(2, 3)]
            sides: tuple[list[str], list[str]] = ([], [])
            while at < len(lines) and (len(sides[0]) < sizes[0] or len(sides[1]) < sizes[1]):
                mark, text = lines[at][:1], lines[at][1:] or "\n"
                at += 1
                if mark not in (" ", "-", "+", "\n", "\r", "\\"):
                    raise _no_diff(at, "a line that is none of a hunk's")
                if mark in (" ", "-", "\n", "\r"):
                    sides[0].append(text)
                if mark in (" ", "+", "\n", "\r"):
                    sides[1].append(text)
            if [len(side) for side in sides] != sizes:
                raise _no_diff(at, "its last hunk is not whole")
            found[path].append(_Hunk(int(hunk[1]), *sides))
    if not found:
        raise _no_diff(1, "it names no file")
    return found


def _no_diff(line: int, problem: str) -> Unreadable:
    return Unreadable(
        f"the diff, line {line}: {problem}", next_step="Give a unified diff, as git diff writes it."
    )


def _applied(path: str, source: bytes, hunks: Sequence[_Hunk], version: str) -> bytes:
    """The file with the hunks made, each where its lines stand, and nowhere else."""
    lines = source.decode().splitlines(keepends=True)
    done: list[str] = []
    at = 0
    for hunk in hunks:
        places = _places(lines, hunk.before, at)
        if len(places) != 1:
            there = bool(_places(lines, hunk.after, at))
            said = "is there already" if there else "does not fit" if not places else "fits twice"
            raise Unreadable(
                f"{path} of vLLM {version}: the hunk of line {hunk.line} {said}",
                next_step="Name another release with --from; or, once a release has the fix, "
                "--before, --after and --function.",
            )
        done += [*lines[at : places[0]], *hunk.after]
        at = places[0] + len(hunk.before)
    return "".join([*done, *lines[at:]]).encode()


def _places(lines: list[str], wanted: list[str], start: int) -> list[int]:
    size = len(wanted)
    return [at for at in range(start, len(lines) - size + 1) if lines[at : at + size] == wanted]


def _chosen(path: str, before: bytes, after: bytes) -> tuple[list[Sides], list[str]]:
    """The functions that change, and what is left out. Raises `RewriteRefused`."""
    changed = changed_scopes(path, before, after)
    functions = [each for each in changed if _is_function(each)]
    read = {word for each in functions for word in words(each.after)}
    taken: list[Sides] = []
    dropped: list[str] = []
    for each in changed:
        if each in functions:
            continue
        new = _new_names(each) & read
        if new and each.scope.name == IMPORTS:
            taken.append(_alone(each, functions))
            continue
        if new and functions:
            raise RewriteRefused(
                f"{functions[0].scope} uses {', '.join(sorted(new))}, which comes with "
                f"the {_kind(each)}",
                next_step="Write it into the function in a diff of your own; or, once a release "
                "has the fix, name --before, --after and --function.",
            )
        dropped.append(f"{path}: {_kind(each)}: nothing that is taken uses it")
    return [*taken, *functions], dropped


def _alone(imports: Sides, functions: Sequence[Sides]) -> Sides:
    """Imports without what nothing uses, and without those that are not new."""
    (cut,) = (each for each in used([imports, *functions]) if each.scope.name == IMPORTS)
    text = "".join(f"{ast.unparse(node)}\n" for node in brought(cut)).encode()
    return replace(cut, before=b"", after=text)


def _is_function(sides: Sides) -> bool:
    if sides.scope.name in (IMPORTS, MODULE):
        return False
    text = (sides.after or sides.before or b"").decode()
    return re.match(r"\s*(?:@|async def |def )", text) is not None and "class " not in text[:6]


def _kind(sides: Sides) -> str:
    name = sides.scope.name
    return {IMPORTS: "imports", MODULE: "module's own lines"}.get(name, f"lines of {name}")


def _new_names(sides: Sides) -> set[str]:
    """The names that only the new side binds."""
    return bound(sides.after) - bound(sides.before)


def whole_diff(draft: Draft) -> str:
    """The draft's functions as a diff whose context is the whole function."""
    text: list[str] = []
    for path in draft.changed:
        text += [f"--- a/{path}\n", f"+++ b/{path}\n"]
        for each in draft.sides:
            if each.scope.path == path:
                old, new = (
                    (side or b"").decode().splitlines(keepends=True)
                    for side in (each.before, each.after)
                )
                heading = f"@@ -1,{len(old)} +1,{len(new)} @@ {each.scope.name}\n"
                lines = difflib.unified_diff(old, new, n=len(old) + len(new))
                text += [heading, *list(lines)[3:]]
    return "".join(text)


def patch_file(
    name: str, draft: Draft, affected: Sequence[str], number: int | None, diff: str = ""
) -> str:
    """The patch's file; `diff` is the name of the file beside it, where there is one."""
    imports = ["from patcher.rules.backport.rule import Backport"]
    if diff:
        rule = [f'    rule=Backport(diff=(Path(__file__).parent / "{diff}").read_text("utf-8")),']
    else:
        imports.append("from patcher.rules.backport.scope import Scope")
        rule = ["    rule=Backport(", f'        before="{draft.before}",']
        rule += [f'        after="{draft.after}",', "        scopes=("]
        for each in draft.sides:
            scope = each.scope
            rule += ["            Scope(", f'                "{scope.path}",']
            rule += [f'                "{scope.name}",']
            rule += [
                f'                {side}="{digest}",'
                for side, digest in (("before", scope.before), ("after", scope.after))
                if digest is not None
            ]
            rule.append("            ),")
        rule += ["        ),", "    ),"]
    upstream = f'(({number}, "fix"),)' if number else "()"
    return "\n".join(
        [
            f'"""Upstream\'s fix of {draft.sides[0].scope.name}."""',
            "",
            "from __future__ import annotations",
            "",
            *(["from pathlib import Path", ""] if diff else []),
            *imports,
            "from patcher.rules.patch import Patch",
            "",
            "PATCH = Patch(",
            f'    name="{name}",',
            "    version=1,",
            f'    title="upstream\'s fix of {draft.sides[0].scope.name}",',
            '    why="Say what fails, where, and how it is seen.",',
            *_tuple("targets", draft.targets),
            *rule,
            f"    upstream={upstream},",
            *_tuple("affected", affected),
            ")",
            "",
        ]
    )


def _tuple(field: str, texts: Sequence[str]) -> list[str]:
    if len(texts) == 1:
        return [f'    {field}=("{texts[0]}",),']
    return [f"    {field}=(", *(f'        "{each}",' for each in texts), "    ),"]
