"""How a guard is written into a file: on one line where it fits, as black would lay it out.

A `Value` or `Gate` knows its old text (`before`) and renders the new one from what is around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from patcher.rules.guard.chain import Chain

Shape = Literal["value", "gate"]
LINE_LENGTH = 88  # black's, and vLLM's
NEWLINE = re.compile(r"\r\n|\r|\n")
COMPARED = re.compile(r" (?:[=!<>]|(?:is|in|not)\b)")


@dataclass(frozen=True, slots=True)
class Style:
    """The quote that a string may use here, and whether the text is inside an f-string.

    Before Python 3.12 an f-string holds neither its own quote nor, between single ones, a newline.
    """

    quote: str
    in_string: bool


@dataclass(frozen=True, slots=True)
class Value:
    """`x.weight.dtype` becomes `(x.weight.dtype if hasattr(x, "weight") else x.params_dtype)`.

    `read` is the read without parentheses of its own. The sole argument of a call needs none
    besides the call's when it is laid out over several lines.
    """

    before: str
    style: Style
    rule: Chain
    receiver: str
    read: str
    sole_argument: bool
    shape: ClassVar[Shape] = "value"

    def render(self, prefix: str, suffix: str, unit: str, newline: str) -> str:
        """The new text, between all the text before it and the text after it.

        `unit` is one level of the file's indentation, `newline` its line ending.
        """
        test = f"if {_hasattr(self.receiver, self.rule, self.style)}"
        otherwise = f"else {self.receiver}.{self.rule.fallback}"
        # `return(x.weight.dtype)`: libcst could not parse the longer form without a space.
        space = " " if self.before.startswith("(") and _ends_in_word(prefix) else ""
        inline = f"{space}({self.read} {test} {otherwise})"
        if self.style.in_string or _fits(prefix, inline, suffix):
            return inline
        indent = newline + _indentation(prefix)
        lines = (indent + unit).join(["", self.read, test, otherwise]) + indent
        if self.sole_argument:
            return lines
        if _operand_line(prefix) and COMPARED.match(suffix):
            # The operator goes on a line of its own; the space before it is part of its indent.
            return f"{space}({lines}){indent[:-1]}"
        return f"{space}({lines})"


@dataclass(frozen=True, slots=True)
class Gate:
    """`a == b` in an `and` chain becomes `hasattr(x, "weight") and a == b`; `before` is the `a`."""

    before: str
    style: Style
    rule: Chain
    receivers: tuple[str, ...]
    shape: ClassVar[Shape] = "gate"

    def render(self, prefix: str, _suffix: str, _unit: str, newline: str) -> str:
        """See `Value.render`."""
        line = NEWLINE.split(prefix)[-1]
        split = _operand_line(prefix) == "and" and not self.style.in_string
        between = newline + line if split else " and "
        space = " " if _ends_in_word(line) else ""
        guards = [_hasattr(receiver, self.rule, self.style) for receiver in self.receivers]
        return space + between.join([*guards, self.before])


def _ends_in_word(text: str) -> bool:
    return text[-1:].isidentifier() or text[-1:].isdigit()


def _hasattr(receiver: str, rule: Chain, style: Style) -> str:
    return f"hasattr({receiver}, {style.quote}{rule.attribute}{style.quote})"


def _fits(prefix: str, text: str, suffix: str) -> bool:
    line = NEWLINE.split(prefix)[-1] + text + NEWLINE.split(suffix, maxsplit=1)[0]
    return len(line) <= LINE_LENGTH


def _indentation(prefix: str) -> str:
    line = NEWLINE.split(prefix)[-1]
    return line[: len(line) - len(line.lstrip())]


def _operand_line(prefix: str) -> str | None:
    """`and` or `or` where the line before a place is that alone: an operand on each line.

    Such a line is inside brackets, where a newline may be added, unless a backslash continues it.
    """
    *before, line = ["", *NEWLINE.split(prefix)]
    word = line.strip()
    return word if word in {"and", "or"} and not before[-1].endswith("\\") else None
