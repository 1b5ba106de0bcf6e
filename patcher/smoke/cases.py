"""The forms that kv_b_proj's weight comes in, and what runs of the probe say about each."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import Exit, Undecided, UsageError
from patcher.smoke.probe import MARK

if TYPE_CHECKING:
    from patcher.rules.patch import Patch


@dataclass(frozen=True, slots=True)
class Case:
    """One form of the weight.

    `weight` is the type that `kv_b_proj.weight` must have when it is read, `absent` for none: a
    vLLM that keeps it otherwise is not tested by this case.
    """

    name: str
    weight: str
    about: str


CONTROL = Case("bf16", "bfloat16", "the control: plain weights, which no patch concerns")

CASES = (
    CONTROL,
    Case("w4a16", "absent", "4 bits, compressed-tensors"),
    Case("gptq", "absent", "4 bits, GPTQ"),
    Case("awq", "absent", "4 bits, AWQ"),
    Case("glm", "absent", "4 bits, compressed-tensors, GLM-4.7-Flash's head sizes"),
    Case("int8", "int8", "8 bits, compressed-tensors W8A8"),
    Case("fp8-marlin", "int32", "FP8, repacked for Marlin's kernel"),
)


def select_cases(names: Iterable[str]) -> tuple[Case, ...]:
    """The named cases, in the order of CASES. Raises `UsageError`."""
    known, wanted = {case.name for case in CASES}, set(names)
    if unknown := sorted(wanted - known):
        raise UsageError(
            f"no case is named {unknown[0]!r}",
            next_step=f"Known: {', '.join(case.name for case in CASES)}.",
        )
    return tuple(case for case in CASES if case.name in wanted)


class State(enum.StrEnum):
    """How a case ended. Only PASSED is good, and only FAILED says that the engine is broken."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case on one vLLM. `reason` says why where it has not passed.

    `vllm`, `torch` and `device` are as the engine states them. `weight` is the type of
    `kv_b_proj.weight` when it was read, `reads` how often its prefill with context was entered.
    `short` and `long` are the greedy tokens after the two prompts. `seconds` are those of the
    whole run, the imports included. `traceback` is the engine's own.
    """

    case: str
    state: State
    reason: str | None = None
    vllm: str | None = None
    torch: str | None = None
    device: str | None = None
    weight: str | None = None
    reads: int = 0
    short: tuple[int, ...] = ()
    long: tuple[int, ...] = ()
    seconds: float | None = None
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of the probe: what it printed, and how it ended; `code` is None where time ran out."""

    output: str
    code: int | None


def read_probe(output: str) -> dict[str, Any]:
    """What the probe said in a run's output. A line that is cut off does not count, nor does a
    value of another form than the probe's: what runs beside the engine may print such lines, too.
    """
    said: dict[str, Any] = {}
    for line in output.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            try:
                document = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                said |= {key: value for key, value in document.items() if _fits(key, value)}
    return said


# As texts, as counts, as lists of tokens: what `probe.py` tells.
_TEXTS = frozenset(
    {"vllm", "torch", "place", "device", "stage", "weight", "error", "traceback", "refused"}
)
_TOKENS = frozenset({"short", "long"})
_MOST_TEXT, _MOST_TOKENS, _MOST_NUMBER = 100_000, 1000, 10**9


def _fits(key: str, value: object) -> bool:
    if key in _TEXTS:
        return isinstance(value, str) and len(value) <= _MOST_TEXT
    if key in _TOKENS:
        return isinstance(value, list) and len(value) <= _MOST_TOKENS and all(map(_counts, value))
    if key == "seconds":
        return isinstance(value, float | int) and 0 <= value <= _MOST_NUMBER
    return key == "reads" and _counts(value)


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_NUMBER


def outcome(case: Case, ran: Ran, limit: float) -> Outcome:
    """What a run says about a case.

    An engine that fails before its prefill with context proves nothing against a patch, one that
    never enters it no proof for one: both are NOT_REACHED. But the read of a missing attribute in
    the patched file is the failure itself, wherever it comes: 0.15.0 has it while loading.
    """
    said = read_probe(ran.output)
    state, reason = _judged(case, ran, said, limit)
    return Outcome(
        case=case.name,
        state=state,
        reason=reason,
        vllm=said.get("vllm"),
        torch=said.get("torch"),
        device=said.get("device"),
        weight=said.get("weight"),
        reads=said.get("reads", 0),
        short=tuple(said.get("short", ())),
        long=tuple(said.get("long", ())),
        seconds=said.get("seconds"),
        error=said.get("error"),
        traceback=said.get("traceback"),
    )


def _judged(case: Case, ran: Ran, said: dict[str, Any], limit: float) -> tuple[State, str | None]:
    stage, weight, error = said.get("stage", "starting"), said.get("weight"), said.get("error")
    if weight not in (None, case.weight):
        reason = f"kv_b_proj.weight is {weight} here, and this case is about {case.weight}"
        return State.NOT_REACHED, reason
    if ran.code is None:
        return State.NOT_REACHED, f"no end after {limit:.0f} s, at: {stage}"
    if error is not None:
        guilty = "mla_attention.py" in said.get("traceback", "") and "'weight'" in error
        if weight is not None or guilty:
            return State.FAILED, f"{error} (at: {stage})"
        return State.NOT_REACHED, f"the engine failed before, at: {stage}: {error}"
    if "seconds" not in said:
        reason = f"the engine's process ended with code {ran.code}, at: {stage}"
        return (State.NOT_REACHED if weight is None else State.FAILED), reason
    if not said.get("reads"):
        return State.NOT_REACHED, "the long prompt was answered without a prefill with context"
    return State.PASSED, None


def exit_of(outcomes: Iterable[Outcome]) -> Exit:
    """A failure is a finding; a case that was not reached leaves it undecided."""
    states = {each.state for each in outcomes}
    if State.FAILED in states:
        return Exit.FINDING
    return Exit.OK if states == {State.PASSED} else Exit.UNDECIDED


Run = Callable[[Case, float], Ran]
"""Runs the probe once: the case, and its limit in seconds."""


def cases_of(patches: Sequence[Patch]) -> tuple[Case, ...]:
    """What some patches claim to cure, and the control."""
    claimed = {name for patch in patches for name in patch.smoke}
    return select_cases({CONTROL.name, *claimed})


def run_cases(cases: Sequence[Case], run: Run, limit: float) -> Iterator[Outcome]:
    """The outcome of each, one after the other: each has the device to itself. `limit` is in
    seconds, for one case.

    Raises `Undecided` where nothing can be tried at all: no GPU, no vLLM.
    """
    for case in cases:
        ran = run(case, limit)
        refused = read_probe(ran.output).get("refused")
        if refused is not None:
            raise Undecided(
                f"nothing can be tried here: {refused}",
                next_step="Run it where vLLM has its device; a check without one would prove "
                "nothing. `vllm-patcher verify` judges the source anywhere.",
            )
        yield outcome(case, ran, limit)
