"""Whether the merged file defines what its new statements read, and early enough."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Sequence

from patcher.rules.backport.proving.account import failed
from patcher.rules.backport.scope import Sides

_Read = tuple[bytes, ast.Module]


def check_names(old: _Read, new: _Read, sides: Sequence[Sides]) -> None:
    """Nothing is read that the fix's file defines and this one does not."""
    # Each walk over a file of 300 KB takes a quarter of a second.
    before, after = (list(ast.walk(tree)) for _, tree in (old, new))
    missing = _unbound(new[0], after) - _unbound(old[0], before)
    if missing:
        raise failed(f"{', '.join(sorted(missing))} is not defined in this file")
    early = _read_early(new[1]) - _read_early(old[1])
    if early:
        raise failed(f"{min(early)} is read before it is defined")
    if _late_fields(after) > _late_fields(before):
        raise failed("a field without a default comes after one that has one")
    defined = frozenset().union(*(each.defined for each in sides))
    here, used, used_before = _defined(after), _attributes(after), _attributes(before)
    lost = (used - used_before) & defined - here
    if lost:
        raise failed(f"{', '.join(sorted(lost))} is what only the fixed version's file defines")


def _unbound(source: bytes, nodes: Iterable[ast.AST]) -> set[str]:
    """Names that some function or the module reads and that nothing binds."""
    import symtable

    bound = set(dir(builtins)) | {"__file__", "__name__", "__path__", "__class__", "__spec__"}
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.Import() | ast.ImportFrom():
                bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    table = symtable.symtable(source, "<file>", "exec")  # type: ignore[arg-type]
    bound |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
    if "*" in bound:
        return set()
    found: set[str] = set()
    pending = [table]
    while pending:
        scope = pending.pop()
        pending += scope.get_children()
        found |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
        if scope is table:
            found |= {s.get_name() for s in scope.get_symbols() if s.is_referenced()}
        bound |= {s.get_name() for s in scope.get_symbols() if s.is_declared_global()}
    return found - bound


def _read_early(tree: ast.Module) -> set[str]:
    """Names that the module reads while it is imported, before the statement that binds them."""
    reader = _Reader(tree)
    reader.visit(tree)
    return reader.early


class _Reader(ast.NodeVisitor):
    """Goes through a module in the order in which Python runs it; bodies of functions run later."""

    def __init__(self, tree: ast.Module) -> None:
        self.early: set[str] = set()
        self.read: set[str] = set()  # of what is bound later, if it is
        self.bound: list[set[str]] = [set()]  # the module's, then those of the classes around
        self.is_deferred = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(alias.name == "annotations" for alias in node.names)
            for node in tree.body
        )

    def bind(self, name: str) -> None:
        if len(self.bound) == 1 and name in self.read and name not in self.bound[0]:
            self.early.add(name)
        self.bound[-1].add(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bind(node.id)
        elif not any(node.id in names for names in self.bound):
            self.read.add(node.id)

    def _annotation(self, node: ast.expr | None) -> None:
        if node is not None and not self.is_deferred:
            self.visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        for each in [*node.decorator_list, *arguments.defaults, *arguments.kw_defaults]:
            if each is not None:
                self.visit(each)
        for arg in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            self._annotation(arg.annotation)
        self._annotation(node.returns)
        self.bind(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for each in [*node.args.defaults, *node.args.kw_defaults]:
            if each is not None:
                self.visit(each)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for each in [*node.decorator_list, *node.bases, *(word.value for word in node.keywords)]:
            self.visit(each)
        self.bound.append(set())
        for statement in node.body:
            self.visit(statement)
        self.bound.pop()
        self.bind(node.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        for each in [node.iter, node.target, *node.body, *node.orelse]:
            self.visit(each)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            self.bind((alias.asname or alias.name).partition(".")[0])

    visit_ImportFrom = visit_Import


def _late_fields(nodes: Iterable[ast.AST]) -> int:
    """How many fields of dataclasses have no default, and come after one that has one."""
    return sum(
        any(before.value is not None for before in fields[:at])
        for node in nodes
        if isinstance(node, ast.ClassDef) and _is_dataclass(node)
        for fields in [[each for each in node.body if isinstance(each, ast.AnnAssign)]]
        for at, field in enumerate(fields)
        if field.value is None
    )


def _is_dataclass(node: ast.ClassDef) -> bool:
    around = " ".join(ast.unparse(each) for each in [*node.decorator_list, *node.bases])
    return "dataclass" in around or "NamedTuple" in around


def _defined(nodes: Iterable[ast.AST]) -> set[str]:
    """The functions, classes, fields and attributes of self that a file defines."""
    names = set()
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Attribute(ctx=ast.Store(), value=ast.Name(id="self")):
                names.add(node.attr)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def _attributes(nodes: Iterable[ast.AST]) -> set[str]:
    """Attributes of self that are read."""
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
