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
    """Whether a value may be the rule's attribute (`weight`), and how it was come by.

    YES: loaded where it was shown to be there, or handed out by a getattr with a default.
    UNPROVEN: loaded where nothing showed it; no later test can mend that.
    """

    NO = 0
    YES = 1
    UNPROVEN = 2


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression may evaluate to, as far as the rule is concerned.

    `receiver`: may be the receiver. `held`: may be the receiver's attribute. `stray`: may be the
    attribute of something else, which may be the receiver by a way that is not followed.
    `nothing`: may be None. `mixed`: may also be what is not followed, whose None `nothing` does not
    count. `test`: 1 where its truth proves that `about` has the attribute, -1 where its falsehood
    does. `about` is the receiver's path, as long as that path still leads to the same object.
    """

    receiver: bool = False
    held: Held = Held.NO
    stray: Held = Held.NO
    nothing: bool = False
    mixed: bool = False
    test: int = 0
    about: Key | None = None

    @property
    def sort(self) -> tuple[bool, bool, bool, int]:
        """Which kinds of thing it may be; `about` means another thing for each."""
        return self.receiver, self.held is not Held.NO, self.stray is not Held.NO, self.test

    @property
    def followed(self) -> bool:
        """Whether it may be the attribute, of whatever object."""
        return self.held is not Held.NO or self.stray is not Held.NO

    def join(self, other: Value) -> Value:
        """What it may be where two paths meet."""
        if self is other or self == other:
            return self
        same = self.sort == other.sort and self.about == other.about
        return Value(
            receiver=self.receiver or other.receiver,
            held=max(self.held, other.held),
            stray=max(self.stray, other.stray),
            nothing=self.nothing or other.nothing,
            mixed=self.mixed or other.mixed or self.followed != other.followed,
            test=self.test if same else 0,
            about=self.about if same else None,
        )

    def detached(self) -> Value:
        """The same object, once its path may lead to another."""
        return self if self.about is None else replace(self, about=None, test=0)

    def exposed(self) -> Value:
        """The same in a name that other code may bind anew: by now it may be None, of any kind."""
        if not self.followed:
            return self.detached()
        return replace(self.detached(), nothing=True, mixed=True)


OTHER = Value()
# What an iterator, a manager or a container hands out: not followed, and maybe None.
UNKNOWN = Value(nothing=True)
# A name that may hold whatever is dangerous.
ANYTHING = Value(receiver=True, held=Held.UNPROVEN, stray=Held.UNPROVEN, nothing=True)


@dataclass(frozen=True, slots=True)
class Facts:
    """The state at one point: receivers shown to have the attribute, and names that matter.

    `dead` marks a point that no execution reaches; it joins as the neutral element, and nothing
    is known there but what the dead code itself tests.
    """

    has: frozenset[Key] = frozenset()
    names: Mapping[str, Value] = field(default_factory=dict)
    dead: bool = False

    def join(self, other: Facts) -> Facts:
        """What holds where two paths meet."""
        if self.dead:
            return other
        if other.dead or self is other:
            return self
        has = self.has if self.has == other.has else self.has & other.has
        if self.names is other.names:
            return self if has is self.has else Facts(has, self.names)
        names = dict(self.names)
        for name, value in other.names.items():
            mine = names.get(name, OTHER)
            if mine is not value:
                names[name] = mine.join(value)
        for name in self.names.keys() - other.names.keys():
            names[name] = names[name].join(OTHER)
        return Facts(has, {name: value for name, value in names.items() if value != OTHER})

    def with_has(self, key: Key | None) -> Facts:
        """The same, where `key` is shown to have the attribute."""
        return self if key is None else replace(self, has=self.has | {key})

    def with_name(self, name: str, value: Value) -> Facts:
        """The same, where `name` holds `value`, and what is known of its path is kept."""
        known = self.names.get(name, OTHER)
        if value is known or value == known:
            return self  # most bindings of a file are of no concern: half of the verifier's time
        names = dict(self.names)
        if value == OTHER:
            del names[name]
        else:
            names[name] = value
        return replace(self, names=names)

    def bound(self, name: str, value: Value) -> Facts:
        """The same, after `name` was bound anew: nothing rooted at it holds any longer."""
        rooted = self._without(lambda key: key[0] == name)
        if value.about is not None and value.about[0] == name:
            value = value.detached()  # `p = p.kv_b_proj`: that path leads elsewhere now
        return rooted.with_name(name, value)

    def without_attribute(self, attribute: str) -> Facts:
        """The same, after some object's `attribute` was stored to: any path may lead through it."""
        return self._without(lambda key: attribute in key)

    def without_paths(self) -> Facts:
        """The same, after code ran that we cannot see: only what local names hold is left."""
        return self._without(lambda _key: True)

    def _without(self, gone: Callable[[Key], bool]) -> Facts:
        """The same without what is known by the paths that are gone."""
        lost = [
            name
            for name, value in self.names.items()
            if value.about is not None and gone(value.about)
        ]
        has = self.has
        if any(map(gone, has)):
            has = frozenset(key for key in has if not gone(key))
        if not lost:
            return self if has is self.has else replace(self, has=has)
        names = dict(self.names)
        for name in lost:
            names[name] = names[name].detached()
            if names[name] == OTHER:
                del names[name]
        return replace(self, has=has, names=names)


DEAD = Facts(dead=True)


def join_all(facts: Iterable[Facts]) -> Facts:
    """What holds where any number of paths meet; no path at all is dead."""
    joined = DEAD
    for one in facts:
        joined = joined.join(one)
    return joined
