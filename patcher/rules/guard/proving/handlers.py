"""Whether an `except` or a `suppress` surely ends an AttributeError, for good."""

from __future__ import annotations

import ast

from patcher.rules.guard.proving.names import ModuleNames, last_name

# Patterns that ask the subject for its class, length, items or attributes.
UNPACKING = (ast.MatchClass, ast.MatchMapping, ast.MatchSequence)
Try = ast.Try | ast.TryStar
# What in a handler may let an error out: that one, or another in its place.
HANDS_ON = (
    ast.Raise, ast.Assert, ast.Await, ast.Yield, ast.YieldFrom, ast.With, ast.AsyncWith, ast.For,
    ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Import,
    ast.ImportFrom, ast.ClassDef, ast.Starred, ast.In, ast.NotIn, *UNPACKING,
)  # fmt: skip
# What in a handler runs no code, even where an operator, a load or a truth may be this module's.
STILL = (ast.Pass, ast.Expr, ast.Assign, ast.Return, ast.Continue, ast.Break, ast.Name,
         ast.Constant, ast.Tuple, ast.List, ast.expr_context)  # fmt: skip
# What names a class in an `except`, and runs no code.
PLAIN = (ast.Name, ast.Attribute, ast.Tuple, ast.expr_context)


def suppresses(manager: ast.expr, names: ModuleNames) -> bool:
    """Whether a context manager is contextlib.suppress of it."""
    return (
        isinstance(manager, ast.Call)
        and names.is_suppress(manager.func)
        and any(_is_caught(found) for named in manager.args for found in names.exceptions(named))
    )


def catches(node: Try, names: ModuleNames) -> bool:
    """Whether an AttributeError in the body surely ends in a handler, for good.

    A handler that uses the error, raises, or calls anything may hand the error on; so may
    what is evaluated to find the handler.
    """
    if isinstance(node, ast.TryStar):
        return False
    for handler in node.handlers:
        named = list(ast.walk(handler.type or ast.Load()))
        if any(not isinstance(part, PLAIN) or _loads(part, names) for part in named):
            return False
        found = list(names.exceptions(handler.type))
        if not any(one is None or _is_caught(one) for one in found):
            continue
        if _hands_on(handler, names):
            return False
        if any(map(_is_caught, found)):
            return True
    return False


def _hands_on(handler: ast.ExceptHandler, names: ModuleNames) -> bool:
    """Whether a handler may let the error out. A log line may name it, and does not."""
    parts: list[ast.AST] = list(handler.body)
    for part in parts:  # which grows meanwhile
        if names.is_log(part) and not names.contexts:
            logged = [one for argument in ast.iter_child_nodes(part) for one in ast.walk(argument)]
            parts += [
                one
                for one in logged
                if isinstance(one, (ast.Call, *HANDS_ON)) and not names.is_log(one)
            ]
            continue
        if _may_hand_on(part, handler.name, names):
            return True
        parts += ast.iter_child_nodes(part)
    return False


def _may_hand_on(node: ast.AST, error: str | None, names: ModuleNames) -> bool:
    """Whether a node of a handler, without its children, may let an error out."""
    match node:
        case ast.Name(id=name) if name == error:
            return True
        case (
            ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del())
        ):
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return bool(node.decorator_list)
        case ast.Call(func=func) if not names.is_harmless(func):
            return True
        case ast.Tuple(ctx=ast.Store()) | ast.List(ctx=ast.Store()):
            return True  # unpacking iterates
        case _:
            pass
    operates = names.contexts and not isinstance(node, STILL)
    return isinstance(node, HANDS_ON) or operates or _loads(node, names)


def _loads(node: ast.AST, names: ModuleNames) -> bool:
    """Whether a property of this module may run."""
    match node:
        case ast.Attribute(attr=attr):
            return attr in names.properties
        case ast.Call(func=func):
            return bool(names.properties) and last_name(func) == "getattr"
        case _:
            return False


def _is_caught(found: type[BaseException] | None) -> bool:
    return found is not None and issubclass(AttributeError, found)
