"""A file that some releases have under another path: found, judged, patched and proven there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from patcher.errors import FileAbsent, RewriteRefused, Undecided
from patcher.rules.apply import series
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.moved import moves
from patcher.rules.backport.rule import Backport
from patcher.rules.patch import Patch
from patcher.rules.replace import Shape
from tests.rules.backport.fixes import BEFORE, FIXES, PATH, fixed, sides_of

OLD = "vllm/older/home.py"
NEWER = "vllm/newer/home.py"
MOVED = ((PATH, NEWER), (PATH, OLD))


@dataclass(frozen=True)
class Releases:
    """vLLM's releases, each with some files."""

    files: Mapping[str, Mapping[str, bytes]]

    def read(self, version: str, target: str) -> bytes:
        if target not in self.files[version]:
            raise FileAbsent(f"no {target}", next_step="-")
        return self.files[version][target]

    def names(self, version: str) -> Mapping[str, int]:
        return {path: len(data) for path, data in self.files[version].items()}


def rule_of(fix: str) -> Backport:
    """A fix of a file that was moved before it was mended."""
    scopes = tuple(each.scope for each in sides_of(fix))
    upstream = Releases({"1.0": {OLD: BEFORE.encode()}, "2.0": {PATH: fixed(fix).encode()}})
    return Backport(scopes, before="1.0", after="2.0", moved=MOVED).with_upstream(upstream)


def at(path: str, data: str) -> dict[str, bytes | None]:
    return {PATH: None, NEWER: None, OLD: None, path: data.encode()}


@pytest.mark.parametrize("fix", FIXES)
@pytest.mark.parametrize("path", [PATH, NEWER, OLD])
def test_the_fix_goes_where_the_file_is(fix: str, path: str) -> None:
    rule, files = rule_of(fix), at(path, BEFORE)
    found = rule.find(files)
    assert {place.target for place in found.places} == {path}
    assert any(place.needed for place in found.places)
    after = rule.rewrite(files)
    rule.prove(files, after)
    assert {name: one.data.decode() for name, one in after.items()} == {path: fixed(fix)}
    again = rule.find(at(path, fixed(fix)))
    assert (again.unknown, again.absent) == (None, None)
    assert not any(place.needed for place in again.places)


def test_where_two_of_its_paths_are_there_nothing_is_known() -> None:
    rule = rule_of("condition")
    files = {**at(PATH, BEFORE), OLD: BEFORE.encode()}
    assert rule.find(files).unknown == f"{PATH} and {OLD} are both there: which is the fix's file?"
    with pytest.raises(RewriteRefused, match="are both there"):
        rule.rewrite(files)


def test_where_none_of_its_paths_is_there_it_is_absent() -> None:
    found = rule_of("condition").find({PATH: None, NEWER: None, OLD: None})
    assert found.absent == f"there is no Drafter.share in {PATH}"


def test_a_path_that_nobody_read_may_hold_the_file() -> None:
    found = rule_of("condition").find({PATH: BEFORE.encode(), NEWER: None})
    assert found.unknown == (f"{OLD} is no target of the patch, and the fix's file may be there")


def test_a_reason_names_the_path_that_is_there() -> None:
    rule = rule_of("condition")
    assert rule.find(at(OLD, "x = 1\n")).absent == f"there is no Drafter.share in {OLD}"
    own = BEFORE.replace("if self.model.embeds:", "if self.model.more:")
    assert str(rule.find(at(OLD, own)).unknown).startswith(f"{OLD}: conflict")


def test_an_error_names_the_file_that_is_there() -> None:
    own = BEFORE.replace("if self.model.embeds:", "if self.model.more:")
    paths = (PATH, NEWER, OLD)
    patch = Patch("mine", 1, "t", "w", paths, rule_of("condition"), (), (">=1.0",))
    with pytest.raises(Undecided, match=f"^site/{OLD}: mine cannot judge it: {OLD}: conflict"):
        series([patch], at(OLD, own), lambda target: f"site/{target}")
    nowhere: dict[str, bytes | None] = dict.fromkeys(paths)
    with pytest.raises(FileAbsent, match=f"^site/{PATH}: mine cannot judge it"):
        series([patch], nowhere, lambda target: f"site/{target}")


def test_upstreams_other_fix_is_looked_for_where_the_file_is() -> None:
    rule = replace(rule_of("condition"), instead=(Shape(PATH, "log", "os.write(1, text)"),))
    own = BEFORE.replace("text.encode()", "text")
    assert [(each.target, each.needed) for each in rule.find(at(OLD, own)).places] == [(OLD, False)]


@pytest.mark.parametrize(
    ("moved", "problem"),
    [
        ((PATH, OLD), "moved has 'vllm/engine.py', which is no pair of two paths of a file"),
        (((PATH, PATH),), "which is no pair of two paths"),
        (((PATH, NEWER, OLD),), "which is no pair of two paths"),
        (((OLD, PATH),), "moved has 'vllm/older/home.py', and no scope is of that file"),
    ],
)
def test_what_moved_cannot_mean_is_refused(moved: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(rule_of("condition"), moved=moved)


def test_its_other_paths_are_explained() -> None:
    assert f"{PATH}: some releases have it as {OLD}" in rule_of("condition").explain()


HUNK = "@@ -1,2 +1,2 @@\n def f(a, b):\n-    return a\n+    return b\n"
DIFF = "".join(f"--- a/{path}\n+++ b/{path}\n{HUNK}" for path in ("vllm/b.py", "vllm/c.py"))


def test_a_diff_of_ones_own_goes_there_too() -> None:
    rule = Backport(diff=DIFF, moved=(("vllm/c.py", "vllm/old.py"),))
    b = b"def f(a, b):\n    return a\n"
    files = {"vllm/b.py": b, "vllm/c.py": None, "vllm/old.py": b}
    assert rule.rewrite(files).keys() == {"vllm/b.py", "vllm/old.py"}
    alone = Backport(diff=DIFF[: len(DIFF) // 2], moved=(("vllm/b.py", "vllm/old.py"),))
    nowhere = alone.find({"vllm/b.py": None, "vllm/old.py": None})
    assert nowhere.absent == "there is no vllm/b.py, nor vllm/old.py"


def test_two_files_of_a_fix_that_are_one_there_are_not_taken() -> None:
    rule = Backport(diff=DIFF, moved=(("vllm/c.py", "vllm/b.py"),))
    files = {"vllm/b.py": b"def f(a, b):\n    return a\n", "vllm/c.py": None}
    assert rule.find(files).unknown == "vllm/b.py: two files of the fix are one"


@pytest.mark.parametrize(
    ("line", "there", "problem"),
    [
        ("from .help import floor", {"vllm/older/help.py": b"def floor(x): ...\n"}, None),
        (
            "from .help import floor",
            {"vllm/older/help.py": b"x = 1\n"},
            "the fix imports floor from vllm/older/help.py, and this vLLM has none",
        ),
        # The module beside the file's own path is another.
        (
            "from .help import floor",
            {"vllm/help.py": b"def floor(x): ...\n"},
            "the fix imports floor from vllm/older/help.py, which is no target of the patch",
        ),
        ("from vllm.v1.help import floor", {"vllm/v1/help.py": b"def floor(x): ...\n"}, None),
        ("from vllm.v1.help import floor", {}, None),
    ],
)
def test_what_it_imports_is_looked_for_from_where_it_stands(
    line: str, there: dict[str, bytes], problem: str | None
) -> None:
    after = BEFORE.replace("import os\n", f"import os\n{line}\n")
    after = after.replace("drafted = width(self.model)", "drafted = floor(1.5)", 1)
    sides = changed_scopes(PATH, BEFORE.encode(), after.encode())
    upstream = Releases({"1.0": {PATH: BEFORE.encode()}, "2.0": {PATH: after.encode()}})
    rule = Backport(tuple(each.scope for each in sides), before="1.0", after="2.0", moved=MOVED)
    found = rule.with_upstream(upstream).find({**at(OLD, BEFORE), **there})
    assert found.unknown == problem


# ---- where a release has the file

LINES = [f"def f{number}():\n    return {number}\n" for number in range(20)]


def lines(*numbers: int) -> bytes:
    return "".join(LINES[number] for number in numbers).encode()


NEW = "vllm/new/a.py"


def told(releases: Mapping[str, Mapping[str, bytes]]) -> list[tuple[str, str]]:
    return [(each.release, each.other) for each in moves([NEW], list(releases), Releases(releases))]


def test_a_file_is_followed_from_release_to_release() -> None:
    """As DeepSeek V4's model was, by three moves."""
    releases = {
        "4": {NEW: lines(*range(10))},
        "3": {"vllm/a.py": lines(*range(9)), "vllm/b.py": lines(11, 12, 13, 14, 15)},
        "2": {"vllm/a.py": lines(*range(8))},
        "1": {"vllm/c.py": lines(*range(8, 20)), "vllm/old.py": lines(0, 1, 2, 3, 4, 5)},
    }
    assert told(releases) == [("3", "vllm/a.py"), ("1", "vllm/old.py")]


def test_where_it_began_the_search_ends() -> None:
    releases = {
        "3": {NEW: lines(*range(10))},
        "2": {"vllm/b.py": lines(*range(10, 20))},
        "1": {"vllm/a.py": lines(*range(10))},
    }
    assert told(releases) == []


@pytest.mark.parametrize(
    ("older", "found"),
    [
        ({"vllm/a.py": lines(*range(5))}, "vllm/a.py"),
        ({"vllm/a.py": lines(*range(4))}, None),
        # What the newer release has as well is another file; so is one that Python would take
        # for a file of its, a module for a package.
        ({"vllm/stays.py": lines(*range(10))}, None),
        ({"vllm/package.py": lines(*range(10))}, None),
        ({"vllm/module/__init__.py": lines(*range(10))}, None),
        ({"vllm/a.py": lines(*range(8)), "vllm/b.py": lines(*range(9))}, "vllm/b.py"),
        ({"vllm/a.py": lines(*range(9)), "vllm/b.py": lines(*range(9))}, None),
    ],
)
def test_it_is_what_has_most_of_its_lines_and_half_of_them(
    older: dict[str, bytes], found: str | None
) -> None:
    newer = {
        NEW: lines(*range(10)),
        "vllm/stays.py": b"x = 1\n",
        "vllm/package/__init__.py": b"",
        "vllm/module.py": b"",
    }
    assert told({"2": newer, "1": older}) == ([("1", found)] if found else [])


def test_a_move_says_what_it_rests_on() -> None:
    older = {"vllm/a.py": lines(*range(8)), "vllm/b.py": lines(*range(6))}
    releases = {"2": {NEW: lines(*range(10))}, "1": older}
    [move] = moves([NEW], list(releases), Releases(releases))
    assert str(move) == (
        "vllm/new/a.py: vLLM 1 is taken to have it as vllm/a.py, which holds 80 % of its code, "
        "vllm/b.py 60 %"
    )
