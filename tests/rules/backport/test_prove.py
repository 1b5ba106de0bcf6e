"""The proof against results that are not the fix's: it must catch every one."""

from __future__ import annotations

import random
import sys

import pytest

from bench.mutations import mutants
from patcher.errors import ProofFailed
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.merging.merge import merge_file
from patcher.rules.backport.proving.prove import prove
from tests.rules.backport.fixes import BEFORE, FIXES, PATH, fixed, is_proven, sides_of
from tests.rules.backport.test_merge import DRIFTS, drifted


@pytest.mark.parametrize("fix", FIXES)
def test_every_mutation_of_a_merged_file_is_caught(fix: str) -> None:
    seed = random.Random(fix)
    sides = sides_of(fix)
    for drift in list(DRIFTS)[:3]:
        original = drifted(drift, BEFORE).encode()
        merged = merge_file(original, sides).data
        assert is_proven(original, merged, sides)
        for kind, mutant in mutants(original, merged, seed, 12):
            assert not is_proven(original, mutant, sides), f"{kind}\n{mutant.decode()}"


@pytest.mark.parametrize("fix", [fix for fix in FIXES if fix != "appended"])
def test_the_fix_in_the_class_beside_is_caught(fix: str) -> None:
    swapped = BEFORE.replace("class Drafter", "class X").replace("class Verifier", "class Drafter")
    swapped = swapped.replace("class X", "class Verifier")
    try:
        wrong = fixed(fix, swapped)
    except AssertionError:
        pytest.skip("the other class has no such lines")
    assert not is_proven(swapped.encode(), wrong.encode(), sides_of(fix))


def test_nothing_done_is_no_fix() -> None:
    assert not is_proven(BEFORE.encode(), BEFORE.encode(), sides_of("condition"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""An engine."""', '"""Another."""'),
        ("def width(layer):\n", "def width(layer):  # noted\n"),
        ("\n\n\ndef log", "\n\n\n\ndef log"),
        ("# Whether the target's embeddings fit.\n        if self", "# Hm.\n        if self"),
    ],
)
def test_a_comment_or_a_blank_line_that_is_nobodys_is_caught(old: str, new: str) -> None:
    done = fixed("condition").replace(old, new, 1)
    assert not is_proven(BEFORE.encode(), done.encode(), sides_of("condition"))


def test_a_name_that_the_file_lacks_is_named() -> None:
    """The function that the fix calls has another name in this release."""
    sides = sides_of("calls")
    own = BEFORE.replace("def log", "def say").replace("        log(", "        say(")
    merged = merge_file(own.encode(), sides).data
    with pytest.raises(ProofFailed, match="log is not defined in this file"):
        prove(own.encode(), merged, sides)


def test_an_attribute_that_only_the_fixed_file_defines_is_named() -> None:
    sides = [each for each in sides_of("new method") if each.scope.name == "Drafter.share"]
    merged = BEFORE.replace("drafted = width(self.model)", "drafted = self.wide()", 1)
    with pytest.raises(ProofFailed, match="wide is what only the fixed version's file defines"):
        prove(BEFORE.encode(), merged.encode(), sides)


def run(source: str) -> None:
    """Import it; this file's own `from __future__` is not handed on."""
    exec(compile(source, "a.py", "exec", dont_inherit=True), {"__name__": "a"})


ORDER = """\
import os
{future}

class Pair(tuple):
    size: int = len(os.name)


class Context:
    pairs: {pair}

    def first(self, pair=None):
        return Pair(pair)


ALL = [Context for each in (Pair, Context)]
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", None),
        # A dataclass or pydantic model of vLLM's reads its annotations while it is imported.
        ("    pairs: list[int]", "    pairs: list[Last] | None = None", "Last is read before"),
        ("pair=None", "pair=Last", "Last is read before"),
        ("    pairs: list[int]", "    pairs = list(map(lambda each: Last, ()))", None),
        ("class Pair(tuple)", "@Last\nclass Pair(tuple)", "Last is read before"),
        ("class Pair(tuple)", "class Pair(Last)", "Last is read before"),
        (
            "    def first(self, pair=None)",
            "    def first(self, pair: Last = None)",
            "Last is read",
        ),
        ("return Pair(pair)", "return Last(pair)", None),
        ("pair=None", "*, other, pair=Last", "Last is read before"),
        ("    pairs: list[int]", "    pairs = lambda each=Last: each", "Last is read before"),
        (
            "    pairs: list[int]",
            "    pairs = lambda *, each, one=Last: each",
            "Last is read before",
        ),
        ("ALL = ", "for each in (Last,):\n    pass\n\nALL = ", "Last is read before"),
        ("    pairs: list[int]", "    async def last(self, each=Last): ...", "Last is read before"),
    ],
)
def test_what_is_read_while_the_file_is_imported_must_be_above(
    old: str, new: str, problem: str | None
) -> None:
    """vLLM's PR 46782 brings a class that another one names in an annotation."""
    before = ORDER.format(future="", pair="list[int]")
    above = before.replace(old, new, 1)
    last = "\n\nclass Last:\n    pass\n"
    sides = changed_scopes(PATH, before.encode(), f"{above}{last}".encode())
    arguments = before.encode(), f"{above}{last}".encode(), sides
    if problem is None:
        prove(*arguments)
        return
    with pytest.raises(ProofFailed, match=problem):
        prove(*arguments)
    # Python says the same; from 3.14 on only where something asks for the annotations.
    if ": " in new and sys.version_info >= (3, 14):
        return
    with pytest.raises(NameError):
        run(f"{above}{last}")


def test_annotations_that_python_does_not_read_may_name_what_is_below() -> None:
    before = ORDER.format(future="from __future__ import annotations", pair="list[int]")
    before = before.replace("import os\n", "", 1).replace("annotations", "annotations\nimport os")
    after = before.replace("list[int]", "list[Last]") + "\n\nclass Last:\n    pass\n"
    prove(before.encode(), after.encode(), changed_scopes(PATH, before.encode(), after.encode()))
    run(after)


WIDE = FIXES["new method"][0]
TWICE = BEFORE + "\n\nclass Drafter:\n    def share(self):\n        pass\n"
RENAMED = ("class Drafter", "class Proposer")


@pytest.mark.parametrize(
    ("fix", "original", "result", "problem"),
    [
        ("condition", BEFORE, fixed("condition").rstrip(), "the end of the last line"),
        ("condition", TWICE, fixed("condition", TWICE), "there are several Drafter.share"),
        (
            "condition",
            BEFORE.replace(*RENAMED),
            BEFORE.replace(*RENAMED),
            "there is no one Drafter.share",
        ),
        ("new method", BEFORE.replace(*WIDE, 1), fixed("new method"), "wide was there already"),
        (
            "new method",
            BEFORE,
            fixed("new method").replace("        return width(self.model)", "        return 1"),
            "wide is not what the fix brings",
        ),
        ("import", BEFORE, fixed("import").replace("import os\n", ""), "an import went"),
        (
            "import",
            BEFORE,
            fixed("import").replace("import math", "import math\nimport sys"),
            "an import came that is not the fix's",
        ),
        ("two places", BEFORE, BEFORE.replace(*FIXES["two places"][0], 1), "is not the fix's"),
    ],
)
def test_what_is_not_the_fix_is_said(fix: str, original: str, result: str, problem: str) -> None:
    with pytest.raises(ProofFailed, match=problem):
        prove(original.encode(), result.encode(), sides_of(fix))


def test_what_a_star_import_may_bring_is_not_missed() -> None:
    sides = sides_of("calls")
    own = BEFORE.replace("def log", "def say").replace("        log(", "        say(")
    own = own.replace("import os\n", "import os\nfrom math import *\n")
    prove(own.encode(), merge_file(own.encode(), sides).data, sides)


OWN = """\
class Engine:
    limit = 1

    async def run(self):
        return 1

    class Inner:
        limit = 1

        def run(self):
            return 1
"""


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (OWN.replace("= 1", "= 2", 1), None),
        (OWN.replace("= 1", "= 2"), "in Engine.Inner changed"),
        (OWN.replace("return 1", "return 2", 1), "in Engine.run changed"),
        (OWN, "'class Engine:' is not the fix's"),
    ],
)
def test_a_class_is_its_own_lines_alone(result: str, problem: str | None) -> None:
    """Functions and classes within it are scopes of their own."""
    sides = changed_scopes(PATH, OWN.encode(), OWN.replace("= 1", "= 2", 1).encode())
    assert [each.scope.name for each in sides] == ["Engine"]
    if problem is None:
        prove(OWN.encode(), result.encode(), sides)
        return
    with pytest.raises(ProofFailed, match=problem):
        prove(OWN.encode(), result.encode(), sides)


LINES = "import os\n\nlimit = 1\n\n\ndef f():\n    return limit\n"


def test_lines_of_the_module_are_a_scope_without_its_functions() -> None:
    after = LINES.replace("= 1", "= 2")
    sides = changed_scopes(PATH, LINES.encode(), after.encode())
    own = LINES.replace("import os", "import re").replace("return limit", "return limit + 1")
    prove(own.encode(), own.replace("= 1", "= 2").encode(), sides)
    with pytest.raises(ProofFailed, match="'limit = 3' is not the fix's"):
        prove(LINES.encode(), LINES.replace("= 1", "= 3").encode(), sides)


IN_ELSE = "if x:\n    pass\nelse:\n" + "    def f():\n        return 1\n" * 2
TWO_F = "def f():\n    return 1\ndef f():\n    return 1\n"


@pytest.mark.parametrize(
    ("original", "result", "problem"),
    [
        (TWO_F, "class f:\n    x = 1\n", "a class and functions have one name"),
        (
            IN_ELSE,
            IN_ELSE.replace("return 1", "return 2", 1),
            "there are several f",
        ),
    ],
)
def test_several_functions_of_one_name(original: str, result: str, problem: str) -> None:
    sides = changed_scopes(PATH, b"def f():\n    return 1\n", b"def f():\n    return 2\n")
    with pytest.raises(ProofFailed, match=problem):
        prove(original.encode(), result.encode(), sides)


def test_two_statements_that_came_beside_each_other_have_one_place() -> None:
    sides = changed_scopes(PATH, _body("a(); b()"), _body("a(); x = 1; y = 2; b()"))
    names = b"\n\ndef a(): ...\n\n\nb = a\n"
    own = _body("b(1); a(); b()") + names
    prove(own, _body("b(1); a(); x = 1; y = 2; b()") + names, sides)
    wrong = _body("x = 1; y = 2; b(1); a(); b()") + names
    with pytest.raises(ProofFailed, match="is not where the fix has it"):
        prove(own, wrong, sides)


def _body(text: str) -> bytes:
    return "".join(["def f():\n", *(f"    {line}\n" for line in text.split("; "))]).encode()


@pytest.mark.parametrize(
    ("before", "after", "original", "result", "problem"),
    [
        ("x = 1", "x = 2", "x = 3", "x = 2", "the fix and the image changed the same"),
        ("a(); b()", "a(); x = 1; b()", "a(); b(1)", "a(); b(1)", "a part of the fix is missing"),
        ("a(); b(); c()", "a(); c()", "a(); b(); c(1)", "b(); c(1)", "went and is not the fix's"),
        ("a(); b()", "a(); x = 1; b()", "a(); b(1)", "a(); x = 2; b(1)", "came and is not"),
        ("a(); b()", "a(); x = 1; b()", "a(); b(1); c()", "a(); c()", "of another kind"),
        ("a(); b()", "a(); x = 1; b()", "a(); b(); c()", "a(); b(); x = 1; c()", "is not where"),
        ("a(); b()", "a(); b(); x = 1", "a(); b(); c()", "a(); b(); x = 1; c()", "is not where"),
        ("x = {1: 2, 3: 4}", "x = {1: 5, 3: 4}", "x = {1: 2, 6: 7}", "x = {1: 5, 6: 7}", None),
        ("x = {1: 2}", "x = {1: 5}", "x = {1: 2, 6: 7}", "x = {1: 2, 6: 5}", "may be another one"),
        ("g(a=1, b=2)", "g(a=3, b=2)", "g(a=1, c=2)", "g(a=3, c=2)", None),
        ("g(h(1), 2)", "g(h(3), 2)", "g(h(1), 4)", "g(h(3), 4)", None),
        (
            "def i(): return g(1, 2)",
            "def i(): return g(3, 2)",
            "def i(): return g(1, 4)",
            "def i(): return g(3, 4)",
            None,
        ),
        ("x: a = g(1, 2)", "x: a = g(3, 2)", "x: a = g(1, 4)", "x: a = g(3, 4)", None),
        ("x += g(1, 2)", "x += g(3, 2)", "x += g(1, 4)", "x += g(3, 4)", None),
        ("if a: b()", "if g: b()", "if a: b(1)", "if g: c()", "changed undeclared"),
        ("def i(j): j()", "def i(j, k): j()", "def i(j): j(1)", "def i(): j(1)", "is not the fix"),
    ],
)
def test_each_change_is_the_fixs_at_its_place(
    before: str, after: str, original: str, result: str, problem: str | None
) -> None:
    sides = changed_scopes(PATH, _body(before), _body(after))
    names = b"\n\ndef a(): ...\n\n\nb = c = g = h = a\n"
    own, made = _body(original) + names, _body(result) + names
    if problem is None:
        # The lines, which no merge would write so, are another matter.
        with pytest.raises(ProofFailed, match="neither the file's nor the fix's"):
            prove(own, made, sides)
        return
    with pytest.raises(ProofFailed, match=problem):
        prove(own, made, sides)


@pytest.mark.parametrize(
    ("before", "after", "original", "result", "is_right"),
    [
        # The image has something of its own there, or lacks what upstream has.
        ("a(); b()", "a(); x = 1; b()", "a(); y = 2; b()", "a(); y = 2; x = 1; b()", True),
        ("a(); assert g; b()", "a(); assert g; x = 1; b()", "a(); b()", "a(); x = 1; b()", True),
        ("a(); c(); b()", "x = g(); c(); b()", "a(); b()", "x = g(); b()", True),
        ("g(; a=1,; )", "g(; a=1,; b=2,; )", "g(; a=1,; c=3,; )", "g(; a=1,; c=3,; b=2,; )", True),
        ("s = {; a,; b,; }", "s = {; a,; c,; b,; }", "s = {; a,; }", "s = {; a,; c,; }", True),
        (
            "s = {; 1: a,; }",
            "s = {; 1: a,; 3: b,; }",
            "s = {; 1: a,; 2: c,; }",
            "s = {; 1: a,; 2: c,; 3: b,; }",
            True,
        ),
        # What stands between may matter: it calls, reads what came, or may end the function.
        ("a(); b()", "a(); x = 1; b()", "a(); c(); b()", "a(); c(); x = 1; b()", False),
        ("a(); b()", "a(); x = 1; b()", "a(); y = x; b()", "a(); y = x; x = 1; b()", False),
        ("a(); b()", "a(); g.x = 1; b()", "a(); y = h.k; b()", "a(); y = h.k; g.x = 1; b()", False),
        (
            "a(); if g: return; b()",
            "a(); if g: return; x = 1; b()",
            "a(); b()",
            "a(); x = 1; b()",
            False,
        ),
        ("a(); y = 2; b()", "a(); y = 2; x = y; b()", "a(); b()", "a(); x = y; b()", False),
        ("a(); c(); b()", "a(); c(); x = 1; b()", "a(); b()", "a(); x = 1; b()", False),
        # It binds a name or changes what came: an attribute or element, a class, an import.
        ("a(); b()", "a(); x = h.k; b()", "a(); g.y = 1; b()", "a(); g.y = 1; x = h.k; b()", False),
        ("a(); b()", "a(); g.x = 1; b()", "a(); h.x = 2; b()", "a(); h.x = 2; g.x = 1; b()", False),
        (
            "a(); b()",
            "a(); x = h.k; b()",
            "a(); g.k[1] = 2; b()",
            "a(); g.k[1] = 2; x = h.k; b()",
            False,
        ),
        (
            "a(); b()",
            "a(); class y: pass; b()",
            "a(); class y: k = 1; b()",
            "a(); class y: k = 1; class y: pass; b()",
            False,
        ),
        (
            "c = 1; a(); y = c; b()",
            "c = 1; a(); y = c; import c.k; b()",
            "c = 1; a(); b()",
            "c = 1; a(); import c.k; b()",
            False,
        ),
        (
            "c = 1; a(); y = c; b()",
            "c = 1; a(); y = c; import k as c; b()",
            "c = 1; a(); b()",
            "c = 1; a(); import k as c; b()",
            False,
        ),
        (
            "a(); b()",
            "a(); x = h[1]; b()",
            "a(); g[1] = 2; b()",
            "a(); g[1] = 2; x = h[1]; b()",
            False,
        ),
        (
            "a(); g.y = 2; b()",
            "a(); g.y = 2; x = h(g); b()",
            "a(); b()",
            "a(); x = h(g); b()",
            False,
        ),
        (
            "a(); b()",
            "a(); x = g + h; b()",
            "a(); g[1] = 2; b()",
            "a(); g[1] = 2; x = g + h; b()",
            False,
        ),
        ("a(); b()", "a(); x = h.k; b()", "a(); k = 1; b()", "a(); k = 1; x = h.k; b()", False),
        ("a(); b()", "a(); y = c; b()", "a(); c = 2; b()", "a(); c = 2; y = c; b()", False),
        # The image has elsewhere what it lacks there: what came is used, or runs, too late.
        (
            "x = 0; a(); y = x; b(); c()",
            "x = 0; a(); x = 1; y = x; b(); c()",
            "x = 0; y = x; a(); b(); c()",
            "x = 0; y = x; a(); x = 1; b(); c()",
            False,
        ),
        # What came runs something, which may see what the image's own line did.
        ("a(); b()", "a(); g(); b()", "a(); y = 2; b()", "a(); y = 2; g(); b()", False),
        # What went is another one of the same text.
        (
            "a(); b(); a(); c()",
            "a(); b(); c()",
            "a(); b(); a(); c(); h()",
            "b(); a(); c(); h()",
            False,
        ),
        # Nothing of upstream's is beside it.
        ("a(); y = 2; z = 3", "a(); y = 2; x = 1; z = 3", "a(); b()", "a(); x = 1; b()", False),
        # An order that counts, a key that is there, and what may hold any key.
        ("s = [; a,; b,; ]", "s = [; a,; c,; b,; ]", "s = [; a,; ]", "s = [; a,; c,; ]", False),
        (
            "s = {; 1: a,; }",
            "s = {; 1: a,; 3: b,; }",
            "s = {; 1: a,; 3: c,; }",
            "s = {; 1: a,; 3: c,; 3: b,; }",
            False,
        ),
        ("g(; a=1,; )", "g(; a=1,; b=2,; )", "g(; a=1,; **c,; )", "g(; a=1,; **c,; b=2,; )", False),
        ("g(; a=1,; )", "g(; a=1,; **b,; )", "g(; a=1,; c=3,; )", "g(; a=1,; c=3,; **b,; )", False),
        (
            "s = {; 1: a,; **b,; }",
            "s = {; 1: a,; **b,; 3: c,; }",
            "s = {; 1: a,; }",
            "s = {; 1: a,; 3: c,; }",
            False,
        ),
        ("s = {; a,; }", "s = {; a,; b,; }", "s = {; a,; *c,; }", "s = {; a,; *c,; b,; }", False),
        ("s = {; a,; }", "s = {; a,; b,; }", "s = {; a,; b,; }", "s = {; a,; b,; b,; }", False),
    ],
)
def test_a_change_is_at_its_place_past_what_only_one_side_has(
    before: str, after: str, original: str, result: str, is_right: bool
) -> None:
    sides = changed_scopes(PATH, _body(before), _body(after))
    names = b"\n\ndef a(): ...\n\n\nb = c = g = h = a\n"
    assert is_proven(_body(original) + names, _body(result) + names, sides) is is_right


@pytest.mark.parametrize(
    ("its", "line", "own", "is_right"),
    [
        ("if a: x = 1", "x = 2", "if a: x = 3", True),
        ("if a: x = 1", "x = 2", "if b: x = 1", True),
        ("if a: x = 1", "x = 2", "if b: x = 3", False),
        ("if a: return", "x = 2", "if b: return", False),
        ("if a: x = 1; else: x = 4", "x = 2", "if b: x = 3; else: x = 4", False),
        ("if a: x = 1; elif b: x = 4", "x = 2", "if a: x = 1; elif c: x = 5", True),
        ("while a: x = 1", "x = 2", "while a: x = 3", True),
        ("while a: x = 1", "x = 2", "while b: x = 1", True),
        ("while a: x = 1", "x = 2", "while b: x = 3", False),
        ("for x in a: y = 1", "y = 2", "for x in a: y = 3", True),
        ("for x in a: y = 1", "y = 2", "for x in b: y = 1", True),
        ("for x in a: y = 1", "y = 2", "for x in b: y = 3", False),
        ("for x in a: y = 1, z = 1, c()", "y = 2", "for x in b: y = 1, z = 3, c()", True),
        ("for x in a: y = 1, c()", "y = 2", "for x in b: y = 3, c()", False),
        ("with a: x = 1", "x = 2", "with a: x = 3", True),
        ("with a: x = 1", "x = 2", "with b: x = 3", False),
        ("try: x = 1; finally: a()", "x = 2", "try: x = 3; finally: a()", True),
        ("try: x = 1; finally: a()", "x = 2", "try: x = 1; finally: b()", True),
        ("try: x = 1; finally: a()", "x = 2", "try: x = 3; finally: b()", False),
        ("def g(): return a(1)", "x = 2", "def g(): return a(3)", True),
        ("def g(): return a(1)", "x = 2", "def h(): return a(1)", True),
        ("def g(): return a(1)", "x = 2", "def h(): return a(3)", False),
    ],
)
def test_a_statement_is_known_by_its_head_or_by_what_it_does(
    its: str, line: str, own: str, is_right: bool
) -> None:
    """The fix puts a line in its first block; in the image both may be others."""

    def body(text: str, *more: str) -> bytes:
        lines = []
        for at, part in enumerate(text.split("; ")):
            head, _, does = part.partition(": ")
            does_first = more if at == 0 else ()
            lines += [f"{head}:", *(f"    {each}" for each in (*does_first, *does.split(", ")))]
        return "\n".join(["def f(a, b, c):", *(f"    {each}" for each in lines), ""]).encode()

    sides = changed_scopes(PATH, body(its), body(its, line))
    assert is_proven(body(own), body(own, line), sides) is is_right


@pytest.mark.parametrize(
    ("before", "after", "original", "result", "is_right"),
    [
        ("x = g(; 1,; )", "x = g(; 1,; a,; )", "x = g(; 2,; )", "x = g(; 2,; a,; )", True),
        ("x = g(; 1,; )", "x = g(; 1,; a,; )", "y = g(; 1,; )", "y = g(; 1,; a,; )", True),
        ("x = g(; 1,; )", "x = g(; 1,; a,; )", "y = g(; 2,; )", "y = g(; 2,; a,; )", False),
        ("x += g(; 1,; )", "x += g(; 1,; a,; )", "y += g(; 2,; )", "y += g(; 2,; a,; )", False),
        ("x: int", "x: float", "y: int", "y: float", False),
        ("g(; 1,; )", "g(; 1,; a,; )", "a(; 1,; )", "a(; 1,; a,; )", True),
        ("g(; 1,; )", "g(; 1,; a,; )", "a(; 2,; )", "a(; 2,; a,; )", False),
        ("g(; )", "g(; a,; )", "a(; )", "a(; a,; )", False),
        (
            "return g(; 1,; )",
            "return g(; 1,; a,; )",
            "return a(; 2,; )",
            "return a(; 2,; a,; )",
            False,
        ),
        ("return (; 1,; )", "return (; 1,; a,; )", "return (; 2,; )", "return (; 2,; a,; )", True),
        (
            "x = g(; i=a(; 1,; ),; )",
            "x = g(; i=a(; 1,; a,; ),; )",
            "x = g(; j=g(; 2,; ),; )",
            "x = g(; j=g(; 2,; a,; ),; )",
            False,
        ),
        (
            "x = {; 1: [; 2,; ],; }",
            "x = {; 1: [; 2,; a,; ],; }",
            "x = {; 3: [; 4,; ],; }",
            "x = {; 3: [; 4,; a,; ],; }",
            False,
        ),
        # The image has it twice, and either may be upstream's.
        (
            "g(); x = 1; a()",
            "g(); x = 2; a()",
            "g(); x = 1; x = 1; a()",
            "g(); x = 2; x = 1; a()",
            False,
        ),
        ("g(); x = 1; a()", "g(); a()", "g(); x = 1; x = 1; a()", "g(); x = 1; a()", False),
        (
            "g(); x = 1; a()",
            "g(); a()",
            "g(); x = 1; y = x; x = 1; a()",
            "g(); y = x; x = 1; a()",
            False,
        ),
        ("g(); x = 1; a()", "g(); a()", "g(); x = 1; a(); x = 1", "g(); a(); x = 1", True),
        ("x = 1; a()", "x = 2; a()", "x = 1; y = 3; x = 1; a()", "x = 2; y = 3; x = 1; a()", False),
        # What stands beside it is the image's own, and may matter to what came.
        ("x = 1; y = 2", "x = 1; a(); y = 2", "z = 3; y = 2", "z = 3; a(); y = 2", False),
    ],
)
def test_an_assignment_or_call_is_known_by_its_head_or_by_what_it_is_given(
    before: str, after: str, original: str, result: str, is_right: bool
) -> None:
    sides = changed_scopes(PATH, _body(before), _body(after))
    names = b"\n\ndef a(): ...\n\n\ng = a\n"
    sides = [each for each in sides if each.scope.name == "f"]
    proven = is_proven(_body(original) + names, _body(result) + names, sides)
    assert proven is is_right


@pytest.mark.parametrize(
    ("before", "after", "original", "result", "is_right"),
    [
        # The image has a branch less, or one of its own; Python nests each in the one before.
        ("a b c", "a b c+", "a c", "a c+", True),
        ("a c", "a c+", "a b c", "a b c+", True),
        ("a c else", "a c else+", "a b c else", "a b c else+", True),
        ("a c", "a b c", "a c g", "a b c g", True),
        ("a b c", "a c", "a b g c", "a g c", True),
        # Its condition is another in the image, or was; it does the same.
        ("a c", "a c+", "b g=c", "b g=c+", True),
        ("a c", "a b c", "g=a c", "g=a b c", True),
        # In another branch, or in none.
        ("a c", "a c+", "a b c", "a b+ c", False),
        ("a c", "a c+", "a b c", "a b /c+", False),
        ("a c else", "a c else+", "a b c else", "a b c+ else", False),
        ("a b c", "a b c+", "a b c g", "a c+ b g", False),
        ("a c", "a c+", "a b g", "a b+ g", False),
        ("a b c", "a c", "a b g c", "a b c", False),
        # Of two whose conditions hold the first runs: one that came is beside upstream's own.
        ("a c", "a b c", "a c g", "a c b g", False),
        ("a c", "a b c", "a g c", "a g b c", False),
        ("a c", "a b c", "a g c", "a b g c", False),
        ("a c", "a b c", "a g", "a b g", False),
        ("a b", "a b else", "a b g", "a b g else", False),
        ("a b", "a b else", "a", "a else", False),
        ("a c else", "a b c else", "a else", "a b else", False),
    ],
)
def test_a_branch_is_known_by_its_condition(
    before: str, after: str, original: str, result: str, is_right: bool
) -> None:
    sides = changed_scopes(PATH, _chain(before), _chain(after))
    assert is_proven(_chain(original), _chain(result), sides) is is_right


def _chain(branches: str) -> bytes:
    """A function with an `if` of these branches.

    `a+` is one with the fix's line, `/a` an `if` of its own, `a=b` does what `b` does.
    """
    lines = ["def f(a, b, c, g):"]
    for at, word in enumerate(branches.split()):
        name, _, does = word.strip("+/").partition("=")
        kind = "if " if at == 0 or word[0] == "/" else "elif "
        lines.append(f"    {'else' if name == 'else' else kind + name}:")
        lines.append(f"        print('{does or name}')")
        lines += ["        print(a)"] * word.endswith("+")
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize(
    ("own", "is_right"),
    [
        ("y = z", True),
        ("if z: y = 1", True),
        ("class y: pass", True),
        ("y = a()", False),
        ("await a", False),
        ("yield", False),
        ("yield from a", False),
        ("return", False),
        ("raise z", False),
        ("break", False),
        ("continue", False),
        ("import y", False),
        ("from y import k", False),
        ("del z", False),
        ("global x", False),
        ("nonlocal x", False),
        ("for y in z: pass", False),
        ("async for y in z: pass", False),
        ("while z: pass", False),
        ("with z: pass", False),
        ("async with z: pass", False),
        ("try: y = z; except z: pass", False),
        ("match z:;     case y: pass", False),
        ("(y := z)", False),
        ("y = [z for z in z]", False),
        ("def y(): pass", False),
        ("async def y(): pass", False),
        ("@z; class y: pass", False),
    ],
)
def test_a_change_is_not_at_its_place_past_what_runs_something(own: str, is_right: bool) -> None:
    """The fix is a line between two in a loop; the image has one of its own between them."""
    kind = "async def" if own[0] == "a" else "def"
    head = ["def f(a, z):", "    x = 0", f"    {kind} g():", "        for i in z:"]

    def body(*lines: str) -> bytes:
        inner = ("a()", *lines, "a(1)")
        return "\n".join([*head, *(f"            {line}" for line in inner), ""]).encode()

    its = own.split("; ")
    sides = changed_scopes(PATH, body(), body("x = 1"))
    assert is_proven(body(*its), body(*its, "x = 1"), sides) is is_right


IN = "def f(a, b):\n"
OUTER = IN + "    {new}:\n        {old}:\n            print(a)\n"
INNER = IN + "    {old}:\n        print(a)\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if a", "if b"),
        ("for i in a", "for j in b"),
        ("while a()", "while b()"),
    ],
)
@pytest.mark.parametrize("is_unwrapped", [False, True])
def test_what_the_image_has_on_a_statement_is_not_moved_to_the_one_around_it(
    old: str, new: str, is_unwrapped: bool
) -> None:
    """The image has an `else`, which the lines would put on the fix's new `if`."""
    texts = [text.format(old=old, new=new) for text in (INNER, OUTER)]
    before, after = reversed(texts) if is_unwrapped else texts
    sides = changed_scopes(PATH, before.encode(), after.encode())
    own, made = (f"{text}    else:\n        print(b)\n".encode() for text in (before, after))
    assert is_proven(before.encode(), after.encode(), sides)
    assert merge_file(own, sides).data == made
    with pytest.raises(ProofFailed, match="is around the one that the image changed, or was"):
        prove(own, made, sides)


def test_one_of_several_of_a_name_in_the_fixs_file_is_not_taken_for_gone() -> None:
    """Its text on that side is none, as of one that is not there: the image lost its own."""
    after = f"{LINES}\n\nif limit:\n    def f():\n        return 2\n"
    for both in ((LINES, after), (after, LINES)):
        sides = [
            each
            for each in changed_scopes(PATH, *(text.encode() for text in both))
            if each.scope.name == "f"
        ]
        found = merge_file(LINES.encode(), sides)
        assert found.said[0].reason == "the fix's own files have several f"
        gone = LINES[: LINES.index("def f")].rstrip() + "\n"
        for result in (LINES, gone):
            with pytest.raises(ProofFailed, match="the fix's own files have several f"):
                prove(LINES.encode(), result.encode(), sides)


@pytest.mark.parametrize(("kind", "is_right"), [("@dataclass\n", False), ("", True)])
def test_a_field_without_a_default_must_stand_above_those_with_one(
    kind: str, is_right: bool
) -> None:
    head = f"from dataclasses import dataclass\n\n\n{kind}class A:\n    x: int\n"
    sides = changed_scopes(PATH, head.encode(), f"{head}    y: int\n".encode())
    own = f"{head}    own: int = 1\n".encode()
    assert is_proven(own, merge_file(own, sides).data, sides) is is_right
