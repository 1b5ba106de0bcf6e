"""Exceptions, as the verifier reads them, on top of all other statements.

An exception leaves behind only what held at every point of the `try` (a `Floor`); `finally` runs
for every way out.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from patcher.rules.guard.proving.facts import OTHER, Facts, join_all
from patcher.rules.guard.proving.state import Floor
from patcher.rules.guard.proving.statements import Statements

Try = ast.Try | ast.TryStar
# What in a handler may let an error out: that one, or another in its place.
HANDS_ON = (
    ast.Raise, ast.Assert, ast.Await, ast.Yield, ast.YieldFrom, ast.With, ast.AsyncWith, ast.For,
    ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Import,
    ast.ImportFrom, ast.ClassDef, ast.Starred, ast.In, ast.NotIn,
)  # fmt: skip


@dataclass
class Flow(Statements):
    """The whole walk over a scope, and over the bodies that run later."""

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Entering and leaving run code; any manager may swallow what the body raises."""
        caught, marks = self.caught, self._marks()
        for item in node.items:
            self.visit(item.context_expr)
            self.lose_paths()
            if item.optional_vars is not None:
                self.bind(item.optional_vars, OTHER)
            # A manager further in may turn the error into another, which nobody waits for.
            self.caught = self._suppresses(item.context_expr)
        floor = self._lay_floor()
        self.block(node.body)
        self.floors.pop()
        self.caught = caught
        for exits, mark in self._exits_since(marks):
            exits[mark:] = [facts.without_paths() for facts in exits[mark:]]
        self.facts = self.facts.join(floor.facts)
        self.lose_paths()

    visit_AsyncWith = visit_With

    def _suppresses(self, manager: ast.expr) -> bool:
        match manager:
            case ast.Call(func=func, args=classes, keywords=[]) if self.names.is_suppress(func):
                return any(
                    self._is_caught(found)
                    for written in classes
                    for found in self.names.exceptions(written)
                )
            case _:
                return False

    def visit_Try(self, node: Try) -> None:
        """Body, handlers and else; then `finally`, once for every kind of way out."""
        floor = self._lay_floor()
        marks = self._marks()
        self._attempt(node)
        self.floors.pop()
        if not node.finalbody:
            return
        normal, self.facts = self.facts, floor.facts
        self.block(node.finalbody)
        for exits, mark in self._exits_since(marks):
            # A break or continue from inside runs `finally` first, and sees its effects.
            if exits[mark:]:
                exits.append(self.facts)
        self.facts = normal
        if not normal.dead:
            self.block(node.finalbody)

    visit_TryStar = visit_Try

    def _marks(self) -> list[int]:
        return [len(exits) for exits, _ in self._exits_since()]

    def _exits_since(self, marks: list[int] | None = None) -> list[tuple[list[Facts], int]]:
        """Every loop's breaks and continues, each with how many there were at the marks."""
        exits = [way for loop in self.loops for way in (loop.breaks, loop.continues)]
        return list(zip(exits, marks or [0] * len(exits), strict=True))

    def _attempt(self, node: Try) -> None:
        # What this `try` does not catch it may turn into another error on its way out.
        caught, self.caught = self.caught, self._catches(node)
        floor = self._lay_floor()
        self.block(node.body)
        self.floors.pop()
        self.caught = caught and not node.finalbody
        self.block(node.orelse)
        ends = [self.facts]
        asked = floor.facts
        for handler in node.handlers:
            self.facts = asked
            if handler.type is not None:
                self.visit(handler.type)
            asked = self.facts  # a type that does not match was evaluated all the same
            if handler.name is not None:
                self.bind_name(handler.name, OTHER)
            self.block(handler.body)
            ends.append(self.facts)
        self.caught = caught
        self.facts = join_all(ends)

    def _lay_floor(self) -> Floor:
        self.floors.append(Floor(self.facts))
        return self.floors[-1]

    def _catches(self, node: Try) -> bool:
        """Whether an AttributeError in the body surely ends in a handler, for good.

        A handler that binds the error, raises, or calls anything may hand the error on.
        """
        if isinstance(node, ast.TryStar):
            return False
        for handler in node.handlers:
            found = list(self.names.exceptions(handler.type))
            if not any(one is None or self._is_caught(one) for one in found):
                continue
            parts = [part for statement in handler.body for part in ast.walk(statement)]
            if handler.name or any(self._hands_on(part) for part in parts):
                return False
            if any(one is not None and self._is_caught(one) for one in found):
                return True
        return False

    def _hands_on(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            return not self.names.is_harmless(node.func)
        if isinstance(node, ast.Tuple | ast.List):
            return isinstance(node.ctx, ast.Store)  # unpacking iterates
        return isinstance(node, HANDS_ON)

    @staticmethod
    def _is_caught(found: type | None) -> bool:
        return found is not None and issubclass(AttributeError, found)
