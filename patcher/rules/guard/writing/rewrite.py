"""The rewriter: a libcst transformer that guards every unguarded read of the rule's chain.

Left alone:

- a read that `enclosing` finds guarded: an `if`, a conditional expression, an `and`/`or` chain,
  an early exit, `assert`
- a read whose error the program may handle itself: a guard would take the place of its fallback.
  Where that does not guard it, the proof refuses the file

Refused, by line: a receiver that may have side effects, a target of a store or a deletion, a
pattern, an annotation, `{x=}` in an f-string, an f-string with no quote left to use.

Rewritten, where `x` stands for the receiver's path:

- a gate, `a and x.weight.dtype == b`, becomes `a and hasattr(x, "weight") and x.weight.dtype == b`;
  falling back there would switch a feature on (so did vLLM's PR 34695)
- any other read becomes `(x.weight.dtype if hasattr(x, "weight") else x.params_dtype)`
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from patcher.errors import RewriteRefused
from patcher.rules.guard.chain import Chain
from patcher.rules.guard.writing.context import free_quote, is_sole_argument, refusal
from patcher.rules.guard.writing.enclosing import Surroundings, path
from patcher.rules.guard.writing.layout import NEWLINE, Gate, Style, Value
from patcher.rules.guard.writing.parse import deepest_line, line_of, parse
from patcher.rules.rule import Edit, Rewritten

# A hasattr that is not called, a definition of one, a star import that may bring one.
ODD_HASATTR = re.compile(r"\bhasattr\b(?!\()|\b(?:def|class)\s+hasattr\b|\bimport\b[\s(]*\*")
# What holds no read. Half of a tree's nodes are these, or are in them.
LEAVES = (
    cst.Name,
    cst.BaseNumber,
    cst.SimpleString,
    cst.Dot,
    cst.Comma,
    cst.BaseParenthesizableWhitespace,
    cst.TrailingWhitespace,
    cst.EmptyLine,
)
BY_HAND = "Guard it by hand, or drop the patch for this file."


# The platforms of an image have the same file.
@functools.lru_cache(maxsize=8)
def rewrite(source: bytes, rule: Chain) -> Rewritten:
    """Guard every unguarded read; no edits where there is none.

    Raises `RewriteRefused`, with line and reason, for a read that must not be touched and for a
    file that libcst cannot reproduce byte for byte; `NotPython` for bytes that are not source.
    """
    module, text = parse(source)
    try:
        around = Surroundings(module, rule)
        # Looking at every name costs as much as all the rest, and hardly ever is there cause to.
        trusted = not ODD_HASATTR.search(text) or around.is_builtin("hasattr")
        marker = _Marker(rule, module, around, _unused(text), trusted)
        marked = module.visit(marker)
        template = marked.code if marker.places else text
    except RecursionError:
        line = deepest_line(source)
        raise RewriteRefused(
            f"line {line}: the code is nested too deeply to be rewritten", next_step=BY_HAND
        ) from None
    pieces = re.split(rf"\({marker.stem}(\d+)\)", template)
    return _splice(module, pieces, marker.places)


def _unused(text: str) -> str:
    stem = "_guarded_read_"
    while stem in text:
        stem += "_"
    return stem


def _splice(module: cst.Module, pieces: list[str], places: list[Value | Gate]) -> Rewritten:
    """Fill the template: with the old text to find each place, with the new to make the file.

    The template's literal pieces are all bytes outside the edits, so they are kept as they are.
    """
    literals, order = pieces[0::2], [places[int(number)] for number in pieces[1::2]]
    # Only the start of a file has a BOM; a piece from its middle is plain UTF-8.
    plain = "utf-8" if module.encoding == "utf-8-sig" else module.encoding
    new, edits = [literals[0].encode(module.encoding)], []
    start, line, recent = len(new[0]), line_of(literals[0]), _last_lines(literals[0])
    for place, following in zip(order, literals[1:], strict=True):
        after = place.render(recent, following, module.default_indent, module.default_newline)
        before = place.before.encode(plain)
        edits.append(
            Edit(start, start + len(before), before, after.encode(plain), line, place.shape)
        )
        new += [after.encode(plain), following.encode(plain)]
        start += len(before) + len(new[-1])
        # No newline of two characters is split between two pieces: a place starts and ends inside
        # an expression.
        line += line_of(place.before) + line_of(following) - 2
        recent = _last_lines(recent + after + following)
    return Rewritten(b"".join(new), tuple(edits))


def _last_lines(text: str) -> str:
    """The last two lines: all that a place's layout depends on."""
    ends = [found.start() for found in NEWLINE.finditer(text)]
    return text[ends[-2] :] if len(ends) > 1 else text


@dataclass
class _Marker(cst.CSTTransformer):
    """Puts a marker, `(stem0)`, where a text must change; `places` holds what comes there.

    Markers keep the tree valid wherever an expression may be, and make it cheap to find the
    places in the text: libcst's own positions cost five times its code generation.
    """

    rule: Chain
    module: cst.Module
    around: Surroundings
    stem: str
    hasattr_is_builtin: bool
    places: list[Value | Gate] = field(default_factory=list)
    stack: list[cst.CSTNode] = field(default_factory=list)
    gated: dict[cst.CSTNode, Gate | None] = field(default_factory=dict)

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Keep the ancestors; skip statements that do not mention the receiver."""
        if isinstance(node, cst.Comparison) and self._is_operand_of_and():
            self._gate(node)
        self.stack.append(node)
        # A dotted module's name is not a read.
        if isinstance(node, (*LEAVES, cst.Import, cst.ImportFrom)):
            return False
        if isinstance(node, cst.FunctionDef | cst.SimpleStatementLine):
            return self.rule.receiver in self._text(node)
        return True

    def on_leave(  # type: ignore[override]
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode:
        """Put a marker where `on_visit` said so, and for every read that is not guarded."""
        self.stack.pop()
        if original_node in self.gated:
            gate = self.gated[original_node]
            return updated_node if gate is None else self._marked(gate)
        if self._is_unguarded(original_node, self.stack):
            return self._marked(self._value(original_node))
        return updated_node

    def refused(self, node: cst.CSTNode, reason: str) -> RewriteRefused:
        """The error for a read; finding its line costs a walk, and is paid only here."""
        positions = MetadataWrapper(self.module, unsafe_skip_copy=True).resolve(PositionProvider)
        line = positions[node].start.line
        return RewriteRefused(
            f"line {line}: {self._text(node)} is left as it is: {reason}", next_step=BY_HAND
        )

    def _marked(self, place: Value | Gate) -> cst.Name:
        self.places.append(place)
        name = f"{self.stem}{len(self.places) - 1}"
        # In parentheses it needs no space around it: `return(x.weight.dtype)`.
        return cst.Name(name, lpar=[cst.LeftParen()], rpar=[cst.RightParen()])

    def _text(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node)

    # ---- what is a read, and what becomes of it

    def _is_read(self, node: cst.CSTNode) -> bool:
        """Whether a node is the chain, written out."""
        match node:
            case cst.Attribute(
                attr=cst.Name(value=member),
                value=cst.Attribute(attr=cst.Name(value=attribute), value=receiver),
            ) if (member, attribute) == (self.rule.member, self.rule.attribute):
                last = receiver.attr if isinstance(receiver, cst.Attribute) else receiver
                return isinstance(last, cst.Name) and last.value == self.rule.receiver
            case _:
                return False

    def _is_unguarded(self, node: cst.CSTNode, ancestors: list[cst.CSTNode]) -> bool:
        if not self._is_read(node):
            return False
        if not self.hasattr_is_builtin:
            raise self.refused(node, "the module binds hasattr, or may do so, to its own use")
        return not (
            self.around.is_guarded(node, ancestors) or self.around.may_be_handled(node, ancestors)
        )

    def _checked_path(self, node: cst.CSTNode, ancestors: list[cst.CSTNode]) -> str:
        """The receiver as dotted text. Refuses a read that cannot be rewritten where it is."""
        receiver = cst.ensure_type(cst.ensure_type(node, cst.Attribute).value, cst.Attribute).value
        keys, reason = path(receiver), refusal(node, ancestors)
        if keys is None:
            reason = "its receiver may have side effects, and would be evaluated twice"
        if keys is None or reason is not None:
            raise self.refused(node, reason or "")
        return ".".join(keys)

    def _on_one_line(self, node: cst.CSTNode) -> None:
        """A node alone does not know the indentation of its further lines."""
        if NEWLINE.search(self._text(node)):
            raise self.refused(node, "it is written over several lines")

    def _style(self, ancestors: list[cst.CSTNode], node: cst.CSTNode) -> Style:
        quote, in_string = free_quote(ancestors)
        if quote is None:
            raise self.refused(node, "the f-strings around it leave no quote for a string")
        return Style(quote, in_string)

    def _value(self, node: cst.CSTNode) -> Value:
        """What a read that is no gate becomes."""
        receiver = self._checked_path(node, self.stack)
        self._on_one_line(node)
        bare = cst.ensure_type(node, cst.Attribute).with_changes(lpar=(), rpar=())
        return Value(
            before=self._text(node),
            style=self._style(self.stack, node),
            rule=self.rule,
            receiver=receiver,
            read=self._text(bare),
            sole_argument=is_sole_argument(node, self.stack),
        )

    def _is_operand_of_and(self) -> bool:
        parent = self.stack[-1]
        return isinstance(parent, cst.BooleanOperation) and isinstance(parent.operator, cst.And)

    def _gate(self, node: cst.Comparison) -> None:
        """Plan `hasattr(...) and` before a comparison of which a side is an unguarded read."""
        match node.comparisons:
            case [cst.ComparisonTarget(operator=cst.Equal(), comparator=right)]:
                ancestors = [*self.stack, node]
                sides = [s for s in (node.left, right) if self._is_unguarded(s, ancestors)]
                if not sides:
                    return
                if node.left not in sides and not self.around.is_calm(node.left):
                    raise self.refused(sides[0], "what it is compared with runs code before it")
                if node.left not in sides and self.rule.chain in self._text(node.left):
                    raise self.refused(sides[0], "the comparison holds another read")
                paths = tuple(self._checked_path(side, ancestors) for side in sides)
                style = self._style(ancestors, node)
                self._on_one_line(node.left)
                self.gated |= dict.fromkeys(sides)
                self.gated[node.left] = Gate(self._text(node.left), style, self.rule, paths)
            case _:
                pass
