"""A patch: one source fix, as a file in `patches/` binds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Example:
    """An INVALID example of a patch: the source that needs it, and what it must become."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One source fix: what it is, where it goes, what upstream says, and its own examples.

    `targets` are the files' paths under site-packages; the verdict is on all of them together.
    `affected` are the version specifiers (PEP 440) that we claim to need it: a claim, checked by
    content, never used as proof. `upstream` are issue and pull request numbers with what each is.
    `valid` sources are left alone; `invalid` ones become their `after`; both are this patch's
    tests, as the content of its first target. `smoke` are the cases of `vllm-patcher smoke` that
    it claims to cure. `sha256` is that of the file that it was loaded from, empty for none.
    """

    name: str
    version: int
    title: str
    why: str
    targets: tuple[str, ...]
    rule: Rule
    upstream: tuple[tuple[int, str], ...]
    affected: tuple[str, ...]
    valid: tuple[str, ...] = ()
    invalid: tuple[Example, ...] = ()
    smoke: tuple[str, ...] = ()
    sha256: str = dataclasses.field(default="", compare=False)

    @property
    def target(self) -> str:
        """The first target: all there is for most patches."""
        return self.targets[0]
