"""A draft takes the functions that a fix changes, names what it leaves out, and takes no half."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass

import pytest

from patcher.errors import FileAbsent, PatcherError
from patcher.rules.backport.draft import of_diff, of_releases, with_moves
from patcher.rules.backport.hunks import Hunk, NotFitting, applied
from patcher.rules.backport.moved import Move
from patcher.rules.backport.rule import Backport
from patcher.rules.backport.written import About, patch_file, whole_diff
from patcher.rules.patch import Patch

PATH = "vllm/a.py"
OLD = """\
import os


class A:
    size = 1

    def one(self):
        # a comment
        return 1

    def two(self):
        return os.name


def three():
    return 3
"""
NEW = OLD.replace("return 1", "return 10")


@dataclass(frozen=True)
class Upstream:
    files: dict[tuple[str, str], str]

    def read(self, version: str, target: str) -> bytes:
        if (version, target) not in self.files:
            raise FileAbsent(f"no {target}", next_step="none")
        return self.files[version, target].encode()

    def names(self, version: str) -> dict[str, int]:
        return {path: len(text) for (each, path), text in self.files.items() if each == version}


def diff_to(new: str, path: str = PATH, old: str = OLD) -> str:
    one, other = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(one, other, f"a/{path}", f"b/{path}"))


RELEASES = Upstream({("1.0", PATH): OLD, ("2.0", PATH): NEW, ("3.0", PATH): "x = 1\n"})


def test_a_diff_of_three_lines_becomes_whole_functions() -> None:
    new = NEW.replace("a comment", "another comment").replace("return 3", "return 30")
    elsewhere = diff_to("y = 1\n", "tests/test_a.py", "x = 1\n")
    draft = of_diff(elsewhere + diff_to(new), "1.0", RELEASES)
    assert [each.scope.name for each in draft.sides] == ["A.one", "three"]
    assert draft.dropped == ("tests/test_a.py: not in the package",)
    rule = Backport(diff=whole_diff(draft))
    made = rule.rewrite({PATH: OLD.encode()})[PATH].data.decode()
    assert made == new
    # The function moved, and the one beside it is another now.
    drifted = OLD.replace("import os\n", "import os\n\nX = 1\n").replace("os.name", "os.sep")
    merged = rule.rewrite({PATH: drifted.encode()})[PATH].data.decode()
    assert merged == new.replace("import os\n", "import os\n\nX = 1\n").replace("os.name", "os.sep")


def test_a_fix_of_two_files_is_one_patch() -> None:
    files = {("1.0", path): OLD for path in (PATH, "vllm/b.py")}
    other = OLD.replace("return 3", "return 30")
    draft = of_diff(diff_to(NEW) + diff_to(other, "vllm/b.py"), "1.0", Upstream(files))
    made = Backport(diff=whole_diff(draft)).rewrite({path: OLD.encode() for _, path in files})
    assert [made[path].data.decode() for _, path in files] == [NEW, other]
    text = patch_file("mine", draft, (">=1.0,<2.0",), About(7))
    assert f'    targets=(\n        "{PATH}",\n        "vllm/b.py",\n    ),\n' in text


def test_an_import_that_nothing_uses_is_left_out_and_named() -> None:
    new = NEW.replace("import os\n", "import os\nimport re\n")
    draft = of_diff(diff_to(new), "1.0", RELEASES)
    assert draft.dropped == (f"{PATH}: imports: nothing that is taken uses them",)


@pytest.mark.parametrize(
    ("gone", "comes"),
    [
        ("from .slow import ten\n", "from .fast import ten\n"),
        ("import vllm.slow\n", "import vllm.slow\nimport vllm.fast\n"),
    ],
)
def test_an_import_that_takes_the_name_of_another_comes_with_the_fix(gone: str, comes: str) -> None:
    """vLLM's PR 51989 imports a function of that name from another module."""
    uses = "ten(vllm.fast)" if "import vllm" in gone else "ten()"
    old = f"{gone}{OLD}".replace("return os.name", f"return {uses.replace('fast', 'slow')}")
    new = old.replace(gone, comes).replace("return 1", f"return {uses}")
    held = {("1.0", f"vllm/{name}.py"): "ten = 10\n" for name in ("slow", "fast")}
    draft = of_diff(diff_to(new, old=old), "1.0", Upstream({("1.0", PATH): old, **held}))
    assert [each.scope.name for each in draft.sides] == ["<imports>", "A.one"]
    rule = Backport(diff=whole_diff(draft))
    files: dict[str, bytes | None] = {path: data.encode() for (_, path), data in held.items()}
    files[PATH] = old.encode()
    made = rule.rewrite(files)
    rule.prove(files, made)
    # An import never goes; the later one counts.
    imports = f"import os\n{comes.removeprefix(gone)}"
    done = old.replace("import os\n", imports).replace("return 1", f"return {uses}")
    assert made[PATH].data.decode() == done


HELPER = "vllm/helpers.py"
IMPORTING = NEW.replace(
    "import os\n", "import os\nimport re\n\nfrom .helpers import ten, two\n"
).replace("return 10", "return ten")


def test_a_constant_that_the_fix_binds_otherwise_is_not_left_out() -> None:
    old = OLD.replace("import os\n", "import os\n\nLIMIT = 1\n").replace("return 3", "return LIMIT")
    new = old.replace("LIMIT = 1", "LIMIT = 2").replace("return LIMIT", "return LIMIT + 0")
    with pytest.raises(
        PatcherError, match="uses LIMIT, which comes with the module's own lines"
    ) as error:
        of_diff(diff_to(new, old=old), "1.0", Upstream({("1.0", PATH): old}))
    assert error.value.next_step.endswith("--after and each --function, vllm/a.py:<module> too.")
    two = new.replace("LIMIT = 2", "LIMIT = 2\nMORE = 3").replace("+ 0", "+ MORE")
    with pytest.raises(PatcherError, match="uses LIMIT, MORE, which come with the module's own"):
        of_diff(diff_to(two, old=old), "1.0", Upstream({("1.0", PATH): old}))
    beside = old.replace("LIMIT = 1", "LIMIT = 1\nMORE = 2").replace("return 1", "return 10")
    draft = of_diff(diff_to(beside, old=old), "1.0", Upstream({("1.0", PATH): old}))
    said = f"{PATH}: module's own lines: nothing that is taken uses what they bind"
    assert draft.dropped == (said,)


def test_a_constant_of_a_class_in_a_class_is_not_its_neighbour() -> None:
    old = OLD.replace("    size = 1\n", "    class B:\n        size = 1\n").replace(
        "return 1", "return self.B.size"
    )
    beside = old.replace("size = 1\n", "size = 1\n        more = 2\n")
    new = beside.replace("self.B.size", "self.B.size + 1")
    upstream = Upstream({("1.0", PATH): old})
    draft = of_diff(diff_to(new, old=old), "1.0", upstream)
    assert [each.scope.name for each in draft.sides] == ["A.one"]
    assert draft.dropped == (f"{PATH}: lines of A.B: nothing that is taken uses what they bind",)
    with pytest.raises(PatcherError, match=r"uses size, which comes with the lines of A\.B"):
        of_diff(diff_to(new.replace("size = 1", "size = 2"), old=old), "1.0", upstream)


def test_a_decorated_class_is_not_taken_for_a_function() -> None:
    """vLLM's PR 49294 adds a field to a dataclass: no run could read its patch."""
    old = f"import dataclasses\n{OLD}".replace("class A", "@dataclasses.dataclass\nclass A")
    new = old.replace("size = 1\n", "size = 1\n    more: int = 2\n").replace(
        "return 1", "return 10"
    )
    upstream = Upstream({("1.0", PATH): old})
    draft = of_diff(diff_to(new, old=old), "1.0", upstream)
    assert [each.scope.name for each in draft.sides] == ["A.one"]
    assert draft.dropped == (f"{PATH}: lines of A: nothing that is taken uses what they bind",)
    with pytest.raises(PatcherError, match="uses more, which comes with the lines of A"):
        of_diff(diff_to(new.replace("return 10", "return self.more"), old=old), "1.0", upstream)


def test_a_release_that_has_the_fix_fits_too() -> None:
    diff = diff_to(NEW)
    ahead = of_diff(diff, "2.0", RELEASES)
    assert whole_diff(ahead) == whole_diff(of_diff(diff, "1.0", RELEASES))


@pytest.mark.parametrize("way", ["diff", "releases"])
def test_an_import_that_the_fix_uses_comes_with_it(way: str) -> None:
    held = {(version, HELPER): "ten = 10\n" for version in ("1.0", "2.0")}
    upstream = Upstream({("1.0", PATH): OLD, ("2.0", PATH): IMPORTING, **held})
    if way == "diff":
        draft = of_diff(diff_to(IMPORTING), "1.0", upstream)
        rule = Backport(diff=whole_diff(draft))
    else:
        draft = of_releases([f"{PATH}:A.one"], "1.0", "2.0", upstream)
        scopes = tuple(each.scope for each in draft.sides)
        rule = Backport(scopes, "1.0", "2.0").with_upstream(upstream)
    # Whether a vLLM has what is imported is asked of the file that would hold it.
    assert draft.targets == (PATH, HELPER)
    assert [each.scope.name for each in draft.sides] == ["<imports>", "A.one"]
    files: dict[str, bytes | None] = {PATH: OLD.encode(), HELPER: b"ten = 10\n"}
    made = rule.rewrite(files)
    rule.prove(files, made)
    assert list(made) == [PATH]
    done = made[PATH].data.decode()
    imported = "import os\nfrom .helpers import ten\n"
    assert done == OLD.replace("import os\n", imported).replace("return 1", "return ten")
    assert not rule.find({**files, PATH: made[PATH].data}).places[0].needed
    for helper in (b"eleven = 11\n", None):
        found = rule.find({**files, HELPER: helper})
        assert found.unknown == "the fix imports ten from vllm/helpers.py, and this vLLM has none"
    by_hand = made[PATH].data.replace(b"from .helpers import ten\n", b"")
    said = rule.find({**files, PATH: by_hand}).unknown
    assert said == "half of the fix: vllm/a.py does not import ten"


@pytest.mark.parametrize(
    ("diff", "problem"),
    [
        (diff_to("y\n", "csrc/a.cu", "x\n") + diff_to(NEW), "csrc/a.cu is compiled code"),
        (diff_to("y\n", "vllm/a.json", "x\n"), "vllm/a.json is not Python"),
        (diff_to("y\n", "vllm/new.py", "x\n"), "vLLM 1.0 has no vllm/new.py"),
        (diff_to("y = 1\n", "vllm/new.py", ""), "vllm/new.py is a file that the fix brings"),
        (diff_to(NEW.replace("import os\n", "import os\n\nX = 1\n").replace(
            "return 10", "return X")), "uses X, which comes with the module's own lines"),
        (diff_to(OLD.replace("return 1", "return 8"), old=OLD.replace("return 1", "return 9")),
         "does not fit"),
        (diff_to(NEW.replace("10", "11"), old=NEW), "does not fit"),
        # A half of it is in.
        (diff_to(OLD, old=NEW) + diff_to(NEW), "is there already"),
        (diff_to(NEW.replace("size = 1", "size = 2").replace("return 10", "return self.size")),
         "uses size, which comes with the lines of A"),
        (diff_to(OLD.replace("size = 1", "size = 2")),
         "no function changes in the diff, but vllm/a.py: lines of A"),
        ("no diff\n", "it names no file"),
        (diff_to(NEW).split("\n", 2)[2], "line 1: a hunk before the name of its file"),
        (diff_to(NEW).rsplit("\n", 3)[0] + "\n", "its last hunk is not whole"),
        (diff_to(NEW).replace("+        return 10", "?       return 10"), "none of a hunk's"),
        (f"diff --git a/csrc/x.cu b/csrc/x.cu\nBinary files a/csrc/x.cu and b/csrc/x.cu differ\n"
         f"{diff_to(NEW)}", "csrc/x.cu is moved, taken away, or not text"),
        (f"diff --git a/{PATH} b/vllm/b.py\nrename from {PATH}\nrename to vllm/b.py\n"
         f"{diff_to(NEW)}", "vllm/b.py is moved"),
        (f"diff --git a/csrc/empty.cu b/csrc/empty.cu\nnew file mode 100644\n{diff_to(NEW)}",
         "csrc/empty.cu is compiled code"),
        (diff_to("y\n", "docs/a.md", "x\n"), "the diff changes nothing in vllm/, but docs/a.md"),
        (diff_to(OLD.replace("# a comment", "# another")), "nothing but comments, docstrings or"),
        (diff_to("", "vllm/a.py", OLD), "vllm/a.py is a file that the fix takes away"),
        (diff_to("y\n", "CMakeLists.txt", "x\n") + diff_to(NEW), "CMakeLists.txt is compiled code"),
        (diff_to(NEW.replace("return 10", "return New()") + "\n\nclass New:\n    pass\n"),
         "A.one uses New, which comes with the lines of New"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_with_the_reason(diff: str, problem: str) -> None:
    with pytest.raises(PatcherError) as error:
        of_diff(diff, "1.0", RELEASES)
    assert problem in error.value.problem


ODD = """\
import functools
import os

if os.name == "nt":
    def only():
        return 1

try:
    import torch
except ImportError:
    def fallback():
        return 2


class A:
    @property
    def p(self):
        return 3

    @p.setter
    def p(self, v):
        self.v = v

    @functools.cache
    def cached(self):
        return 4

    async def soon(self):
        def inner():
            return 5
        return inner

    class B:
        def deep(self):
            return 6

    if os.name == "nt":
        def only(self):
            return 7


def line(): return 8


if os.name == "nt":
    def two():
        return 9
else:
    def two():
        return 10
"""


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("return 1\n", "return 10\n", "only"),
        ("return 2", "return 20", "fallback"),
        ("return 3", "return 30", "A.p"),
        ("self.v = v", "self.v = 2 * v", "A.p"),
        ("return 4", "return 40", "A.cached"),
        ("functools.cache", "functools.lru_cache", "A.cached"),
        ("return 5", "return 50", "A.soon"),
        ("async def", "def", "A.soon"),
        ("return 6", "return 60", "A.B.deep"),
        ("return 7", "return 70", "A.only"),
        ("return 8", "return 80", "line"),
        ("        return 9", "        return 90", None),
        ("return 10", "return 100", None),
    ],
)
def test_a_function_is_found_wherever_it_stands(old: str, new: str, name: str | None) -> None:
    fixed = ODD.replace(old, new, 1)
    upstream = Upstream({("1.0", PATH): ODD})
    if name is None:
        with pytest.raises(PatcherError, match="has several two, and the fix changes one"):
            of_diff(diff_to(fixed, old=ODD), "1.0", upstream)
        return
    draft = of_diff(diff_to(fixed, old=ODD), "1.0", upstream)
    assert [each.scope.name for each in draft.sides] == [name]
    files = {PATH: ODD.encode()}
    rule = Backport(diff=whole_diff(draft))
    made = rule.rewrite(files)
    rule.prove(files, made)
    assert made[PATH].data.decode() == fixed


class Counted(str):
    """A line that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)


@pytest.mark.parametrize(
    "line",
    ['text = """\nat the margin\n  less\n"""\n', "x = 2\n# at the margin\n", "x = (\n1)\n"],
)
@pytest.mark.parametrize("rest", ["", "\n\ny = 3\n", "    y = 3\n"])
def test_a_methods_lines_may_be_less_indented_than_it_is(line: str, rest: str) -> None:
    old = f"class A:\n    def one(self):\n        {line}        return 1\n{rest}"
    new = old.replace("return 1", "return 2")
    draft = of_diff(diff_to(new, old=old), "1.0", Upstream({("1.0", PATH): old}))
    rule = Backport(diff=whole_diff(draft))
    assert [(each.before, each.after) for each in rule.sides()] == [
        (each.before, each.after) for each in draft.sides
    ]
    made = rule.rewrite({PATH: old.encode()})[PATH]
    assert made.data.decode() == new


def test_equal_hunks_are_told_apart_by_their_order() -> None:
    """vLLM's PR 49294 adds the same lines to two functions, behind the same lines of each."""
    hunk, other = Hunk(1, ["a\n"], ["b\n"]), Hunk(2, ["c\n"], ["d\n"])
    assert applied("a.py", b"a\nc\na\n", [hunk, hunk], "0") == b"b\nc\nb\n"
    assert applied("a.py", b"a\nc\na\n", [hunk, other], "0") == b"b\nd\na\n"
    assert applied("a.py", b"a\nc\na\n", [other, hunk], "0") == b"a\nd\nb\n"
    for source, hunks in ((b"a\nc\na\n", [hunk]), (b"a\na\nc\na\n", [hunk, hunk])):
        with pytest.raises(NotFitting, match=r"a\.py of vLLM 0: the hunk of line 1 fits twice"):
            applied("a.py", source, hunks, "0")
    with pytest.raises(NotFitting, match="the hunk of line 2 fits twice"):
        applied("a.py", b"a\nc\nc\na\n", [hunk, other, hunk], "0")


def test_thousands_of_hunks_are_found_in_one_look() -> None:
    """20,000 of them were compared with 20,000 lines each, for 43 s."""
    lines = [f"x{at} = {at}\n" for at in range(1000)]
    hunks = [Hunk(at, [Counted(line)], ["pass\n"]) for at, line in enumerate(lines, 1)]
    Counted.compared = 0
    assert applied("a.py", "".join(lines).encode(), hunks, "0") == b"pass\n" * 1000
    assert Counted.compared <= 4 * len(lines)


def test_what_is_too_long_for_a_fix_is_refused() -> None:
    many = "".join(f"def f{at}(): ...\n" for at in range(501))
    with pytest.raises(PatcherError, match="the fix brings 501 functions"):
        of_diff(diff_to("x = 1\n" + many, old="x = 1\n"), "3.0", RELEASES)
    with pytest.raises(PatcherError, match="longer than that of any one fix"):
        of_diff("\n" * 500_001, "3.0", RELEASES)


def test_a_diff_with_the_line_ends_of_windows_fits() -> None:
    diff = diff_to(NEW)
    windows = of_diff(diff.replace("\n", "\r\n"), "1.0", RELEASES)
    assert windows == of_diff(diff, "1.0", RELEASES)


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_sign_that_ends_a_line_for_unicode_ends_none_of_a_diff(sign: str) -> None:
    old = OLD.replace("a comment", f"a{sign}comment")
    new = old.replace("return 1", f"return '{sign}'")
    one, other = (text.split("\n") for text in (old, new))
    lines = difflib.unified_diff(one, other, PATH, PATH, lineterm="")
    made = "".join(f"{line}\n" for line in lines)
    draft = of_diff(made, "1.0", Upstream({("1.0", PATH): old}))
    assert [each.scope.name for each in draft.sides] == ["A.one"]
    rule = Backport(diff=whole_diff(draft))
    assert rule.rewrite({PATH: old.encode()})[PATH].data.decode() == new


def test_what_is_not_of_the_package_may_be_moved_and_is_named() -> None:
    moved = "diff --git a/docs/a.md b/docs/b.md\nrename from docs/a.md\nrename to docs/b.md\n"
    odd = f"@@ -1,{'9' * 5000} +1 @@\n"
    draft = of_diff(moved + diff_to(NEW) + odd, "1.0", RELEASES)
    assert [each.scope.name for each in draft.sides] == ["A.one"]
    assert draft.dropped == ("docs/b.md: not in the package",)


@pytest.mark.parametrize("sign", ['"', "\\", "'", "\x1b", "\u2028", "{x}", "#", '"+x+"'])
@pytest.mark.parametrize("by_diff", [True, False])
def test_a_path_is_text_in_the_file_that_is_run(sign: str, *, by_diff: bool) -> None:
    """A diff and a wheel that were made for each other have any path."""
    path = f"vllm/a{sign}.py"
    files = Upstream({("1.0", path): OLD, ("2.0", path): NEW})
    draft = (
        of_diff(diff_to(NEW, path), "1.0", files)
        if by_diff
        else of_releases([f"{path}:A.one"], "1.0", "2.0", files)
    )
    other = f"vllm/b{sign}.py"
    draft = with_moves(draft, [Move(path, other, "1.0", 1.0)], files)
    text = patch_file("mine", draft, ("==1.0",), About(), "mine.diff" * by_diff)
    assigned = ast.parse(text).body[-1]
    assert isinstance(assigned, ast.Assign)
    assert isinstance(assigned.value, ast.Call)
    said = {each.arg: each.value for each in assigned.value.keywords}
    assert ast.literal_eval(said["targets"]) == (path, other)
    assert isinstance(said["rule"], ast.Call)
    fields = {each.arg: each.value for each in said["rule"].keywords}
    assert ast.literal_eval(fields["moved"]) == ((path, other),)
    scopes = [node for node in ast.walk(said["rule"]) if isinstance(node, ast.Tuple)]
    if not by_diff:
        [scope] = scopes[0].elts
        assert isinstance(scope, ast.Call)
        assert [ast.literal_eval(each) for each in scope.args] == [path, "A.one"]


def test_two_releases_leave_no_line_of_either_in_the_patch() -> None:
    draft = of_releases([f"{PATH}:A.one"], "1.0", "2.0", RELEASES)
    text = patch_file("mine", draft, (">=1.0,<2.0",), About(7))
    assert "return 10" not in text
    assert 'name="A.one"' in text or '"A.one",' in text
    for functions, problem in (
        (["A.one"], "is not FILE:NAME"),
        ([f"{PATH}:A.none"], "neither 1.0 nor 2.0 has one A.none"),
        ([f"{PATH}:three"], "three in vllm/a.py is the same in 1.0 and 2.0"),
    ):
        with pytest.raises(PatcherError) as error:
            of_releases(functions, "1.0", "2.0", RELEASES)
        assert problem in error.value.problem


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_class_whose_new_lines_another_file_uses_is_not_left_out(name: str) -> None:
    """vLLM's PR 42748 gives a response three fields in one file, and fills them in another."""
    used = "def make():\n    return 1\n"
    upstream = Upstream({("1.0", PATH): OLD, ("1.0", "vllm/b.py"): used})
    fields = diff_to(OLD.replace("size = 1\n", "size = 1\n    wide = None\n"))
    fills = diff_to(used.replace("1\n", f"{name}(wide=1)\n"), "vllm/b.py", used)
    if name == "A":
        said = "vllm/b.py: make uses wide, which comes with the lines of A"
        with pytest.raises(PatcherError, match=said):
            of_diff(fields + fills, "1.0", upstream)
    else:
        draft = of_diff(fields + fills, "1.0", upstream)
        assert draft.dropped == (f"{PATH}: lines of A: nothing that is taken uses what they bind",)


# A file that was moved between the two releases, and mended.
HOME = "vllm/old/home.py"
HELP = "def ten():\n    return 10\n"
HELPED = OLD.replace("import os\n", "import os\nfrom .help import ten\n").replace(
    "return 1", "return ten()"
)
MOVED = Upstream(
    {
        ("1.0", HOME): OLD,
        ("1.0", "vllm/old/help.py"): HELP,
        ("2.0", PATH): HELPED,
        ("2.0", "vllm/help.py"): HELP,
        ("3.0", "vllm/b.py"): "x = 1\n",
    }
)


def test_a_file_that_was_moved_between_two_releases_is_read_where_each_has_it() -> None:
    draft = of_releases([f"{PATH}:A.one", f"{PATH}:A.one"], "1.0", "2.0", MOVED)
    assert [(each.path, each.other, each.release) for each in draft.moved] == [(PATH, HOME, "1.0")]
    assert draft.sides[1].before == b"    def one(self):\n        # a comment\n        return 1\n"
    # What it imports beside itself is another file there.
    assert draft.targets == (PATH, HOME, "vllm/help.py", "vllm/old/help.py")
    space: dict[str, object] = {}
    exec(patch_file("mine", draft, [">=1.0"], About()), space)
    patch = space["PATCH"]
    assert isinstance(patch, Patch)
    assert isinstance(patch.rule, Backport)
    assert (patch.targets, patch.rule.moved) == (draft.targets, ((PATH, HOME),))
    by_diff = with_moves(of_diff(diff_to(NEW), "1.0", RELEASES), draft.moved, MOVED)
    text = patch_file("mine", by_diff, [">=1.0"], About(), "mine.diff")
    ast.parse(text)
    assert text.count(f'"{HOME}"') == 2  # a target, and in `moved`
    files = {PATH: None, HOME: OLD.encode(), "vllm/help.py": None}
    files["vllm/old/help.py"] = HELP.encode()
    after = patch.rule.with_upstream(MOVED).rewrite(files)
    assert {path: one.data.decode() for path, one in after.items()} == {HOME: HELPED}


@pytest.mark.parametrize(
    ("path", "after", "said"),
    [
        (HOME, "2.0", f"Name a file as 2.0 has it. 2.0 has it as {PATH}."),
        (HOME, "3.0", "Name a file as 3.0 has it."),
    ],
)
def test_a_file_that_the_release_with_the_fix_lacks_is_not_taken(
    path: str, after: str, said: str
) -> None:
    """It was a draft that takes the function away."""
    with pytest.raises(PatcherError, match=f"vLLM {after} has no {path}") as raised:
        of_releases([f"{path}:A.one"], "1.0", after, MOVED)
    assert raised.value.next_step == said


def test_a_file_that_comes_with_the_fix_was_nowhere_before() -> None:
    draft = of_releases([f"{PATH}:three"], "3.0", "2.0", MOVED)
    assert draft.moved == ()
    assert draft.sides[-1].before is None
