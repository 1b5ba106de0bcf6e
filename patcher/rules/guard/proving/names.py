"""What a module's names can be relied upon to mean."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# Builtins that cannot delete or replace a layer's attribute. Any other call may.
HARMLESS = frozenset({"callable", "getattr", "hasattr", "id", "isinstance", "range"})


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """`bound`: every name that the module binds anywhere, in any scope. `shared`: names declared
    global or nonlocal, which a call can rebind. `suppressors`: dotted names that are
    contextlib.suppress and nothing else. `star`: a star import may have bound any name.
    """

    bound: frozenset[str]
    shared: frozenset[str]
    suppressors: frozenset[str]
    star: bool

    def is_builtin(self, node: ast.expr, name: str) -> bool:
        """Whether the expression is the builtin of that name, and not a name that hides it."""
        return isinstance(node, ast.Name) and node.id == name and self._untouched(name)

    def is_harmless(self, node: ast.expr) -> bool:
        """Whether calling the expression leaves every layer as it is."""
        return isinstance(node, ast.Name) and node.id in HARMLESS and self._untouched(node.id)

    def is_suppress(self, node: ast.expr) -> bool:
        """Whether the expression is contextlib.suppress."""
        return not self.star and ast.unparse(node) in self.suppressors

    def exceptions(self, node: ast.expr | None) -> Iterator[type | None]:
        """The builtin classes that an `except` names; None for one that cannot be told."""
        if node is None:
            yield BaseException
        elif isinstance(node, ast.Tuple):
            for element in node.elts:
                yield from self.exceptions(element)
        elif isinstance(node, ast.Name) and self._untouched(node.id):
            found = getattr(builtins, node.id, None)
            yield found if isinstance(found, type) else None
        else:
            yield None

    def _untouched(self, name: str) -> bool:
        return name not in self.bound and not self.star


def scan(nodes: list[ast.AST]) -> ModuleNames:
    """Read what a module, given as all its nodes, does to its names."""
    # Most of a module's nodes bind nothing, and are known by their type.
    binding = [node for node in nodes if not isinstance(node, ast.Attribute | ast.Call)]
    bound = Counter(name for node in binding for name in bound_by(node))
    shared = {
        name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names
    }
    star = any(isinstance(node, ast.alias) and node.name == "*" for node in nodes)
    return ModuleNames(frozenset(bound), frozenset(shared), _suppressors(nodes, bound), star)


def bound_by(node: ast.AST) -> Iterator[str]:
    """The names that this one node, without its children, binds or deletes."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=asname):
            yield asname or name.partition(".")[0]
        case ast.MatchMapping(rest=str(name)):
            yield name
        case _:
            # def, class, except ... as, match captures and, from 3.12 on, type parameters
            named = getattr(node, "name", None)
            if isinstance(named, str):
                yield named


def _suppressors(nodes: list[ast.AST], bound: Counter[str]) -> frozenset[str]:
    """Names bound once, by an import of contextlib.suppress or of contextlib."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "contextlib" and not node.level:
            for alias in node.names:
                if alias.name == "suppress":
                    found.add(alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "contextlib":
                    found.add(f"{alias.asname or alias.name}.suppress")
    return frozenset(name for name in found if bound[name.partition(".")[0]] == 1)
