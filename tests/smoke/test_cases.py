"""What the probe's words make of a case: never more than the engine has shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from patcher.errors import Exit, UsageError
from patcher.report.smoke import case_line, cases_summary, traceback_lines
from patcher.rules.catalogue import catalogue
from patcher.smoke.cases import (
    CASES,
    CONTROL,
    Ran,
    State,
    cases_of,
    exit_of,
    outcome,
    read_probe,
    select_cases,
)
from patcher.smoke.probe import MARK, model_config

if TYPE_CHECKING:
    from collections.abc import Mapping

[W4A16] = select_cases(["w4a16"])
UP = {"vllm": "0.23.0", "torch": "2.11.0", "device": "a GPU", "stage": "loading the model"}
SHORT = {"short": [1, 2], "stage": "a long prompt, read in chunks"}
READ = {"weight": "absent", "reads": 1}
DONE = {"long": [3, 4], "stage": "done", "seconds": 30.1}
CRASH = {
    "error": "AttributeError: 'ColumnParallelLinear' object has no attribute 'weight'",
    "traceback": 'File "vllm/model_executor/layers/attention/mla_attention.py", line 2094',
}
ELSEWHERE = {"error": "ValueError: no such kernel", "traceback": 'File "vllm/config.py"'}
END = {"seconds": 31.0}


def said(*words: Mapping[str, object], code: int | None = 0) -> Ran:
    lines = [f"INFO 11-25 {MARK}{json.dumps(word)}" for word in words]
    return Ran("\n".join(["INFO an engine's own line", *lines, ""]), code)


@pytest.mark.parametrize(
    ("ran", "state", "reason"),
    [
        (said(UP, SHORT, READ, DONE), State.PASSED, None),
        (said(UP, SHORT, READ, CRASH, END), State.FAILED, "no attribute 'weight'"),
        # the gate of 0.15.0 is read while the model is loaded
        (said(UP, CRASH, END), State.FAILED, "at: loading the model"),
        (said(UP, ELSEWHERE, END), State.NOT_REACHED, "failed before, at: loading the model"),
        (said(UP, SHORT, DONE), State.NOT_REACHED, "without a prefill with context"),
        (said(UP, SHORT, READ | {"weight": "int32"}, DONE), State.NOT_REACHED, "is int32 here"),
        (said(UP, SHORT, code=None), State.NOT_REACHED, "no end after 60 s, at: a long prompt"),
        (said(UP, code=-9), State.NOT_REACHED, "ended with code -9, at: loading the model"),
        (said(UP, SHORT, READ, code=-11), State.FAILED, "ended with code -11"),
        (Ran("", 1), State.NOT_REACHED, "ended with code 1, at: starting"),
    ],
)
def test_a_case_is_judged_by_how_far_it_came(ran: Ran, state: State, reason: str | None) -> None:
    found = outcome(W4A16, ran, 60)
    assert found.state is state
    assert (reason is None) is (found.reason is None)
    assert reason is None or reason in (found.reason or "")


def test_the_engines_words_are_kept() -> None:
    found = outcome(W4A16, said(UP, SHORT, READ, CRASH, END), 60)
    assert (found.short, found.long, found.reads, found.weight) == ((1, 2), (), 1, "absent")
    assert found.traceback == CRASH["traceback"]


def test_a_line_that_is_cut_says_nothing() -> None:
    cut = Ran(f"{MARK}{json.dumps(UP)}\n{MARK}{{'weight': 'abs", -9)
    assert outcome(W4A16, cut, 60).vllm == "0.23.0"


ODD: list[object] = [
    None,
    True,
    -1,
    10**400,
    1e400,
    1.5,
    "",
    "x",
    "x" * 200_000,
    [],
    [[]],
    ["x"],
    [-1],
    {"x": 1},
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:9])
def test_what_a_hostile_image_prints_is_passed_over(odd: object) -> None:
    """Each word of the probe's, with any value: it is kept as it must be, or not at all."""
    words = ("vllm", "weight", "reads", "short", "long", "seconds", "error", "traceback", "stage")
    for word in words:
        ran = said(UP, SHORT, READ, {word: odd}, DONE)
        found = outcome(W4A16, ran, 60)
        assert type(found.reads) is int
        assert all(type(token) is int for token in (*found.short, *found.long))
        assert found.seconds is None or 0 <= found.seconds < 1e10
        for line in (case_line(found), cases_summary([found]), *traceback_lines(found)):
            assert line.isprintable()


@pytest.mark.parametrize("line", ["[" * 100_000, "[]", "null", '{"reads": ' + "9" * 5000 + "}"])
def test_a_line_that_is_no_object_says_nothing(line: str) -> None:
    assert read_probe(f"{MARK}{line}\n{MARK}{json.dumps(UP)}") == UP


def test_of_a_very_long_traceback_the_end_is_shown() -> None:
    found = outcome(W4A16, said(UP, {"error": "x", "traceback": "\n::x\x1b" * 9000}, END), 60)
    lines = traceback_lines(found)
    assert len(lines) == 300
    assert all(line.isprintable() and not line.startswith("::") for line in lines)


def test_a_failure_is_a_finding_and_what_was_not_reached_undecided() -> None:
    passed, failed, not_reached = (
        outcome(W4A16, ran, 60)
        for ran in (said(UP, SHORT, READ, DONE), said(UP, SHORT, READ, CRASH, END), said(UP))
    )
    assert exit_of([passed, passed]) is Exit.OK
    assert exit_of([passed, not_reached, failed]) is Exit.FINDING
    assert exit_of([passed, not_reached]) is Exit.UNDECIDED
    assert exit_of([]) is Exit.UNDECIDED


def test_the_first_patch_claims_what_is_packed_and_the_control_goes_with_it() -> None:
    guard = [patch for patch in catalogue() if patch.name == "kv-b-proj-dtype"]
    cases = cases_of(guard)
    assert cases[0] is CONTROL
    assert {case.weight for case in cases[1:]} == {"absent"}
    assert len(cases) == 5


@pytest.mark.parametrize("patch", catalogue(), ids=lambda patch: patch.name)
def test_a_patch_claims_cases_that_there_are(patch: object) -> None:
    claimed = set(getattr(patch, "smoke", ()))
    assert claimed <= {case.name for case in CASES}


def test_an_unknown_case_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="no case is named 'w8a8'"):
        select_cases(["bf16", "w8a8"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_a_model_that_has_mla(case: object) -> None:
    name = getattr(case, "name", "")
    config = model_config(name)
    assert config["kv_lora_rank"] == 512
    assert ("quantization_config" in config) is (
        getattr(case, "name", "") not in ("bf16", "fp8-marlin")
    )
