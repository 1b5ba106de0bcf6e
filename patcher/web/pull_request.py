"""A pull request of vLLM's on GitHub: its diff, and whether it is merged.

The diff comes from github.com, which redirects to patch-diff.githubusercontent.com; what it is
called and whether it is merged, from the REST API (version 2022-11-28), without which the diff
serves too. Nothing is asked for that needs a token.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import RegistryFailed, Unreadable
from patcher.text import printable
from patcher.web.github import VLLM
from patcher.web.http import Request, explanation

if TYPE_CHECKING:
    from patcher.web.http import Answer, Http

_API = "https://api.github.com/repos/vllm-project/vllm/pulls"
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What GitHub says of one. `title` is third-party text, and empty where it was not told.

    `state` is `merged 2026-07-06`, `open`, `closed unmerged`, or empty where it was not told;
    `problem` is then why.
    """

    number: int
    diff: str = ""
    title: str = ""
    state: str = ""
    problem: str = ""


def pull_request(number: int, http: Http) -> PullRequest:
    """The pull request of that number. Raises `Unreadable`, with the way to go without GitHub."""
    facts = _facts(number, http)
    return replace(facts, diff=_diff(number, http, facts.problem))


def _facts(number: int, http: Http) -> PullRequest:
    """All but its diff, as far as GitHub's API tells."""
    try:
        answer = http.ask(Request("GET", f"{_API}/{number}", _HEADERS))
    except RegistryFailed as error:
        return PullRequest(number, problem=error.problem)
    if answer.status == 404:
        raise _none(number)
    if answer.status != 200:
        said = f"HTTP {answer.status}{explanation(answer.body)}{_until(answer)}"
        return PullRequest(number, problem=f"api.github.com: {said}")
    try:
        document = json.loads(answer.body)
        title, merged, state = (document[key] for key in ("title", "merged_at", "state"))
        day = datetime.datetime.fromisoformat(merged).date() if merged else None
        state = f"merged {day}" if day else {"open": "open"}.get(state, "closed unmerged")
    except (ValueError, LookupError, TypeError, RecursionError):
        return PullRequest(number, problem="api.github.com: its answer is no pull request")
    return PullRequest(number, title=str(title), state=state)


def _until(answer: Answer) -> str:
    """When a limit on requests ends, if GitHub says that one is reached."""
    if answer.headers.get("X-RateLimit-Remaining") != "0":
        return ""
    try:
        end = datetime.datetime.fromtimestamp(
            int(answer.headers.get("X-RateLimit-Reset", "")), datetime.UTC
        )
    except (ValueError, OverflowError, OSError):
        return "; its limit on requests is reached"
    return f"; its limit on requests ends at {end:%H:%M} UTC on {end:%Y-%m-%d}"


def _diff(number: int, http: Http, problem: str) -> str:
    url = f"{VLLM}/pull/{number}.diff"
    by_hand = f"Fetch {url} where it can be reached, and give it with --diff."
    try:
        answer = http.ask(Request("GET", url))
    except RegistryFailed as error:
        raise Unreadable(error.problem, next_step=by_hand) from error
    if answer.status == 404:
        raise _none(number)
    if answer.status == 406:
        raise Unreadable(
            f"the diff of pull request {number} is larger than GitHub writes one",
            next_step=f"In a clone of vLLM: git fetch origin pull/{number}/head && git diff "
            f"origin/main...FETCH_HEAD > {number}.diff; give it with --diff.",
        )
    if answer.status != 200:
        # Where its API refused for a limit, that is when to come again.
        why = f" ({problem})" if problem else _until(answer)
        raise Unreadable(f"{url}: HTTP {answer.status}{why}", next_step=by_hand)
    return answer.body.decode("utf-8", "replace")


def _none(number: int) -> Unreadable:
    return Unreadable(
        f"vLLM has no pull request {number} on GitHub",
        next_step=f"An issue has no diff: {VLLM}/issues/{number} names the pull request that "
        "fixed it, if one did.",
    )


def described(request: PullRequest) -> str:
    """What a person should know before the diff is taken."""
    name = f"pull request {request.number}"
    if not request.state:
        return f"{name}: whether it is merged is not known: {request.problem}"
    said = f"{name} ({request.state}): {printable(request.title, 200)}"
    if request.state.startswith("merged"):
        return said
    return f"{said}. Its diff is today's, and may be another tomorrow"
