"""The verifier's state while it walks a scope, and what binds, loses and repeats.

`facts` hold at the point that the walk has reached. Everything that may undo them goes through
here: a name bound anew, an attribute stored to, code that cannot be seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from patcher.rules.guard.proving.facts import OTHER, Facts, Held, Value
from patcher.rules.guard.proving.names import ModuleNames
from patcher.rules.guard.rule import AttributeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# What an annotation must not hold to be taken for a mere name of a type.
ACTS = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Starred, ast.Dict,
        ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.In, ast.NotIn)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Later:
    """Code that runs at another time, and the names that it sees from outside."""

    node: Function | Comprehension
    outer: Mapping[str, Value]


@dataclass(slots=True)
class Floor:
    """What held at every point since it was laid: what an exception leaves behind."""

    facts: Facts


@dataclass
class Walk(ast.NodeVisitor):
    """The state of one walk.

    `judged` holds each read that was met, and whether every visit found it safe. `ever` holds
    the worst that each name of this scope was bound to, for code that runs later.
    """

    rule: AttributeGuard
    names: ModuleNames
    judged: dict[ast.expr, bool] = field(default_factory=dict)
    later: list[Later] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    ever: dict[str, Value] = field(default_factory=dict)
    caught: bool = False
    in_class: bool = False
    free: set[str] = field(default_factory=set)
    _facts: Facts = field(default_factory=Facts)

    @property
    def facts(self) -> Facts:
        """What holds at this point."""
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        if facts is self._facts:
            return
        self._facts = facts
        for floor in self.floors:
            floor.facts = floor.facts.join(facts)

    def bind(self, target: ast.expr, value: Value) -> None:
        """Store `value` to a target, as an assignment, a loop or a walrus does."""
        match target:
            case ast.Name(id=name):
                self.bind_name(name, value)
            case ast.Attribute(attr=attr):
                self.visit(target)
                self.lose_attribute(attr)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self.lose_paths()
                for element in targets:
                    self.bind(element, OTHER)
            case ast.Starred(value=element):
                self.bind(element, OTHER)
            case _:
                self.visit(target)
                self.lose_paths()

    def bind_name(self, name: str, value: Value) -> None:
        """Bind a name anew."""
        self.facts = self.facts.without_names([name]).with_name(name, value)
        self.free.discard(name)
        worst = self.exposed(value) if name in self.names.shared else value.detached()
        self.ever[name] = self.ever.get(name, worst).join(worst)

    def exposed(self, value: Value) -> Value:
        """A value in a name that any call may bind anew: by now it may be None."""
        return replace(value.detached(), nothing=value.nothing or value.held is not Held.NO)

    def defaults(self, arguments: ast.arguments) -> None:
        """Defaults, the positional ones first."""
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)

    def annotation(self, node: ast.expr | None) -> None:
        """Evaluated now, later or never: that depends on the Python and on the module.

        So its reads are judged by what holds at any time, and what it may do is done.
        """
        if node is None:
            return
        before, floors, self.floors = self.facts, self.floors, []
        self.facts = Facts(names=dict(self.ever), dead=before.dead)
        self.visit(node)
        after, self.floors = self.facts, floors
        acts = any(isinstance(part, ACTS) for part in ast.walk(node))
        self.facts = before.join(after).without_paths() if acts else before

    def lose_paths(self) -> None:
        """Code ran that cannot be seen: it may have altered every layer and every shared name."""
        facts = self.facts.without_paths()
        # A name of an outer function is shared with it: the owner may run meanwhile.
        for name in (self.names.shared | self.free) & facts.names.keys():
            facts = facts.with_name(name, self.exposed(facts.names[name]))
        self.facts = facts

    def lose_attribute(self, attribute: str) -> None:
        """Some object's attribute was stored to or deleted."""
        if attribute in {self.rule.attribute, "__dict__", "__class__"}:
            self.lose_paths()
        self.facts = self.facts.without_attribute(attribute)

    def iterate(self, iterable: ast.expr) -> None:
        """One step of a loop. A range runs no code of anybody's."""
        if not self.is_range(iterable):
            self.lose_paths()

    def is_range(self, iterable: ast.expr) -> bool:
        """Whether a loop's iterable is a call of the builtin `range`."""
        return isinstance(iterable, ast.Call) and self.names.is_builtin(iterable.func, "range")

    def until_stable(self) -> Iterator[None]:
        """Repeat a loop's body until another round would start from the same facts."""
        while True:
            head = self.facts
            yield
            self.facts = head.join(self.facts)
            if self.facts == head:
                return
