"""The verifier's walk: a module's code in the order in which Python would run it.

`Walk.visit` takes an expression or a statement, changes `facts` as running it would, and gives an
expression's `Value`; `branch` does so for a condition, and gives the facts of both its outcomes.
`facts` hold at the point that the walk has reached. All that may undo them is in "What undoes
facts": a name bound anew, an attribute stored to, code that cannot be seen.

Attribute loads, subscript loads and operators are taken not to alter a receiver, unless the module
itself defines one that does. Calls, awaits, yields, imports, `with`, stores and iteration (but
over `range`) are taken to do their worst. A name that other code may bind anew then holds
whatever any code of the module binds it to. An exception leaves behind only what held at every
point of the `try` (a `Floor`); `finally` runs for every way out; loops run until their facts are
stable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from patcher.rules.guard.chain import Chain
from patcher.rules.guard.proving.facts import (
    ANYTHING,
    DEAD,
    OTHER,
    UNKNOWN,
    Facts,
    Held,
    Key,
    Value,
    join_all,
)
from patcher.rules.guard.proving.handlers import UNPACKING, Try, catches, suppresses
from patcher.rules.guard.proving.names import (
    NAMELESS,
    ModuleNames,
    bound_by,
    last_name,
    own_names,
    walked,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Display = (ast.List, ast.Tuple, ast.Set)
# What an annotation is made of that runs no code, unless this module defines an operator.
PLAIN = (ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.Tuple, ast.List,
         ast.BinOp, ast.operator, ast.expr_context)  # fmt: skip
_NO_ARGUMENTS = ast.arguments([], [], None, [], [], None, [])
# Evaluated when somebody asks for them (PEP 695); none before Python 3.12.
LAZY = tuple(
    getattr(ast, name)
    for name in ("TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple")
    if hasattr(ast, name)
)
# Functions that load an attribute, or run code, whose name is in a string.
BY_STRING = frozenset({
    "attrgetter", "methodcaller", "eval", "exec", "compile", "format", "format_map",
})  # fmt: skip
# Functions that store to an attribute whose name is a string or a keyword.
STORING = frozenset({
    "setattr", "__setattr__", "setdefault", "update", "register_buffer", "register_parameter",
})  # fmt: skip
# Classes of which None is surely no instance.
TENSORS = frozenset({"Tensor", "Parameter"})
# Rounds of a loop after which every name that its body binds is taken to hold anything, and
# `finally` in `finally` after which both ways into it are taken for one.
ROUNDS = 6
FINALLIES = 3


class Intricate(Exception):
    """A program whose paths are too many to be followed."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True, slots=True)
class Later:
    """Code that runs at another time, and the names that it sees from outside.

    `item`: what a comprehension's first loop, whose iterable was evaluated at once, may hand out.
    """

    node: Function | Comprehension
    outer: Mapping[str, Value]
    item: Value = UNKNOWN


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
        """The two ways out exchanged; what it evaluates to stays."""
        return Outcome(self.false, self.true, self.value)


@dataclass(slots=True)
class Loop:
    """The facts of every `break` and `continue` that leaves this loop's body."""

    breaks: list[Facts] = field(default_factory=list)
    continues: list[Facts] = field(default_factory=list)


@dataclass
class Escapes:
    """Where what the rule is about leaves by a way that is not followed, by line.

    `receiver` and `attribute`: one of them is handed on. `stray`: so is the attribute of something
    that may be that receiver. `reads`: the member is read through the attribute of such a thing.
    `members`: it is read of something that may be an attribute that was handed on.
    """

    receiver: set[int] = field(default_factory=set)
    attribute: set[int] = field(default_factory=set)
    stray: set[int] = field(default_factory=set)
    reads: set[int] = field(default_factory=set)
    members: set[int] = field(default_factory=set)

    @property
    def found(self) -> tuple[int, int] | None:
        """The lines of an escape and of a read that it may reach; None if there is no such pair."""
        attribute = self.attribute or (self.stray if self.receiver else set())
        for away, back in ((self.receiver, self.reads), (attribute, self.members)):
            if away and back:
                return min(away), min(back)
        return None


@dataclass
class Walk(ast.NodeVisitor):
    """The state of one walk.

    Of the whole module: `steps` are those that are left. `judged` holds each read that was met,
    and whether every visit found it safe. `later` is the code put off. `module_ever` holds the
    worst that each name of the module's own scope was bound to, `anywhere` that of each shared
    name in any scope. `nothing_stored`: None was stored under the attribute's name.

    Of the scope: `ever` holds the worst that each name was bound to, for code that runs later.
    `loose` are the names that code which is not seen may bind anew. `nothings` are reads of the
    member through a name that may be None, judged once the scope was walked to its end.

    Of the point: `floors` and `loops` are those around it. `caught`: an AttributeError surely ends
    in a handler. `in_class`: in a class's own body. `finallies`: how many `finally` it is in.
    """

    rule: Chain
    names: ModuleNames
    steps: int
    judged: dict[ast.expr, bool] = field(default_factory=dict)
    escapes: Escapes = field(default_factory=Escapes)
    later: list[Later] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    ever: dict[str, Value] = field(default_factory=dict)
    module_ever: Mapping[str, Value] = field(default_factory=dict)
    anywhere: dict[str, Value] = field(default_factory=dict)
    loose: set[str] = field(default_factory=set)
    loops: list[Loop] = field(default_factory=list)
    nothings: list[tuple[ast.expr, str]] = field(default_factory=list)
    nothing_stored: bool = False
    caught: bool = False
    in_class: bool = False
    finallies: int = 0
    line: int = 1
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

    def visit(self, node: ast.AST) -> Value:
        """Run a node. Raises `Intricate` once the walk has taken more steps than it may."""
        self.steps -= 1
        if self.steps < 0:
            raise Intricate(self.line)
        value: Value = super().visit(node)
        return value

    def run_module(self, tree: ast.Module) -> None:
        """Run the module's own code; functions are put off to `later`."""
        self.ever, self.facts, self.floors = {}, Facts(), []
        self.module_ever, self.nothings = self.ever, []
        self.loose = self.names.shared | self.names.stored
        self.block(tree.body)
        self._judge_nothings()

    def run_later(self, task: Later) -> None:
        """Run a body that was put off, in a fresh scope."""
        names = {**task.outer, **self.anywhere}
        if names:
            own = own_names(task.node)
            names = {name: value for name, value in names.items() if name not in own}
        self.ever, self.nothings = dict(names), []
        self.loose = self.names.shared | names.keys()
        self.facts = Facts(names=names)
        match task.node:
            case ast.Lambda(args=args, body=body):
                self._enter_with_nothing(args)
                self.escape(self.visit(body), body)
            case ast.FunctionDef(args=args, body=body) | ast.AsyncFunctionDef(args=args, body=body):
                self._enter_with_nothing(args)
                self.block(body)
            case comprehension:
                self.comprehend(comprehension, comprehension.generators, task.item)
        self._judge_nothings()

    def _enter_with_nothing(self, args: ast.arguments) -> None:
        """Bind the parameters whose default is None."""
        positional = [*args.posonlyargs, *args.args]
        given = positional[len(positional) - len(args.defaults) :]
        parameters, defaults = [*given, *args.kwonlyargs], [*args.defaults, *args.kw_defaults]
        for parameter, default in zip(parameters, defaults, strict=True):
            if default is not None and _is(default, None):
                self.bind_name(parameter.arg, UNKNOWN)

    # ---- What undoes facts

    def bind(self, target: ast.expr, value: Value) -> None:
        """Store `value` to a target, as an assignment, a loop or a walrus does."""
        match target:
            case ast.Name(id=name):
                self.bind_name(name, value)
            case ast.Attribute(attr=attr):
                self.visit(target)
                self.escape(value, target, attr)
                self.lose_if(attr == self.rule.attribute or self.names.store_acts(attr))
                self.facts = self.facts.without_attribute(attr)
                if attr in self.loose & self.facts.names.keys():
                    # What is stored to may be this module, and the attribute its name.
                    self.facts = self.facts.with_name(attr, self.facts.names[attr].exposed())
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self.escape(value, target)
                self.lose_paths()
                for element in targets:
                    self.bind(element, OTHER)
            case ast.Starred(value=element):
                self.bind(element, OTHER)
            case _:
                self.visit(target)
                self.escape(value, target, _text(getattr(target, "slice", None)))
                self.lose_paths()

    def bind_name(self, name: str, value: Value) -> None:
        """Bind a name anew."""
        self.facts = self.facts.bound(name, value)
        if self.in_class:
            self.escape(value, None, name)
        worst = value.detached()
        if worst.followed and self.names.bound[name] > 1:
            worst = replace(worst, mixed=True)  # by then it may hold what another binding gave it
        if name in self.names.shared:
            worst = worst.exposed()
            if worst != OTHER:
                self.anywhere[name] = self.anywhere.get(name, worst).join(worst)
        if worst != OTHER:
            self.ever[name] = self.ever.get(name, worst).join(worst)

    def lose_paths(self) -> None:
        """Code ran that cannot be seen: it may have altered every receiver and shared name."""
        self.facts = self.lost(self.facts)

    def lost(self, facts: Facts) -> Facts:
        """The same facts once code has run that cannot be seen."""
        facts = facts.without_paths()
        loose = facts.names.keys() if self.names.reaching else self.loose & facts.names.keys()
        for name in loose:
            facts = facts.with_name(name, facts.names[name].exposed())
        for name, worst in self.anywhere.items():
            facts = facts.with_name(name, worst)
        return facts

    def lose_if(self, acts: bool) -> None:
        """An operator, a load or a truth, which may run code of this module."""
        if acts:
            self.lose_paths()

    def operate(self, node: ast.AST, *operands: Value) -> None:
        """An operator, a format or a truth, which may be a special method of this module."""
        if self.names.operators:
            for operand in operands:
                self.escape(operand, node)
        self.lose_if(self.names.acting)

    def escape(self, value: Value, node: ast.AST | None, name: str | None = None) -> None:
        """A value goes where it is not followed, under a name if there is one.

        What goes by the receiver's own name is taken for the receiver there.
        """
        line = getattr(node, "lineno", self.line)
        if value.receiver and name != self.rule.receiver:
            self.escapes.receiver.add(line)
        if value.held is not Held.NO and value.nothing:
            self.escapes.attribute.add(line)
        if value.stray is not Held.NO and value.nothing:
            self.escapes.stray.add(line)
        if value.nothing and name == self.rule.attribute:
            self.nothing_stored = True

    def by_string(self, node: ast.expr) -> None:
        """An attribute is loaded whose name is in a string, of something that is not known."""
        for lines in (self.escapes.receiver, self.escapes.reads):
            lines.add(node.lineno)

    def iterate(self, iterable: ast.expr) -> None:
        """One step of a loop. A range runs no code of anybody's."""
        self.lose_if(not self.is_range(iterable))

    def is_range(self, iterable: ast.expr) -> bool:
        """Whether a loop's iterable is a call of the builtin `range`."""
        return isinstance(iterable, ast.Call) and self.names.is_builtin(iterable.func, "range")

    def until_stable(self, body: ast.AST) -> Iterator[None]:
        """Repeat a loop's body until another round would start from the same facts."""
        rounds = 0
        while True:
            head = self.facts
            yield
            self.facts = head.join(self.facts)
            if self.facts == head:
                return
            rounds += 1
            if rounds == ROUNDS:
                for name in {name for part in ast.walk(body) for name in bound_by(part)}:
                    self.bind_name(name, ANYTHING)

    # ---- Reads

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        """A load, store or deletion of an attribute: each loads what is before the dot."""
        base = self.visit(node.value)
        if node.attr == self.rule.member:
            self._read_member(node, node.value, base)
        if node.attr in self.names.defined:
            self.escape(base, node)  # to a method or a property
        self.lose_if(self.names.loads_act or node.attr in self.names.properties)
        if node.attr == self.rule.receiver:
            return Value(receiver=True, about=self.path(node))
        if node.attr == self.rule.attribute:
            return self._load(node.value, base)
        if node.attr == "__dict__":
            return replace(base, about=None, test=0)
        return OTHER

    def _read_member(self, node: ast.expr, of: ast.expr, base: Value) -> None:
        """Judge a read of the member, where what it is read of may be the attribute."""
        if base.held is not Held.NO:
            safe = self.caught or (base.held is Held.YES and not base.nothing)
            self.judged[node] = self.judged.get(node, True) and safe
        elif base.nothing and isinstance(of, ast.Name) and not self.caught:
            self.nothings.append((node, of.id))
        if self.caught:
            return
        if base.stray is Held.UNPROVEN or (base.stray is not Held.NO and base.nothing):
            self.escapes.reads.add(node.lineno)
        if (base.mixed or not base.followed) and self._may_be_handed(of):
            self.escapes.members.add(node.lineno)

    def _judge_nothings(self) -> None:
        """Reads through None: unsafe where the name ever held the attribute, for it was missing."""
        for node, name in self.nothings:
            if self.ever.get(name, OTHER).held is not Held.NO:
                self.judged[node] = False

    def _load(self, of: ast.expr, base: Value) -> Value:
        """The load of the attribute."""
        key = self.path(of)
        proven = self.caught or key in self.facts.has
        held = Held.YES if proven else Held.UNPROVEN
        if base.receiver:
            return Value(held=held, nothing=self.nothing_stored, about=key)
        return Value(stray=held, about=key) if self._may_be_handed(of) else OTHER

    def _may_be_handed(self, node: ast.expr) -> bool:
        """Whether an expression may be what went away by a way that is not followed."""
        match node:
            case ast.Attribute(attr=attr):
                return self.names.may_keep(attr)
            case ast.Name(id=name):
                return not self.names.is_imported(name)
            case ast.BinOp() | ast.UnaryOp() | ast.Compare():
                return bool(self.names.operators)
            case ast.Constant() | ast.JoinedStr():
                return False
            case _:
                return True

    def path(self, node: ast.expr) -> Key | None:
        """The dotted path of an expression that evaluates without side effects, if it is one."""
        match node:
            case ast.Name(id=name) | ast.NamedExpr(target=ast.Name(id=name)):
                if name in self.names.mangled:
                    return None
                value = self.facts.names.get(name, OTHER)
                return value.about if value.receiver and value.about else (name,)
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
        if node.id in self.names.mangled:
            return ANYTHING
        if node.id == "getattr" and isinstance(node.ctx, ast.Load):
            self.by_string(node)  # called by whoever gets it
        value = self.facts.names.get(node.id, OTHER)
        return replace(value, receiver=True) if node.id == self.rule.receiver else value

    def visit_Constant(self, node: ast.Constant) -> Value:
        """None is the one constant that matters."""
        return Value(nothing=node.value is None)

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        """`modules["kv_b_proj"]` may be the receiver; its path is not followed."""
        base = self.visit(node.value)
        self.operate(node, self.visit(node.slice))
        if _is(node.slice, self.rule.attribute) and base.receiver:
            return Value(held=Held.UNPROVEN)
        self.escape(base, node)
        return Value(receiver=_is(node.slice, self.rule.receiver))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Value:
        """A walrus binds in passing."""
        value = self.visit(node.value)
        self.bind(node.target, value)
        return self.facts.names.get(node.target.id, OTHER) if value.about else value

    def visit_IfExp(self, node: ast.IfExp) -> Value:
        """Each outcome is evaluated under what its branch of the test shows."""
        test = self.branch(node.test)
        self.facts = test.true
        body = self.visit(node.body)
        end, self.facts = self.facts, test.false
        orelse = self.visit(node.orelse)
        self.facts = end.join(self.facts)
        return body.join(orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Value:
        """As a value: one of the operands, or what decided the chain."""
        outcome = self.branch(node)
        self.facts = outcome.true.join(outcome.false)
        return outcome.value

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Value:
        """`not` gives the opposite answer."""
        value = self.visit(node.operand)
        self.operate(node, value)
        if isinstance(node.op, ast.Not) and value.test:
            return Value(test=-value.test, about=value.about)
        return OTHER

    def visit_BinOp(self, node: ast.BinOp) -> Value:
        """An operator."""
        self.operate(node, self.visit(node.left), self.visit(node.right))
        return OTHER

    def visit_FormattedValue(self, node: ast.FormattedValue) -> Value:
        """A value in an f-string."""
        value = self.visit(node.value)
        if node.format_spec is not None:
            self.visit(node.format_spec)
        self.operate(node, value)
        return OTHER

    def visit_Call(self, node: ast.Call) -> Value:
        """hasattr and getattr answer about the receiver; an unknown call may alter any."""
        func = node.func
        name = last_name(func)
        called = OTHER
        if isinstance(func, ast.Attribute):
            called = self.visit(func.value)
            if func.attr in (self.rule.member, self.rule.attribute, self.rule.receiver):
                called = called.join(self.visit(func))
        elif not (isinstance(func, ast.Name) and name == "getattr"):
            called = self.visit(func)
        values = [self.visit(argument) for argument in (*node.args, *node.keywords)]
        if self.names.is_log(node):
            self.operate(node, *values)
            return OTHER
        harmless = self.names.is_harmless(func)
        if not harmless:
            self._hand_over(node, called, values)
        elif name not in ("getattr", "hasattr"):
            self.operate(node, *values)
        self.lose_if(not harmless or self.names.acting or self._asks_for_property(node))
        if name == "getattr":
            return self._getattr(node, values, trusted=harmless)
        if name == "hasattr" and harmless and len(node.args) == 2:
            known = self.path(node.args[0]) if _is(node.args[1], self.rule.attribute) else None
            return Value(test=int(known is not None), about=known)
        if name == "vars" and len(values) == 1:
            return replace(values[0], about=None, test=0)
        receiver = called.receiver or any(value.receiver for value in values)
        if harmless:
            return OTHER
        return Value(
            receiver=any(_is_path_to(one, self.rule.receiver) for one in node.args),
            held=Held.UNPROVEN
            if receiver and any(_is(one, self.rule.attribute) for one in node.args)
            else Held.NO,
        )

    def _asks_for_property(self, node: ast.Call) -> bool:
        """Whether a getattr or the like may load a property of this module."""
        properties = self.names.properties
        return bool(properties) and any(
            _text(asked) is None or _text(asked) in properties for asked in node.args[1:2]
        )

    def _hand_over(self, node: ast.Call, called: Value, values: list[Value]) -> None:
        """What goes into a call that is not followed."""
        self.escape(called, node)
        name = last_name(node.func)
        words = {_text(argument) for argument in node.args} | {one.arg for one in node.keywords}
        stored = self.rule.attribute if name in STORING and self.rule.attribute in words else None
        for argument, value in zip((*node.args, *node.keywords), values, strict=True):
            self.escape(value, argument, stored or getattr(argument, "arg", None))
        if name in BY_STRING and self._spells(node):
            self.by_string(node)

    def _spells(self, node: ast.AST) -> bool:
        """Whether a string in it names the attribute or its member."""
        words = (self.rule.attribute, self.rule.member)
        texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        return any(
            text in words or f"{self.rule.attribute}.{self.rule.member}" in text
            for text in texts
            if isinstance(text, str)
        )

    def _getattr(self, node: ast.Call, values: list[Value], *, trusted: bool) -> Value:
        """What a getattr gives, which may be its default; `trusted` is the builtin."""
        match node.args:
            case [subject, asked]:
                return self._asked(node, values[0], subject, asked, [], trusted=trusted)
            case [subject, asked, default]:
                got = self._asked(node, values[0], subject, asked, [default], trusted=trusted)
                return got if _is(default, None) else got.join(values[2].detached())
            case _:
                return OTHER

    def _asked(
        self,
        node: ast.Call,
        base: Value,
        subject: ast.expr,
        asked: ast.expr,
        default: list[ast.expr],
        *,
        trusted: bool,
    ) -> Value:
        """What a getattr gives where the attribute is there, or its default is None."""
        if _is(asked, self.rule.receiver):
            return Value(receiver=True)
        if _is(asked, self.rule.member):
            # With a default it asks None too; an attribute must still have been there.
            base = replace(base, nothing=base.nothing and not default)
            self._read_member(node, subject, base)
            return OTHER
        if _is(asked, self.rule.attribute):
            return self._getattr_attribute(subject, base, default, trusted=trusted)
        if isinstance(asked, ast.Constant):
            return OTHER
        self.escape(base, node)  # under which name cannot be told
        return Value(stray=Held.UNPROVEN) if base.receiver else OTHER

    def _getattr_attribute(
        self, subject: ast.expr, base: Value, default: list[ast.expr], *, trusted: bool
    ) -> Value:
        loaded = self._load(subject, base)
        if trusted and not default:
            return loaded
        held = Held.YES if trusted and _is(default[0], None) else Held.UNPROVEN
        about = self.path(subject) if held is Held.YES else None
        return replace(
            loaded,
            held=held if loaded.held is not Held.NO else Held.NO,
            stray=held if loaded.stray is not Held.NO else Held.NO,
            nothing=True,
            about=about,
        )

    def visit_Await(self, node: ast.Await | ast.Yield | ast.YieldFrom | ast.Starred) -> Value:
        """Other code runs meanwhile."""
        if node.value is not None:
            self.escape(self.visit(node.value), node)
        self.lose_paths()
        return OTHER

    visit_Yield = visit_YieldFrom = visit_Starred = visit_Await

    def visit_keyword(self, node: ast.keyword) -> Value:
        """`**mapping` asks the mapping for its keys."""
        value = self.visit(node.value)
        if node.arg is None:
            self.lose_paths()
        return value

    def visit_List(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        """What is put into a container is not followed; a set asks for hashes."""
        for element in node.elts:
            self.escape(self.visit(element), element)
        self.lose_if(self.names.acting and isinstance(node, ast.Set))
        return OTHER

    visit_Tuple = visit_Set = visit_List

    def visit_Dict(self, node: ast.Dict) -> Value:
        """A key, its value, the next key. A dict asks for hashes, `**mapping` for its keys."""
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                self.escape(self.visit(key), key)
            self.escape(self.visit(value), value, _text(key))
            self.lose_if(self.names.acting or key is None)
        return OTHER

    def visit_Compare(self, node: ast.Compare) -> Value:
        """The later operands of a chain run only where the first ones compare as they should."""
        left = self.visit(node.left)
        short = DEAD
        for number, (operator, operand) in enumerate(zip(node.ops, node.comparators, strict=True)):
            if number:
                short = short.join(self.facts)
            right = self.visit(operand)
            if not isinstance(operator, ast.Is | ast.IsNot):
                self.operate(operand, left, right)
            # `in` may iterate; any other operator runs no code, unless this module defines it.
            self.lose_if(isinstance(operator, ast.In | ast.NotIn))
            left = right
        self.facts = short.join(self.facts)
        return OTHER

    def visit_Lambda(self, node: ast.Lambda) -> Value:
        """Defaults are evaluated now, the body at another time."""
        self.defaults(node.args)
        self.later.append(Later(node, self.ever))
        return OTHER

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> Value:
        """The first iterable is evaluated now, the rest whenever somebody asks."""
        self.later.append(Later(node, self.ever, self._iterated(node.generators[0].iter)))
        return OTHER

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp) -> Value:
        """A comprehension runs here and now; its targets are its own."""
        first = self._iterated(node.generators[0].iter)
        if self.in_class:
            # It sees the names around the class, not those that the class body binds.
            self.later.append(Later(node, self.ever, first))
            self.lose_paths()
            return OTHER
        outside = self.facts
        self.comprehend(node, node.generators, first)
        targets = [name for part in node.generators for name in ast.walk(part.target)]
        for name in {name.id for name in targets if isinstance(name, ast.Name)}:
            value = outside.names.get(name, OTHER).detached()
            value = value.exposed() if name in self.loose else value
            self.facts = self.facts.bound(name, value)
        return OTHER

    visit_SetComp = visit_DictComp = visit_ListComp

    def comprehend(
        self, node: Comprehension, generators: list[ast.comprehension], item: Value
    ) -> None:
        """Run the loops of a comprehension, whose first iterable is evaluated already."""
        here, *inner = generators
        self.iterate(here.iter)
        for _ in self.until_stable(node):
            self.iterate(here.iter)
            self.bind(here.target, item)
            skipped = []
            for condition in here.ifs:
                outcome = self.branch(condition)
                self.facts = outcome.true
                skipped.append(outcome.false)
            if inner:
                self.comprehend(node, inner, self._iterated(inner[0].iter))
            else:
                for part in ast.iter_child_nodes(node):
                    if not isinstance(part, ast.comprehension):
                        self.escape(self.visit(part), part)
            self.facts = join_all([self.facts, *skipped])

    def _iterated(self, iterable: ast.expr) -> Value:
        """Evaluate what a loop runs over; gives what one of its items may be."""
        if isinstance(iterable, Display) and not any(
            isinstance(element, ast.Starred) for element in iterable.elts
        ):
            item = OTHER
            for number, element in enumerate(iterable.elts):
                value = self.visit(element).detached()
                item = item.join(value) if number else value
            return item
        self.escape(self.visit(iterable), iterable)
        return OTHER if self.is_range(iterable) else UNKNOWN

    def defaults(self, arguments: ast.arguments) -> None:
        """Defaults, the positional ones first."""
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.escape(self.visit(default), default)

    def annotation(self, node: ast.expr | None) -> None:
        """Evaluated now, later or never: that depends on the Python and on the module.

        So its reads are judged by what holds at any time, no handler around it counts, and what
        it may do is done. From Python 3.14 on it is a function's body (PEP 649).
        """
        if node is None:
            return
        if any(getattr(part, "attr", None) == self.rule.member for part in ast.walk(node)):
            self.later.append(
                Later(ast.copy_location(ast.Lambda(_NO_ARGUMENTS, node), node), self.ever)
            )
        before, floors, caught = self.facts, self.floors, self.caught
        self.floors, self.caught = [], False
        self.facts = Facts(names={**self.ever, **self.anywhere}, dead=before.dead)
        self.visit(node)
        after, self.floors, self.caught = self.facts, floors, caught
        acts = self.names.acting or bool(self.names.properties)
        acts = acts or not all(isinstance(part, PLAIN) for part in ast.walk(node))
        self.facts = self.lost(before.join(after)) if acts else before

    # ---- Conditions

    def branch(self, test: ast.expr) -> Outcome:
        """Evaluate a condition."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                outcome = self.branch(operand)
                value = Value(test=-outcome.value.test, about=outcome.value.about)
                return replace(outcome.swapped(), value=value if value.test else OTHER)
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
            case ast.Call(func=func, args=[subject, kind]) if self._asks_for_a_tensor(func, kind):
                value = self.visit(subject)
                self.visit(kind)
                return Outcome(self._there(subject, value), self.facts)
            case _:
                pass
        value = self.visit(test)
        self.operate(test, value)
        true = self._there(test, value).with_has(value.about if value.test == 1 else None)
        return Outcome(true, self.facts.with_has(value.about if value.test == -1 else None), value)

    def _asks_for_a_tensor(self, func: ast.expr, kind: ast.expr) -> bool:
        """`isinstance(x, torch.Tensor)` also asks whether x is not None."""
        root = kind.value if isinstance(kind, ast.Attribute) else kind
        return (
            self.names.is_builtin(func, "isinstance")
            and not self.names.acting
            and last_name(kind) in TENSORS
            and isinstance(root, ast.Name)
            and self.names.is_imported(root.id)
            and not (root is kind and root.id in self.names.renamed)
        )

    def _chain(self, conjunction: bool, operands: list[ast.expr]) -> Outcome:
        """A chain of and/or. Which operand it evaluates to cannot be told: none is proven."""
        left, values = DEAD, []
        for operand in operands:
            outcome = self.branch(operand)
            values.append(outcome.value)
            way_on = outcome if conjunction else outcome.swapped()
            self.facts = way_on.true
            left = left.join(way_on.false)
        held = max(value.held for value in values)
        stray = max(value.stray for value in values)
        # The whole is true only where each operand of an `and` is (false, of an `or`).
        sign = 1 if conjunction else -1
        tests = [v.about for v in values if v.test == sign and v.about in self.facts.has]
        value = Value(
            receiver=any(value.receiver for value in values),
            held=Held.UNPROVEN if held else Held.NO,
            stray=Held.UNPROVEN if stray else Held.NO,
            nothing=any(value.nothing for value in values),
            mixed=any(value.mixed or value.followed != values[0].followed for value in values),
        )
        if value == OTHER and tests:
            value = Value(test=sign, about=tests[-1])
        outcome = Outcome(self.facts, left, value)
        return outcome if conjunction else outcome.swapped()

    def _there(self, node: ast.expr, value: Value) -> Facts:
        """What follows when the value turned out not to be None."""
        if not (value.nothing or value.mixed):
            return self.facts
        proven = Held.YES in (value.held, value.stray)
        facts = self.facts.with_has(value.about if proven else None)
        match node:
            case ast.Name(id=name) | ast.NamedExpr(target=ast.Name(id=name)):
                return facts.with_name(name, replace(value, nothing=False, mixed=False))
            case _:
                return facts

    # ---- Simple statements

    def block(self, body: Sequence[ast.stmt]) -> None:
        """Run statements in order."""
        for statement in body:
            self.line = statement.lineno
            self.visit(statement)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Only `name = value` keeps what the value says about a path: no code runs between."""
        pairs = list(_pairs(node.targets[0], node.value)) if len(node.targets) == 1 else []
        if len(pairs) > 1 or (pairs and pairs[0][1] is not node.value):
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
        self.escape(self.visit(node.value), node)
        self.operate(node, before)
        self.bind(node.target, before.exposed() if self.names.adds_in_place else before.detached())

    def visit_Delete(self, node: ast.Delete) -> None:
        """A deleted name, attribute or item is lost."""
        for target in node.targets:
            if self.in_class and isinstance(target, ast.Name):
                self.bind_name(target.id, self._outside(target.id))  # it is the module's again
            else:
                self.bind(target, OTHER)

    def visit_Return(self, node: ast.Return) -> None:
        """Evaluated, and then nothing follows here."""
        if node.value is not None:
            self.escape(self.visit(node.value), node)
        self.facts = DEAD

    def visit_Raise(self, node: ast.Raise) -> None:
        """As a return; to raise a class calls it, too."""
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
        """An import runs a module; it may bring the receiver, under any name."""
        self.lose_paths()
        for alias in node.names:
            named = alias.name == self.rule.receiver and isinstance(node, ast.ImportFrom)
            for name in bound_by(alias):
                self.bind_name(name, Value(receiver=named))

    visit_ImportFrom = visit_Import

    # ---- Definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Decorators and defaults now; the body at another time."""
        for decorator in node.decorator_list:
            self.escape(self.visit(decorator), decorator)
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
            self.escape(self.visit(part), part, getattr(part, "arg", None))
        self.lose_paths()
        before, outer, self.in_class = self.facts, self.in_class, True
        # Until the body binds it, a name is the module's, and not the function's.
        if known := {*self.facts.names, *self.ever, *self.module_ever}:
            own = {
                name
                for child in node.body
                for part in walked(child)
                if type(part) not in NAMELESS
                for name in bound_by(part)
            }
            for name in own & known:
                self.facts = self.facts.with_name(name, self._outside(name))
        self.block(node.body)
        self.facts, self.in_class = before, outer
        self.lose_paths()
        self.bind_name(node.name, OTHER)

    def _outside(self, name: str) -> Value:
        """What a name may hold in a class body that has not bound it."""
        here, module = self.ever.get(name, OTHER), self.module_ever.get(name, OTHER)
        return self.facts.names.get(name, OTHER).join(here).join(module).exposed()

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
        for _ in self.until_stable(node):
            self.facts = self.branch(node.test).true
            self._round(node.body)
        self.facts = self.branch(node.test).false
        self._leave(node.orelse)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """One step of the iterator before every round, and before the loop ends."""
        item = self._iterated(node.iter)
        self.loops.append(Loop())
        self.iterate(node.iter)  # once at least, and so that what it loses costs no second round
        for _ in self.until_stable(node):
            self.iterate(node.iter)
            self.bind(node.target, item)
            self._round(node.body)
        self.iterate(node.iter)
        if not self.is_range(node.iter):
            # A generator that is left half-way runs its `finally`.
            leaves = self.loops[-1].breaks
            leaves[:] = map(self.lost, leaves)
        self._leave(node.orelse)

    visit_AsyncFor = visit_For

    def _round(self, body: Sequence[ast.stmt]) -> None:
        """Run a loop's body once, up to where the next round begins."""
        self.block(body)
        self.facts = join_all([self.facts, *self.loops[-1].continues])

    def _leave(self, orelse: Sequence[ast.stmt]) -> None:
        """Leave a loop, by its `else` or by a `break`."""
        loop = self.loops.pop()
        self.block(orelse)
        self.facts = join_all([self.facts, *loop.breaks])

    def visit_Match(self, node: ast.Match) -> None:
        """A pattern may run code of the subject's class; a failed one may have bound its names."""
        subject = self.visit(node.subject)
        ends = []
        for case in node.cases:
            before = self.facts
            parts = list(ast.walk(case.pattern))
            self.lose_if(self.names.acting or any(isinstance(part, UNPACKING) for part in parts))
            self.visit(case.pattern)
            captured = self._captured(subject, parts)
            unbound = self.facts
            for name in [name for part in parts for name in bound_by(part)]:
                self.bind_name(name, captured)
            unmatched = unbound.join(self.facts)
            if case.guard is not None:
                outcome = self.branch(case.guard)
                self.facts, unmatched = outcome.true, unmatched.join(outcome.false)
            elif _matches_all(case.pattern):
                unmatched = DEAD
            self.block(case.body)
            ends.append(self.facts)
            self.facts = unmatched
            if _is_none(case.pattern) and case.guard is None and unmatched is before:
                self.facts = self._there(node.subject, subject)
                subject = replace(subject, nothing=False, mixed=False)
        self.facts = join_all([self.facts, *ends])

    def _captured(self, subject: Value, parts: list[ast.AST]) -> Value:
        """What a name in a pattern may hold: the subject, or a part that the pattern names."""
        words = {word for part in parts for word in getattr(part, "kwd_attrs", ())}
        words |= {part.value for part in parts if isinstance(part, ast.Constant)}
        if any(isinstance(part, UNPACKING) for part in parts):
            self.escape(subject, parts[0])
        elif any(isinstance(part, ast.MatchValue) for part in parts):
            self.operate(parts[0], subject)
        if any(isinstance(part, ast.MatchClass) and part.patterns for part in parts):
            # `__match_args__` says which attribute that is.
            self.escapes.receiver.add(self.line)
        held = Held.UNPROVEN if self.rule.attribute in words else subject.held
        receiver = subject.receiver or self.rule.receiver in words
        return replace(subject, receiver=receiver, held=held, test=0, about=None)

    # ---- Exceptions

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Entering and leaving run code; any manager may swallow what comes after it."""
        self._enter(node.items, node.body)

    visit_AsyncWith = visit_With

    def _enter(self, items: list[ast.withitem], body: list[ast.stmt]) -> None:
        """Enter the first manager, run the rest inside it, and leave it."""
        if not items:
            self.block(body)
            return
        caught, marks = self.caught, self._marks()
        self.escape(self.visit(items[0].context_expr), items[0].context_expr)
        self.lose_paths()
        floor = self._lay_floor()
        if items[0].optional_vars is not None:
            self.bind(items[0].optional_vars, UNKNOWN)
        # A manager further in may turn the error into another, which nobody waits for.
        self.caught = suppresses(items[0].context_expr, self.names)
        self._enter(items[1:], body)
        self.floors.pop()
        self.caught = caught
        for exits, mark in self._exits_since(marks):
            exits[mark:] = map(self.lost, exits[mark:])
        self.facts = self.facts.join(floor.facts)
        self.lose_paths()

    def visit_Try(self, node: Try) -> None:
        """Body, handlers and else; then `finally`, once for every kind of way out."""
        floor = self._lay_floor()
        marks = self._marks()
        self._attempt(node)
        self.floors.pop()
        if not node.finalbody:
            return
        normal = self.facts
        self.finallies += 1
        alike = self.finallies > FINALLIES
        self.facts = floor.facts.join(normal) if alike else floor.facts
        self.block(node.finalbody)
        for exits, mark in self._exits_since(marks):
            # A break or continue from inside runs `finally` first, and sees its effects.
            if exits[mark:]:
                exits.append(self.facts)
        if normal.dead:
            self.facts = normal
        elif not alike:
            self.facts = normal
            self.block(node.finalbody)
        self.finallies -= 1

    visit_TryStar = visit_Try

    def _marks(self) -> list[int]:
        return [len(exits) for exits, _ in self._exits_since()]

    def _exits_since(self, marks: list[int] | None = None) -> list[tuple[list[Facts], int]]:
        """Every loop's breaks and continues, each with how many there were at the marks."""
        exits = [way for loop in self.loops for way in (loop.breaks, loop.continues)]
        return list(zip(exits, marks or [0] * len(exits), strict=True))

    def _attempt(self, node: Try) -> None:
        """All of a `try` but its `finally`."""
        # What this `try` does not catch it may turn into another error on its way out.
        caught, self.caught = self.caught, catches(node, self.names)
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
            ran = self._lay_floor()
            if handler.name is not None:
                self.bind_name(handler.name, OTHER)
            self.block(handler.body)
            self.floors.pop()
            ends.append(self.facts)
            if isinstance(node, ast.TryStar):
                # Of `except*` several run, one after the other, and groups are taken apart.
                asked = self.lost(asked.join(ran.facts))
        self.caught = caught
        self.facts = join_all(ends)

    def _lay_floor(self) -> Floor:
        """A floor that sinks with all that follows, until it is popped."""
        self.floors.append(Floor(self.facts))
        return self.floors[-1]


def _is(node: ast.expr, constant: str | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == constant


def _text(node: ast.expr | None) -> str | None:
    """The string that an expression is, if it is one."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_path_to(node: ast.expr, name: str) -> bool:
    """Whether it is a string like "kv_b_proj" or "attn.kv_b_proj"."""
    return (_text(node) or "").rpartition(".")[2] == name


def _compared_with_none(left: ast.expr, right: ast.expr) -> ast.expr | None:
    if _is(right, None):
        return left
    return right if _is(left, None) else None


def _matches_all(pattern: ast.pattern) -> bool:
    """Whether it is `_` or a bare name."""
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def _is_none(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchSingleton) and pattern.value is None


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What goes where in `a, (b, c) = x, (y, z)`: the innermost pairs that can be told."""
    match target, value:
        case (
            (ast.Tuple(elts=targets) | ast.List(elts=targets)),
            (ast.Tuple(elts=values) | ast.List(elts=values)),
        ) if len(targets) == len(values) and not any(
            isinstance(one, ast.Starred) for one in (*targets, *values)
        ):
            for inner in zip(targets, values, strict=True):
                yield from _pairs(*inner)
        case _:
            yield target, value
