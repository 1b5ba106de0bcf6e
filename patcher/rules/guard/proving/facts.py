"""What the verifier knows at one point of a program: a value lattice and the facts on names.

Everything here joins pessimistically. Two paths that meet keep only what both show, and a name
that is dangerous on one of them stays dangerous.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

# A receiver as a dotted path: ("self", "kv_b_proj").
Key = tuple[str, ...]


class Held(enum.IntEnum):
    """Whether a value may be the rule's attribute (the weight), and how it was come by.

    YES: loaded where it was shown to be there, or handed out by a getattr with a default.
    UNPROVEN: loaded where nothing showed it; no later test can mend that.
    """

    NO = 0
    YES = 1
    UNPROVEN = 2


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression may evaluate to, as far as the rule is concerned.

    `layer`: may be the receiver. `held`: may be the receiver's attribute. `nothing`: may be
    None. `test`: its truth proves that `about` has the attribute. `about` is the receiver's path,
    as long as that path still leads to the same object.
    """

    layer: bool = False
    held: Held = Held.NO
    nothing: bool = False
    test: bool = False
    about: Key | None = None

    @property
    def sort(self) -> tuple[bool, bool, bool]:
        """Which kinds of thing it may be; `about` means another thing for each."""
        return self.layer, self.held is not Held.NO, self.test

    def join(self, other: Value) -> Value:
        """What it may be where two paths meet."""
        same = self.sort == other.sort and self.about == other.about
        return Value(
            layer=self.layer or other.layer,
            held=max(self.held, other.held),
            nothing=self.nothing or other.nothing,
            test=self.test and same,
            about=self.about if same else None,
        )

    def detached(self) -> Value:
        """The same object, once its path may lead to another."""
        return self if self.about is None else replace(self, about=None, test=False)


OTHER = Value()


@dataclass(frozen=True, slots=True)
class Facts:
    """The state at one point: receivers shown to have the attribute, and names that matter.

    `dead` marks a point that no execution reaches; it joins as the neutral element, and nothing
    is known there but what the dead code itself tests.
    """

    has: frozenset[Key] = frozenset()
    names: Mapping[str, Value] = field(default_factory=dict)
    dead: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known, and so nothing can be lost."""
        return not self.has and not self.names

    def join(self, other: Facts) -> Facts:
        """What holds where two paths meet."""
        if self.dead:
            return other
        if other.dead or self is other:
            return self
        names = {
            name: self.names.get(name, OTHER).join(other.names.get(name, OTHER))
            for name in {*self.names, *other.names}
        }
        return Facts(self.has & other.has, _relevant(names))

    def with_has(self, key: Key | None) -> Facts:
        """The same, where `key` is shown to have the attribute."""
        return self if key is None else replace(self, has=self.has | {key})

    def with_name(self, name: str, value: Value) -> Facts:
        """The same, where `name` holds `value`."""
        if value == self.names.get(name, OTHER):
            return self  # most bindings of a file are of no concern: half of the verifier's time
        return replace(self, names=_relevant({**self.names, name: value}))

    def without_names(self, gone: Iterable[str]) -> Facts:
        """The same, after `gone` were bound anew: nothing rooted at them holds any longer."""
        if self.is_empty:
            return self
        roots = set(gone)
        kept = {name: value for name, value in self.names.items() if name not in roots}
        return replace(self, names=kept)._without(lambda key: key[0] in roots)

    def without_attribute(self, attribute: str) -> Facts:
        """The same, after some object's `attribute` was stored to: any path may lead through it."""
        return self._without(lambda key: attribute in key[1:])

    def without_paths(self) -> Facts:
        """The same, after code ran that we cannot see: only what local names hold is left."""
        return self._without(lambda _key: True)

    def _without(self, gone: Callable[[Key], bool]) -> Facts:
        if self.is_empty:
            return self
        names = {
            name: value.detached() if value.about is not None and gone(value.about) else value
            for name, value in self.names.items()
        }
        has = frozenset(key for key in self.has if not gone(key))
        return replace(self, has=has, names=_relevant(names))


DEAD = Facts(dead=True)


def _relevant(names: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in names.items() if value != OTHER}


def join_all(facts: Iterable[Facts]) -> Facts:
    """What holds where any number of paths meet; no path at all is dead."""
    joined = DEAD
    for one in facts:
        joined = joined.join(one)
    return joined
