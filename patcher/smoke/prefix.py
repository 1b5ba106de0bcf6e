"""Was the beginning of our prompt taken from the server's cache? Then the rest had a context."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.smoke.cases import State
from patcher.web.http import Fault

if TYPE_CHECKING:
    from patcher.web.openai import Generation, Server

# vLLM's counters, one for each engine; before 0.10 they had `gpu_` in their names.
_COUNTER = r"^vllm:(?:gpu_)?prefix_cache_%s(?:_total)?(?:\{.*\})? (\S+)$"
_QUERIES, _HITS = (
    re.compile((_COUNTER % name).encode(), re.MULTILINE) for name in ("queries", "hits")
)

# Up to so many new tokens a backend of vLLM's reads as if it decoded, context or not
# (FLASH_ATTN_MLA; the others fewer).
_AS_DECODING = 512


@dataclass(frozen=True, slots=True)
class Counters:
    """Tokens of prompts that were looked up in the prefix cache so far, and found: of everybody's
    prompts.
    """

    queries: float
    hits: float


def read_counters(server: Server) -> Counters | None:
    """The counters of a server's /metrics; None where it does not serve them."""
    try:
        metrics = server.get("/metrics")
    except Fault:
        return None
    queries, hits = _total(_QUERIES, metrics.body), _total(_HITS, metrics.body)
    if metrics.status != 200 or queries is None or hits is None:
        return None
    return Counters(queries, hits)


def _total(counter: re.Pattern[bytes], metrics: bytes) -> float | None:
    found = counter.findall(metrics)
    try:
        total = sum(map(float, found))
    except ValueError:
        return None
    return total if found and math.isfinite(total) else None


def context_read(
    made: Generation, before: Counters | None, after: Counters | None
) -> tuple[State, str] | None:
    """Whether a prompt's answer had a context to read, and who says so; None where the counters
    grew by other prompts too.

    The answer speaks first (vLLM's does with `--enable-prompt-tokens-details`, and only of more
    than none). The counters from before and after it speak of this prompt alone if they grew by
    as many tokens as it has.
    """
    if made.cached_tokens is not None:
        return _judged(made, made.cached_tokens, "its answer says")
    if before is None or after is None:
        return State.NOT_REACHED, (
            "neither its answer nor /metrics says how many of the tokens came from a cache, so "
            "nothing shows that a context was read. Start vLLM with --enable-prompt-tokens-details"
        )
    if after.queries - before.queries != made.prompt_tokens:
        return None
    return _judged(made, round(after.hits - before.hits), "/metrics says of this prompt alone")


def _judged(made: Generation, cached: int, who: str) -> tuple[State, str]:
    said = f"{cached} of the tokens came from the cache, as {who}"
    if cached == 0:
        return State.NOT_REACHED, f"{said}: no context was read. Is prefix caching switched off?"
    if (made.prompt_tokens or 0) - cached <= _AS_DECODING:
        return State.NOT_REACHED, f"{said}: what is left is too short to be read as a prompt"
    return State.PASSED, said
