"""Where a read is: whether it may be rewritten there, and which quote a string may use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import libcst as cst

Ancestors = Sequence[cst.CSTNode]

# The parts of a node that are stored to or deleted, not evaluated.
_TARGETS: dict[type[cst.CSTNode], str] = {
    cst.AssignTarget: "target",
    cst.AugAssign: "target",
    cst.AnnAssign: "target",
    cst.For: "target",
    cst.CompFor: "target",
    cst.Del: "target",
    cst.AsName: "name",
}

# What may be between a target and its parts.
UNPACKED = (cst.Element, cst.StarredElement, cst.Tuple, cst.List)

# Ancestors under which no rewrite keeps the meaning, with the reason.
_REFUSED: tuple[tuple[type[cst.CSTNode], str], ...] = (
    (cst.Annotation, "an annotation may never be evaluated"),
    (cst.TypeAlias, "a type alias is evaluated at another time"),
    (cst.TypeParameters, "a type parameter is evaluated at another time"),
    (cst.MatchPattern, "a pattern takes a dotted name, and no expression"),
    (cst.TemplatedString, "a t-string hands out its own text"),
)


def refusal(node: cst.CSTNode, ancestors: Ancestors) -> str | None:
    """Why the read must not be rewritten where it is; None where it may be."""
    if _is_target(node, ancestors):
        return "it is stored to or deleted, not read"
    for ancestor in ancestors:
        if isinstance(ancestor, cst.FormattedStringExpression) and ancestor.equal is not None:
            return "{x=} prints the text of its expression"
        for kind, reason in _REFUSED:
            if isinstance(ancestor, kind):
                return reason
    return None


def _is_target(node: cst.CSTNode, ancestors: Ancestors) -> bool:
    unpacked = list(takewhile(lambda parent: isinstance(parent, UNPACKED), reversed(ancestors)))
    parent, child = ancestors[-len(unpacked) - 1], [node, *unpacked][-1]
    return getattr(parent, _TARGETS.get(type(parent), ""), None) is child


def free_quote(ancestors: Ancestors) -> tuple[str | None, bool]:
    """A quote that no f-string around the read uses (None: both are taken), and if there is one."""
    around = [node for node in ancestors if isinstance(node, cst.FormattedString)]
    taken = {node.start[-1] for node in around}
    free = [quote for quote in "\"'" if quote not in taken]
    return (free[0] if free else None), bool(around)


def is_sole_argument(node: cst.CSTNode, ancestors: Ancestors) -> bool:
    """Whether the read is all that is between the parentheses of a call."""
    match ancestors[-2:]:
        case [cst.Call(args=[only]) as call, cst.Arg(keyword=None, star="") as argument]:
            return (
                only is argument
                and not cst.ensure_type(node, cst.Attribute).lpar
                and argument.comma is cst.MaybeSentinel.DEFAULT
                and cst.Module([]).code_for_node(argument) == cst.Module([]).code_for_node(node)
                and call.whitespace_before_args.empty
            )
        case _:
            return False
