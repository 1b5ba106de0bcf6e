"""The rule: its sides from two releases or from a diff, its verdicts, and its refusals."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from patcher.errors import FileAbsent, RewriteRefused, Unreadable
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.merging.cut import sha256
from patcher.rules.backport.rule import Backport
from patcher.rules.backport.scope import Scope
from patcher.rules.replace import Change, Replace, Shape
from patcher.rules.several import FirstOf, Together
from tests.rules.backport.fixes import BEFORE, FIXES, PATH, fixed, sides_of


@dataclass(frozen=True)
class TwoReleases:
    """Upstream with one file, before and after a fix."""

    fix: str

    def read(self, version: str, target: str) -> bytes:
        if target != PATH:
            raise FileAbsent(f"no {target}", next_step="-")
        return {"1.0": BEFORE, "2.0": fixed(self.fix)}[version].encode()


@dataclass(frozen=True)
class Two:
    """Upstream with one file before and after; None where a release has none."""

    before: bytes | None
    after: bytes

    def read(self, version: str, target: str) -> bytes:
        data = {"1.0": self.before, "2.0": self.after}[version]
        if target != PATH or data is None:
            raise FileAbsent(f"no {target}", next_step="-")
        return data


def rule_of(fix: str) -> Backport:
    scopes = tuple(each.scope for each in sides_of(fix))
    return Backport(scopes, before="1.0", after="2.0").with_upstream(TwoReleases(fix))


@pytest.mark.parametrize("fix", FIXES)
def test_a_fix_is_taken_back_from_two_releases(fix: str) -> None:
    rule, files = rule_of(fix), {PATH: BEFORE.encode()}
    assert any(place.needed for place in rule.find(files).places)
    after = rule.rewrite(files)
    rule.prove(files, after)
    assert after[PATH].data.decode() == fixed(fix)
    found = rule.find({PATH: after[PATH].data})
    assert (found.unknown, found.absent) == (None, None)
    assert not any(place.needed for place in found.places)


def test_upstreams_other_fix_makes_it_needless() -> None:
    """PR 49668 landed in 0.27.1, and 50916 took its place: it merges into 0.28.0, and must not."""
    other = Shape("vllm/other.py", "f", "return 1")
    rule = replace(rule_of("condition"), instead=(other,))
    files = {PATH: BEFORE.encode(), "vllm/other.py": b"def f():\n    return 1\n"}
    assert [place.target for place in rule.find(files).places] == ["vllm/other.py"]
    assert not rule.find(files).places[0].needed
    lacking = rule.find({**files, "vllm/other.py": b"def f():\n    return 2\n"})
    assert lacking.places[0].needed
    assert any("vllm/other.py: nothing is needed where f has" in x for x in rule.explain())


def test_a_release_that_is_not_what_the_author_read_is_refused() -> None:
    scope = Scope(PATH, "Drafter.share", before="0" * 64, after="1" * 64)
    rule = Backport((scope,), before="1.0", after="2.0").with_upstream(TwoReleases("condition"))
    with pytest.raises(Unreadable, match=r"Drafter.share in vLLM 1.0 is not the one"):
        rule.find({PATH: BEFORE.encode()})


def test_without_a_way_to_the_releases_nothing_is_said() -> None:
    scopes = tuple(each.scope for each in sides_of("condition"))
    with pytest.raises(Unreadable, match="there is no way to it"):
        Backport(scopes, before="1.0", after="2.0").find({PATH: BEFORE.encode()})


def test_a_merge_that_cannot_be_proven_is_unknown_and_refused() -> None:
    own = BEFORE.replace("def log", "def say").replace("        log(", "        say(").encode()
    rule = rule_of("calls")
    assert "log is not defined" in str(rule.find({PATH: own}).unknown)
    with pytest.raises(RewriteRefused, match="log is not defined"):
        rule.rewrite({PATH: own})


def test_a_file_that_is_not_there_is_absent() -> None:
    assert rule_of("condition").find({PATH: None}).absent is not None


def test_a_file_without_the_function_is_told_without_a_look_at_upstream() -> None:
    scopes = tuple(each.scope for each in sides_of("condition"))
    found = Backport(scopes, before="1.0", after="2.0").find({PATH: b"x = 1\n"})
    assert found.absent == f"there is no Drafter.share in {PATH}"


@pytest.mark.parametrize("fix", ["condition", "inserted", "argument", "two places", "new method"])
def test_a_diff_with_whole_functions_says_the_same(tmp_path: Path, fix: str) -> None:
    """`git diff -W`, as a user makes it."""
    file = tmp_path / PATH
    file.parent.mkdir()
    file.write_text(BEFORE)
    (tmp_path / ".gitattributes").write_text("*.py diff=python\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "-"]):
        subprocess.run([*git, *command], check=True)
    file.write_text(fixed(fix))
    made = subprocess.run([*git, "diff", "-W"], check=True, capture_output=True, text=True).stdout
    # git knows only the line of the function before; the class is the author's to say.
    made = re.sub(r"(?m)^(@@ .* @@).*", r"\1 Drafter.share", made)
    rule, files = Backport(diff=made), {PATH: BEFORE.encode()}
    assert [each.scope.name for each in rule.sides()] == [each.scope.name for each in sides_of(fix)]
    after = rule.rewrite(files)
    rule.prove(files, after)
    # A diff does not say what a new method comes after.
    assert fix == "new method" or after[PATH].data.decode() == fixed(fix)


@pytest.mark.parametrize(
    ("diff", "problem"),
    [
        ("", "no function changes in it"),
        ("--- a/csrc/a.cu\n+++ b/csrc/a.cu\n@@ -1 +1 @@\n-a\n+b\n", "csrc/a.cu is compiled code"),
        ("--- a/csrc/a.cu\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "csrc/a.cu is compiled code"),
        ("--- a/a.md\n+++ b/a.md\n@@ -1 +1 @@\n-a\n+b\n", "a.md is not Python"),
        ("--- /dev/null\n+++ b/a.py\n@@ -0,0 +1 @@\n+a\n", "a.py comes or goes as a whole"),
        ("--- a/a.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "a.py comes or goes as a whole"),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -2,2 +2,2 @@ def e():\n     def f(self):\n-        x\n"
            "+        y\n",
            "which class has f",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -2,2 +2,2 @@ def f():\n     if x:\n-        y = (1,\n"
            "+        y = (2,\n",
            "not of whole functions",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n def f():\n-    y = (1,\n+    y = (2,\n",
            r"not of whole functions \('\(' was never closed\)",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n class C:\n-    x = 1\n+    x = 2\n",
            "not of whole functions",
        ),
        (
            '--- a/a.py\n+++ b/a.py\n@@ -2,2 +2,2 @@ A.f\n     def f(self):\n-        x = """a\n'
            '+        x = """b\n',
            "not of whole functions",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1 +1,4 @@\n def f(): pass\n+\n+if x:\n"
            "+    def f(): pass\n",
            "a hunk has several f",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1 +1,3 @@\n def f(): pass\n+def g(): pass\n+def f(): x\n",
            "a hunk has several f",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1 +1,2 @@ <imports>\n import os\n+import (\n",
            "the imports are not Python",
        ),
        (
            "--- a/a.py\n+++ b/a.py\n@@ -1 +1,2 @@ <imports>\n import os\n+x = 1\n",
            "a hunk of <imports> holds more than imports",
        ),
        ("--- a/a.py\n+++ b/a.py\n@@ -1,9 +1,9 @@\n def f():\n-    a\n+    b\n", "is not whole"),
    ],
)
def test_a_diff_that_will_not_do_says_what_will(diff: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        Backport(diff=diff, scopes=()).sides() if diff else Backport(diff="\n").sides()


HEAD = "--- a/vllm/b.py\n+++ b/vllm/b.py\n"
DIFF = f"{HEAD}@@ -1,2 +1,2 @@\n def f(a, b):\n-    return a\n+    return b\n"


@pytest.mark.parametrize(
    ("hunk", "names"),
    [
        ("@@ -2,2 +2,2 @@ class C:\n     def f(self):\n-        x\n+        y\n", ["C.f"]),
        ("@@ -2,2 +2,2 @@ B.C.g\n     def f(self):\n-        x\n+        y\n", ["B.C.f"]),
        (
            "@@ -2,3 +2,3 @@ B.C.f\n         def f(self):\n-            x\n+            y\n"
            "     z = 1\n",
            ["B.C.f"],
        ),
        (
            "@@ -1,4 +1,4 @@\n def f():\n     x\n def g():\n-    x\n+    y\n",
            ["g"],
        ),
        (
            "@@ -1,3 +1,3 @@\n class C:\n     def f(self):\n-        x\n+        y\n",
            ["C.f"],
        ),
    ],
)
def test_a_hunks_functions_are_named_by_its_heading(hunk: str, names: list[str]) -> None:
    assert [each.scope.name for each in Backport(diff=HEAD + hunk).sides()] == names


def test_where_its_two_sides_are_from_is_explained() -> None:
    [line] = rule_of("condition").explain()
    assert line == f"{PATH}: Drafter.share: what vLLM 2.0 made of it, taken from 1.0"
    assert Backport(diff=DIFF).explain() == ("vllm/b.py: f: as the patch's own diff has it",)
    assert Backport(diff="-").explain() == ("the diff, line 1: no function changes in it",)


def test_of_a_fix_of_two_files_both_must_be_there() -> None:
    rule = Backport(diff=DIFF + DIFF.replace("b.py", "c.py"))
    files: dict[str, bytes | None] = {"vllm/b.py": B, "vllm/c.py": B}
    assert [place.needed for place in rule.find(files).places] == [True, True]
    lacking = "there is no vllm/c.py, but the fix's other files are there"
    assert rule.find({**files, "vllm/c.py": None}).unknown == lacking
    assert rule.find(dict.fromkeys(files)).absent == "there is no vllm/b.py"
    assert "there is no f" in str(rule.find(dict.fromkeys(files, b"x = 1\n")).absent)


def test_what_does_not_merge_with_proof_is_unknown_and_says_which_release_has_the_fix() -> None:
    own = BEFORE.replace("if self.model.embeds:", "if self.model.more:").encode()
    unknown = rule_of("condition").find({PATH: own}).unknown
    assert unknown is not None
    assert unknown.startswith(f"{PATH}: ")
    assert unknown.endswith("; vLLM 2.0 has the fix")
    unproven = rule_of("condition").find({PATH: f"{BEFORE}return\n".encode()}).unknown
    assert unproven is not None
    assert "failed its proof: Python does not compile the result" in unproven
    assert unproven.endswith("; vLLM 2.0 has the fix")


def test_a_fix_that_is_in_without_its_import_is_half_of_it() -> None:
    whole = fixed("import")
    assert rule_of("import").find({PATH: whole.encode()}).unknown is None
    half = whole.replace("import math\n", "")
    unknown = rule_of("import").find({PATH: half.encode()}).unknown
    assert unknown == f"half of the fix: {PATH} does not import math"


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        (b"def floor(x): ...\n", False),
        (b"from math import *\n", False),
        (b"def f(:\n", False),
        (b"x = 1\n", True),
        (None, True),
    ],
)
def test_what_the_fix_imports_of_vllm_must_be_there(more: bytes | None, lost: bool) -> None:
    after = BEFORE.replace("import os\n", "import os\nfrom vllm.more import floor\n")
    after = after.replace("drafted = width(self.model)", "drafted = floor(1.5)", 1)
    sides = changed_scopes(PATH, BEFORE.encode(), after.encode())
    rule = Backport(tuple(each.scope for each in sides), before="1.0", after="2.0")
    rule = rule.with_upstream(Two(BEFORE.encode(), after.encode()))
    unknown = rule.find({PATH: BEFORE.encode(), "vllm/more.py": more}).unknown
    said = "the fix imports floor from vllm/more.py, and this vLLM has none"
    assert unknown == (said if lost else None)


def test_a_file_that_comes_with_the_fix() -> None:
    """The release before it has none."""
    scope = Scope(PATH, "width", None, sha256(b"def width(layer):\n    return layer.width\n"))
    rule = Backport((scope,), before="1.0", after="2.0")
    found = rule.with_upstream(Two(None, BEFORE.encode())).find({PATH: BEFORE.encode()})
    assert [place.needed for place in found.places] == [False]


LOG = Replace((Change("vllm/b.py", "f", old="a", new="a and b"),))
TOGETHER = Together((rule_of("condition"), LOG))
B = b"def f(a, b):\n    return a\n"


def test_two_parts_are_made_together_or_not_at_all() -> None:
    files = {PATH: BEFORE.encode(), "vllm/b.py": B}
    after = TOGETHER.rewrite(files)
    TOGETHER.prove(files, after)
    assert {path: one.data for path, one in after.items()} == {
        PATH: fixed("condition").encode(),
        "vllm/b.py": b"def f(a, b):\n    return a and b\n",
    }
    half = {**files, "vllm/b.py": after["vllm/b.py"].data}
    assert "half of the fix: f has it, Drafter.share lacks it" in str(TOGETHER.find(half).unknown)
    assert "another part of the fix" in str(TOGETHER.find({**files, "vllm/b.py": None}).unknown)


def test_of_several_forms_the_one_that_fits_is_taken() -> None:
    rule = FirstOf((LOG, rule_of("condition")))
    files = {PATH: BEFORE.encode(), "vllm/b.py": None}
    after = rule.rewrite(files)
    rule.prove(files, after)
    assert after.keys() == {PATH}
    assert rule.find({PATH: None, "vllm/b.py": B}).places[0].target == "vllm/b.py"
    assert rule.find({PATH: None, "vllm/b.py": None}).absent == "there is no vllm/b.py"
