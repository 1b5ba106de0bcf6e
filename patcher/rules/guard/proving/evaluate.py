"""Expressions, as the verifier reads them: in evaluation order, with what each may be.

`Evaluator.visit` takes an expression, updates `facts` as evaluating it would, and returns its
`Value`. `branch` does the same for a condition and returns the facts of both outcomes.

Attribute loads, subscript loads and operators are taken not to alter a layer. Calls, awaits,
yields, imports, `with` and iteration (but over `range`) are taken to do their worst.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from patcher.rules.guard.proving.facts import DEAD, OTHER, Facts, Held, Key, Value, join_all
from patcher.rules.guard.proving.state import Comprehension, Later, Walk

# Evaluated when somebody asks for them (PEP 695); none before Python 3.12.
LAZY = tuple(
    getattr(ast, name)
    for name in ("TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple")
    if hasattr(ast, name)
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A condition's two ways out, and what the condition itself evaluates to."""

    true: Facts
    false: Facts
    value: Value = OTHER

    def swapped(self) -> Outcome:
        """The outcome of the opposite condition; as a value it stays what it was."""
        return Outcome(self.false, self.true, self.value)


@dataclass
class Evaluator(Walk):
    """A walk over expressions; each visit gives the expression's `Value`."""

    # ---- reads

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        """A load, store or deletion of an attribute: each loads what stands before the dot."""
        base = self.visit(node.value)
        if node.attr == self.rule.member and base.held is not Held.NO:
            self._judge(node, base)
        if node.attr == self.rule.receiver:
            return Value(layer=True, about=self.path(node))
        if node.attr == self.rule.attribute and base.layer:
            return self._load(self.path(node.value))
        return OTHER

    def _judge(self, node: ast.expr, base: Value) -> None:
        safe = self.caught or (base.held is Held.YES and not base.nothing)
        self.judged[node] = self.judged.get(node, True) and safe

    def _load(self, key: Key | None) -> Value:
        proven = self.caught or key in self.facts.has
        return Value(held=Held.YES if proven else Held.UNPROVEN, about=key)

    def path(self, node: ast.expr) -> Key | None:
        """The dotted path of an expression that evaluates without side effects, if it is one."""
        match node:
            case ast.Name(id=name) | ast.NamedExpr(target=ast.Name(id=name)):
                value = self.facts.names.get(name, OTHER)
                return value.about if value.layer and value.about else (name,)
            case ast.Attribute(value=value, attr=attr):
                base = self.path(value)
                return None if base is None else (*base, attr)
            case _:
                return None

    # ---- other expressions

    def generic_visit(self, node: ast.AST) -> Value:
        """Anything that is not told apart: its parts, in order."""
        for child in () if isinstance(node, LAZY) else ast.iter_child_nodes(node):
            self.visit(child)
        return OTHER

    def visit_Name(self, node: ast.Name) -> Value:
        """A name: what it was last seen to hold."""
        value = self.facts.names.get(node.id, OTHER)
        return replace(value, layer=True) if node.id == self.rule.receiver else value

    def visit_Constant(self, node: ast.Constant) -> Value:
        """None is the one constant that matters."""
        return Value(nothing=node.value is None)

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        """`modules["kv_b_proj"]` may be the receiver; its path is not followed."""
        self.generic_visit(node)
        return Value(layer=_is(node.slice, self.rule.receiver))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Value:
        """A walrus binds in passing."""
        value: Value = self.visit(node.value)
        self.bind(node.target, value)
        return value

    def visit_IfExp(self, node: ast.IfExp) -> Value:
        """Each outcome is evaluated under what its branch of the test shows."""
        test = self.branch(node.test)
        self.facts = test.true
        body: Value = self.visit(node.body)
        end, self.facts = self.facts, test.false
        orelse: Value = self.visit(node.orelse)
        self.facts = end.join(self.facts)
        return body.join(orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Value:
        """As a value: one of the operands, or what decided the chain."""
        outcome = self.branch(node)
        self.facts = outcome.true.join(outcome.false)
        return outcome.value

    def visit_Call(self, node: ast.Call) -> Value:
        """hasattr and getattr answer about the receiver; an unknown call may alter any layer."""
        self.visit(node.func)
        arguments = [self.visit(argument) for argument in (*node.args, *node.keywords)]
        if not self.names.is_harmless(node.func):
            self.lose_paths()
            return OTHER
        match node.func, node.args:
            case ast.Name(id="hasattr"), [subject, asked]:
                known = arguments[0].layer and _is(asked, self.rule.attribute)
                about = self.path(subject) if known else None
                return Value(test=about is not None, about=about)
            case ast.Name(id="getattr"), [_, asked, *_] if _is(asked, self.rule.receiver):
                return Value(layer=True)
            case ast.Name(id="getattr"), [_, asked, *default] if _is(asked, self.rule.member):
                if arguments[0].held is not Held.NO:
                    # With a default it asks None too; an attribute must still have been there.
                    base = replace(arguments[0], nothing=arguments[0].nothing and not default)
                    self._judge(node, base)
                return OTHER
            case ast.Name(id="getattr"), [subject, asked, *default]:
                wanted = arguments[0].layer and _is(asked, self.rule.attribute)
                return self._getattr(self.path(subject), default) if wanted else OTHER
            case _:
                return OTHER

    def _getattr(self, key: Key | None, default: list[ast.expr]) -> Value:
        if not default:
            return self._load(key)
        if _is(default[0], None):
            return Value(held=Held.YES, nothing=True, about=key)
        return Value(held=Held.UNPROVEN)

    def visit_Await(self, node: ast.expr) -> Value:
        """Other code runs meanwhile."""
        self.generic_visit(node)
        self.lose_paths()
        return OTHER

    visit_Yield = visit_YieldFrom = visit_Starred = visit_Await

    def visit_keyword(self, node: ast.keyword) -> Value:
        """`**mapping` asks the mapping for its keys."""
        self.visit(node.value)
        if node.arg is None:
            self.lose_paths()
        return OTHER

    def visit_Dict(self, node: ast.Dict) -> Value:
        """A key, its value, the next key; `**mapping` asks the mapping for its keys."""
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                self.visit(key)
            self.visit(value)
            if key is None:
                self.lose_paths()
        return OTHER

    def visit_Compare(self, node: ast.Compare) -> Value:
        """Only `in` runs code that we do not take for an operator: it may iterate."""
        self.generic_visit(node)
        if any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            self.lose_paths()
        return OTHER

    def visit_Lambda(self, node: ast.Lambda) -> Value:
        """Defaults are evaluated now, the body at another time."""
        self.defaults(node.args)
        self.later.append(Later(node, self.ever))
        return OTHER

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> Value:
        """The first iterable is evaluated now, the rest whenever somebody asks."""
        self.visit(node.generators[0].iter)
        self.later.append(Later(node, self.ever))
        return OTHER

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp) -> Value:
        """A comprehension runs here and now; its targets are its own."""
        self.visit(node.generators[0].iter)
        if self.in_class:
            # It sees the names around the class, not those that the class body binds.
            self.later.append(Later(node, self.ever))
            self.lose_paths()
            return OTHER
        outside = self.facts
        self.comprehend(node, node.generators)
        targets = [name for part in node.generators for name in ast.walk(part.target)]
        hidden = {name.id for name in targets if isinstance(name, ast.Name)}
        self.facts = self.facts.without_names(hidden)
        for name in hidden & outside.names.keys():
            value = outside.names[name].detached()
            value = self.exposed(value) if name in self.names.shared | self.free else value
            self.facts = self.facts.with_name(name, value)
        return OTHER

    visit_SetComp = visit_DictComp = visit_ListComp

    def comprehend(self, node: Comprehension, generators: list[ast.comprehension]) -> None:
        """Run the loops of a comprehension, whose first iterable is evaluated already."""
        here, *inner = generators
        for _ in self.until_stable():
            self.iterate(here.iter)
            self.bind(here.target, OTHER)
            skipped = []
            for condition in here.ifs:
                outcome = self.branch(condition)
                self.facts = outcome.true
                skipped.append(outcome.false)
            if inner:
                self.visit(inner[0].iter)
                self.comprehend(node, inner)
            else:
                for part in ast.iter_child_nodes(node):
                    if not isinstance(part, ast.comprehension):
                        self.visit(part)
            self.facts = join_all([self.facts, *skipped])

    # ---- conditions

    def branch(self, test: ast.expr) -> Outcome:
        """Evaluate a condition."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return replace(self.branch(operand).swapped(), value=OTHER)
            case ast.BoolOp(op=op, values=operands):
                return self._chain(isinstance(op, ast.And), operands)
            case ast.Constant(value=constant):
                outcome = Outcome(self.facts, DEAD, self.visit(test))
                return outcome if constant else outcome.swapped()
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[right]):
                if (subject := _compared_with_none(left, right)) is not None:
                    there = self._there(subject, self.visit(subject))
                    outcome = Outcome(there, self.facts)
                    return outcome.swapped() if isinstance(op, ast.Is) else outcome
            case _:
                pass
        value: Value = self.visit(test)
        there = self._there(test, value)
        return Outcome(there.with_has(value.about if value.test else None), self.facts, value)

    def _chain(self, conjunction: bool, operands: list[ast.expr]) -> Outcome:
        """A chain of and/or. Which operand it evaluates to cannot be told: none is proven."""
        left, values = DEAD, []
        for operand in operands:
            outcome = self.branch(operand)
            values.append(outcome.value)
            way_on = outcome if conjunction else outcome.swapped()
            self.facts = way_on.true
            left = left.join(way_on.false)
        held = any(value.held is not Held.NO for value in values)
        value = Value(
            layer=any(value.layer for value in values),
            held=Held.UNPROVEN if held else Held.NO,
            nothing=any(value.nothing for value in values),
        )
        outcome = Outcome(self.facts, left, value)
        return outcome if conjunction else outcome.swapped()

    def _there(self, node: ast.expr, value: Value) -> Facts:
        """What follows when the value turned out not to be None."""
        if not value.nothing:
            return self.facts
        facts = self.facts.with_has(value.about if value.held is Held.YES else None)
        match node:
            case ast.Name(id=name) | ast.NamedExpr(target=ast.Name(id=name)):
                return facts.with_name(name, replace(value, nothing=False))
            case _:
                return facts


def _is(node: ast.expr, constant: str | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == constant


def _compared_with_none(left: ast.expr, right: ast.expr) -> ast.expr | None:
    if _is(right, None):
        return left
    return right if _is(left, None) else None
