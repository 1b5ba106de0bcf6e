"""Other files than the merged one: what a proof has to catch."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from difflib import SequenceMatcher

KINDS = ("more", "less", "moved", "changed", "neighbour", "other class")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def mutants(
    original: bytes, result: bytes, seed: random.Random, count: int
) -> list[tuple[str, bytes]]:
    """A statement more, less, moved, changed; the fix in the function beside, or in the method of
    that name in another class. Each has another syntax tree than the result.
    """
    tree = ast.parse(result)
    wanted = ast.dump(tree)
    found: list[tuple[str, bytes]] = []
    kinds = _Kinds(original, result, tree, seed)
    for attempt in range(count * 20):
        kind = KINDS[attempt % len(KINDS)]
        text = kinds.make(kind)
        if _parses_otherwise(text, wanted):
            found.append((kind, text))
        if len(found) == count:
            break
    return found


def _parses_otherwise(text: bytes, wanted: str) -> bool:
    try:
        return ast.dump(ast.parse(text)) != wanted
    except SyntaxError:
        return False


class _Kinds:
    """The mutations of one merged file."""

    def __init__(
        self, original: bytes, result: bytes, tree: ast.Module, seed: random.Random
    ) -> None:
        self.seed = seed
        self.old, self.lines = (
            each.decode().splitlines(keepends=True) for each in (original, result)
        )
        self.statements = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt)
            and not isinstance(getattr(node, "value", None), ast.Constant)
        ]
        self.functions = dict(_functions(tree))
        self.before = dict(_functions(ast.parse(original)))
        codes = SequenceMatcher(None, self.old, self.lines, autojunk=False).get_opcodes()
        came = {line for tag, _, _, c, d in codes if tag != "equal" for line in range(c + 1, d + 1)}
        self.fixes = [each for each in self.statements if each.lineno in came]

    def make(self, kind: str) -> bytes:
        node = self.seed.choice(self.statements)
        # Half of them at the fix itself, where a proof is most easily fooled.
        if self.fixes and self.seed.random() < 0.5:
            node = self.seed.choice(self.fixes)
        first, end = node.lineno - 1, node.end_lineno or 0
        indent = " " * node.col_offset
        new = list(self.lines)
        if kind == "more":
            new[first:first] = [f"{indent}surplus = None\n"]
        elif kind == "less":
            new[first:end] = [f"{indent}pass\n"]
        elif kind == "moved":
            new = self._moved(node, self.seed.choice(self.statements))
        elif kind == "changed":
            old = self.seed.choice(("self", "4", "not ", " and ", "True", "==", "1"))
            swap = {"self": "target", "not ": "", " and ": " or ", "True": "False", "==": "!="}
            new[first] = new[first].replace(old, swap.get(old, "7"), 1)
        elif kind == "neighbour" and self.fixes:
            node = self.seed.choice(self.fixes)
            elsewhere = [
                function.body[-1]
                for function in self.functions.values()
                if not function.lineno <= node.lineno <= (function.end_lineno or 0)
            ]
            if elsewhere:
                new = self._moved(node, self.seed.choice(elsewhere))
        elif kind == "other class":
            new = self._other_class()
        return "".join(new).encode()

    def _moved(self, node: ast.stmt, other: ast.stmt) -> list[str]:
        """A statement taken away and put before another one, with its indentation."""
        new = list(self.lines)
        first, end = node.lineno - 1, node.end_lineno or 0
        taken = new[first:end]
        shift = other.col_offset - node.col_offset
        moved = [" " * shift + line if shift >= 0 else line[-shift:] for line in taken]
        new[first:end] = [" " * node.col_offset + "pass\n"] * len(taken)
        new[other.lineno - 1 : other.lineno - 1] = moved
        return new

    def _other_class(self) -> list[str]:
        """A fixed method put in the place of its namesake, and taken from where it belongs."""
        pairs = [
            (name, other)
            for name, function in self.functions.items()
            for other in self.functions
            if name != other
            and name.rpartition(".")[2] == other.rpartition(".")[2]
            and name in self.before
            and any(
                function.lineno <= each.lineno <= (function.end_lineno or 0) for each in self.fixes
            )
        ]
        if not pairs:
            return self.lines
        name, other = self.seed.choice(pairs)
        right, wrong, was = self.functions[name], self.functions[other], self.before[name]
        swaps = [
            (right, self.old[was.lineno - 1 : was.end_lineno]),
            (wrong, self.lines[right.lineno - 1 : right.end_lineno]),
        ]
        new = list(self.lines)
        for node, text in sorted(swaps, key=lambda swap: swap[0].lineno, reverse=True):
            new[node.lineno - 1 : node.end_lineno] = text
        return new


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, _Function):
            yield prefix + node.name, node
