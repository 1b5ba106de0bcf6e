"""A diff is drafted on the release that is meant, or on the nearest that it fits."""

from __future__ import annotations

import pytest
from packaging.version import Version

from patcher.errors import PatcherError, RewriteRefused, UsageError
from patcher.jobs.draft import draft_near, moved_files
from patcher.rules.backport.draft import of_diff, with_moves
from tests.rules.backport.test_draft import NEW, OLD, PATH, Upstream, diff_to

# The fix was written after 1.1, is in 1.3, and the code is another in 0.9 and since 1.4.
OLDER = OLD.replace("# a comment", "# one more")
VERSIONS = {"0.9": "x = 1\n", "1.0": OLDER, "1.1": OLD, "1.2": OLD, "1.3": NEW, "1.4": "x = 1\n"}
UPSTREAM = Upstream({(version, PATH): text for version, text in VERSIONS.items()})


def known() -> list[Version]:
    return [Version(each) for each in reversed(VERSIONS)]


@pytest.mark.parametrize(
    ("asked", "fitted"), [("1.1", "1.1"), ("1.0", "1.1"), ("1.4", "1.3"), ("1.3", "1.3")]
)
def test_the_nearest_release_that_the_diff_fits_is_taken(asked: str, fitted: str) -> None:
    draft, on = draft_near(diff_to(NEW), asked, UPSTREAM, known)
    assert on == fitted
    assert [each.scope.name for each in draft.sides] == ["A.one"]


def test_only_a_release_with_the_fix_fits() -> None:
    """What is changed beside the fix in each release before it: the fix is undone to read it."""
    draft, on = draft_near(
        diff_to(NEW), "1.0", Upstream({("1.0", PATH): OLDER, ("1.3", PATH): NEW}), known
    )
    assert on == "1.3"
    assert draft.sides[0].before is not None
    assert b"return 1\n" in draft.sides[0].before


def test_none_that_fits_names_what_was_asked_for() -> None:
    other = diff_to(OLD.replace("return 1", "return 8"), old=OLD.replace("return 1", "return 9"))
    with pytest.raises(PatcherError, match=r"vLLM 1\.0: the hunk .*; the diff fits no release"):
        draft_near(other, "1.0", UPSTREAM, known)
    with pytest.raises(UsageError, match="is not a version"):
        draft_near(other, "main", UPSTREAM, known)
    with pytest.raises(RewriteRefused, match="compiled code"):
        draft_near(diff_to("y\n", "csrc/a.cu", "x\n") + other, "1.0", UPSTREAM, known)


def test_where_releases_on_both_sides_have_a_moved_file_is_told_by_those_beside_them() -> None:
    paths = {"0.8": "vllm/oldest.py", "0.9": "vllm/older.py", "1.0": PATH, "1.1": "vllm/newer.py"}
    upstream = Upstream(dict.fromkeys(paths.items(), OLD))
    draft = of_diff(diff_to(NEW), "1.0", upstream)
    releases = [(version, {path} & {PATH}) for version, path in paths.items()]
    found = moved_files(draft, releases, upstream)
    assert [(each.release, each.path, each.other) for each in found] == [
        (version, PATH, paths[version]) for version in ("0.9", "0.8", "1.1")
    ]
    # What is known is asked for no second time; and what no release has is nowhere.
    known = with_moves(draft, found, upstream)
    assert moved_files(known, [(each, {path}) for each, path in paths.items()], upstream) == []
    assert moved_files(draft, [("0.8", set())], upstream) == []
