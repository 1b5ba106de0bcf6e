"""A Python file cut into scopes by name, line by line.

Every line belongs to one scope: a function with all that is within it (functions of one name that
follow each other, such as overloads, are one), or a class's or module's own lines. In the text of a
class or module each function stands as one line, a stub.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from dataclasses import dataclass, field, replace

from patcher.errors import NotPython
from patcher.rules.backport.scope import IMPORTS, MODULE
from patcher.syntax import first_line, line_end, parse_python

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a function or class stands: lines `first` to `end`, counted from 0, end excluded."""

    name: str
    first: int
    end: int
    is_class: bool
    parent: str

    @property
    def stub(self) -> bytes:
        """The line that stands for it in its parent's text."""
        last = self.name.rpartition(".")[2].encode()
        return b"class " + last + b": ..." if self.is_class else b"def " + last + b"(): ..."


@dataclass(frozen=True, slots=True)
class Item:
    """A line of a class's or module's own text, as it is compared, and the lines it stands for.

    `carried` are lines after it that take no part: imports, and functions that not all sides have.
    """

    key: bytes
    lines: tuple[bytes, ...]
    stands_for: str | None = None
    carried: list[bytes] = field(default_factory=list, compare=False)

    @property
    def whole(self) -> tuple[bytes, ...]:
        """All its lines of the file."""
        return (*self.lines, *self.carried)


class Cut:
    """A file's lines and scopes. Raises `NotPython` for bytes that are not source."""

    def __init__(self, source: bytes) -> None:
        self.lines = source.splitlines(keepends=True)
        self.spans: dict[str, list[Span]] = {}
        self.imports: list[ast.Import | ast.ImportFrom] = []
        try:
            tree = parse_python(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise NotPython(
                f"it is not Python source: {error}", next_step="Check the file."
            ) from error
        self._collect(tree.body, MODULE)
        self.first_statement = _first_statement(tree)
        self.imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]

    def _collect(self, body: list[ast.stmt], parent: str) -> None:
        """Note where each function and class is, those in classes and blocks too."""
        before: Span | None = None
        for node in body:
            if isinstance(node, _DEFINITIONS):
                name = node.name if parent == MODULE else f"{parent}.{node.name}"
                first = first_line(node) - 1
                is_class = isinstance(node, ast.ClassDef)
                span = Span(name, first, node.end_lineno or node.lineno, is_class, parent)
                there = self.spans.setdefault(name, [])
                if before is not None and before.name == name and not (is_class or before.is_class):
                    # Overloads, or a property and its setter: one after the other they are one.
                    span = replace(before, end=span.end)
                    there.pop()
                there.append(span)
                before = span
                if is_class:
                    self._collect(node.body, name)
            else:
                before = None
                for block in _blocks(node):
                    self._collect(block, parent)

    @property
    def newline(self) -> bytes:
        """What ends the file's lines."""
        return line_end(self.lines)

    def children(self, parent: str) -> list[Span]:
        """The functions and classes directly within a class or module, in file order."""
        return self._by_parent.get(parent, [])

    @functools.cached_property
    def _by_parent(self) -> dict[str, list[Span]]:
        """Parent -> its spans. Looked through for each scope, 2,000 scopes took most of 3 s."""
        found: dict[str, list[Span]] = {}
        spans = (span for spans in self.spans.values() for span in spans)
        for span in sorted(spans, key=lambda span: span.first):
            found.setdefault(span.parent, []).append(span)
        return found

    def text(self, name: str, *, whole: bool = False) -> bytes | None:
        """A scope's text; None where the file has none, or several, of that name.

        A class's is that of its own lines, unless the `whole` of it is wanted.
        """
        if name == IMPORTS:
            return b"".join(ast.unparse(node).encode() + b"\n" for node in self.imports)
        spans = self.spans.get(name, [])
        if name != MODULE and len(spans) != 1:
            return None
        if name != MODULE and (whole or not spans[0].is_class):
            return b"".join(self.lines[spans[0].first : spans[0].end])
        return b"".join(item.key + b"\n" for item in self.items(name))

    def items(self, name: str, dropped: frozenset[bytes] = frozenset()) -> list[Item]:
        """A class's or module's own lines in order, each function or class within as its stub.

        Imports, and stubs that are `dropped`, are carried by the item before them.
        """
        first, end = 0, len(self.lines)
        if name != MODULE:
            first, end = self.spans[name][0].first, self.spans[name][0].end
        carried: dict[int, tuple[int, Span | None]] = {
            span.first: (span.end, span) for span in self.children(name)
        }
        if name == MODULE:
            carried |= {
                node.lineno - 1: (node.end_lineno or node.lineno, None) for node in self.imports
            }
        items, line = [Item(b"", ())], first
        while line < end:
            until, span = carried.get(line, (line + 1, None))
            part = tuple(self.lines[line:until])
            indent = part[0][: len(part[0]) - len(part[0].lstrip(b" \t"))]
            if line not in carried:
                items.append(Item(part[0].rstrip(b"\r\n"), part))
            elif span is None or indent + span.stub in dropped:
                items[-1].carried.extend(part)
            else:
                items.append(Item(indent + span.stub, part, span.name))
            line = until
        return items


def _first_statement(tree: ast.Module) -> int:
    """The line of a module's first statement, after its docstring."""
    docstring = ast.get_docstring(tree, clean=False) is not None
    for node in tree.body[docstring:]:
        return first_line(node) - 1
    return tree.body[0].end_lineno or 0 if tree.body else 0


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """The blocks of statements directly within a compound statement that is not a definition."""
    blocks = []
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            blocks.append(block)
    for name in ("handlers", "cases"):
        blocks += [inner.body for inner in getattr(node, name, [])]
    return blocks


def sha256(text: bytes | None) -> str | None:
    """A scope's digest as a patch states it; line ends do not count."""
    if text is None:
        return None
    return hashlib.sha256(b"\n".join(keys_of(text))).hexdigest()


def keys_of(text: bytes | None) -> list[bytes]:
    """Lines as they are compared: without their ends."""
    return [line.rstrip(b"\r\n") for line in (text or b"").splitlines(keepends=True)]
