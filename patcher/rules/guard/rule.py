"""AttributeGuard: an attribute that may be missing is read behind a guard only.

Two independent readings of "guarded" are behind it. They share `chain.py` and no other line:

- `writing` (libcst) finds unguarded reads and rewrites them.
- `proving` (the standard library's ast) shows which reads are guarded.

`prove.py` holds each against the other before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from patcher.errors import NotFollowed
from patcher.rules.guard.chain import Chain
from patcher.rules.rule import Found, Place, Words, present

if TYPE_CHECKING:
    from collections.abc import Mapping

    from patcher.rules.rule import Files, Rewritten


@dataclass(frozen=True, slots=True)
class AttributeGuard(Chain):
    """The rule: every read of the chain is guarded, in all files of the patch."""

    # A read that is not guarded can fail in any release that has it: nothing is merged.
    any_version: ClassVar[bool] = True

    @property
    def words(self) -> Words:
        """What its places are called."""
        return Words(
            needed="unguarded",
            clean="guarded",
            place="read",
            places="reads",
            why=f"fails where there is no .{self.attribute}",
            none=f"no read of {self.chain} is left in the file",
        )

    def find(self, files: Files) -> Found:
        """Every read of the chain; unknown where one may be reached by a way not followed.

        Raises `FileAbsent` and `NotPython`.
        """
        # Of no use where all answers are known from before.
        from patcher.rules.guard.proving.verify import verify

        places: list[Place] = []
        unknown = None
        for target, data in present(files).items():
            try:
                reads = verify(data, self)
            except NotFollowed as error:
                unknown = unknown or error.problem
                continue
            places += [
                Place(target, read.line, read.column, read.function, read.text, not read.guarded)
                for read in reads
            ]
        if unknown and not any(place.needed for place in places):
            return Found(tuple(places), unknown=unknown)
        return Found(tuple(places))

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """Guard every unguarded read. Raises `RewriteRefused` and `NotPython`."""
        # libcst takes 0.2 s to import, and most commands only find.
        from patcher.rules.guard.writing.rewrite import rewrite

        return {target: rewrite(data, self) for target, data in present(files).items()}

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """Hold the two readings against each other. Raises `ProofFailed` and `RewriteRefused`."""
        from patcher.rules.guard.prove import prove

        for target, data in present(before).items():
            prove(data, after[target], self)

    @property
    def mention(self) -> bytes:
        """The receiver's name: the target's code is copied into new models."""
        return self.receiver.encode()

    def explain(self) -> tuple[str, ...]:
        """What it guards, and with what."""
        return (
            f"every read of {self.chain}, wherever it stands in the file, becomes one of "
            f"{self.receiver}.{self.fallback} where there is no .{self.attribute}",
        )
