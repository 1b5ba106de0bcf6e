"""A pull request as GitHub answers for one: by TLS, at its own addresses, with its redirect."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from patcher.errors import Unreadable
from patcher.web.http import Http, HttpSettings
from patcher.web.pull_request import described, pull_request
from tests.auth_servers import tunnels
from tests.certificates import make_certificate
from tests.scripted import HANG_UP, Reply, Seen, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIFF = "diff --git a/vllm/a.py b/vllm/a.py\n--- a/vllm/a.py\n+++ b/vllm/a.py\n@@ -1 +1 @@\n-x\n+ü\n"
PAGE, API = "/vllm-project/vllm/pull/7.diff", "/repos/vllm-project/vllm/pulls/7"
THERE = "/raw/vllm-project/vllm/pull/7.diff"
MERGED = {"title": "[Bugfix] x\x1b[31m", "merged_at": "2026-07-06T10:11:12Z", "state": "closed"}
OPEN = {"title": "y", "merged_at": None, "state": "open"}
LIMIT: dict[str, str | None] = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1783332000"}
REFUSED = Reply(403, LIMIT, b'{"message": "API rate limit exceeded for 192.0.2.1."}')


class GitHub:
    """All three hosts; the Host header says which is meant."""

    def __init__(self) -> None:
        self.answers = {
            ("github.com", PAGE): Reply(
                302, {"Location": f"https://patch-diff.githubusercontent.com{THERE}"}
            ),
            ("patch-diff.githubusercontent.com", THERE): Reply(body=DIFF.encode()),
            ("api.github.com", API): Reply(body=json.dumps(MERGED).encode()),
        }

    def answer(self, seen: Seen) -> Reply:
        assert "authorization" not in seen.headers
        return self.answers.get((seen.headers["host"], seen.path), Reply(404, body=b"Not Found"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("github"))


@pytest.fixture
def github(certificate: Path) -> Iterator[GitHub]:
    state = GitHub()
    hosts = ("github.com", "api.github.com", "patch-diff.githubusercontent.com")
    with (
        serving(state.answer, certificate) as server,
        tunnels({f"{host}:443": server.host for host in hosts}),
    ):
        yield state


@pytest.fixture
def http(certificate: Path) -> Http:
    return Http(HttpSettings(certificate.parent / "ca.pem"), wait=lambda _: None)


def test_the_diff_is_followed_to_where_github_keeps_it(github: GitHub, http: Http) -> None:
    found = pull_request(7, http)
    assert found.diff == DIFF
    assert described(found) == r"pull request 7 (merged 2026-07-06): [Bugfix] x\x1b[31m"
    github.answers["api.github.com", API] = Reply(body=json.dumps(OPEN).encode())
    said = described(pull_request(7, Http(http.settings)))
    assert said == "pull request 7 (open): y. Its diff is today's, and may be another tomorrow"
    closed = Reply(body=json.dumps(OPEN | {"state": "closed"}).encode())
    github.answers["api.github.com", API] = closed
    assert "(closed unmerged)" in described(pull_request(7, Http(http.settings)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (REFUSED, "its limit on requests ends at 10:00 UTC on 2026-07-06"),
        (Reply(body=b"[]"), "its answer is no pull request"),
        (HANG_UP, "api.github.com: "),
    ],
)
def test_without_the_api_the_diff_is_taken_and_that_is_said(
    github: GitHub, http: Http, answer: Reply, said: str
) -> None:
    github.answers["api.github.com", API] = answer
    found = pull_request(7, http)
    assert (found.diff, found.state) == (DIFF, "")
    assert said in described(found)


def test_a_limit_on_requests_says_how_long_to_wait(github: GitHub, http: Http) -> None:
    """GitHub's second way to say it: too many requests, and the end as seconds since 1970."""
    headers = {**LIMIT, "X-RateLimit-Reset": str(int(time.time()) + 3000)}
    github.answers["api.github.com", API] = Reply(429, headers, REFUSED.body)
    said = described(pull_request(7, http))
    assert "API rate limit exceeded" in said
    assert "it asks to wait" in said


@pytest.mark.parametrize(
    ("at", "answer", "problem", "next_step"),
    [
        ("github.com", Reply(404), "vLLM has no pull request 7 on GitHub", "issues/7"),
        ("api.github.com", Reply(404), "vLLM has no pull request 7 on GitHub", "issues/7"),
        ("github.com", Reply(406), "larger than GitHub writes one", "git fetch origin pull/7/head"),
        ("github.com", Reply(403, LIMIT), "ends at 10:00 UTC", "give it with --diff"),
        ("github.com", HANG_UP, "github.com: ", "pull/7.diff where it can be reached"),
        ("github.com", Reply(302, {"Location": "http://192.0.2.1/x"}), "", "--diff"),
    ],
)
def test_what_goes_wrong_names_the_way_without_it(
    github: GitHub, http: Http, at: str, answer: Reply, problem: str, next_step: str
) -> None:
    github.answers[at, API if at.startswith("api") else PAGE] = answer
    with pytest.raises(Unreadable) as error:
        pull_request(7, http)
    assert problem in error.value.problem
    assert next_step in error.value.next_step


def test_without_a_network_the_diff_is_to_be_fetched_elsewhere(http: Http) -> None:
    where = r"Fetch https://github\.com/.*/pull/7\.diff where"
    with tunnels({}), pytest.raises(Unreadable, match=where):
        pull_request(7, http)
