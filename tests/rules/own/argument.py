"""A throw-away rule: a keyword argument of every call of a function gets another value."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

import libcst as cst
from libcst import matchers as m
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

from patcher.rules import rule as seam
from patcher.rules.patch import Example, Patch


@dataclass(frozen=True, slots=True)
class Argument:
    """In calls of `function`, `keyword=old` becomes `keyword=new`."""

    function: str
    keyword: str
    old: str
    new: str
    words = seam.Words("pinned", "pageable", "call", "calls", "fails in WSL", "nothing is pinned")

    def find(self, files: seam.Files) -> seam.Found:
        """By the standard library's tree."""
        return seam.Found(
            tuple(
                seam.Place(
                    target,
                    call.lineno,
                    call.col_offset + 1,
                    "",
                    ast.unparse(call),
                    value != self.new,
                )
                for target, data in seam.present(files).items()
                for call in ast.walk(ast.parse(data))
                if isinstance(call, ast.Call) and ast.unparse(call.func) == self.function
                for each in call.keywords
                if each.arg == self.keyword and (value := ast.unparse(each.value))
            )
        )

    def rewrite(self, files: seam.Files) -> Mapping[str, seam.Rewritten]:
        done = {}
        for target, data in seam.present(files).items():
            wrapper = MetadataWrapper(cst.parse_module(data))
            spans = wrapper.resolve(ByteSpanPositionProvider)
            called = m.Call(func=m.MatchIfTrue(self._is_it))
            keyword = m.Arg(keyword=m.Name(self.keyword), value=m.Name(self.old))
            found = [
                spans[each.value]
                for call in m.findall(wrapper.module, called)
                if isinstance(call, cst.Call)
                for each in call.args
                if m.matches(each, keyword)
            ]
            edits, kept, end, new = [], b"", 0, self.new.encode()
            for span in sorted(found, key=lambda each: each.start):
                after = span.start + span.length
                line = data.count(b"\n", 0, span.start) + 1
                edits.append(seam.Edit(span.start, after, data[span.start : after], new, line))
                kept, end = kept + data[end : span.start] + new, after
            done[target] = seam.Rewritten(kept + data[end:], tuple(edits))
        return done

    def _is_it(self, node: cst.BaseExpression) -> bool:
        return cst.Module([]).code_for_node(node) == self.function

    def prove(self, before: seam.Files, after: Mapping[str, seam.Rewritten]) -> None:
        for target, data in seam.present(before).items():
            seam.check_bytes(data, after[target])
            seam.check_compiles(after[target].data)
            if self._without(data) != self._without(after[target].data):
                raise seam.proof_failed("more than the argument has changed")

    def _without(self, data: bytes) -> str:
        tree = ast.parse(data)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == self.function:
                node.keywords = [each for each in node.keywords if each.arg != self.keyword]
        return ast.dump(tree)


PATCH = Patch(
    name="pageable-zeros",
    version=1,
    title="no pinned memory",
    why="Shows that a rule of another kind is one file.",
    targets=("vllm/model_executor/layers/attention/mla_attention.py",),
    rule=Argument("torch.zeros", "pin_memory", "True", "False"),
    upstream=((1, "made up"),),
    affected=(">=0.20.0",),
    valid=("torch.zeros(1)\n",),
    invalid=(Example("torch.zeros(1, pin_memory=True)\n", "torch.zeros(1, pin_memory=False)\n"),),
)
