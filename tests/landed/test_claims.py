"""Claims against content: what refutes them, what cannot, and what clears the alarm."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from patcher.errors import BrokenCatalogue, Exit
from patcher.landed import Finding
from patcher.landed.claims import check, exit_for, oldest_claimed
from patcher.landed.timeline import Turn, timeline
from patcher.report.sentences import check_lines, sentence
from patcher.rules.verdict import Judged, Status, Verdict
from tests.landed.findings import PATCH, all_releases, made, real, story

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from patcher.landed.claims import Check


def judged(findings: Sequence[Finding], *affected: str) -> Check:
    return check(timeline(dataclasses.replace(PATCH, affected=affected), findings))


def refuted(found: Check) -> list[tuple[Turn, list[str]]]:
    return [
        (each.direction, [str(one.version) for one in each.findings]) for each in found.refutations
    ]


@all_releases
def test_the_shipped_claim_holds_in_all_releases(release_file: Callable[..., bytes]) -> None:
    found = check(timeline(PATCH, real(release_file)))
    assert (found.held, found.refutations, found.unread) == (28, (), ())
    assert exit_for([found]) is Exit.OK


def test_what_the_content_leaves_open_where_nothing_is_claimed_is_no_alarm() -> None:
    """A backport in a release before its bug, or after a rewrite: unknown, and never to be else."""
    files = (Judged("vllm/a.py", "0" * 64),)
    found = []
    for text, each in (("0.1", "u"), ("0.2", "n"), ("0.3", "c"), ("0.4", "u")):
        version = Version(text)
        status = {"u": Status.UNKNOWN, "n": Status.NEEDED, "c": Status.CLEAN}[each]
        reason = "rewritten since" if each == "u" else None
        outside = each != "n"
        verdict = Verdict(PATCH.name, text, status, (), reason, files, outside=outside)
        found.append(Finding(text, version, verdict))
    here = judged(found, "==0.2")
    assert (here.unread, here.refutations, exit_for([here])) == ((), (), Exit.OK)
    assert here.timeline.unread == ()
    assert "not read" not in sentence(here.timeline)
    claimed = dataclasses.replace(found[3].verdict, outside=False)
    lost = dataclasses.replace(found[0].verdict, files=())
    for open_one in (claimed, lost):
        there = judged([*found[1:3], dataclasses.replace(found[3], verdict=open_one)], "==0.2")
        assert exit_for([there]) is Exit.UNDECIDED


@all_releases
def test_a_claim_by_version_threshold_is_refuted_in_both_directions(
    release_file: Callable[..., bytes],
) -> None:
    found = judged(real(release_file), "<0.27.1")
    assert refuted(found) == [
        (Turn.LANDED, ["0.18.0", "0.18.1", "0.19.0", "0.19.1"]),
        (Turn.REGRESSED, ["0.27.1"]),
    ]
    assert found.holds_instead == PATCH.affected


@pytest.mark.parametrize(
    ("text", "affected", "expected", "code"),
    [
        ("nc", ("<0.2",), [], Exit.OK),
        ("cc", (), [], Exit.OK),
        ("aac", (), [], Exit.OK),
        ("nc", (">=0.1",), [(Turn.LANDED, ["0.2.0"])], Exit.FINDING),
        ("ncn", ("<0.2",), [(Turn.REGRESSED, ["0.3.0"])], Exit.FINDING),
        ("nn", (">=0.2",), [(Turn.NEEDED, ["0.1.0"])], Exit.FINDING),
        ("nna", (">=0.1",), [(Turn.MOVED, ["0.3.0"])], Exit.FINDING),
        ("nu", (">=0.1",), [], Exit.UNDECIDED),
        ("cu", (), [], Exit.UNDECIDED),
        ("ucuc", (">=0.4",), [(Turn.LANDED, ["0.4.0"])], Exit.FINDING),
        ("", (), [], Exit.UNDECIDED),
    ],
)
def test_a_claim_is_judged_by_direction(
    text: str, affected: tuple[str, ...], expected: list[tuple[Turn, list[str]]], code: Exit
) -> None:
    found = judged(story(text), *affected)
    assert refuted(found) == expected
    assert exit_for([found]) is code


def test_a_refutation_wins_and_what_was_not_read_is_still_listed() -> None:
    found = judged([*story("nc"), made("0.3.0", Status.UNKNOWN, reason="no network")], ">=0.1")
    assert exit_for([found]) is Exit.FINDING
    assert check_lines(found) == [
        f"{PATCH.name}: newly landed in 0.2.0, against the claim >=0.1",
        f"{PATCH.name}: what was read supports the claim >=0.1.0,<0.2.0",
        f"{PATCH.name}: not compared: 0.3.0: no network",
    ]


def test_a_claim_that_holds_counts_in_english() -> None:
    assert check_lines(judged(story("n"), "<0.2")) == [
        f"{PATCH.name}: the claim <0.2 holds in 1 artifact"
    ]


def test_one_refuted_patch_among_others_decides() -> None:
    good, bad, lost = (judged(story(text), "<0.2") for text in ("nc", "cc", "nu"))
    assert exit_for([good, lost, bad]) is Exit.FINDING
    assert exit_for([good, lost]) is Exit.UNDECIDED
    assert exit_for([good]) is Exit.OK
    assert exit_for([]) is Exit.UNDECIDED


def test_an_artifact_without_a_version_is_not_compared() -> None:
    found = judged([made(None, Status.NEEDED, artifact="file.py")])
    assert (exit_for([found]), found.held) == (Exit.UNDECIDED, 0)
    assert check_lines(found) == [f"{PATCH.name}: not compared: file.py: it states no version"]


def test_a_check_of_nothing_says_so() -> None:
    assert check_lines(judged([], "<1")) == [
        f"{PATCH.name}: nothing was read to compare the claim <1 with"
    ]


def test_a_pre_release_is_claimed_by_its_own_order() -> None:
    findings = [
        made("0.19.1rc0", Status.NEEDED),
        made("0.19.1", Status.CLEAN),
        made("0.23.1rc1.dev5+g0123abc", Status.NEEDED),
    ]
    assert refuted(judged(findings, "==0.19.1rc0", ">=0.20,<0.28")) == []


def test_a_claim_that_is_no_specifier_names_the_patch() -> None:
    with pytest.raises(BrokenCatalogue, match=PATCH.name):
        judged(story("n"), "0.15 to 0.18")


def test_the_claims_begin_where_the_file_does() -> None:
    assert oldest_claimed([PATCH]) == Version("0.15.0")
    assert oldest_claimed([PATCH, dataclasses.replace(PATCH, affected=("<0.3",))]) is None
    assert oldest_claimed([dataclasses.replace(PATCH, affected=())]) is None


def test_what_regressed_had_been_fixed_before() -> None:
    empty = made("0.1.0", Status.CLEAN, places=[])
    later = [
        made("0.2.0", Status.NEEDED),
        made("0.3.0", Status.CLEAN),
        made("0.4.0", Status.NEEDED),
    ]
    assert refuted(judged([empty, *later])) == [
        (Turn.NEEDED, ["0.2.0"]),
        (Turn.REGRESSED, ["0.4.0"]),
    ]


def test_the_advised_claim_ends_with_a_pre_release_where_the_need_does() -> None:
    findings = [
        made("0.1.0", Status.NEEDED),
        made("0.2.0rc1", Status.NEEDED),
        made("0.2.0", Status.CLEAN),
    ]
    assert judged(findings).holds_instead == (">=0.1.0,<=0.2.0rc1",)


def test_no_claim_is_advised_where_two_artifacts_of_one_version_disagree() -> None:
    findings = [
        made("0.1.0", Status.NEEDED, artifact="pypi:0.1.0"),
        made("0.1.0", Status.CLEAN, artifact="an image that somebody patched"),
    ]
    assert judged(findings).holds_instead is None
    assert refuted(judged(findings, ">=0.1")) == [(Turn.LANDED, ["0.1.0"])]


versions = st.lists(
    st.sampled_from(
        [f"0.{minor}.{patch}{tail}" for minor in range(4) for patch in range(2)
         for tail in ("rc1.dev3", "rc1.dev4+gabc", "rc1", "", ".post1")]
    ),
    unique=True,
    max_size=12,
).map(lambda names: sorted(names, key=Version))  # fmt: skip


@given(versions, st.lists(st.sampled_from(list(Status)), min_size=12, max_size=12))
def test_editing_the_claim_as_advised_clears_the_alarm(
    names: list[str], statuses: list[Status]
) -> None:
    findings = [made(name, status) for name, status in zip(names, statuses, strict=False)]
    found = judged(findings, ">=0.1,<0.3")
    if found.holds_instead is not None:
        assert judged(findings, *found.holds_instead).refutations == ()
    elif found.refutations:
        # No specifier tells 0.1.0rc1 from 0.1.0 in all places; then none is advised.
        assert any(Version(name).is_prerelease or Version(name).is_postrelease for name in names)


@given(st.text("ncau", max_size=10))
def test_among_releases_a_claim_that_holds_always_exists(text: str) -> None:
    found = judged(story(text), ">=0.1.0,<0.3.0")
    assert (found.holds_instead is None) == (not found.refutations)
