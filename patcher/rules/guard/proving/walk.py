"""The verifier's walk: a module's code in the order in which Python would run it.

`Walk.visit` takes an expression or a statement, changes `facts` as running it would, and gives an
expression's `Value`; `branch` does so for a condition, and gives the facts of both its outcomes.
`facts` hold at the point that the walk has reached. All that may undo them is in "What undoes
facts": a name bound anew, an attribute stored to, code that cannot be seen.

Attribute loads, subscript loads and operators are taken not to alter a layer. Calls, awaits,
yields, imports, `with` and iteration (but over `range`) are taken to do their worst. An exception
leaves behind only what held at every point of the `try` (a `Floor`); `finally` runs for every way
out; loops run until their facts are stable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from patcher.rules.guard.chain import Chain
from patcher.rules.guard.proving.facts import DEAD, OTHER, Facts, Held, Key, Value, join_all
from patcher.rules.guard.proving.names import ModuleNames, bound_by

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# What an annotation must not hold to be taken for a mere name of a type.
ACTS = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Starred, ast.Dict,
        ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.In, ast.NotIn)  # fmt: skip
# Evaluated when somebody asks for them (PEP 695); none before Python 3.12.
LAZY = tuple(
    getattr(ast, name)
    for name in ("TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple")
    if hasattr(ast, name)
)
# Patterns that ask the subject for its class, length, items or attributes.
UNPACKING = (ast.MatchClass, ast.MatchMapping, ast.MatchSequence)
Try = ast.Try | ast.TryStar
# What in a handler may let an error out: that one, or another in its place.
HANDS_ON = (
    ast.Raise, ast.Assert, ast.Await, ast.Yield, ast.YieldFrom, ast.With, ast.AsyncWith, ast.For,
    ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Import,
    ast.ImportFrom, ast.ClassDef, ast.Starred, ast.In, ast.NotIn,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Later:
    """Code that runs at another time, and the names that it sees from outside."""

    node: Function | Comprehension
    outer: Mapping[str, Value]


@dataclass(slots=True)
class Floor:
    """What held at every point since it was laid: what an exception leaves behind."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Outcome:
    """A condition's two ways out, and what the condition itself evaluates to."""

    true: Facts
    false: Facts
    value: Value = OTHER

    def swapped(self) -> Outcome:
        """The outcome of the opposite condition; as a value it stays what it was."""
        return Outcome(self.false, self.true, self.value)


@dataclass(slots=True)
class Loop:
    """The facts of every `break` and `continue` that leaves this loop's body."""

    breaks: list[Facts] = field(default_factory=list)
    continues: list[Facts] = field(default_factory=list)


@dataclass
class Walk(ast.NodeVisitor):
    """The state of one walk.

    `judged` holds each read that was met, and whether every visit found it safe. `ever` holds
    the worst that each name of this scope was bound to, for code that runs later.
    """

    rule: Chain
    names: ModuleNames
    judged: dict[ast.expr, bool] = field(default_factory=dict)
    later: list[Later] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    ever: dict[str, Value] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)
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

    # ---- What undoes facts

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

    # ---- Reads

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

    # ---- Other expressions

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

    # ---- Conditions

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

    # ---- Statements

    def block(self, body: Sequence[ast.stmt]) -> None:
        """Run statements in order."""
        for statement in body:
            self.visit(statement)

    # ---- Simple statements

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

    # ---- Definitions

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

    # ---- Branches and loops

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

    # ---- Exceptions

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


def _is(node: ast.expr, constant: str | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == constant


def _compared_with_none(left: ast.expr, right: ast.expr) -> ast.expr | None:
    if _is(right, None):
        return left
    return right if _is(left, None) else None


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
