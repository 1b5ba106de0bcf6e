"""The stubs that a snippet of `oracle` runs among, and what they take down.

- `self`, `other` own a layer each (`.kv_b_proj`); `layers` is the list of both; `kv_b_proj`
  is the layer of `self`. A packed layer holds no `.weight`, only `.params_dtype`.
- `choice()` is an arbitrary boolean, `maybe_raise(E)` raises E or not, `effect(n)` leaves a
  trace and returns n, `repack(layer)` deletes its weight, `await pause()` waits once.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_DTYPE = "bfloat16"
PACKED_DTYPE = "float16"
# More arbitrary booleans than this in one run are all False; more rounds of loops end it.
DECISIONS = 12
ROUNDS = 60

Place = tuple[int, int]


class Weight:
    def __init__(self) -> None:
        self.dtype = PLAIN_DTYPE


class Layer:
    """A linear layer. A packed one has no attribute `weight`."""

    def __init__(self, name: str, *, packed: bool) -> None:
        self.name = name
        self.params_dtype = PACKED_DTYPE
        if not packed:
            self.weight = Weight()

    def __delattr__(self, name: str) -> None:
        """Deleting what is not there is no read of it: Python 3.12 would name it the same."""
        if name not in vars(self):
            raise AttributeError("nothing to delete")
        super().__delattr__(name)


class Owner:
    def __init__(self, layer: Layer) -> None:
        self.kv_b_proj = layer
        self.q_proj = Layer("q", packed=False)


class EndlessLoop(BaseException):
    """Ends a run whose loops do not. It cannot be swallowed for good: see `Instrument`."""


@dataclass(slots=True)
class World:
    """The stubs of one run, and what they have seen."""

    packed: frozenset[str]
    script: tuple[bool, ...]
    taken: list[bool] = field(default_factory=list)
    effects: list[object] = field(default_factory=list)
    misses: list[tuple[AttributeError, Place]] = field(default_factory=list)
    reached: set[Place] = field(default_factory=set)
    rounds: int = 0

    def choice(self) -> bool:
        at = len(self.taken)
        if at >= DECISIONS:
            return False
        self.taken.append(self.script[at] if at < len(self.script) else False)
        return self.taken[at]

    def maybe_raise(self, error: type[BaseException]) -> None:
        if self.choice():
            raise error

    def effect(self, value: object = None) -> object:
        self.effects.append(describe(value))
        return value

    def tick(self) -> None:
        self.rounds += 1
        if self.rounds > ROUNDS:
            raise EndlessLoop

    def load(self, value: object, attribute: str, line: int, column: int) -> object:
        """`value.attribute`, with a note of where it was tried, and where a weight was missed."""
        self.reached.add((line, column))
        try:
            return getattr(value, attribute)
        except AttributeError as error:
            if is_missing_weight(error) and self.rounds <= ROUNDS:
                self.misses.append((error, (line, column)))
            raise

    def names(self) -> dict[str, Any]:
        mine = Owner(Layer("self", packed="self" in self.packed))
        other = Owner(Layer("other", packed="other" in self.packed))
        return {
            "self": mine,
            "other": other,
            "layers": [mine, other],
            "kv_b_proj": mine.kv_b_proj,
            "torch": types.SimpleNamespace(bfloat16=PLAIN_DTYPE, float16=PACKED_DTYPE),
            "choice": self.choice,
            "maybe_raise": self.maybe_raise,
            "effect": self.effect,
            "repack": repack,
            "pause": pause,
            "__tick__": self.tick,
            "__load__": self.load,
            "__name__": "snippet",
        }


def repack(layer: Layer) -> None:
    """What vLLM's process_weights_after_loading may do to a layer."""
    vars(layer).pop("weight", None)


@types.coroutine
def pause() -> Iterator[None]:
    yield


def is_missing_weight(error: AttributeError) -> bool:
    """Is it the error of a packed layer's weight, or of the None that stands for one?"""
    if error.name == "weight":
        return isinstance(error.obj, Layer)
    return error.name == "dtype" and error.obj is None


def describe(value: object, above: tuple[int, ...] = ()) -> object:
    """A value without its identity, so that two runs can be compared."""
    if id(value) in above:
        return "itself"
    within = (*above, id(value))
    match value:
        case Layer() | Weight() | Owner():
            return (type(value).__name__, describe(vars(value), within))
        case dict():
            return {repr(describe(k)): describe(v, within) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return (type(value).__name__, [describe(item, within) for item in value])
        case None | bool() | int() | str() | bytes():
            return value
    return type(value).__name__
