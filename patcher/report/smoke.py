"""The words for what an engine generated, and for why it did not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.smoke.cases import CONTROL, State
from patcher.sources.images import about_copies
from patcher.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.smoke.cases import Outcome
    from patcher.smoke.container import Engine
    from patcher.smoke.server import Served, Spread, Step


_MOST_LINES = 300


def engine_lines(engine: Engine) -> list[str]:
    """Which vLLM of an image is tried with which Python, and what else may be run in it."""
    lines = [f"trying the vLLM in {engine.root}, with {engine.python}"]
    if not engine.found.followed:
        lines.append("what the image's command starts is not known: it may be another")
    return [printable(line, 2000) for line in [*lines, *about_copies(engine.found)]]


def case_line(outcome: Outcome) -> str:
    """One case: how it ended, and why or with what."""
    took = "" if outcome.seconds is None else f" ({outcome.seconds:.0f} s)"
    said = outcome.reason or f"the long prompt was read in chunks and answered{took}"
    return printable(f"{outcome.case:<11} {outcome.state.value:<12} {said}", 2000)


def traceback_lines(outcome: Outcome) -> list[str]:
    """The engine's own traceback, line by line; of a very long one the end."""
    lines = (outcome.traceback or "").splitlines()
    return [printable(line, 2000) for line in lines[-_MOST_LINES:]]


def cases_summary(outcomes: Sequence[Outcome]) -> str:
    """What all cases together say, on what."""
    first = next((each for each in outcomes if each.vllm), None)
    where = f"vLLM {first.vllm}, {first.device}" if first else "no engine came up"
    counts = [
        f"{sum(each.state is state for each in outcomes)} {state.value}"
        for state in State
        if any(each.state is state for each in outcomes)
    ]
    broken = [each for each in outcomes if each.state is not State.PASSED]
    control = ""
    if any(each.case == CONTROL.name for each in broken):
        control = ". The control has not passed: what the others say is not about the patches"
    return printable(f"{where}: {', '.join(counts)}{control}", 2000)


def step_line(step: Step) -> str:
    """One thing that a server was asked."""
    return printable(f"{step.name:<14} {step.state.value:<12} {step.said}", 2000)


def served_lines(served: Served) -> list[str]:
    """What a server did, in all."""
    lines = [f"vLLM {served.vllm or 'of unknown version'}, {served.model or 'no model'}"]
    if served.first_token:
        lines.append(f"first token   {_spread(served.first_token, 1000, 'ms')}")
    if served.speed:
        lines.append(f"decoding      {_spread(served.speed, 1, 'tokens/s')}, one stream")
    if served.finding:
        lines.append(served.finding)
    return [printable(line, 2000) for line in lines]


def _spread(spread: Spread, factor: float, unit: str) -> str:
    median, least, most = (factor * each for each in (spread.median, spread.least, spread.most))
    return f"{median:.1f} {unit} ({least:.1f} to {most:.1f})"
