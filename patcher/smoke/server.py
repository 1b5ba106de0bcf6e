"""A running server, asked as people ask it: is there an engine behind its health check?"""

from __future__ import annotations

import json
import secrets
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from patcher.errors import AccessDenied, Exit, Undecided, Unreadable
from patcher.smoke.cases import State
from patcher.smoke.prefix import context_read, read_counters
from patcher.web.http import NETWORK, TRUST, Fault
from patcher.web.openai import Refused

if TYPE_CHECKING:
    from patcher.web.openai import Generation, Reply, Server

KEY = "VLLM_API_KEY"
"""The variable that vLLM itself reads a server's key from."""

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

# No model's context comes near it, in tokens.
_MOST_LENGTH = 10**9
_WHERE_NOBODY_IS = {
    NETWORK: "Start it, wait until it is ready, and check the address.",
    TRUST: "Name its authority's certificate with SSL_CERT_FILE, if you trust it; a server without "
    "TLS is at http://.",
}
_NEXT = "See the server's own log; `vllm-patcher verify` says whether its vLLM has the bug."


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

    It ends with the first step that fails. Raises `Unreadable` where nobody answers, `Undecided`
    for a server that is not vLLM, `AccessDenied` where a key is wanted.
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
    status = _health(server)
    # A server of another kind may have no /health: what it is comes first.
    models = _models(server)
    yield _health_step(status, served)
    served.vllm, served.model, served.max_model_len = _version(server), *models
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
            served.finding = _sentence(server, failed, was_green=status == 200)
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
    """A prefill with context, however much is read at a time: the beginning is the long prompt's,
    and twice as much is new.
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
    """What it means: whether the health check still says that all is well."""
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


def _health(server: Server) -> int:
    """The status of /health. Raises `Unreadable` where nobody answers."""
    try:
        return server.get("/health").status
    except Fault as fault:
        raise Unreadable(
            f"{server.host}: no server to try: {fault.reason}",
            next_step=_WHERE_NOBODY_IS.get(fault.next_step, fault.next_step),
        ) from None


def _models(server: Server) -> tuple[str, int | None]:
    """The first model and the most tokens that it takes.

    Raises `AccessDenied`, `Undecided` for a server that is not seen to be vLLM, `Unreadable`.
    """
    try:
        reply = server.get("/v1/models")
    except Fault as fault:
        raise Unreadable(f"{server.host}: /v1/models: {fault.reason}", next_step=_NEXT) from None
    if reply.status in (401, 403):
        wants = f"does not take the key in {KEY}" if server.key else "wants a key"
        raise AccessDenied(
            f"{server.host} {wants} (HTTP {reply.status})",
            next_step=f"Set {KEY} to the key that its vLLM was started with.",
        )
    if reply.leads_to:
        raise Undecided(
            f"{server.host} leads to {server.hide(reply.leads_to)} (HTTP {reply.status}), where "
            "nothing is sent",
            next_step="Give that address, if the vLLM that you mean is there.",
        )
    if reply.status >= 500:
        raise Undecided(
            f"{server.host}: /v1/models: HTTP {reply.status}: whether it is vLLM cannot be seen",
            next_step="Wait until it is ready, or see its own log.",
        )
    return _model(server, reply)


def _model(server: Server, reply: Reply) -> tuple[str, int | None]:
    models = _document(reply.body).get("data") if reply.status == 200 else None
    first = models[0] if isinstance(models, list) and models else None
    owner = first.get("owned_by") if isinstance(first, dict) else None
    if not isinstance(first, dict) or owner != "vllm" or not isinstance(first.get("id"), str):
        lists = f"/v1/models lists no model of vLLM's (HTTP {reply.status})"
        told = f"its models are owned by {owner!r}" if owner else lists
        raise Undecided(
            f"{server.host} is not a vLLM server: {server.hide(told)}",
            next_step="Give the address of vLLM itself, not of what stands before it.",
        )
    most = first.get("max_model_len")
    return first["id"], most if type(most) is int and 0 < most < _MOST_LENGTH else None


def _version(server: Server) -> str | None:
    try:
        version = _document(server.get("/version").body).get("version")
    except Fault:
        return None
    return version if isinstance(version, str) else None


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
