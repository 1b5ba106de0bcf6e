"""The guard floor: is an attribute read guarded, and how is it made so.

Two independent readings of "guarded" live here. They share the data types of this
file and no line of code:

- `rewrite` (libcst) finds unguarded reads and rewrites them.
- `verify` (the standard library's ast) proves that none remains.

`prove` puts the two against each other before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttributeGuard:
    """One rule: `<receiver>.<attribute>.<member>` may be read only where `<attribute>` is there.

    For the first patch: `kv_b_proj`, `weight`, `dtype`, `params_dtype`. A layer whose weights
    are packed has no `.weight`; what the reader wanted to know is in `.params_dtype`.
    """

    receiver: str
    attribute: str
    member: str
    fallback: str

    @property
    def chain(self) -> str:
        """The read as a person writes it, without what stands before the receiver."""
        return f"{self.receiver}.{self.attribute}.{self.member}"


@dataclass(frozen=True, slots=True, order=True)
class Read:
    """One read of the chain in a file: where, in which function, its text, and its verdict.

    `line` and `column` count from 1; `column` counts characters. `function` is the qualified
    name of the enclosing function or class, `<module>` outside any.
    """

    line: int
    column: int
    function: str
    text: str
    guarded: bool
