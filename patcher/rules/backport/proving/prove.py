"""The proof of a merged file, on every run, by syntax alone.

1. Outside the named scopes every byte is the original's, and nothing moved.
2. In each scope exactly the statements came and went that differ between the two sides.
3. Every name that the new statements read is defined, and before it is read.
4. `compile` accepts it.

Comments, docstrings and blank lines within a scope are not statements; each of the result's lines
there must be the original's or the fix's.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from patcher.rules.backport.proving.account import Account, failed
from patcher.rules.backport.proving.names import check_names
from patcher.rules.backport.scope import IMPORTS, MODULE, Sides
from patcher.syntax import (
    Definition,
    compile_python,
    definitions,
    first_line,
    is_string,
    line_end,
    parse_block,
    parse_python,
    tree_of,
)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def prove(original: bytes, result: bytes, sides: Sequence[Sides]) -> None:
    """Return when all four hold for one file. Raises `ProofFailed`, saying what does not."""
    try:
        old, new = tree_of(original), tree_of(result)
        compile_python(result)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise failed(f"Python does not compile the result: {error}") from error
    named = {each.scope.name: each for each in sides}
    _check_outside(original, result, old, new, named)
    # Named once: to look through the file for each of 400 functions took a quarter of the time.
    scopes = _scopes(old), _scopes(new)
    for each in sides:
        _check_scope(each, *scopes)
    _check_lines(original, result, sides)
    check_names((original, old), (result, new), sides)


# ---- 1. outside the scopes


def _check_outside(
    original: bytes, result: bytes, old: ast.Module, new: ast.Module, named: dict[str, Sides]
) -> None:
    """Every line that no named scope owns is there, in the same order, and no other."""
    before, after = (
        list(_outside(data, tree, named)) for data, tree in ((original, old), (result, new))
    )
    comes_or_goes = any(each.before is None or each.after is None for each in named.values())
    if comes_or_goes:
        # A function brings its blank lines or takes them along; they are its parent's.
        before, after = ([line for line in lines if line[1].strip()] for lines in (before, after))
    for one, other in zip(before, after, strict=False):
        if one != other:
            raise failed(f"outside the fix's functions, {other[1][:80]!r} in {other[0]} changed")
    if len(before) != len(after):
        raise failed("outside the fix's functions, lines came or went")
    if original.endswith((b"\n", b"\r")) != result.endswith((b"\n", b"\r")):
        raise failed("the end of the last line came or went")


def _outside(data: bytes, tree: ast.Module, named: dict[str, Sides]) -> Iterator[tuple[str, bytes]]:
    """Each line with its owner's name, without the lines that named scopes own."""
    lines = data.splitlines(keepends=True)
    owners = [MODULE] * len(lines)
    for name, node in definitions(tree):
        first = first_line(node) - 1
        owners[first : node.end_lineno] = [name] * ((node.end_lineno or 0) - first)
    imports = {
        line
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno - 1, node.end_lineno or 0)
    }
    for at, (owner, line) in enumerate(zip(owners, lines, strict=True)):
        if at in imports:
            if IMPORTS not in named:
                yield IMPORTS, line
        elif owner not in named and not _within_whole(owner, named):
            # The last line has an end where another comes behind it.
            yield owner, line if line.endswith((b"\n", b"\r")) else line + line_end(lines)


def _within_whole(owner: str, named: dict[str, Sides]) -> bool:
    """Whether a function is in a class that comes or goes as a whole."""
    parts = owner.split(".")
    above = (named.get(".".join(parts[:count])) for count in range(1, len(parts)))
    return any(each and (each.before is None or each.after is None) for each in above)


# ---- 2. the scopes


@dataclass(frozen=True, slots=True)
class _Scopes:
    """A file's tree, and its functions and classes by name."""

    tree: ast.Module
    named: Mapping[str, Sequence[Definition]]


def _scopes(tree: ast.Module) -> _Scopes:
    named: dict[str, list[Definition]] = {}
    for name, node in definitions(tree):
        named.setdefault(name, []).append(node)
    return _Scopes(tree, named)


def _check_scope(sides: Sides, old: _Scopes, new: _Scopes) -> None:
    """Raise `ProofFailed` unless a scope changed by just what the fix brings and takes."""
    name = sides.scope.name
    if name == IMPORTS:
        _check_imports(sides, old.tree, new.tree)
        return
    before, after = _side(sides.before), _side(sides.after)
    original, result = _find(old, name), _find(new, name)
    if before is None and after is None:
        raise failed(f"the fix's own files have several {name}")
    if before is None or after is None:
        if original is not None and before is None:
            raise failed(f"{name} was there already")
        if not _equal(original, before) or not _equal(result, after):
            raise failed(f"{name} is not what the fix brings or takes away")
        return
    if original is None or result is None:
        raise failed(f"there is no one {name}")
    four: list[ast.AST] = [before, after, original, result]
    if name != MODULE and any(isinstance(each, ast.Module) for each in four):
        # Several functions of one name that follow each other, on one of the four at least.
        four = [each if isinstance(each, ast.Module) else _module(each) for each in four]
    elif not isinstance(before, _Function):
        lone = _lone_children(before, after, original, result)
        four = [_own(each, lone) for each in four]
    problem = Account().problem(*map(_silent, four))
    if problem is not None:
        raise failed(f"in {name}, {problem}")


def _module(node: ast.AST) -> ast.Module:
    """A function as the only one of its name."""
    if not isinstance(node, _Function):
        raise failed("a class and functions have one name")
    return ast.Module([node], [])


def _side(text: bytes | None) -> ast.AST | None:
    """The tree of a side's text: a definition's own, or one of several statements."""
    if text is None:
        return None
    tree = parse_block(text)
    if len(tree.body) == 1 and isinstance(tree.body[0], Definition):
        return tree.body[0]
    return tree


def _find(file: _Scopes, name: str) -> ast.AST | None:
    """A scope in a file: its definition, several that follow each other, or the file itself."""
    if name == MODULE:
        return file.tree
    found = file.named.get(name, ())
    if len(found) > 1:
        if not _follow_each_other(file.tree, found):
            raise failed(f"there are several {name}")
        return ast.Module(list(found), [])
    return found[0] if found else None


def _follow_each_other(tree: ast.Module, functions: Sequence[Definition]) -> bool:
    """Whether they are one statement after the other of one block: overloads, a property."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and functions[0] in body:
            at = body.index(functions[0])
            return body[at : at + len(functions)] == list(functions)
    return False


def _equal(one: ast.AST | None, other: ast.AST | None) -> bool:
    if one is None or other is None:
        return one is other
    return ast.dump(_silent(one)) == ast.dump(_silent(other))


def _lone_children(*nodes: ast.AST) -> set[str]:
    """Names of functions and classes that not all of the trees have."""
    names = [{name for name, _ in definitions(node) if "." not in name} for node in nodes]
    everywhere = names[0].intersection(*names[1:])
    return names[0].union(*names[1:]) - everywhere


def _own(node: ast.AST, lone: set[str]) -> ast.AST:
    """A class or module with each function or class in it as a stub, without `lone` ones."""

    class Stubs(ast.NodeTransformer):
        def visit_FunctionDef(self, node: Definition) -> ast.AST | None:
            if node.name in lone:
                return None
            return ast.ClassDef(node.name, [], [], [ast.Pass()], [])

        visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    copied = copy.deepcopy(node)
    if isinstance(copied, ast.Module):
        copied.body = [
            each for each in copied.body if not isinstance(each, ast.Import | ast.ImportFrom)
        ]
    return Stubs().generic_visit(copied)


def _silent(node: ast.AST) -> ast.AST:
    """A copy of a tree without docstrings. To change one that `copy` made took twice as long."""
    copied = type(node).__new__(type(node))
    for name, value in vars(node).items():
        if isinstance(value, list):
            kept = (each for each in value if name != "body" or not is_string(each))
            value = [_silent(each) if isinstance(each, ast.AST) else each for each in kept]
        elif isinstance(value, ast.AST):
            value = _silent(value)
        setattr(copied, name, value)
    return copied


def _check_imports(sides: Sides, old: ast.Module, new: ast.Module) -> None:
    """Raise `ProofFailed` unless imports only came, as the fix has them, and hold to the end."""
    before, after = (_imported(parse_python(text or b"")) for text in (sides.before, sides.after))
    original, result = _imported(old), _imported(new)
    if not original <= result:
        raise failed(f"an import went: {min(original - result)}")
    if not result - original <= after - before:
        raise failed(f"an import came that is not the fix's: {min(result - original)}")
    for name, key in _last_bound(new).items():
        came = {each for each in result - original if (each[2] or each[1]) == name}
        if came and key not in came:
            raise failed(f"{name} is bound anew below the fix's import of it")


def _last_bound(tree: ast.Module) -> dict[str, tuple[str, str, str] | None]:
    """What binds each name last of a module's imports, functions and classes; None: no import."""
    found: dict[str, tuple[str, str, str] | None] = {}
    for node in tree.body:
        if isinstance(node, Definition):
            found[node.name] = None
        for key in _imported(ast.Module([node], [])):
            found[key[2] or key[1]] = key
    return found


def _imported(tree: ast.Module) -> set[tuple[str, str, str]]:
    """A module's imports, each as module, name and the name that it gets, where that is another."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {("", alias.name, alias.asname or "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {(module, alias.name, alias.asname or "") for alias in node.names}
    return found


def _check_lines(original: bytes, result: bytes, sides: Sequence[Sides]) -> None:
    """No line is of the merge's own making, but for imports."""
    known = {line.rstrip(b"\r\n") for line in original.splitlines()}
    for each in sides:
        known |= {line.rstrip(b"\r\n") for line in (each.after or b"").splitlines()}
    for at, line in enumerate(result.splitlines(), 1):
        if line not in known and not line.startswith((b"from ", b"import ")):
            raise failed(f"line {at} is neither the file's nor the fix's: {line[:80]!r}")
