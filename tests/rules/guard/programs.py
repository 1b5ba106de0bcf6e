"""Hypothesis strategies: functions that guard a read, or nearly do, in every shape.

A program is a function `f(self, other, a, b)` with names for a layer (`p`), a weight (`w`) and
an answer (`has`), and statements that read, guard, rebind, repack and leave, nested at will.
"""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

Lines = tuple[str, ...]
Text = st.SearchStrategy[str]
Block = st.SearchStrategy[Lines]

LAYERS = ["self.kv_b_proj", "self.kv_b_proj", "other.kv_b_proj", "p"]
PRELUDE = (
    "from contextlib import nullcontext, suppress",
    "def lose():",
    "    global W",
    "    W = None",
    "def f(self, other, a, b):",
    "    p = self.kv_b_proj",
    '    w = getattr(self.kv_b_proj, "weight", None)',
    '    has = hasattr(self.kv_b_proj, "weight")',
)


def filled(pattern: str, **parts: Text) -> Text:
    """The pattern with each `{name}` filled by a draw of its part."""
    return st.builds(pattern.format, **parts)


def indented(lines: Lines) -> Lines:
    return tuple("    " + line for line in lines)


layers = st.sampled_from(LAYERS)
direct_reads = filled("{x}.weight.dtype", x=layers)
reads = direct_reads | direct_reads | st.just("w.dtype")

guards = st.one_of(
    filled('hasattr({x}, "weight")', x=layers),
    filled('hasattr({x}, "weight")', x=layers),
    filled('hasattr({x}, "bias")', x=layers),
    filled('getattr({x}, "weight", None) is not None', x=layers),
    filled('(w := getattr({x}, "weight", None)) is not None', x=layers),
    filled('hasattr(p := {x}, "weight")', x=layers),
    st.sampled_from(["w is not None", "w is None", "w", "has", "has", "not has"]),
)
flags = st.sampled_from(["a", "b", "not a", "choice()", "True"])
spoilers = st.sampled_from([
    "(self := other)", "(p := other.kv_b_proj)", "(has := a)", "repack(self.kv_b_proj) is None",
    "repack(p) is None",
])  # fmt: skip


def grown(inner: Text) -> Text:
    return st.one_of(
        filled("not ({c})", c=inner),
        filled("{c} and {d}", c=inner, d=inner),
        filled("({c} or {d})", c=inner, d=inner),
        filled("not ({c} and {d})", c=inner, d=inner),
        filled("({c} if {d} else {e})", c=inner, d=inner, e=inner),
        filled("{c} and {r} == torch.bfloat16", c=inner, r=reads),
    )


atoms = st.one_of(guards, guards, guards, flags, spoilers)
conditions = st.one_of(guards, st.recursive(atoms, grown, max_leaves=4))

values = st.one_of(
    reads,
    filled("{r} if {c} else 0", r=reads, c=conditions),
    filled("0 if {c} else {r}", r=reads, c=conditions),
    filled("{c} and {r} == torch.bfloat16", r=reads, c=conditions),
    filled("{c} or {r}", r=reads, c=conditions),
    filled("[{r} for _ in range(2)]", r=reads),
    filled("[{r} for _ in range(2) if {c}]", r=reads, c=conditions),
    filled("[{r} for self in [self, other]]", r=direct_reads),
    filled("[{r} for o in [self, other] if {c}]", r=reads, c=conditions),
    filled("list({r} for _ in range(2) if {c})", r=reads, c=conditions),
    filled("[{c}, {r}]", r=reads, c=conditions),
    filled("[{r}, {c}]", r=reads, c=conditions),
    filled("(lambda: {r})()", r=reads),
    filled("lambda: {r}", r=reads),
    filled("lambda: {r} if {c} else 0", r=reads, c=conditions),
    filled("f'{{{r}}}'", r=reads),
    filled("{{{r}: {s}}}", r=reads, s=reads),
    filled("{{1: {c}, {r}: 2}}", r=reads, c=conditions),
    filled("(lambda y={c}, x={r}: x)()", r=reads, c=conditions),
    filled('"a" < {r} < "z"', r=reads),
    filled("effect({r})", r=reads),
)

simple = st.one_of(
    filled("x = {v}", v=values),
    filled("x = {v}", v=values),
    filled("x = {r}", r=reads),
    filled("return {v}", v=values),
    filled("return {r}", r=reads),
    filled("effect({v})", v=values),
    filled("def g(x={c}, *, y={r}): pass", r=reads, c=conditions),
    filled("def g(x: {c}, y: {r}) -> {c}: pass", r=reads, c=conditions),
    filled("box = {{}}; box[{r}] = {c}", r=reads, c=conditions),
    filled("assert {c}", c=conditions),
    filled("p = {x}", x=layers),
    filled('w = getattr({x}, "weight", None)', x=layers),
    filled('has = hasattr({x}, "weight")', x=layers),
    filled('w = {x}.weight if hasattr({x}, "weight") else None', x=layers),
    filled("box = [{x}, 1]; x = box[0].weight.dtype", x=layers),
    filled("[p] = [{x}]", x=layers),
    filled("x, (p, *_) = 1, ({x}, 2)", x=layers),
    filled("any((p := o.kv_b_proj) is {x} for o in [self, other])", x=layers),
    filled("other.proj = {x}; x = other.proj.weight.dtype", x=layers),
    filled("x = effect({x}).weight.dtype", x=layers),
    filled('w = effect(getattr({x}, "weight", None))', x=layers),
    filled("x = (lambda q={x}: q.weight.dtype)()", x=layers),
    filled("x = [{r} for p in [{x}] if {c}]", r=reads, x=layers, c=conditions),
    filled("x = {c} < (p := {x}) if a is None else 1 < a < (w := None)", x=layers, c=flags),
    st.sampled_from([
        "w = None", "any((w := x) is None for x in [None])", "[w := None for _ in range(2)]",
        "1 < a < (w := None)", "1 < a < (p := other.kv_b_proj)", "self.flag = a", "w += 1",
        "p: object = other.kv_b_proj", "w, has = None, True", "lose(); effect(1)",
        "self = other", "self.kv_b_proj = other.kv_b_proj", "self, other = other, self",
        "del self.kv_b_proj.weight", "del p", "p, q = self.kv_b_proj, p",
        "repack(p)", "repack(self.kv_b_proj)", "effect(1)", "maybe_raise(ValueError)",
        "raise ValueError", "raise KeyError", "return 1", "return lambda: w.dtype", "pass", "x = a",
        "a = not a", "has = a", "has |= a",
        "import math", "self: object = other", "p = self.kv_b_proj if a else other.kv_b_proj",
    ]),
)  # fmt: skip
simple_lines = simple.map(lambda text: (text,))
leaving = st.sampled_from(["break", "continue", "return 0", "raise ValueError", "raise KeyError"])
exits = st.sampled_from(["return 0", "raise ValueError"])


def block_of(statements: Block, most: int = 3) -> Block:
    return st.lists(statements, min_size=1, max_size=most).map(
        lambda parts: tuple(itertools.chain.from_iterable(parts))
    )


def compound(inner: Block, looping: Block) -> Block:
    """Statements that hold blocks; `looping` blocks may also break and continue."""

    def made(*heads_and_bodies: Text | Block) -> Block:
        def joined(*drawn: str | Lines) -> Lines:
            pairs = zip(drawn[::2], drawn[1::2], strict=True)
            return tuple(
                line for head, body in pairs for line in (str(head), *indented(tuple(body)))
            )

        return st.tuples(*heads_and_bodies).map(lambda drawn: joined(*drawn))

    if_ = filled("if {c}:", c=conditions)
    while_ = filled("while {c} and choice():", c=conditions)
    for_ = st.sampled_from(
        [
            "for _ in range(2):",
            "for _ in range(2):",
            "for self in [self, other]:",
            "for w in [None]:",
            "for p in (other.kv_b_proj, p):",
        ]
    )
    handler = st.sampled_from([
        "except AttributeError:", "except AttributeError:", "except ValueError:", "except:",
        "except Exception:", "except (KeyError, AttributeError) as e:",
        "except ValueError as p:", "except AttributeError as e:",
    ])  # fmt: skip
    try_, finally_, else_ = st.just("try:"), st.just("finally:"), st.just("else:")
    with_ = st.sampled_from([
        "with suppress(AttributeError):", "with suppress(ValueError):",
        "with nullcontext(other) as self:", "with suppress(ValueError), nullcontext(a) as w:",
        "with suppress(ValueError), nullcontext(maybe_raise(ValueError)) as w:",
    ])  # fmt: skip
    missing, any_error = st.just("except AttributeError:"), st.just("except Exception:")
    def_ = st.sampled_from(["def g():", "def g(self=self):"])
    scoped = inner.map(lambda body: ("nonlocal self, other, p, w, has", *body))
    reraising = inner.map(lambda body: (*body, "raise"))
    return st.one_of(
        made(if_, inner),
        made(if_, inner),
        made(if_, inner, else_, inner),
        made(filled("if not ({c}):", c=guards), exits.map(lambda line: (line,))),
        made(while_, looping),
        made(for_, looping),
        made(for_, looping, else_, inner),
        made(st.just("while True:"), looping.map(lambda body: (*body, "break"))),
        made(try_, inner, handler, inner),
        made(try_, inner, handler, inner, else_, inner),
        made(try_, inner, finally_, inner),
        made(try_, inner, handler, reraising),
        made(try_, inner, missing, inner, any_error, inner),
        made(with_, inner),
        made(def_, inner).map(lambda lines: (*lines, "x = g()")),
        made(def_, inner).map(lambda lines: (*lines, "return g")),
        made(st.just("def g():"), scoped).map(lambda lines: (*lines, "g()")),
        made(
            st.just("match a:"),
            made(filled("case True if {c}:", c=conditions), inner, st.just("case self:"), inner),
        ),
        made(st.just("match other:"), made(st.just("case self:"), inner)),
        made(st.just("match a:"), made(st.just("case True:"), inner)),
        made(st.just("match a:"), made(st.just("case int() as w:"), inner)),
        made(st.just("match a:"), made(st.just("case str() as p:"), inner)),
        made(
            st.just('match getattr(self.kv_b_proj, "weight", None):'),
            made(st.just("case None:"), inner, st.just("case w:"), inner),
        ),
        made(st.just("try:"), inner, st.just("except* AttributeError:"), simple_lines),
        made(st.just("class C:"), inner.map(lambda body: ("nonlocal p, w", *body))),
    )


def blocks(depth: int, *, looping: bool) -> Block:
    line = (simple | simple | leaving if looping else simple).map(lambda text: (text,))
    if depth == 0:
        return block_of(line, most=2)
    inner = st.deferred(lambda: blocks(depth - 1, looping=looping))
    within_loop = st.deferred(lambda: blocks(depth - 1, looping=True))
    return block_of(line | compound(inner, within_loop))


# A function inside a loop may not break out of it: such a program does not compile, and is
# left out by the tests.
programs = blocks(2, looping=False).map(lambda body: "\n".join((*PRELUDE, *indented(body), "")))
