"""Cases on one vLLM, one after the other: each has the device to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from patcher.errors import Undecided
from patcher.rules.patch import Patch
from patcher.smoke.cases import CONTROL, Case, Outcome, Ran, outcome, read_probe, select_cases

Run = Callable[[Case, float], Ran]
"""Runs the probe once: the case, and its limit in seconds."""


def cases_of(patches: Sequence[Patch]) -> tuple[Case, ...]:
    """What some patches claim to cure, and the control."""
    claimed = {name for patch in patches for name in patch.smoke}
    return select_cases({CONTROL.name, *claimed})


def run_cases(cases: Sequence[Case], run: Run, limit: float) -> Iterator[Outcome]:
    """The outcome of each, as it comes. `limit` is in seconds, for one case.

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
