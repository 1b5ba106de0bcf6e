"""Fixes of every kind, merged into files that moved on by themselves."""

from __future__ import annotations

import ast
import random
from dataclasses import replace

import pytest

from patcher.errors import NotPython
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.merging.merge import merge_file
from patcher.rules.backport.merging.state import State
from patcher.rules.backport.merging.three_way import Kind, Region, split
from tests.rules.backport.fixes import BEFORE, FIXES, PATH, fixed, is_proven, sides_of, verdict

# What an image's file may have that upstream's had not when the fix was made.
DRIFTS = {
    "none": [],
    "another function above": [("def width", "def other():\n    return 1\n\n\ndef width")],
    "another line in the same function": [
        ("target.embeds\n        log(", "target.embeds\n        count = 0\n        log(")
    ],
    "another statement before": [
        ("        # Whether the", "        assert target\n        # Whether the")
    ],
    "its neighbour renamed": [("class Verifier", "class Checker")],
    "more imports": [("import os\n", "import sys\nimport os\n")],
    "the file's docstring": [('"""An engine."""', '"""A machine."""')],
}


def drifted(name: str, source: str) -> str:
    for old, new in DRIFTS[name]:
        assert old in source
        source = source.replace(old, new, 1)
    return source


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("fix", FIXES)
def test_the_merged_file_is_the_drifted_one_with_the_fix(fix: str, drift: str) -> None:
    sides, own = sides_of(fix), drifted(drift, BEFORE)
    merged = merge_file(own.encode(), sides)
    assert verdict(own, sides).state is State.NEEDED
    assert merged.data.decode() == drifted(drift, fixed(fix))
    assert is_proven(own.encode(), merged.data, sides)


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("fix", FIXES)
def test_a_fixed_file_has_landed_and_is_left_alone(fix: str, drift: str) -> None:
    own = drifted(drift, fixed(fix)).encode()
    assert verdict(own, sides_of(fix)).state is State.LANDED
    assert merge_file(own, sides_of(fix)).data == own


@pytest.mark.parametrize("fix", FIXES)
def test_windows_line_ends_and_a_missing_last_one_are_kept(fix: str) -> None:
    own = BEFORE.replace("\n", "\r\n").rstrip().encode()
    merged = merge_file(own, sides_of(fix))
    assert merged.data == fixed(fix).replace("\n", "\r\n").rstrip().encode()
    assert is_proven(own, merged.data, sides_of(fix))


def test_the_places_are_the_scopes_that_differ() -> None:
    names = {fix: [each.scope.name for each in sides_of(fix)] for fix in FIXES}
    assert names["condition"] == ["Drafter.share"]
    assert names["import"] == ["<imports>", "Drafter.share"]
    assert names["own line"] == ["Drafter"]
    assert names["new method"] == ["Drafter.wide", "Drafter.share"]
    assert names["method gone"] == ["Drafter.__init__"]
    assert {each.scope.path for each in sides_of("import")} == {PATH}


@pytest.mark.parametrize(
    ("old", "new", "state", "reason"),
    [
        ("if self.model.embeds:", "if self.model.shared:", State.UNKNOWN, "conflict at line 24"),
        ("class Drafter", "class Proposer", State.ABSENT, "there is no Drafter.share"),
        ("def share", "def lend", State.ABSENT, "there is no Drafter.share"),
        (
            "class Verifier",
            "class Drafter:\n    def share(self): pass\n\n\nclass Verifier",
            State.UNKNOWN,
            "there are several Drafter.share: lines 22 and 39",
        ),
    ],
)
def test_what_cannot_be_told_is_said_with_its_reason(
    old: str, new: str, state: State, reason: str
) -> None:
    own = BEFORE.replace(old, new, 1)
    found = verdict(own, sides_of("condition"))
    assert (found.state, found.reason.startswith(reason)) == (state, True), found
    assert merge_file(own.encode(), sides_of("condition")).data == own.encode()


def test_half_of_a_fix_is_unknown_and_not_completed() -> None:
    whole = fixed("two places")
    half = BEFORE.replace(*FIXES["two places"][0], 1)
    assert verdict(whole, sides_of("two places")).state is State.LANDED
    found = verdict(half, sides_of("two places"))
    assert (found.state, found.reason) == (State.UNKNOWN, "half of the fix is in Drafter.share")
    assert merge_file(half.encode(), sides_of("two places")).data == half.encode()


def test_half_of_a_fix_over_two_functions_names_both() -> None:
    half = BEFORE.replace(*FIXES["new method"][0], 1)
    found = verdict(half, sides_of("new method"))
    assert found.state is State.UNKNOWN
    assert "Drafter.wide has it" in found.reason
    assert "Drafter.share lacks it" in found.reason


def test_the_same_method_of_another_class_is_never_touched() -> None:
    """patch(1) with fuzz put vLLM's PR 45417 into a class with the same lines."""
    start = BEFORE.index("class Drafter")
    own = BEFORE[:start] + BEFORE[BEFORE.index("class Verifier") :]
    assert verdict(own, sides_of("condition")).state is State.ABSENT


def test_a_comment_or_docstring_of_the_fix_does_not_stand_in_its_way() -> None:
    after = fixed("inserted").replace("# Whether the target's", "# If the target's")
    sides = changed_scopes(PATH, BEFORE.encode(), after.encode())
    own = BEFORE.replace("# Whether the target's", "# Do its")
    merged = merge_file(own.encode(), sides)
    assert b"# Do its embeddings" in merged.data
    assert b"drafted += 1" in merged.data
    assert is_proven(own.encode(), merged.data, sides)


OVERLOADS = """\
class LLM:
    @overload
    def wait(self, one: int) -> int: ...

    @overload
    def wait(self, one: str) -> str: ...

    def wait(self, one):
        return one

    @property
    def width(self):
        return self._width

    @width.setter
    def width(self, value):
        self._width = value
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("one: str) -> str", "one: str) -> str | None"),
        ("        return one", "        return one or None"),
        ("        self._width = value", "        self._width = int(value)"),
    ],
)
def test_overloads_and_a_property_are_one_place(old: str, new: str) -> None:
    """vLLM's PR 44617 changes LLM.wait_for_completion, which is there three times."""
    after = OVERLOADS.replace(old, new)
    sides = changed_scopes(PATH, OVERLOADS.encode(), after.encode())
    own = f"{OVERLOADS}\n    def more(self):\n        return 1\n".encode()
    merged = merge_file(own, sides)
    assert merged.data == own.replace(old.encode(), new.encode())
    assert is_proven(own, merged.data, sides)
    # The same words in the function of that name beside it are not the fix.
    wrong = own.replace(b"one: int) -> int", b"one: int) -> int | None")
    assert not is_proven(own, wrong, sides)


def test_a_class_may_lose_its_only_method_for_another() -> None:
    """Then nothing is left of its own lines: vLLM's Cosmos3EdgeMultiModalProcessor."""
    before, after = "class A(B):\n    def f(self): ...\n", "class A(B):\n    def g(self): ...\n"
    sides = changed_scopes(PATH, before.encode(), after.encode())
    assert {each.scope.name for each in sides} == {"A.f", "A.g"}


def test_a_new_class_comes_above_what_reads_it() -> None:
    """None of what is above it in the fix's file is in the image's: vLLM's PR 46782."""
    before = "class Gone:\n    pass\n\n\nclass Context:\n    pairs: list[int]\n"
    pair = "class Pair:\n    pass\n\n\n"
    after = before.replace("class Context", f"{pair}class Context").replace("int", "Pair")
    sides = changed_scopes(PATH, before.encode(), after.encode())
    own = before.partition("\n\n\n")[2]
    merged = merge_file(own.encode(), sides).data
    assert merged.decode() == pair + own.replace("int", "Pair")
    assert is_proven(own.encode(), merged, sides)


def test_a_fix_is_seen_beside_a_line_that_the_image_changed() -> None:
    """No line is between the two, as in vLLM's PR 43092 and the release 0.25.0."""
    own = "if drafted < width(target)"
    beside = fixed("inserted").replace("if drafted != width(target)", own, 1)
    assert verdict(beside, sides_of("inserted")).state is State.LANDED
    lacking = BEFORE.replace("if drafted != width(target)", own, 1).encode()
    merged = merge_file(lacking, sides_of("inserted")).data
    assert merged.decode() == beside
    assert is_proven(lacking, merged, sides_of("inserted"))


def test_the_fixs_line_beside_the_one_that_it_replaces_is_not_the_fix() -> None:
    old, new = FIXES["condition"][0]
    both = BEFORE.replace(old, f"{new}            pass\n        {old}", 1)
    assert verdict(both, sides_of("condition")).state is State.UNKNOWN


def test_an_import_whose_name_is_taken_is_refused() -> None:
    own = BEFORE.replace("import os\n", "import os\nfrom numpy import floor as math\n")
    found = verdict(own, sides_of("import"))
    assert (found.state, "math" in found.reason) == (State.UNKNOWN, True)


IMPORTS = "from a.old import width\nfrom b import size\n\n\ndef f():\n    return width()\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # vLLM's PR 51989: the name comes from another module.
        (IMPORTS, IMPORTS.replace("a.old", "a.new").replace("width()", "width(1)")),
        # vLLM's PR 49982: a function becomes an import.
        (
            f"{IMPORTS}\n\ndef grow():\n    pass\n",
            f"from c import grow\n{IMPORTS}".replace("width()", "width(grow)"),
        ),
    ],
)
def test_an_import_may_take_the_name_of_what_the_fix_takes_away(before: str, after: str) -> None:
    sides = changed_scopes(PATH, before.encode(), after.encode())
    own = before.replace("import size", "import size, more").encode()
    merged = merge_file(own, sides).data
    assert is_proven(own, merged, sides)
    # The last import of a name is the one that counts.
    lines = merged.decode().splitlines()
    ours = [line for line in lines if line.endswith((" width", " grow"))]
    assert ours[-1] in after.splitlines()
    first = "\n".join([ours[-1], *(line for line in lines if line != ours[-1])]) + "\n"
    assert is_proven(own, first.encode(), sides) == (ours[-1] == "from c import grow")


def _function(*lines: str) -> bytes:
    return "".join(["def f():\n", *(f"    {line}\n" for line in lines)]).encode()


def test_a_fix_that_repeats_what_stands_beside_it_is_seen() -> None:
    """Its lines fit the image's in two ways: vLLM's PR 51768 was found to be needed again."""
    twice = ("check()", "run()", "check()", "run()")
    own = ("check()", "own()", "run()")
    sides = changed_scopes(PATH, _function("check()", "run()"), _function(*twice))
    assert verdict(_function(*own), sides).state is State.NEEDED
    assert verdict(_function(*own, "check()", "run()"), sides).state is State.LANDED
    thrice = _function("check()", "run()", "check()", "check()", "run()")
    sides = changed_scopes(PATH, _function("check()", "run()"), thrice)
    ours = _function("check()", "own()", "check()", "check()", "run()")
    assert verdict(ours, sides).state is State.LANDED
    # With another change beside it, its lines do not fit any more, and can yet be taken out.
    before, after = _function("check()", "run()", "end()"), _function(*twice, "end(1)")
    sides = changed_scopes(PATH, before, after)
    assert verdict(_function(*own, "check()", "run()", "end(1)"), sides).state is State.LANDED
    assert verdict(_function(*own, "check()", "run()", "end(2)"), sides).state is State.UNKNOWN


def test_lines_beside_each_other_are_no_conflict_and_those_put_in_at_one_place_are() -> None:
    before, after = _function("a()", "b()", "c()"), _function("a()", "b(1)", "c()")
    sides = changed_scopes(PATH, before, after)
    own = _function("a(2)", "b()", "c(2)")
    merged = merge_file(own, sides).data
    assert merged == _function("a(2)", "b(1)", "c(2)")
    assert is_proven(own, merged, sides)
    put_in = changed_scopes(PATH, before, _function("a()", "b()", "new()", "c()"))
    assert verdict(_function("a()", "b()", "own()", "c()"), put_in).state is State.UNKNOWN


def test_fields_that_both_put_in_at_one_place_come_one_after_the_other() -> None:
    """The fix's last, so that the image's keep their places: vLLM's PR 44613."""
    head = "class A:\n    x: int = 0\n"
    sides = changed_scopes(PATH, head.encode(), f"{head}    new: int = 1\n".encode())
    own = f"{head}    own: bool = True\n".encode()
    merged = merge_file(own, sides).data
    assert merged == own + b"    new: int = 1\n"
    assert is_proven(own, merged, sides)
    assert verdict(merged, sides).state is State.LANDED


def test_lines_that_the_fix_changes_one_by_one_may_have_others_between() -> None:
    before = _function("c.stream = x.stream", "c.event = x.event", "c.synced = x.synced")
    after = _function(
        "c.stream = partial(x.stream)", "c.event = partial(x.event)", "c.synced = partial(x.synced)"
    )
    sides = changed_scopes(PATH, before, after)
    own = before.replace(b"    c.synced", b"    c.own = x.own\n    c.synced")
    merged = merge_file(own, sides).data
    assert merged == after.replace(b"    c.synced", b"    c.own = x.own\n    c.synced")
    assert verdict(merged, sides).state is State.LANDED


def test_a_fix_is_seen_where_the_image_lacks_what_stands_behind_it() -> None:
    """`key,` stands in both, and must not be where the two meet: vLLM's PR 44243."""
    own = ("new = (", "    m(r)", ")")
    behind = ("", "if h:", "    p = get(", "        key,", "        0,", "    )")
    fix = (
        "if (", "    c", "    and i(", "        key,", "        h,", "    )", "):",
        "    new = g(", "        key,", "    )", "else:", "    new = (", "        m(r)", "    )",
    )  # fmt: skip
    end = ("", *(f"end = {at}" for at in range(20)), "if new:", "    return m")
    sides = changed_scopes(PATH, _function(*own, *behind, *end), _function(*fix, *behind, *end))
    names = b"\n\nc = g = h = i = m = r = key = print\n"
    image = _function(*own, *end) + names
    assert verdict(image, sides).state is State.NEEDED
    merged = merge_file(image, sides).data
    assert merged == _function(*fix, *end) + names
    assert is_proven(image, merged, sides)
    assert verdict(merged, sides).state is State.LANDED


def test_a_function_comes_where_the_one_stood_that_it_replaces() -> None:
    """The module's own line below reads it: vLLM's PR 46820."""
    before = "def op(x):\n    return x\n\n\nregister(op)\n\n\nclass Last:\n    pass\n"
    after = before.replace("op(x)", "_op(x)").replace("register(op)", "register(_op)")
    sides = changed_scopes(PATH, before.encode(), after.encode())
    own = f"register = print\n\n\n{before}".encode()
    merged = merge_file(own, sides).data
    assert merged == f"register = print\n\n\n{after}".encode()
    assert is_proven(own, merged, sides)


def test_the_parts_of_a_conflict_cover_it() -> None:
    seed = random.Random(1)
    for _ in range(300):
        base, ours, theirs = three = [
            seed.choices([b"a", b"b", b"c"], k=seed.randint(0, 6)) for _ in "123"
        ]
        whole = Region(Kind.CONFLICT, *(range(len(each)) for each in three))
        parts = list(split(base, ours, theirs, whole))
        for side, side_of in zip(three, ("base", "ours", "theirs"), strict=True):
            lines = [at for part in parts for at in getattr(part, side_of)]
            assert lines == list(range(len(side)))
        for part in parts:
            texts = [
                side[span.start : span.stop]
                for side, span in zip(three, (part.base, part.ours, part.theirs), strict=True)
            ]
            assert (part.kind is Kind.STABLE) <= (texts[0] == texts[1] == texts[2])


@pytest.mark.parametrize(
    ("fix", "old", "new", "state", "reason"),
    [
        (
            "new method",
            "    def share",
            "    def wide(self): ...\n\n    def share",
            "unknown",
            "brings",
        ),
        (
            "method gone",
            "self.model = model",
            "self.model = None",
            "unknown",
            "takes Drafter.__init",
        ),
        ("new method", "class Drafter", "class Proposer", "absent", "there is no Drafter"),
    ],
)
def test_a_function_that_comes_or_goes_and_is_another_is_not_the_fixs(
    fix: str, old: str, new: str, state: str, reason: str
) -> None:
    found = verdict(BEFORE.replace(old, new, 1), sides_of(fix))
    assert (found.state, reason in found.reason) == (state, True), found


def test_comments_and_blank_lines_of_the_image_are_no_conflict() -> None:
    before, after = _function("a()", "# why", "b()"), _function("a()", "# why", "b(1)")
    sides = changed_scopes(PATH, before, after)
    own = _function("a()", "# because", "b()")
    assert is_proven(own, merge_file(own, sides).data, sides)


def test_a_class_that_comes_or_goes_is_one_scope_with_its_methods() -> None:
    more = BEFORE + "\n\nclass A:\n    class B:\n        def f(self):\n            return 1\n"
    for one, other in ((BEFORE, more), (more, BEFORE)):
        names = [each.scope.name for each in changed_scopes(PATH, one.encode(), other.encode())]
        assert names == ["A"]


@pytest.mark.parametrize("function_first", [True, False])
def test_what_comes_at_a_classs_end_is_before_what_comes_at_the_files(
    function_first: bool,
) -> None:
    """A diff does not say what is beside a function: a method of vLLM's PR 50886 was in one."""
    before = "class A:\n    x: int = 1\n"
    after = f"{before}    y: int = 2\n\n    def f(self): ...\n\n\ndef g():\n    return A.f\n"
    found = changed_scopes(PATH, before.encode(), after.encode())
    own = {each.scope.name: replace(each, follows=(), precedes=()) for each in found}
    sides = [own[name] for name in (("g", "A", "A.f") if function_first else ("A", "A.f", "g"))]
    merged = merge_file(before.encode(), sides).data
    assert ast.unparse(ast.parse(merged)) == ast.unparse(ast.parse(after))
    assert is_proven(before.encode(), merged, sides)


def test_a_class_that_was_empty_gets_a_method() -> None:
    """`pass` goes and the method comes, which are two scopes: vLLM's PR 49190."""
    before, after = "class A(B):\n    pass\n", "class A(B):\n    def f(self): ...\n"
    sides = changed_scopes(PATH, before.encode(), after.encode())
    merged = merge_file(before.encode(), sides).data
    assert is_proven(before.encode(), merged, sides)
    assert verdict(merged, sides).state is State.LANDED


def test_what_is_not_python_is_said_to_be_so() -> None:
    with pytest.raises(NotPython):
        merge_file(b"def f(:\n", sides_of("condition"))


def test_of_two_functions_one_may_be_absent() -> None:
    after = fixed("condition").replace("return layer.width", "return layer.width + 1")
    sides = changed_scopes(PATH, BEFORE.encode(), after.encode())
    found = verdict(BEFORE.replace("def width", "def length"), sides)
    assert found.state is State.UNKNOWN
    assert found.reason == f"there is no width, but {PATH}: Drafter.share is needed"


def test_imports_alone_tell_nothing() -> None:
    sides = [each for each in sides_of("import") if each.scope.name == "<imports>"]
    found = verdict(BEFORE, sides)
    assert (found.state, found.reason) == (
        State.UNKNOWN,
        "nothing in it tells whether the fix is there",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("os.write(1, text.encode())", "os.write(2, text.encode())"),
        ("class Last:\n    limit = 1", "class Last:\n    limit = 2"),
    ],
)
def test_a_fix_of_the_last_line_leaves_it_without_an_end(old: str, new: str) -> None:
    before = BEFORE if old in BEFORE else f"{BEFORE}\n\n{old}\n"
    after = before.replace(old, new)
    sides = changed_scopes(PATH, before.encode(), after.encode())
    made = merge_file(before.rstrip().encode(), sides).data
    assert made.decode() == after.rstrip()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from collections import (\n    deque,\n)\n", "from collections import Counter\n"),
        ("import os\n", "import re\n"),
        ("import os\n", "import gone\nimport re\n"),
    ],
)
def test_an_import_comes_behind_one_of_its_module_or_the_one_before_it(old: str, new: str) -> None:
    *lacking, new = new.splitlines(keepends=True)  # what the image lacks beside it
    name = new.split()[-1]
    before = BEFORE.replace(old, "".join([old, *lacking]))
    after = BEFORE.replace(old, "".join([old, *lacking, new]))
    after = after.replace("return layer.width", f"return {name}")
    sides = changed_scopes(PATH, before.encode(), after.encode())
    own = BEFORE.replace('"""An engine."""\n', '"""An engine."""\n\nimport abc')
    made = merge_file(own.encode(), sides).data.decode()
    assert made == own.replace(old, old + new).replace("return layer.width", f"return {name}")
