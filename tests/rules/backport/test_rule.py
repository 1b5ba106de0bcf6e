"""The rule: its sides from two releases or from a diff, its verdicts, and its refusals."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from patcher.errors import FileAbsent, RewriteRefused, Unreadable
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
    ],
)
def test_a_diff_that_will_not_do_says_what_will(diff: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        Backport(diff=diff, scopes=()).sides() if diff else Backport(diff="\n").sides()


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
