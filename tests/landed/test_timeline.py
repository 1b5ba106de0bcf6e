"""Bands and turns: the real releases, and every order in which verdicts can follow each other."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.landed import Finding
from patcher.landed.timeline import (
    Turn,
    bands,
    claiming,
    timeline,
    timelines,
    transitions,
)
from patcher.report.evidence import evidence, notices, span
from patcher.report.sentences import sentence
from patcher.rules.replace import Replace
from patcher.rules.verdict import Judged, Status
from patcher.sources.everywhere import Notice
from tests.landed.findings import PATCH, TABLE, all_releases, made, real, story

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

stories = st.text("ncau", max_size=12)


def turns(findings: Sequence[Finding]) -> list[tuple[Turn, str]]:
    return [(each.turn, str(each.finding.version)) for each in transitions(findings)]


@all_releases
def test_the_real_releases_give_the_designs_table(release_file: Callable[..., bytes]) -> None:
    line = timeline(PATCH, real(release_file))
    shown = [
        (tuple(str(each.version) for each in band.findings), band.needed, band.clean)
        for band in line.bands
    ]
    assert tuple(shown) == TABLE


@all_releases
def test_0_20_0_is_marked_as_the_regression(release_file: Callable[..., bytes]) -> None:
    assert turns(real(release_file)) == [
        (Turn.NEEDED, "0.15.0"),
        (Turn.LANDED, "0.18.0"),
        (Turn.REGRESSED, "0.20.0"),
        (Turn.LANDED, "0.28.0"),
    ]


@all_releases
def test_the_real_sentence_says_from_where_to_drop_the_patch(
    release_file: Callable[..., bytes],
) -> None:
    assert sentence(timeline(PATCH, real(release_file))) == (
        "kv-b-proj-dtype: needed in 0.15.0 (the oldest that was read), landed in 0.18.0, "
        "regressed in 0.20.0, landed again in 0.28.0; 0.33.0, the newest that was read, has "
        "the fix: drop the patch from 0.28.0 on."
    )


@all_releases
def test_the_first_line_of_evidence_is_the_read_that_decides(
    release_file: Callable[..., bytes],
) -> None:
    line = timeline(PATCH, real(release_file))
    regression = line.bands[3].findings[0]
    first, *rest = evidence(line, regression)
    assert first == (
        "line 2637: unguarded self.kv_b_proj.weight.dtype in MLACommonImpl._compute_prefill_context"
    )
    assert [": guarded " in each for each in rest] == [True, True]


@given(stories)
def test_bands_partition_the_findings_in_order(text: str) -> None:
    findings = story(text)
    parts = bands(findings)
    assert [each for band in parts for each in band.findings] == findings
    for before, after in itertools.pairwise(parts):
        assert before.status is not after.status or before.status is Status.UNKNOWN


@given(stories)
def test_an_unknown_stands_alone(text: str) -> None:
    for band in bands(story(text)):
        assert band.status is not Status.UNKNOWN or len(band.findings) == 1


@given(stories)
def test_turns_agree_with_a_plain_reading(text: str) -> None:
    expected = []
    for at, letter in enumerate(text):
        known = text[:at].replace("u", "")
        present = known.replace("a", "")
        if letter == "u" or known[-1:] == letter:
            continue
        version = f"0.{at + 1}.0"
        if letter == "a" and known:
            expected.append((Turn.MOVED, version))
        elif letter == "n":
            turn = Turn.REGRESSED if present[-1:] == "c" else Turn.NEEDED
            expected.append((turn, version))
        elif letter == "c" and present[-1:] == "n":
            expected.append((Turn.LANDED, version))
    assert turns(story(text)) == expected


@given(stories)
def test_a_turn_names_every_unknown_that_may_hide_it(text: str) -> None:
    findings = story(text)
    for each in transitions(findings):
        start = findings.index(each.before) + 1 if each.before else 0
        assert list(each.unread) == findings[start : findings.index(each.finding)]


def test_different_counts_of_the_same_verdict_are_different_bands() -> None:
    place = made("0.1.0", Status.NEEDED).verdict.places[0]
    once, twice = made("0.1.0", Status.NEEDED), made("0.2.0", Status.NEEDED, places=[place, place])
    assert [band.needed for band in bands([once, twice])] == [1, 2]


def test_what_has_no_version_stands_alone_and_makes_no_turn() -> None:
    files = [made(None, Status.CLEAN, artifact=name) for name in ("a.py", "b.py")]
    line = timeline(PATCH, [*story("n"), *files])
    assert [span(band.findings) for band in line.bands] == ["0.1.0", "a.py", "b.py"]
    assert [each.turn for each in line.transitions] == [Turn.NEEDED]


def test_reads_that_begin_after_none_did_not_regress() -> None:
    empty = made("0.1.0", Status.CLEAN, places=[])
    assert turns([empty, *story("cn")[1:]]) == [(Turn.NEEDED, "0.2.0")]


def test_each_patch_has_its_own_timeline() -> None:
    (line,) = timelines([PATCH], story("nc"))
    assert len(line.findings) == 2
    (empty,) = timelines([PATCH], [])
    assert (empty.bands, empty.transitions, empty.newest_seen) == ((), (), None)


def test_an_absent_file_is_told_with_the_newest_place_where_it_was_seen() -> None:
    line = timeline(PATCH, story("nca"))
    assert evidence(line, line.findings[2]) == ("no such file; newest with it: 0.2.0",)
    alone = timeline(PATCH, story("a"))
    assert evidence(alone, alone.findings[0]) == ("no such file; newest with it: none was read",)


def test_a_clean_file_without_any_read_says_that_none_is_left() -> None:
    line = timeline(PATCH, [made("0.1.0", Status.CLEAN, places=[])])
    assert evidence(line, line.findings[0]) == (
        "no read of kv_b_proj.weight.dtype is left in the file",
    )


def test_reads_elsewhere_are_told_a_line_for_each_file_with_their_releases() -> None:
    inside = (Notice("vllm/m.py", 5, "x.kv_b_proj.weight.dtype", needed=True),)
    moved = (Notice("vllm/m.py", 9, "x.kv_b_proj.weight.dtype", needed=True),)
    line = timeline(
        PATCH,
        [
            made("0.1.0", Status.NEEDED),
            made("0.2.0", Status.NEEDED, elsewhere=inside),
            made("0.3.0", Status.CLEAN, elsewhere=moved),
            made("0.4.0", Status.CLEAN),
            made("0.5.0", Status.CLEAN, elsewhere=inside),
        ],
    )
    assert notices(line) == ("vllm/m.py:5: unguarded in 0.2.0 - 0.3.0, 0.5.0",)


OLDEST = "in 0.1.0 (the oldest that was read)"
NEWEST = "the newest that was read"


@pytest.mark.parametrize(
    ("text", "told", "advice"),
    [
        ("", "no turn was seen", "nothing that was read states a version"),
        ("nn", f"needed {OLDEST}", f"0.2.0, {NEWEST}, needs the patch: keep it"),
        ("cc", "no turn was seen", f"0.2.0, {NEWEST}, is clean, like all since 0.1.0: it does not "
               "need the patch"),
        ("nc", f"needed {OLDEST}, landed in 0.2.0", f"0.2.0, {NEWEST}, has the fix: drop the patch "
               "from 0.2.0 on"),
        ("ncn", f"needed {OLDEST}, landed in 0.2.0, regressed in 0.3.0",
                f"0.3.0, {NEWEST}, needs the patch: keep it"),
        ("nuc", f"needed {OLDEST}, landed in 0.3.0 (or already in 0.2.0, not read)",
                f"0.3.0, {NEWEST}, has the fix: drop the patch from 0.3.0 on (not read: 0.2.0)"),
        ("ncu", f"needed {OLDEST}, landed in 0.2.0", f"0.3.0, {NEWEST}, cannot be judged: keep the "
                "patch until it can be (not read: 0.3.0)"),
        ("nca", f"needed {OLDEST}, landed in 0.2.0, its code gone in 0.3.0",
                f"0.3.0, {NEWEST}, has no such file, last seen in 0.2.0: find where the code went "
                "before you drop the patch"),
        ("nuuuuu", f"needed {OLDEST}", f"0.6.0, {NEWEST}, cannot be judged: keep the patch until "
                   "it can be (not read: 0.2.0, 0.3.0, 0.4.0 and 2 more)"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_happened_and_what_to_do(text: str, told: str, advice: str) -> None:
    assert sentence(timeline(PATCH, story(text))) == f"{PATCH.name}: {told}; {advice}."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n", "0.1.0 needs the patch: keep it"),
        ("c", "0.1.0 is clean: it does not need the patch"),
        ("u", "0.1.0 cannot be judged: keep the patch until it can be"),
    ],
)
def test_of_one_artifact_no_story_is_told(text: str, said: str) -> None:
    assert sentence(timeline(PATCH, story(text))) == f"{PATCH.name}: {said}."


def test_what_could_not_be_read_has_no_version_either() -> None:
    lost = timeline(PATCH, [made(None, Status.UNKNOWN, artifact="https://a/x.whl")])
    assert sentence(lost) == f"{PATCH.name}: no turn was seen; nothing could be read."
    file = timeline(PATCH, [made(None, Status.CLEAN, artifact="a.py")])
    assert sentence(file).endswith("; nothing that was read states a version.")


def test_a_pre_release_speaks_only_where_it_says_otherwise() -> None:
    clean = [*story("nc"), made("0.3.0rc1", Status.NEEDED)]
    advice = f"0.2.0, {NEWEST}, has the fix: drop the patch from 0.2.0 on, but 0.3.0rc1 needs it"
    assert advice in sentence(timeline(PATCH, clean))
    same = [*story("nc"), made("0.3.0rc1", Status.CLEAN)]
    assert "0.3.0rc1" not in sentence(timeline(PATCH, same))


@given(stories.filter(lambda text: "n" in text or "u" in text))
def test_dropping_is_advised_only_where_all_after_is_known_clean(text: str) -> None:
    said = sentence(timeline(PATCH, story(text)))
    assert ("drop the patch from" in said) <= (text[-1] == "c")


def rewritten(at: int, findings: list[Finding], *, outside: bool = False) -> list[Finding]:
    """The findings, of which the one at a place was read and says nothing: a conflict."""
    judged = Judged("vllm/a.py", "0" * 64)
    verdict = replace(findings[at].verdict, files=(judged,), reason="conflict", outside=outside)
    return [*findings[:at], replace(findings[at], verdict=verdict), *findings[at + 1 :]]


def test_code_that_was_rewritten_names_the_last_that_has_the_fix() -> None:
    line = timeline(PATCH, rewritten(2, story("ncu")))
    assert evidence(line, line.findings[2]) == ("conflict; the last that has the fix: 0.2.0",)
    assert "cannot be judged, and 0.2.0 is the last that has the fix: keep the" in sentence(line)
    without = timeline(PATCH, rewritten(2, story("ncu"), outside=True))
    said = "has other code, and 0.2.0 is the last that has the fix; the patch is not for it"
    assert said in sentence(without)
    for before in ("nnu", "cnu", "uuu"):
        line = timeline(PATCH, rewritten(2, story(before)))
        assert evidence(line, line.findings[2]) == ("conflict",)


def test_what_is_needed_again_and_not_claimed_is_not_to_be_kept() -> None:
    bounded = replace(PATCH, rule=Replace(()))  # the guard's rule holds in any version
    line = claiming(timeline(bounded, story("ncn")), (">=0.1,<0.2",))
    said = f"regressed in 0.3.0; 0.3.0, {NEWEST}, lacks the fix, and the patch is not for it"
    assert said in sentence(line)
    assert [each.verdict.outside for each in line.findings] == [False, True, True]


def test_a_function_that_is_gone_is_not_called_a_file() -> None:
    found = rewritten(2, story("nca"))
    line = timeline(PATCH, found)
    assert evidence(line, found[2]) == ("conflict; newest with it: 0.2.0",)
    assert f"0.3.0, {NEWEST}, lacks it: conflict, last seen in 0.2.0" in sentence(line)
