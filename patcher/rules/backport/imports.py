"""A fix's imports: which of them its functions use, and whether a vLLM has what they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from patcher.rules.backport.scope import IMPORTS, Sides
from patcher.syntax import parse_block

_Import = ast.Import | ast.ImportFrom


def words(text: bytes | None) -> set[str]:
    """Every name in a piece of source, whatever it is used for."""
    return set(re.findall(r"[A-Za-z_]\w*", (text or b"").decode(errors="replace")))


def bound(text: bytes | None) -> set[str]:
    """The names that a piece of source binds: imports, assignments, functions and classes."""
    names = set()
    for node in ast.walk(parse_block(text or b"")):
        if isinstance(node, _Import):
            names |= {_bound(alias) for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


def _bound(alias: ast.alias) -> str:
    return (alias.asname or alias.name).partition(".")[0]


def used(sides: Sequence[Sides]) -> list[Sides]:
    """The scopes with the imports cut down to those that the file's other scopes read.

    The rest of what upstream imports there is for other code, and may not exist in an older vLLM.
    """
    return [_cut(each, sides) if each.scope.name == IMPORTS else each for each in sides]


def _cut(imports: Sides, sides: Sequence[Sides]) -> Sides:
    """The imports without what only other code of upstream's file reads."""
    read = {
        word
        for each in sides
        if each.scope.path == imports.scope.path and each is not imports
        for word in words(each.after)
    }
    there = {ast.dump(node) for node in _single(imports.before)}
    kept = [
        ast.unparse(node)
        for node in _single(imports.after)
        if ast.dump(node) in there or _bound(node.names[0]) in read or _is_of_the_future(node)
    ]
    return replace(imports, after="".join(f"{line}\n" for line in kept).encode())


def _is_of_the_future(node: _Import) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _imports(node: ast.AST) -> Iterator[_Import]:
    """The imports that must not fail: none in a `try`, none that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Import):
            yield child
        elif not (
            isinstance(child, ast.Try)
            or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        ):
            yield from _imports(child)


def _single(text: bytes | None) -> Iterator[_Import]:
    """Each import as one of one name."""
    for node in _imports(parse_block(text or b"")):
        for alias in node.names:
            if isinstance(node, ast.Import):
                yield ast.Import([alias])
            else:
                yield ast.ImportFrom(node.module, [alias], node.level)


def brought(sides: Sides) -> list[_Import]:
    """The imports that only the `after` side has, each of one name."""
    there = {ast.dump(node) for node in _single(sides.before)}
    return [node for node in _single(sides.after) if ast.dump(node) not in there]


def modules(sides: Sequence[Sides]) -> tuple[str, ...]:
    """The files of vLLM that may hold what the fix imports: a module, a package, or one in it."""
    return tuple(
        dict.fromkeys(
            path
            for each in sides
            for node in brought(each)
            for path in _files(node, each.scope.path)
        )
    )


def _files(node: _Import, path: str) -> tuple[str, ...]:
    """Where the name of an import may come from, if that is vLLM itself."""
    name = node.names[0].name
    parts = (
        path.split("/")[: -node.level] if isinstance(node, ast.ImportFrom) and node.level else []
    )
    module = name if isinstance(node, ast.Import) else node.module or ""
    stem = "/".join([*parts, *module.split(".")]).rstrip("/")
    if not f"{stem}/".startswith("vllm/"):
        return ()
    found = (f"{stem}.py", f"{stem}/__init__.py")
    return found if isinstance(node, ast.Import) else (*found, f"{stem}/{name}.py")


def missing(files: Mapping[str, bytes | None], sides: Sequence[Sides]) -> str | None:
    """What the fix imports and this vLLM lacks; None where nothing of that is seen.

    Only of modules that are among the `files`, and where the file says all that it binds.
    """
    for each in sides:
        for node in brought(each):
            paths = [path for path in _files(node, each.scope.path) if path in files]
            name = node.names[0].name
            is_there = any(_offers(path, files[path], node) for path in paths)
            comes = any(
                other.scope.path in paths and name in {other.scope.name, *bound(other.after)}
                for other in sides
            )
            if paths and not is_there and not comes:
                return f"the fix imports {name} from {paths[0]}, and this vLLM has none"
    return None


def unread(files: Mapping[str, bytes | None], moved: Sequence[Sides]) -> str | None:
    """What the fix of a moved file imports relative to where that is, if nobody looked there.

    `from .utils import it` means another module under another path.
    """
    for each in moved:
        for node in brought(each):
            paths = _files(node, each.scope.path)
            if isinstance(node, ast.ImportFrom) and node.level and not files.keys() & set(paths):
                name = node.names[0].name
                return f"the fix imports {name} from {paths[0]}, which is no target of the patch"
    return None


def _offers(path: str, data: bytes | None, node: _Import) -> bool:
    """Whether the file is what an import names, or binds it."""
    name = node.names[0].name
    if data is None or isinstance(node, ast.Import) or path.endswith(f"/{name}.py"):
        return data is not None
    try:
        return bool({name, "*", "__getattr__"} & bound(data))
    except (SyntaxError, ValueError, RecursionError):
        return True  # it cannot be read here; whether it is there, Python says


def not_imported(files: Mapping[str, bytes], sides: Sequence[Sides]) -> str | None:
    """What a fix that is in uses and its file binds nowhere; None where there is nothing.

    Whoever made the fix by hand, and left its import out, has half of it.
    """
    for each in sides:
        if each.scope.name == IMPORTS:
            lost = {_bound(node.names[0]) for node in brought(each)} - bound(files[each.scope.path])
            if lost:
                path = each.scope.path
                return f"half of the fix: {path} does not import {', '.join(sorted(lost))}"
    return None
