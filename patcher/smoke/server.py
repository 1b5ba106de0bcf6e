"""A running server, asked as people ask it: is there an engine behind its health check?"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from patcher.errors import Exit
from patcher.smoke.cases import State
from patcher.smoke.identity import identify
from patcher.smoke.prefix import context_read, read_counters
from patcher.web.http import Fault
from patcher.web.openai import Refused

if TYPE_CHECKING:
    from patcher.web.openai import Generation, Server

# Tokens. vLLM's server reads 8192 at a time where nothing else was set, on small GPUs 2048.
_LONG = 9216
_SPARE = 64
_FEW = 16

# What the speed is measured with: so many answers of so many tokens.
_RUNS, _MEASURED = 5, 128

_LINES = 12

# How often it is tried to be alone between two looks at counters that are everybody's.
_TRIES = 5
_BUSY = (
    f"/metrics counted other prompts beside it, each of {_TRIES} times, so nothing shows that a "
    "context was read. Try again when nobody else uses the server, or start vLLM with "
    "--enable-prompt-tokens-details"
)

Generate = Callable[[str, str, int], "Generation"]
"""Lets the server answer: for which step, the prompt, and how many tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was asked, and how it ended."""

    name: str
    state: State
    said: str


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several measurements, and their ends."""

    median: float
    least: float
    most: float


@dataclass(slots=True)
class Served:
    """What a server did. `finding` is the sentence where it failed.

    `first_token` is in seconds, for a short prompt; `speed` in tokens a second of one stream.
    """

    vllm: str | None = None
    model: str | None = None
    max_model_len: int | None = None
    steps: list[Step] = field(default_factory=list)
    finding: str | None = None
    first_token: Spread | None = None
    speed: Spread | None = None

    @property
    def exit(self) -> Exit:
        """A failure is a finding; a context that was not read leaves it undecided."""
        states = {step.state for step in self.steps}
        if State.FAILED in states:
            return Exit.FINDING
        return Exit.UNDECIDED if State.NOT_REACHED in states else Exit.OK


def smoke_server(server: Server, say: Callable[[Step], None]) -> Served:
    """Health, models, a short and a long generation, one that shares its prefix, the speed.

    It ends with the first step that fails, or that the server refuses. Raises as `identify` does.
    """
    served = Served()
    for said in _steps(server, served):
        step = replace(said, said=server.hide(said.said))
        served.vllm, served.model, served.finding = (
            text and server.hide(text) for text in (served.vllm, served.model, served.finding)
        )
        served.steps.append(step)
        say(step)
        if step.state is State.FAILED:
            break
    return served


def _steps(server: Server, served: Served) -> Iterator[Step]:
    # What it is comes first: a server of another kind may have no /health.
    who = identify(server)
    yield _health_step(who.health, served)
    served.vllm, served.model, served.max_model_len = who.vllm, who.model, who.max_model_len
    length = f", {served.max_model_len} tokens" if served.max_model_len else ""
    yield Step("models", State.PASSED, f"{served.model}{length}")
    try:
        yield from _generations(server, served)
    except _Failed as failed:
        reason = failed.fault.reason
        if isinstance(failed.fault, Refused):
            said = f"{reason}: it was not taken, which says nothing about the engine"
            yield Step(failed.step, State.NOT_REACHED, said)
        else:
            served.finding = _sentence(server, failed, was_green=who.health == 200)
            yield Step(failed.step, State.FAILED, reason)


class _Failed(Exception):
    """A generation that did not come."""

    def __init__(self, step: str, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.step, self.fault = step, fault


def _generations(server: Server, served: Served) -> Iterator[Step]:
    def generate(step: str, prompt: str, tokens: int) -> Generation:
        try:
            return server.complete(served.model or "", prompt, tokens)
        except Fault as fault:
            raise _Failed(step, fault) from None

    # Nothing of it may be cached from another run.
    mark = secrets.token_hex(4)
    short = generate("short prompt", _text(f"{mark} short", _LINES), _FEW)
    yield Step("short prompt", State.PASSED, _came(short))
    lines = _lines(short, served.max_model_len)
    long = generate("long prompt", _text(mark, lines), _FEW)
    yield Step("long prompt", State.PASSED, _came(long))
    yield _shared_prefix(server, generate, mark, lines)
    made = [generate("speed", _text(f"{mark} {run}", _LINES), _MEASURED) for run in range(_RUNS)]
    served.first_token = _spread([each.first for each in made])
    served.speed = _spread([each.speed for each in made if each.speed])
    yield Step("speed", State.PASSED, f"{_RUNS} answers of {_MEASURED} tokens")


def _shared_prefix(server: Server, generate: Generate, mark: str, lines: int) -> Step:
    """Ask for a prefill with context, however much is read at a time: the prompt begins as the long
    one did, and goes on with twice as much that is new.
    """
    for attempt in range(_TRIES):
        before = read_counters(server)
        new = _text(f"{mark} other {attempt}", lines // 2)
        made = generate("shared prefix", _text(mark, lines // 4) + new, _FEW)
        found = context_read(made, before, read_counters(server))
        if found is not None:
            break
    state, said = found or (State.NOT_REACHED, _BUSY)
    return Step("shared prefix", state, f"{_came(made)}; {said}")


def _text(mark: str, lines: int) -> str:
    """A text of so many lines, the same but for its beginning."""
    kept = (f"{n}. At mile {n} the river is {n * 7 % 90} yards wide.\n" for n in range(lines))
    return f"Log {mark}\n{''.join(kept)}"


def _lines(short: Generation, most: int | None) -> int:
    """How many lines make a prompt that has to be read in pieces and still fits the model."""
    room = min(_LONG, (most or _LONG) - _SPARE - _FEW)
    # Larger numbers may be more tokens.
    return max(_LINES, int(0.9 * room * _LINES / (short.prompt_tokens or 16 * _LINES)))


def _came(made: Generation) -> str:
    tokens = "" if made.prompt_tokens is None else f"{made.prompt_tokens} tokens read, "
    return f"{tokens}first token after {made.first:.2f} s"


def _spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def _health_step(status: int, served: Served) -> Step:
    if status == 200:
        return Step("health", State.PASSED, "HTTP 200")
    if 300 <= status < 500:
        return Step("health", State.NOT_REACHED, f"HTTP {status}: /health is not to be had here")
    served.finding = f"/health answers HTTP {status}: nothing was generated"
    return Step("health", State.FAILED, f"HTTP {status}")


def _sentence(server: Server, failed: _Failed, *, was_green: bool) -> str:
    """What a failure means, and whether the health check shows it."""
    if not was_green:
        return f"the {failed.step} failed; /health says nothing here"
    try:
        status = server.get("/health").status
    except Fault as fault:
        return f"/health was green, and the {failed.step} ended the server: {fault.reason}"
    if status != 200:
        return f"/health was green until the {failed.step} came, and answers HTTP {status} now"
    if failed.fault.silent:
        return (
            f"/health is green, and the {failed.step} had no end in {server.limit:.0f} s: the "
            "engine hangs, or has more to do than --timeout allows for"
        )
    return (
        f"/health is green over a dead engine: HTTP 200 before and after the {failed.step} failed"
    )
