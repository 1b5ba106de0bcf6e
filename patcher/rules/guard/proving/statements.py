"""Statements, as the verifier reads them: every path that execution can take.

Loops run until their facts are stable. What raises, catches and cleans up is in flow.py.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from patcher.rules.guard.proving.evaluate import Evaluator
from patcher.rules.guard.proving.facts import DEAD, OTHER, Facts, Held, Value, join_all
from patcher.rules.guard.proving.names import bound_by
from patcher.rules.guard.proving.state import Later

# Patterns that ask the subject for its class, length, items or attributes.
UNPACKING = (ast.MatchClass, ast.MatchMapping, ast.MatchSequence)


@dataclass(slots=True)
class Loop:
    """The facts of every `break` and `continue` that leaves this loop's body."""

    breaks: list[Facts] = field(default_factory=list)
    continues: list[Facts] = field(default_factory=list)


@dataclass
class Statements(Evaluator):
    """An Evaluator that also runs statements; each ends by setting `facts`."""

    loops: list[Loop] = field(default_factory=list)

    def block(self, body: Sequence[ast.stmt]) -> None:
        """Run statements in order."""
        for statement in body:
            self.visit(statement)

    # ---- simple statements

    def visit_Assign(self, node: ast.Assign) -> None:
        """Only `name = value` keeps what the value says about a path: no code runs between."""
        pairs = _pairs(node)
        if pairs:
            values = [self.visit(value) for _, value in pairs]
            for (target, _), value in zip(pairs, values, strict=True):
                self.bind(target, value.detached())
            return
        value = self.visit(node.value)
        for target in node.targets:
            self.bind(target, value if len(node.targets) == 1 else value.detached())

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value, the target, the annotation."""
        if node.value is None:
            self.visit(node.target)
        else:
            self.bind(node.target, self.visit(node.value).detached())
        self.annotation(node.annotation)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """In place or not, a name keeps its danger."""
        before = self.visit(node.target)
        self.visit(node.value)
        self.bind(node.target, before.detached())

    def visit_Delete(self, node: ast.Delete) -> None:
        """A deleted name, attribute or item is lost."""
        for target in node.targets:
            self.bind(target, OTHER)

    def visit_Return(self, node: ast.Return) -> None:
        """Evaluated, and then nothing follows here."""
        self.generic_visit(node)
        self.facts = DEAD

    def visit_Raise(self, node: ast.Raise) -> None:
        """As a return, but that to raise a class is to call it."""
        self.generic_visit(node)
        self.lose_paths()
        self.facts = DEAD

    def visit_Break(self, _node: ast.Break) -> None:
        """On to the end of the loop."""
        self.loops[-1].breaks.append(self.facts)
        self.facts = DEAD

    def visit_Continue(self, _node: ast.Continue) -> None:
        """On to the head of the loop."""
        self.loops[-1].continues.append(self.facts)
        self.facts = DEAD

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An import runs a module."""
        self.lose_paths()
        self._rebind(node)

    visit_ImportFrom = visit_Import

    def _rebind(self, node: ast.AST) -> None:
        for child in ast.walk(node):
            for name in bound_by(child):
                self.bind_name(name, OTHER)

    # ---- definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Decorators and defaults now; the body at another time."""
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.defaults(node.args)
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                self.annotation(argument.annotation)
        self.annotation(node.returns)
        if node.decorator_list:
            self.lose_paths()
        self.bind_name(node.name, OTHER)
        self.later.append(Later(node, self.ever))

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body runs now, in a namespace of its own; what it finds out stays there."""
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        self.lose_paths()
        before, outer, self.in_class = self.facts, self.in_class, True
        for name in {name for child in ast.walk(node) for name in bound_by(child)}:
            # Until the body binds it, the name is the module's, and not the function's.
            held = self.facts.names.get(name, OTHER)
            self.facts = self.facts.with_name(name, self.exposed(held))
        self.block(node.body)
        self.facts, self.in_class = before, outer
        self.lose_paths()
        self.bind_name(node.name, OTHER)

    def run_later(self, task: Later) -> None:
        """Run a body that was put off, in a fresh scope."""
        names = {name: value.detached() for name, value in task.outer.items()}
        self.ever, self.free = dict(names), set(names)
        self.facts = Facts(names=names)
        match task.node:
            case ast.Lambda(args=arguments, body=body):
                self._parameters(arguments)
                self.visit(body)
            case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
                self._parameters(function.args)
                self.block(function.body)
            case comprehension:
                self.comprehend(comprehension, comprehension.generators)

    def _parameters(self, arguments: ast.arguments) -> None:
        for node in ast.walk(arguments):
            if isinstance(node, ast.arg):
                self.bind_name(node.arg, OTHER)

    # ---- branches and loops

    def visit_If(self, node: ast.If) -> None:
        """Two ways that meet."""
        outcome = self.branch(node.test)
        self.facts = outcome.true
        self.block(node.body)
        end, self.facts = self.facts, outcome.false
        self.block(node.orelse)
        self.facts = end.join(self.facts)

    def visit_Assert(self, node: ast.Assert) -> None:
        """What follows was asserted (under `python -O` it is not, as everybody knows)."""
        outcome = self.branch(node.test)
        self.facts = outcome.false
        if node.msg is not None:
            self.visit(node.msg)
        self.facts = outcome.true

    def visit_While(self, node: ast.While) -> None:
        """The test is evaluated at every round."""
        self.loops.append(Loop())
        for _ in self.until_stable():
            self.facts = self.branch(node.test).true
            self._round(node.body)
        self.facts = self.branch(node.test).false
        self._leave(node.orelse)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """One step of the iterator before every round, and before the loop ends."""
        self.visit(node.iter)
        self.loops.append(Loop())
        for _ in self.until_stable():
            self.iterate(node.iter)
            self.bind(node.target, OTHER)
            self._round(node.body)
        self.iterate(node.iter)
        if not self.is_range(node.iter):
            # A generator that is left half-way runs its `finally`.
            leaves = self.loops[-1].breaks
            leaves[:] = [facts.without_paths() for facts in leaves]
        self._leave(node.orelse)

    visit_AsyncFor = visit_For

    def _captured(self, subject: Value, pattern: ast.pattern) -> Value:
        """What a name in a pattern may hold: the subject, or a part that the pattern names."""
        parts = list(ast.walk(pattern))
        words = {word for part in parts for word in getattr(part, "kwd_attrs", ())}
        words |= {part.value for part in parts if isinstance(part, ast.Constant)}
        held = Held.UNPROVEN if self.rule.attribute in words else subject.held
        layer = subject.layer or self.rule.receiver in words
        return Value(layer=layer, held=held, nothing=subject.nothing)

    def _round(self, body: Sequence[ast.stmt]) -> None:
        self.block(body)
        self.facts = join_all([self.facts, *self.loops[-1].continues])

    def _leave(self, orelse: Sequence[ast.stmt]) -> None:
        loop = self.loops.pop()
        self.block(orelse)
        self.facts = join_all([self.facts, *loop.breaks])

    def visit_Match(self, node: ast.Match) -> None:
        """A pattern may run code of the subject's class; a failed one may have bound its names."""
        subject = self.visit(node.subject)
        for case in node.cases:
            if any(isinstance(part, UNPACKING) for part in ast.walk(case.pattern)):
                self.lose_paths()
            captured = self._captured(subject, case.pattern)
            for part in ast.walk(case.pattern):
                for name in bound_by(part):
                    self.bind_name(name, captured)
        ends = []
        for case in node.cases:
            self.visit(case.pattern)
            unmatched = self.facts
            if case.guard is not None:
                outcome = self.branch(case.guard)
                self.facts, unmatched = outcome.true, unmatched.join(outcome.false)
            elif _matches_all(case.pattern):
                unmatched = DEAD
            self.block(case.body)
            ends.append(self.facts)
            self.facts = unmatched
        self.facts = join_all([self.facts, *ends])


def _matches_all(pattern: ast.pattern) -> bool:
    """Whether it is `_` or a bare name."""
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def _pairs(node: ast.Assign) -> list[tuple[ast.expr, ast.expr]]:
    """What goes where in `a, b = x, y`; empty where that cannot be told."""
    match node.targets, node.value:
        case [ast.Tuple(elts=targets) | ast.List(elts=targets)], ast.Tuple(elts=values):
            starred = any(isinstance(one, ast.Starred) for one in (*targets, *values))
            if len(targets) == len(values) and not starred:
                return list(zip(targets, values, strict=True))
    return []
