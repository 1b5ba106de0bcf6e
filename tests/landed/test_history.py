"""A clone's history: real files, committed as upstream did, and shapes that upstream may take."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.landed import Finding
from patcher.landed.history import History, history, newest_transition
from patcher.landed.timeline import Turn, transitions
from patcher.report.landed import Answer, text
from patcher.report.sentences import history_sentence, steps_told
from patcher.rules.backport.rule import Backport
from patcher.rules.catalogue import select
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace
from patcher.rules.several import Together
from patcher.rules.verdict import Status, Verdict
from patcher.sources.git import open_git
from tests.clones import OLD_HOME, workshop
from tests.conftest import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATCH = select(["kv-b-proj-dtype"])[0]

NEEDED = b"dtype = self.kv_b_proj.weight.dtype\n"
CLEAN = b"dtype = getattr(self.kv_b_proj, 'params_dtype', None)\n"


def walk(path: Path, *, bisect: bool = False) -> History:
    source = open_git(str(path))
    try:
        return history(PATCH, source.clone, source.commit, lambda *_: None, bisect=bisect)
    finally:
        source.clone.close()


def turns(found: History) -> list[tuple[Turn, str]]:
    return [(step.transition.turn, step.commit.sha) for step in found.steps]


@pytest.fixture(scope="module")
def upstream(
    tmp_path_factory: pytest.TempPathFactory, release_file: Callable[..., bytes]
) -> tuple[Path, dict[str, str]]:
    """vLLM's story in small: moved, fixed, broken, fixed by a merge."""
    made = workshop(tmp_path_factory.mktemp("upstream"))
    made.commit("The code in its first home", release_file("0.14.1", OLD_HOME), OLD_HOME)
    ids = {"gate": made.commit("A gate", release_file("0.15.0"), OLD_HOME)}
    made.commit("Something else", b"x = 1\n", "vllm/other.py")
    made.path.joinpath(TARGET).parent.mkdir(parents=True)
    made.git("mv", OLD_HOME, TARGET)
    made.commit("Move MLA", release_file("0.16.0"))
    made.commit("More reads", release_file("0.17.1"))
    ids["first fix"] = made.commit("Guard kv_b_proj", release_file("0.18.0"))
    ids["regression"] = made.commit("Chunk the context", release_file("0.20.0"))
    for version in ("0.22.0", "0.24.0", "0.25.0"):
        made.commit(f"Work for {version}", release_file(version))
    made.git("switch", "-qc", "fix")
    made.commit("Unrelated on the side", b"y = 1\n", "vllm/side.py")
    ids["second fix"] = made.commit("Ask params_dtype", release_file("0.28.0"))
    made.commit("Tidy up", release_file("0.29.0"))
    made.git("switch", "-q", "main")
    made.commit("Meanwhile", b"z = 1\n", "vllm/main.py")
    ids["merge"] = made.merge("fix", "Merge the second fix")
    ids["tip"] = made.commit("Newest", release_file("0.33.0"))
    return made.path, ids


def test_each_turn_is_named_by_the_commit_that_made_it(
    upstream: tuple[Path, dict[str, str]],
) -> None:
    path, ids = upstream
    found = walk(path)
    assert turns(found) == [
        (Turn.NEEDED, ids["gate"]),
        (Turn.LANDED, ids["first fix"]),
        (Turn.REGRESSED, ids["regression"]),
        (Turn.LANDED, ids["second fix"]),
    ]
    assert found.head.verdict.status is Status.CLEAN


def test_the_code_is_followed_to_its_older_home(upstream: tuple[Path, dict[str, str]]) -> None:
    path, _ = upstream
    assert [step.path for step in walk(path).steps] == [OLD_HOME, TARGET, TARGET, TARGET]


def test_a_fix_from_a_side_line_names_its_merge_too(upstream: tuple[Path, dict[str, str]]) -> None:
    path, ids = upstream
    last = walk(path).steps[-1]
    assert last.commit.subject == "Ask params_dtype"
    assert last.merge is not None
    assert (last.merge.sha, last.merge.subject) == (ids["merge"], "Merge the second fix")
    assert last.commit.date is not None
    assert last.merge.date is not None
    assert last.commit.date < last.merge.date


def test_a_bisection_finds_the_newest_turn_with_fewer_reads(
    upstream: tuple[Path, dict[str, str]],
) -> None:
    path, ids = upstream
    found = walk(path, bisect=True)
    assert turns(found) == [(Turn.LANDED, ids["second fix"])]
    assert found.read < walk(path).read


def test_a_branch_or_tag_may_be_named(upstream: tuple[Path, dict[str, str]]) -> None:
    path, ids = upstream
    source = open_git(f"{path}@{ids['regression']}")
    found = history(PATCH, source.clone, source.commit, lambda *_: None)
    source.clone.close()
    assert turns(found)[-1] == (Turn.REGRESSED, ids["regression"])
    assert found.head.verdict.status is Status.NEEDED


def test_a_shallow_clone_says_so(upstream: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path, _ = upstream
    made = workshop(tmp_path / "work")
    made.git("clone", "-q", "--depth", "2", f"file://{path}", str(tmp_path / "shallow"))
    assert walk(tmp_path / "shallow").shallow
    assert not walk(path).shallow


def test_a_merge_of_a_merge_is_opened_too(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    made.git("switch", "-qc", "outer")
    made.commit("Outer", b"1\n", "outer")
    made.git("switch", "-qc", "inner")
    fix = made.commit("Fix", CLEAN)
    made.git("switch", "-q", "outer")
    made.commit("Outer again", b"2\n", "outer")
    made.merge("inner", "Inner into outer")
    made.git("switch", "-q", "main")
    made.commit("Main", b"1\n", "main")
    merge = made.merge("outer", "Outer into main")
    last = walk(tmp_path).steps[-1]
    assert (last.commit.sha, last.merge and last.merge.sha) == (fix, merge)


def test_a_merge_that_fixes_in_its_conflict_is_itself_the_commit(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    made.git("switch", "-qc", "side")
    made.commit("Side", NEEDED + b"side = 1\n")
    made.git("switch", "-q", "main")
    made.commit("Main", NEEDED + b"main = 1\n")
    made.git("merge", "-q", "-s", "ours", "--no-commit", "side")
    merge = made.commit("Resolved to neither", CLEAN)
    last = walk(tmp_path).steps[-1]
    assert (last.transition.turn, last.commit.sha, last.merge) == (Turn.LANDED, merge, None)


def test_what_happened_only_on_a_side_line_is_no_turn(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    begin = made.commit("Begin", NEEDED)
    made.git("switch", "-qc", "side")
    made.commit("Fix", CLEAN)
    made.commit("Take it back", NEEDED + b"side = 1\n")
    made.git("switch", "-q", "main")
    made.commit("Main", b"1\n", "main")
    made.merge("side", "Merge")
    assert turns(walk(tmp_path)) == [(Turn.NEEDED, begin)]


def test_a_side_line_that_took_in_main_is_not_credited_with_mains_fix(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    made.git("switch", "-qc", "side")
    made.commit("Side", b"1\n", "side")
    made.git("switch", "-q", "main")
    fix = made.commit("Fix", CLEAN)
    made.git("switch", "-q", "side")
    made.merge("main", "Main into side")
    made.commit("Side again", b"2\n", "side")
    made.git("switch", "-q", "main")
    made.merge("side", "Side into main")
    last = walk(tmp_path).steps[-1]
    assert (last.commit.sha, last.merge) == (fix, None)


def test_a_target_that_moved_away_is_told_with_its_new_place(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED * 20)
    made.git("mv", TARGET, "vllm/elsewhere.py")
    gone = made.commit("Move it away")
    found = walk(tmp_path)
    assert turns(found)[-1] == (Turn.MOVED, gone)
    assert found.steps[-1].path == "vllm/elsewhere.py"
    assert found.head.verdict.status is Status.ABSENT


def test_a_target_that_was_deleted_went_nowhere(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED * 20)
    (tmp_path / TARGET).unlink()
    gone = made.commit("Delete it", b"1\n", "other")
    last = walk(tmp_path).steps[-1]
    assert (last.transition.turn, last.commit.sha, last.path) == (Turn.MOVED, gone, None)


def test_a_lost_content_is_unknown_and_the_rest_is_judged(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    lost = made.commit("Lost", NEEDED + b"# more\n")
    blob = made.git("rev-parse", f"HEAD:{TARGET}")
    made.commit("Fix", CLEAN)
    (tmp_path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    step = walk(tmp_path).steps[-1]
    assert step.transition.turn is Turn.LANDED
    assert [each.artifact for each in step.transition.unread] == [lost]


def test_a_step_is_told_with_all_that_is_known_of_it(
    upstream: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    path, ids = upstream
    found = walk(path)
    assert steps_told(found)[-1] == (
        f"landed again in {ids['second fix'][:12]} (2026-01-13) “Ask params_dtype”, "
        f"merged in {ids['merge'][:12]} (2026-01-16)"
    )
    assert history_sentence(found).endswith(
        f"at {ids['tip'][:12]} (2026-01-17) it is clean: builds of this commit need no patch."
    )
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED * 20)
    made.commit("Broken", b"(" + NEEDED * 20)
    made.git("mv", TARGET, "vllm/elsewhere.py")
    made.commit("Move it away")
    assert steps_told(walk(tmp_path))[-1].endswith(
        "“Move it away”, moved to vllm/elsewhere.py or in one of 1 before it that could not be "
        "judged"
    )


def test_a_table_tells_how_the_clone_was_walked(
    upstream: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    path, _ = upstream
    made = workshop(tmp_path / "work")
    made.git("clone", "-q", "--depth", "2", f"file://{path}", str(tmp_path / "shallow"))
    shown = text(Answer(histories=(walk(tmp_path / "shallow", bisect=True),)))
    assert "bisected: 2 commits touch the file" in shown
    assert "would be missed" in shown
    assert "the clone is shallow" in shown
    assert "would be missed" not in text(Answer(histories=(walk(path),)))


def test_a_file_that_never_was_there_has_no_turn(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", b"1\n", "other")
    found = walk(tmp_path)
    assert (found.touching, found.steps, found.head.verdict.status) == (0, (), Status.ABSENT)


def test_a_first_read_after_none_is_no_regression(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("No read yet", b"pass\n")
    began = made.commit("The first read", b"pass\n" + NEEDED)
    assert turns(walk(tmp_path)) == [(Turn.NEEDED, began)]


def test_a_commit_that_is_no_python_is_named_by_the_turn_that_it_may_hide(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    broken = made.commit("Conflict markers", b"<<<<<<< HEAD\n")
    made.commit("Fix", CLEAN)
    step = walk(tmp_path).steps[-1]
    assert step.commit.subject == "Fix"
    assert [each.artifact for each in step.transition.unread] == [broken]


def test_a_link_in_the_targets_place_is_never_clean(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    made.commit("Begin", NEEDED)
    file = tmp_path / TARGET
    file.unlink()
    file.symlink_to("other.py")
    made.commit("A link")
    assert walk(tmp_path).head.verdict.status is Status.UNKNOWN


def finding(status: Status, place: int) -> Finding:
    return Finding(str(place), None, Verdict("p", str(place), status))


@given(st.lists(st.sampled_from(list(Status)), max_size=60))
def test_a_bisection_names_a_turn_that_the_walk_names(statuses: list[Status]) -> None:
    line = [finding(status, place) for place, status in enumerate(statuses)]
    decided = [each for each in line if each.verdict.status is not Status.UNKNOWN]
    pairs = {(before.artifact, after.artifact) for before, after in itertools.pairwise(decided)}
    for each in newest_transition(len(line), line.__getitem__):
        if each.before is not None:
            assert (each.before.artifact, each.finding.artifact) in pairs
            hidden = range(int(each.before.artifact) + 1, int(each.finding.artifact))
            assert [int(one.artifact) for one in each.unread] == list(hidden)


def test_a_bisection_steps_over_a_fix_and_its_loss_that_lie_between_its_reads() -> None:
    story = [Status.NEEDED, Status.CLEAN, Status.NEEDED, Status.CLEAN, Status.CLEAN]
    line = [finding(status, place) for place, status in enumerate(story)]
    (named,) = newest_transition(len(line), line.__getitem__)
    assert (named.turn, named.finding.artifact) == (Turn.LANDED, "1")
    assert transitions(line)[-1].finding.artifact == "3"


@given(st.integers(0, 400), st.integers(0, 400))
def test_one_turn_is_found_in_a_logarithm_of_reads(needed: int, clean: int) -> None:
    line = [finding(Status.NEEDED, at) for at in range(needed)]
    line += [finding(Status.CLEAN, needed + at) for at in range(clean)]
    asked: set[int] = set()

    def ask(place: int) -> Finding:
        asked.add(place)
        return line[place]

    assert newest_transition(len(line), ask) == transitions(line)[-1:]
    assert len(asked) <= 2 * math.log2(len(line) + 1) + 3


def test_a_fix_of_two_files_is_in_with_the_second(tmp_path: Path) -> None:
    """One line of commits touches both files; a merge brings the other half."""
    parts = tuple(
        Replace((Change(path, "f", old="return 1", new="return 2"),)) for path in ("a.py", "b.py")
    )
    patch = Patch("two", 1, "t", "w", ("a.py", "b.py"), Together(parts), (), (">=0",))
    old, new = b"def f():\n    return 1\n", b"def f():\n    return 2\n"
    made = workshop(tmp_path)
    made.write(old, "a.py")
    begun = made.commit("Both", old, "b.py")
    made.git("switch", "-qc", "half")
    half = made.commit("One half", new, "a.py")
    made.git("switch", "-q", "main")
    made.commit("Elsewhere", b"x = 1\n", "c.py")
    made.merge("half", "Bring it")
    whole = made.commit("The other half", new, "b.py")
    source = open_git(str(tmp_path))
    try:
        found = history(patch, source.clone, source.commit, lambda *_: None)
    finally:
        source.clone.close()
    assert turns(found) == [(Turn.NEEDED, begun), (Turn.LANDED, whole)]
    assert (found.touching, found.head.verdict.status) == (3, Status.CLEAN)
    assert len(found.steps[1].transition.unread) == 1, half


def test_a_file_that_was_moved_is_judged_once_at_each_home(tmp_path: Path) -> None:
    """git follows it backwards by itself, and the patch looks for it in its older home too."""
    old, new = b"def f():\n    return 1\n", b"def f():\n    return 2\n"
    diff = "--- a/b.py\n+++ b/b.py\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n"
    rule = Backport(diff=diff, moved=(("b.py", "a.py"),))
    patch = Patch("moved", 1, "t", "w", ("b.py", "a.py"), rule, (), (">=0",))
    made = workshop(tmp_path)
    begun = made.commit("Begin", old, "a.py")
    made.commit("Work", old + b"\n\nx = 1\n", "a.py")
    made.git("mv", "a.py", "b.py")
    made.commit("Move it")
    fix = made.commit("Fix it", new + b"\n\nx = 1\n", "b.py")
    source = open_git(str(tmp_path))
    try:
        found = history(patch, source.clone, source.commit, lambda *_: None)
    finally:
        source.clone.close()
    assert turns(found) == [(Turn.NEEDED, begun), (Turn.LANDED, fix)]
    assert [step.transition.unread for step in found.steps] == [(), ()]
