"""The proof that a rewritten file must pass before it is written anywhere, on every run.

1. Outside the recorded edits every byte is the original's.
2. With each rewritten node put back, its syntax tree is the original's.
3. The verifier finds no unguarded read.
4. `compile` accepts it.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field

from patcher.errors import RewriteRefused
from patcher.rules.guard.chain import Chain
from patcher.rules.guard.proving.verify import verify
from patcher.rules.rule import Rewritten, check_bytes, check_compiles, proof_failed
from patcher.syntax import parse_python


def prove(original: bytes, rewritten: Rewritten, rule: Chain) -> None:
    """Return when all four hold. Raises `ProofFailed`, or `RewriteRefused` for the third."""
    check_bytes(original, rewritten)
    _check_tree(original, rewritten, rule)
    left = [read for read in verify(rewritten.data, rule) if not read.guarded]
    if left:
        lines = ", ".join(f"line {read.line} ({read.text}, in {read.function})" for read in left)
        raise RewriteRefused(
            f"not shown to be guarded after the rewrite: {lines}",
            next_step="Such a read, often one through a local name, has to be guarded by hand.",
        )
    check_compiles(rewritten.data)


def _check_tree(original: bytes, rewritten: Rewritten, rule: Chain) -> None:
    """The trees are equal but for the guards that the edits declare."""
    try:
        before, after = parse_python(original), parse_python(rewritten.data)
    except (SyntaxError, ValueError) as error:
        raise proof_failed(f"the result is not Python source: {error}") from error
    comparison = _Comparison(rule)
    declared = Counter(edit.shape for edit in rewritten.edits)
    if not comparison.same(before, after) or comparison.put_back != declared:
        raise proof_failed("more than the declared reads has changed")


@dataclass
class _Comparison:
    """Compares two trees, putting guards of the new one back as it meets them."""

    rule: Chain
    put_back: Counter[str] = field(default_factory=Counter)

    def same(self, before: object, after: object) -> bool:
        """Whether the trees are equal but for the guards that are counted in `put_back`."""
        match before, after:
            case ast.Attribute(), ast.IfExp(body=read) if self._is_value_guard(after):
                self.put_back["value"] += 1
                return self.same(before, read)
            case ast.BoolOp(op=ast.And(), values=old), ast.BoolOp(op=ast.And(), values=new):
                return self._same_chain(old, new)
            case ast.Compare(), ast.BoolOp(op=ast.And(), values=new):
                return self._same_chain([before], new)
            case ast.AST(), ast.AST():
                return type(before) is type(after) and all(
                    self.same(getattr(before, name, None), getattr(after, name, None))
                    for name in before._fields
                )
            case list(), list():
                return len(before) == len(after) and all(map(self.same, before, after))
            case _:
                return type(before) is type(after) and before == after

    def _same_chain(self, old: list[ast.expr], new: list[ast.expr]) -> bool:
        """Operands of `and`: a gate is one or more new hasattr calls before an old comparison."""
        rest = list(reversed(new))
        for operand in old:
            before = len(rest)
            while rest and self._is_hasattr(rest[-1]) and ast.dump(rest[-1]) != ast.dump(operand):
                rest.pop()
            self.put_back["gate"] += len(rest) < before
            if not rest or not self.same(operand, rest.pop()):
                return False
        return not rest

    def _is_value_guard(self, node: ast.IfExp) -> bool:
        """`x.weight.dtype if hasattr(x, "weight") else x.params_dtype`, with one x throughout."""
        match node:
            case ast.IfExp(
                test=ast.Call(args=[receiver, _]) as test,
                body=ast.Attribute(value=ast.Attribute(value=read_from)),
                orelse=ast.Attribute(value=fallback_of, attr=fallback),
            ):
                one = {ast.dump(x) for x in (receiver, read_from, fallback_of)}
                return len(one) == 1 and self._is_hasattr(test) and fallback == self.rule.fallback
            case _:
                return False

    def _is_hasattr(self, node: ast.expr) -> bool:
        match node:
            case ast.Call(
                func=ast.Name(id="hasattr"), args=[_, ast.Constant(value=asked)], keywords=[]
            ):
                return asked == self.rule.attribute
            case _:
                return False
