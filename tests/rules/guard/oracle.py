"""The oracle: what a snippet really does when a layer has `.weight`, and when it has not.

A snippet is a module. It is executed among the names of `stubs`, and its `f`, if it defines
one, is called; any parameter of `f` that is no stub's name is an arbitrary boolean. What `f`
returns is settled: a coroutine is awaited, a generator consumed, a function called.

Every sequence of arbitrary booleans is taken, for every combination of packed layers. A
*death* is the AttributeError of a missing weight, or of `None.dtype`, that leaves the snippet.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import types
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .stubs import ROUNDS, Place, World, describe, is_missing_weight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did. `deaths` are the places (line, column, from 1) of the fatal reads.

    `reached` are the places of all reads that were tried, `missed` says whether one failed.
    """

    value: object
    error: str | None
    effects: tuple[object, ...]
    state: object
    dead: bool
    deaths: tuple[Place, ...]
    reached: frozenset[Place]
    missed: bool
    endless: bool

    @property
    def visible(self) -> tuple[object, ...]:
        """What a caller can tell: two runs that agree here are the same to everybody."""
        return (self.value, self.error, self.effects, self.state)


class Instrument(ast.NodeTransformer):
    """Makes loops end and attribute loads tell their place; changes nothing else.

    The tick stands at the top of a loop's body, outside every `try` of that body: when it
    raises, this loop is left whatever the body swallows.
    """

    def loop(self, node: ast.For | ast.AsyncFor | ast.While) -> ast.AST:
        self.generic_visit(node)
        tick = ast.Expr(ast.Call(ast.Name("__tick__", ast.Load()), [], []))
        node.body.insert(0, tick)
        return node

    visit_For = visit_AsyncFor = visit_While = loop

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr not in {"weight", "dtype"} or not isinstance(node.ctx, ast.Load):
            return node
        place = [ast.Constant(node.lineno), ast.Constant(node.col_offset + 1)]
        arguments = [node.value, ast.Constant(node.attr), *place]
        return ast.copy_location(ast.Call(ast.Name("__load__", ast.Load()), arguments, []), node)

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        return node  # a pattern cannot hold a call


@dataclass(frozen=True)
class Program:
    """A snippet made ready to run. Raises SyntaxError."""

    source: bytes

    @cached_property
    def code(self) -> types.CodeType:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(self.source, "snippet", "exec", dont_inherit=True)
            tree = Instrument().visit(ast.parse(self.source))
            return compile(ast.fix_missing_locations(tree), "snippet", "exec", dont_inherit=True)

    @cached_property
    def owners(self) -> list[str]:
        """The owners whose layers matter to this snippet."""
        second = re.search(rb"\b(other|layers)\b", self.source)
        return ["self", "other"] if second else ["self"]

    def packings(self) -> list[frozenset[str]]:
        """Every set of owners whose layer is packed; the first is empty."""
        sizes = range(len(self.owners) + 1)
        return [frozenset(s) for n in sizes for s in itertools.combinations(self.owners, n)]

    def run(self, packed: frozenset[str], script: tuple[bool, ...]) -> tuple[Outcome, list[bool]]:
        """One run, and the decisions that it took."""
        world = World(packed, script)
        names = world.names()
        given = set(names)
        value, error = attempt(self.code, names, world)
        fatal = tuple(leaves(error))
        outcome = Outcome(
            value=describe(value),
            error=None if error is None else type(error).__name__,
            effects=tuple(world.effects),
            state=state(names, given),
            dead=bool(fatal) and world.rounds <= ROUNDS,
            deaths=tuple(at for miss, at in world.misses if any(miss is e for e in fatal)),
            reached=frozenset(world.reached),
            missed=bool(world.misses),
            endless=world.rounds > ROUNDS,
        )
        return outcome, world.taken

    def runs(
        self, packed: frozenset[str], limit: int = 4096
    ) -> Iterator[tuple[tuple[bool, ...], Outcome]]:
        """Every run, by its decisions; at most `limit` of them."""
        script: tuple[bool, ...] | None = ()
        for _ in range(limit):
            if script is None:
                return
            outcome, taken = self.run(packed, script)
            yield tuple(taken), outcome
            script = following(taken)

    def deaths(self, limit: int = 4096) -> Deaths:
        """Can any run die, and at which reads?"""
        return deaths_in([o for packed in self.packings() for _, o in self.runs(packed, limit)])


@dataclass(frozen=True, slots=True)
class Deaths:
    possible: bool
    places: frozenset[Place]


def deaths_in(outcomes: list[Outcome]) -> Deaths:
    dead = [outcome for outcome in outcomes if outcome.dead]
    return Deaths(bool(dead), frozenset(place for outcome in dead for place in outcome.deaths))


def following(taken: list[bool]) -> tuple[bool, ...] | None:
    """The next sequence of decisions after one that was taken; None after the last."""
    while taken and taken[-1]:
        taken = taken[:-1]
    return (*taken[:-1], True) if taken else None


def attempt(
    code: types.CodeType, names: dict[str, Any], world: World
) -> tuple[object, BaseException | None]:
    try:
        exec(code, names)
        entry = names.get("f")
        if not inspect.isfunction(entry):
            return None, None
        return settle(entry(*arguments(entry, names, world))), None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return None, error


def arguments(entry: Callable[..., object], names: dict[str, Any], world: World) -> list[object]:
    """What `f` is called with: stubs by name, arbitrary booleans for the rest."""
    known = {"self", "other", "layers", "kv_b_proj"}
    wanted = [
        p
        for p in inspect.signature(entry).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return [names[p.name] if p.name in known else world.choice() for p in wanted]


def settle(value: object) -> object:
    """What becomes of a result that runs later."""
    if inspect.iscoroutine(value):
        return settle(awaited(value))
    if inspect.isgenerator(value):
        return [settle(item) for item in value]
    if inspect.isasyncgen(value):
        return awaited(collected(value))
    if inspect.isfunction(value):
        return settle(value())
    return value


async def collected(items: Any) -> list[object]:
    return [item async for item in items]


def awaited(task: Awaitable[object]) -> object:
    steps = task.__await__()
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def leaves(error: BaseException | None) -> Iterator[AttributeError]:
    """The missing-weight errors in an exception, groups opened."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif isinstance(error, AttributeError) and is_missing_weight(error):
        yield error


def state(names: dict[str, Any], given: set[str]) -> object:
    """What the snippet left behind: its globals, and its owners with their layers."""
    left = {k: describe(v) for k, v in names.items() if k not in given and k != "__builtins__"}
    return left | {f"given {k}": describe(names.get(k)) for k in ("self", "other")}
