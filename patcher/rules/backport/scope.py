"""What a backport names: a function of a file, and how upstream wrote it before and after a fix."""

from __future__ import annotations

from dataclasses import dataclass

# The lines of a module that are in no function and no class; its imports are not among them.
MODULE = "<module>"
# The imports at a module's top level. They count as a set: none is ever taken away.
IMPORTS = "<imports>"


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of a file that a fix changes, by name.

    `name` is a function's qualified name (`Class.method`; a function within a function belongs to
    it), a class's for its own lines without its functions', MODULE or IMPORTS. `before` and
    `after` are the SHA-256 of its text on the two sides; None where a side does not have it.
    """

    path: str
    name: str
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


@dataclass(frozen=True, slots=True)
class Sides:
    """A scope's text before and after a fix; None on the side that does not have it.

    `follows` and `precedes` are the names of what is before and behind it on the `after` side,
    nearest first: where a new function goes. `defined` are the names that the `after` side's whole
    file defines, as far as it is known: functions, classes, attributes of self. A fix that uses one
    of these which the image's file lacks cannot stand alone.
    """

    scope: Scope
    before: bytes | None
    after: bytes | None
    follows: tuple[str, ...] = ()
    precedes: tuple[str, ...] = ()
    defined: frozenset[str] = frozenset()
