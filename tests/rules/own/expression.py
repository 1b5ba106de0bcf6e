"""A throw-away rule: within one function, an expression becomes another one."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from patcher.rules import rule as seam
from patcher.rules.patch import Example, Patch


@dataclass(frozen=True, slots=True)
class Expression:
    """`old` becomes `new` everywhere in `function`; the file is source in ASCII."""

    function: str
    old: str
    new: str
    words = seam.Words(
        "old", "new", "expression", "expressions", "is too small", "no such expression"
    )

    def find(self, files: seam.Files) -> seam.Found:
        """By the syntax tree."""
        places = []
        for target, data in seam.present(files).items():
            functions = [each for each in ast.walk(ast.parse(data)) if self._is_it(each)]
            if not functions:
                return seam.Found(absent=f"{target} has no function {self.function}")
            places += [
                seam.Place(
                    target, each.lineno, each.col_offset + 1, self.function, text, text != self.new
                )
                for function in functions
                for each in ast.walk(function)
                if isinstance(each, ast.expr)
                and (text := ast.unparse(each)) in {self.old, self.new}
            ]
        return seam.Found(tuple(sorted(places)))

    def _is_it(self, node: ast.AST) -> bool:
        return isinstance(node, ast.FunctionDef) and node.name == self.function

    def rewrite(self, files: seam.Files) -> Mapping[str, seam.Rewritten]:
        """By tokens, with no syntax tree."""
        done = {}
        for target, data in seam.present(files).items():
            old, new, edits, kept = self.old.encode(), self.new.encode(), [], b""
            for line, start in self._hits(data):
                edits.append(seam.Edit(start, start + len(old), old, new, line))
            end = 0
            for edit in edits:
                kept, end = kept + data[end : edit.start] + new, edit.end
            done[target] = seam.Rewritten(kept + data[end:], tuple(edits))
        return done

    def _hits(self, data: bytes) -> Iterator[tuple[int, int]]:
        lines, inside = data.splitlines(keepends=True), False
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.NAME and token.line.lstrip().startswith("def "):
                inside = f"def {self.function}(" in token.line
            if inside and token.line[token.start[1] :].startswith(self.old):
                yield token.start[0], sum(map(len, lines[: token.start[0] - 1])) + token.start[1]

    def prove(self, before: seam.Files, after: Mapping[str, seam.Rewritten]) -> None:
        """With the old expressions put back it is the old tree."""
        for target, data in seam.present(before).items():
            seam.check_bytes(data, after[target])
            seam.check_compiles(after[target].data)
            back = ast.unparse(ast.parse(after[target].data)).replace(self.new, self.old)
            if back != ast.unparse(ast.parse(data)).replace(self.new, self.old):
                raise seam.proof_failed("more than the expression has changed")


PATCH = Patch(
    name="larger-workspace",
    version=1,
    title="a larger workspace for chunked prefill",
    why="Shows that a rule of another kind is one file.",
    targets=("vllm/model_executor/layers/attention/mla_attention.py",),
    rule=Expression("determine_chunked_prefill_workspace_size", "64 * 1024", "128 * 1024"),
    upstream=((1, "made up"),),
    affected=(">=0.15.0",),
    valid=("def determine_chunked_prefill_workspace_size():\n    return 128 * 1024\n",),
    invalid=(
        Example(
            "def determine_chunked_prefill_workspace_size():\n    return 64 * 1024\n",
            "def determine_chunked_prefill_workspace_size():\n    return 128 * 1024\n",
        ),
    ),
)
