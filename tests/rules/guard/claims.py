"""What must hold for every snippet, whoever wrote it: by hand, by chance, or upstream."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

from patcher.errors import NotFollowed, RewriteRefused
from patcher.rules.guard.chain import Read
from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.guard.writing.rewrite import rewrite
from patcher.rules.rule import Rewritten

from .oracle import Deaths, Outcome, Program
from .stubs import Place

RULE = AttributeGuard("kv_b_proj", "weight", "dtype", "params_dtype")


def told(source: bytes) -> tuple[Read, ...] | None:
    """All reads; None where the verifier gives no answer, which is never clean."""
    try:
        return verify(source, RULE)
    except NotFollowed:
        return None


def is_clean(source: bytes) -> bool:
    reads = told(source)
    return reads is not None and all(read.guarded for read in reads)


def assert_never_lenient(source: bytes, deaths: Deaths) -> None:
    """No read that is called guarded is the death of a run; a snippet that can die is not clean.

    A death of a `None` that has never been a layer's weight is no business of the verifier's.
    """
    for read in told(source) or ():
        fatal = (read.line, read.column) in deaths.places
        assert not (read.guarded and fatal), f"called guarded, and kills: {read}"
    if deaths.possible and is_clean(source):
        assert of_no_layer(source, deaths.places), f"called clean, and dies: {deaths}"


def of_no_layer(source: bytes, deaths: Collection[Place]) -> bool:
    """Are all the deaths, and there are some, no business of the verifier's?"""
    return bool(deaths) and all(is_of_no_layer(source, place) for place in deaths)


def is_of_no_layer(source: bytes, place: Place) -> bool:
    """Is it a read of a nested function's own name, in which no weight is to be had at all?

    `def g(): w = None; return w.dtype` dies beside any layer, whatever `w` is around it.
    """
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.lineno < place[0] <= (node.end_lineno or 0)
    ]
    nested = around[1:]  # outer ones first; the names of `f` itself are what the verifier is about
    if not nested:
        return False
    within = list(ast.walk(nested[0]))
    if any(isinstance(node, ast.Nonlocal | ast.Global) for node in within):
        return False
    reads = [node for node in within if isinstance(node, ast.Attribute) and node.attr == "dtype"]
    name = next(
        (
            node.value.id
            for node in reads
            if isinstance(node.value, ast.Name) and (node.lineno, node.col_offset + 1) == place
        ),
        None,
    )
    owner = next((each for each in reversed(nested) if _bindings(each, name)), None)
    if owner is None:
        return False
    chains = {id(node.value) for node in reads}
    weights = [
        node
        for node in ast.walk(owner)
        if (isinstance(node, ast.Attribute) and node.attr == "weight" and id(node) not in chains)
        or (isinstance(node, ast.Name) and node.id == "getattr")
    ]
    return not weights or all(map(_holds_no_layer, _bindings(owner, name)))


def _bindings(function: ast.FunctionDef, name: str | None) -> list[ast.expr | None]:
    """What a function, and not one within it, binds a name to; None for what is not followed."""
    found: list[ast.expr | None] = []
    followed: set[ast.AST] = set()
    rest: list[ast.AST] = [*function.body]
    for node in rest:  # which grows meanwhile, outer ones first
        match node:
            case ast.FunctionDef() | ast.Lambda():
                continue
            case (
                ast.Assign(targets=[ast.Name(id=bound) as target], value=value)
                | ast.For(target=ast.Name(id=bound) as target, iter=value)
                | ast.withitem(optional_vars=ast.Name(id=bound) as target, context_expr=value)
            ) if bound == name:
                followed.add(target)
                found.append(value)
            case ast.Name(id=bound, ctx=ast.Store()) if bound == name and node not in followed:
                found.append(None)
            case _:
                pass
        rest += ast.iter_child_nodes(node)
    return found


def _holds_no_layer(value: ast.expr | None) -> bool:
    """Whether a value can have nothing of a layer in it: it names none, and asks none."""
    if value is None:
        return False
    parts = list(ast.walk(value))
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    return not (
        names - {"nullcontext", "suppress", "maybe_raise", "ValueError", "AttributeError", "range"}
        or any(isinstance(part, ast.Attribute) for part in parts)
    )


def assert_rewrite_is_sound(source: bytes, limit: int = 4096) -> bool:
    """A rewrite mends every read of the chain and changes nothing else, or is refused (False).

    Reads through a local name are beyond the rewriter: they stay, and the verifier says so. In
    code that no run reaches the verifier proves nothing, so nothing is asked of it there.
    """
    try:
        rewritten = rewrite(source, RULE)
    except RewriteRefused as refusal:
        if not re.search(r"\bline \d", refusal.problem):
            raise
        return False
    assert_only_edits_differ(source, rewritten)
    again = rewrite(rewritten.data, RULE)
    assert (again.edits, again.data) == ((), rewritten.data)
    reads = told(rewritten.data)
    if reads is None:
        return False
    left = [read for read in reads if not read.guarded]
    before = Program(source)
    after = Program(rewritten.data) if rewritten.edits else before
    reached = assert_same_but_for_deaths(before, after, limit, may_die=bool(left))
    unproven = [
        read
        for read in left
        if is_written_out(read)
        and (read.line, read.column) in reached
        and not may_be_handled(rewritten.data, read)
    ]
    assert not unproven, f"{unproven} in\n{rewritten.data.decode()}"
    return True


def is_written_out(read: Read) -> bool:
    """Is it the chain as it stands in the rule, not a read through a local name?"""
    return re.search(rf"(^|\.){re.escape(RULE.chain)}$", read.text) is not None


def may_be_handled(source: bytes, read: Read) -> bool:
    """Does it stand where a guard would take the place of the program's own fallback?"""
    tree = ast.parse(source)
    around = (ast.Try, ast.TryStar, ast.With, ast.AsyncWith)
    blocks = [node for node in ast.walk(tree) if isinstance(node, around)]
    if any(node.lineno <= read.line <= (node.end_lineno or 0) for node in blocks):
        return True
    functions = {*read.function.split(".")}
    called = [part for block in blocks for part in ast.walk(block)]
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    # Called there, or bound there anew: of two functions of one name, either may be meant.
    names = {getattr(part, "id", getattr(part, "name", None)) for part in called}
    return bool(functions & names) or any(part.value in functions for part in asked)


def assert_only_edits_differ(source: bytes, rewritten: Rewritten) -> None:
    """Every byte is the original's, but for the declared edits at their declared places."""
    rebuilt, at = b"", 0
    for edit in sorted(rewritten.edits, key=lambda edit: edit.start):
        assert at <= edit.start <= edit.end, "edits overlap"
        assert source[edit.start : edit.end] == edit.before
        assert edit.line == len(re.split(rb"\r\n|\r|\n", source[: edit.start]))
        assert edit.shape in {"value", "gate"}
        rebuilt += source[at : edit.start] + edit.after
        at = edit.end
    assert rebuilt + source[at:] == rewritten.data


def assert_same_but_for_deaths(
    before: Program, after: Program, limit: int, *, may_die: bool
) -> set[Place]:
    """Run by run: the rewritten does not die; where nothing was missed before, all is equal.

    Returns the places of the reads that some run of the rewritten program tried.
    """
    reached: set[Place] = set()
    for packed in before.packings():
        for decisions, old in before.runs(packed, limit):
            new, taken = (old, [*decisions]) if after is before else after.run(packed, decisions)
            reached |= new.reached
            lives = not new.dead or of_no_layer(after.source, new.deaths)
            assert may_die or lives, f"rewritten, dies with {packed} by {decisions}: {new}"
            if not (old.missed or old.endless):
                assert (new.visible, tuple(taken)) == (old.visible, decisions), explain(old, new)
    return reached


def explain(old: Outcome, new: Outcome) -> str:
    return f"before: {old}\n after: {new}"
