"""What the two readings of "guarded" are about: the chain, and a read of it. No code is shared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chain:
    """`<receiver>.<attribute>.<member>`, which may be read only where `<attribute>` is there.

    For the first patch: `kv_b_proj`, `weight`, `dtype`, `params_dtype`. A layer whose weights
    are packed has no `.weight`; what the reader wanted to know is in `.params_dtype`.
    """

    receiver: str
    attribute: str
    member: str
    fallback: str

    @property
    def chain(self) -> str:
        """The read as a person writes it, from the receiver on."""
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
