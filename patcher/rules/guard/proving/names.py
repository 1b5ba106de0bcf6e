"""What a module's names can be relied on to mean."""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# Builtins that cannot delete or replace a receiver's attribute: they ask at most for what an
# operator asks for. Any other call may.
HARMLESS = frozenset({
    "abs", "bool", "callable", "float", "getattr", "hasattr", "id", "int", "isinstance",
    "issubclass", "len", "print", "range", "repr", "str", "super", "vars",
})  # fmt: skip
LOGGING = frozenset({
    "critical", "debug", "debug_once", "error", "exception", "info", "info_once", "log", "warn",
    "warning", "warning_once",
})  # fmt: skip
# By these a program may alter any of its names, or what a name in another function means.
REACHING = frozenset({
    "__builtins__", "__closure__", "__globals__", "__prepare__", "builtins", "cell_contents",
    "f_globals", "f_locals",
})  # fmt: skip
REACHING_CALLS = frozenset({"eval", "exec", "globals", "locals"})
# By these a handler may come by an error that another handler has caught.
CONTEXTS = frozenset({"__context__", "__cause__", "exc_info", "last_value", "last_exc"})
# By these an attribute may get a name that is written nowhere but in a string.
SPELLING = frozenset({
    "__dict__", "__setattr__", "make_dataclass", "namedtuple", "setattr", "update", "vars",
})  # fmt: skip
# All of these are told where the module mentions them; but `x.eval()` is any object's own method.
_TOLD_OF_ATTRIBUTES = REACHING | CONTEXTS | SPELLING
_TOLD_OF_NAMES = _TOLD_OF_ATTRIBUTES | REACHING_CALLS
# Special methods that the verifier takes for granted run elsewhere: it loses all it knows there.
CALLED = frozenset({
    "__init__", "__new__", "__call__", "__enter__", "__exit__", "__aenter__", "__aexit__",
    "__iter__", "__next__", "__aiter__", "__anext__", "__await__", "__set__", "__setattr__",
    "__setitem__", "__delattr__", "__delete__", "__delitem__", "__init_subclass__",
    "__set_name__", "__class_getitem__", "__reduce__", "__reduce_ex__", "__getstate__",
    "__setstate__", "__post_init__", "__copy__", "__deepcopy__", "__contains__",
})  # fmt: skip
# Those of them that an operator or a statement hands a key or an item.
KEYED = frozenset({"__contains__", "__setitem__", "__delitem__"})
# Special names that are no methods.
DATA = frozenset({"__all__", "__doc__", "__match_args__", "__slots__", "__version__"})
# By these, called and not as decorators, an attribute gets a property.
PROPERTIES = frozenset({"property", "cached_property"})
COMPREHENSIONS = (ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
SCOPES = (*COMPREHENSIONS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
IN_PLACE = re.compile(r"__i(?:\w{2}|add|sub|mul|matmul|truediv|floordiv|mod|pow|[lr]shift|xor)__")
SPECIAL = re.compile(r"__\w+__")
PRIVATE = re.compile(r"(?:_[^\W_]\w*?)?(__\w*[^\W_]_?)")


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """What a module does with names, wherever in it.

    `bound`: how often each name is bound. `imported`: how often by an import; `renamed`: by one
    that calls it otherwise. `shared`: names that a call can bind anew, being global, nonlocal, or
    a walrus's in a generator. `strings`: all string constants. `stored`: attributes that are
    stored to or deleted. `mentioned`: what it imports or defines, and which of the names above it
    uses, from REACHING to SPELLING. `loggers`: names bound once, by an import or by calling one.
    `suppressors`: dotted names that are contextlib.suppress and nothing else. `mangled`: private
    names that a class spells in two ways. `operators`: special methods of this module that an
    operator, a format or a truth calls; `special`: those that may undo a guard, and `properties`
    are the attributes whose load may. `reachable`: attributes in which this module may keep what
    it is handed. `defined`: its functions.
    """

    bound: Counter[str] = field(default_factory=Counter)
    imported: Counter[str] = field(default_factory=Counter)
    renamed: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    mentioned: set[str] = field(default_factory=set)
    loggers: set[str] = field(default_factory=set)
    suppressors: set[str] = field(default_factory=set)
    mangled: set[str] = field(default_factory=set)
    properties: set[str] = field(default_factory=set)
    reachable: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    special: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)

    @property
    def star(self) -> bool:
        """Whether a star import may have bound any name."""
        return "*" in self.bound

    @property
    def reaching(self) -> bool:
        """Whether names may be altered by a way that is not followed."""
        return not (REACHING | REACHING_CALLS).isdisjoint(self.mentioned)

    @property
    def contexts(self) -> bool:
        """Whether a handler may come by an error that another has caught, or an operator raise."""
        return self.acting or not CONTEXTS.isdisjoint(self.mentioned)

    @property
    def acting(self) -> bool:
        """Whether some operator, load or truth runs code of this module."""
        return bool(self.special)

    @property
    def adds_in_place(self) -> bool:
        """Whether `+=` and the like may give None: this module defines one of them."""
        return any(IN_PLACE.fullmatch(name) for name in (*self.bound, *self.stored, *self.strings))

    @property
    def loads_act(self) -> bool:
        """Whether the load of any attribute may run code of this module."""
        return not self.special.isdisjoint({"__getattr__", "__getattribute__", "__get__"})

    def store_acts(self, attribute: str) -> bool:
        """Whether a store to that attribute may run code, or replace what a name means."""
        known = self.defined | self.stored | self.strings | self.special
        return (
            attribute.startswith("_")
            or attribute in REACHING
            or attribute in self.defined
            or not known.isdisjoint({"__setattr__", "__delattr__", "__set__", "__delete__"})
        )

    def may_keep(self, attribute: str) -> bool:
        """Whether that attribute may hold what this module was handed."""
        any_name = {"__getattr__", "__getattribute__"}
        return attribute in self.reachable or not any_name.isdisjoint(self.operators)

    def is_builtin(self, node: ast.expr, name: str) -> bool:
        """Whether the expression is the builtin of that name, and not a name that hides it."""
        return isinstance(node, ast.Name) and node.id == name and self._untouched(name)

    def is_harmless(self, node: ast.expr) -> bool:
        """Whether calling the expression leaves every receiver as it is."""
        return isinstance(node, ast.Name) and node.id in HARMLESS and self._untouched(node.id)

    def is_log(self, node: ast.AST) -> bool:
        """Whether the expression writes a log line, which neither alters nor raises anything."""
        match node:
            case ast.Call(func=ast.Attribute(attr=method, value=ast.Name(id=logger))):
                return method in LOGGING and logger in self.loggers
            case _:
                return False

    def is_imported(self, name: str) -> bool:
        """Whether only imports bind a name."""
        return 0 < self.bound[name] == self.imported[name] and not self.star

    def is_suppress(self, node: ast.expr) -> bool:
        """Whether the expression is contextlib.suppress, unless a star import hides that.

        It hides every exception's name too, so that none is known to be suppressed.
        """
        return (
            isinstance(node, ast.Name | ast.Attribute)
            and self._stands("suppress")
            and ast.unparse(node) in self.suppressors
        )

    def exceptions(self, node: ast.expr | None) -> Iterator[type[BaseException] | None]:
        """The builtin classes that an `except` names; None for one that cannot be told."""
        if node is None:
            yield BaseException
        elif isinstance(node, ast.Tuple):
            for element in node.elts:
                yield from self.exceptions(element)
        else:
            found = getattr(builtins, node.id, None) if isinstance(node, ast.Name) else None
            is_class = isinstance(found, type) and issubclass(found, BaseException)
            touched = isinstance(node, ast.Name) and not self._untouched(node.id)
            yield found if is_class and not touched else None

    def _untouched(self, name: str) -> bool:
        hidden = name in self.bound or self.star
        return not hidden and not (self.reaching and not self._stands(name))

    def _stands(self, name: str) -> bool:
        """Whether nobody puts something else in the place of a module's attribute."""
        return name not in self.stored and name not in self.strings


def scan(nodes: list[ast.AST]) -> ModuleNames:
    """Read what a module, given as all its nodes, does to its names."""
    names = ModuleNames()
    suppressed: Counter[str] = Counter()
    docstrings: set[ast.AST] = set()
    namesakes: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    spelled = False
    for node in nodes:
        match node:
            case ast.Expr(value=ast.Constant() as docstring):
                docstrings.add(docstring)
                continue
            case ast.Attribute(attr=attr, ctx=context):
                if not isinstance(context, ast.Load):
                    stored[attr] += 1
                if attr in _TOLD_OF_ATTRIBUTES:
                    names.mentioned.add(attr)
                continue  # most nodes are these, and bind nothing
            case ast.Name(id=name):
                if name in _TOLD_OF_NAMES:
                    names.mentioned.add(name)
            case ast.Call(func=func, args=arguments, keywords=keywords):
                if last_name(func) in PROPERTIES:
                    names.special.update({"__get__", "__set__"})
                if len(arguments) == 3 and last_name(func) == "type":
                    spelled = True
                names.reachable.update(
                    one.arg for one in keywords if one.arg and last_name(one.value) != one.arg
                )
                continue
            case ast.Assign(targets=[ast.Attribute(attr=attr)], value=value):
                # `self.q_proj = q_proj`: a thing is what its name says, as the receiver is.
                namesakes[attr] += last_name(value) == attr
            case ast.Constant(value=str(text)):
                if node not in docstrings:
                    names.strings.add(text)
                continue
            case ast.Global(names=listed) | ast.Nonlocal(names=listed):
                names.shared.update(listed)
            case ast.GeneratorExp() | ast.ListComp() | ast.SetComp() | ast.DictComp():
                names.shared.update(
                    part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr)
                )
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    names.imported[alias.asname or alias.name.partition(".")[0]] += 1
                    names.mentioned.add(alias.name)
                    if alias.asname not in (None, alias.name):
                        names.renamed.add(alias.asname)
                suppressed.update(_suppressors(node))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.defined.add(name)
                names.mentioned.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.reachable.add(name)
            case ast.ClassDef():
                names.reachable.update(own_names(node))
            case _:
                pass
        if type(node) not in NAMELESS:
            for name in bound_by(node):
                names.bound[name] += 1
    names.suppressors.update(
        name for name, count in suppressed.items() if names.bound[name.partition(".")[0]] == count
    )
    names.stored.update(stored)
    names.reachable.update(names.defined, stored - namesakes)
    if spelled or not SPELLING.isdisjoint(names.mentioned):
        names.reachable.update(word for text in names.strings for word in re.findall(r"\w+", text))
    _find_loggers(nodes, names)
    _find_acting(nodes, names)
    _find_mangled(nodes, names)
    return names


# Half of all nodes, which bind nothing: asking each of them took a tenth of a verdict's time.
NAMELESS = frozenset({
    ast.Attribute, ast.Constant, ast.Call, ast.keyword, ast.Expr, ast.Assign, ast.AnnAssign,
    ast.Subscript, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.If, ast.Return,
    ast.Tuple, ast.List, ast.Load, ast.Store,
})  # fmt: skip


def bound_by(node: ast.AST) -> Iterator[str]:
    """The names that this one node, without its children, binds or deletes."""
    match node:
        case ast.Name(id=name, ctx=context):  # first: most nodes that get here are these
            if not isinstance(context, ast.Load):
                yield name
        case ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=asname):
            yield asname or name.partition(".")[0]
        case ast.MatchMapping(rest=str(name)):
            yield name
        case _:
            # def, class, except ... as, match captures and, from 3.12 on, type parameters
            named = getattr(node, "name", None)
            if isinstance(named, str):
                yield named


def last_name(node: ast.expr) -> str | None:
    """`q_proj` of `q_proj` and of `self.q_proj`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def parts_of(node: ast.AST) -> list[ast.AST]:
    """The nodes directly within a node, without `Load` and its like."""
    parts: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            if value._fields:
                parts.append(value)
        elif isinstance(value, list):
            parts += [item for item in value if isinstance(item, ast.AST)]
    return parts


def walked(node: ast.AST) -> list[ast.AST]:
    """A node and all within it, outer ones first, without `Load` and its like."""
    nodes = [node]
    for each in nodes:  # which grows meanwhile
        nodes += parts_of(each)
    return nodes


def own_names(scope: ast.AST) -> set[str]:
    """The names that are a function's, lambda's, class's or comprehension's own."""
    own: set[str] = set()
    outer: set[str] = set()
    parts: list[ast.AST] = [scope]
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        own.update(part.arg for part in ast.walk(scope.args) if isinstance(part, ast.arg))
        parts = [scope.body] if isinstance(scope, ast.Lambda) else [*scope.body]
    elif isinstance(scope, ast.ClassDef):
        parts = [*scope.body]
    while parts:
        part = parts.pop()
        if type(part) in NAMELESS:
            parts += parts_of(part)
            continue
        if isinstance(part, ast.Global | ast.Nonlocal):
            outer.update(part.names)
        own.update(bound_by(part))
        if not isinstance(part, SCOPES):
            parts += parts_of(part)
        elif isinstance(part, COMPREHENSIONS):
            whole = part is scope
            parts += [
                child
                for child in parts_of(part)
                if whole or not isinstance(child, ast.comprehension)
            ]
    return own - outer


def _suppressors(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The dotted names under which an import makes contextlib.suppress known."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name == "contextlib":
                yield f"{alias.asname or alias.name}.suppress"
    elif node.module == "contextlib" and not node.level:
        for alias in node.names:
            if alias.name == "suppress":
                yield alias.asname or alias.name


def _find_loggers(nodes: list[ast.AST], names: ModuleNames) -> None:
    """Names that an import binds, or one call of something imported."""
    names.loggers.update(name for name in names.imported if names.is_imported(name))
    module = nodes[0]
    for statement in module.body if isinstance(module, ast.Module) else ():
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func)):
                root = func
                while isinstance(root, ast.Attribute):
                    root = root.value
                known = isinstance(root, ast.Name) and names.is_imported(root.id)
                if known and names.bound[name] == 1 and name not in names.shared:
                    names.loggers.add(name)
            case _:
                pass


def _find_acting(nodes: list[ast.AST], names: ModuleNames) -> None:
    """The special methods and properties of this module that do more than look."""
    otherwise = names.bound.copy()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            otherwise[node.name] -= 1
            if _is_operator(node.name):
                if _acts(node, names):
                    names.special.add(node.name)
            elif node.decorator_list and _acts(node, names):
                names.properties.add(node.name)
    # What is bound otherwise than by a def, or stored under its name, may do anything.
    put = {name for name, count in otherwise.items() if count and name not in DATA}
    names.special.update(filter(_is_operator, put | names.stored | names.strings))
    names.operators.update(
        names.special, filter(_is_operator, names.defined), names.defined & KEYED
    )


def _is_operator(name: str) -> bool:
    return SPECIAL.fullmatch(name) is not None and name not in CALLED


def _acts(function: ast.FunctionDef | ast.AsyncFunctionDef, names: ModuleNames) -> bool:
    """Whether a method does more than look: it calls, stores, deletes or raises again."""
    parts = [part for statement in function.body for part in ast.walk(statement)]
    return any(_is_act(part, names) for part in parts)


def _is_act(node: ast.AST, names: ModuleNames) -> bool:
    """Whether a node, without its children, does more than look."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call() as inner)):
            return not names.is_builtin(inner.func, "super")
        case ast.Call(func=func):
            fails = any(found is not None for found in names.exceptions(func))
            return not (fails or names.is_harmless(func) or names.is_log(node))
        case ast.Raise(exc=None) | ast.Delete() | ast.Nonlocal() | ast.Global():
            return True
        case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
            return True
        case _:
            return False


def _find_mangled(nodes: list[ast.AST], names: ModuleNames) -> None:
    """`__p` in class C is `_C__p`: names that the module spells in both ways."""
    spelled = {node.id for node in nodes if isinstance(node, ast.Name)} | names.bound.keys()
    by_suffix: dict[str, set[str]] = {}
    for name in spelled:
        if (found := PRIVATE.fullmatch(name)) and not SPECIAL.fullmatch(name):
            by_suffix.setdefault(found[1], set()).add(name)
    names.mangled.update(*(both for both in by_suffix.values() if len(both) > 1))
