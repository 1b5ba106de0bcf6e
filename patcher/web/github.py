"""The one issue with our label, by GitHub's REST API (version 2022-11-28)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from patcher.errors import AccessDenied, RegistryFailed, Unreadable, UsageError
from patcher.web.http import Http, Request, explanation
from patcher.web.trust import host_of

if TYPE_CHECKING:
    from collections.abc import Mapping

VLLM = "https://github.com/vllm-project/vllm"

LABEL = "vllm-patcher-landed"

_MOST_BYTES = 65_000  # GitHub takes 65,536 characters as a body


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue, by number and address."""

    number: int
    url: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class Issues:
    """The issues with LABEL in one repository. `token` must be allowed to write issues.

    Every method raises `AccessDenied` where it is not, and `Unreadable` for any other failure.
    """

    api: str
    repository: str
    token: str = field(repr=False)
    http: Http = field(default_factory=Http, repr=False)

    def find(self) -> Issue | None:
        """The newest, open or closed; None where there never was one."""
        query = {"labels": LABEL, "state": "all", "sort": "created", "per_page": "20"}
        answer = self._ask("GET", "", query)
        if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
            raise _not_an_issue()
        found = [each for each in answer if "pull_request" not in each]
        return _issue(found[0]) if found else None

    def open(self, title: str, body: str) -> str:
        """A new one; its address."""
        said = {"title": title, "body": body[:_MOST_BYTES], "labels": [LABEL]}
        return _issue(self._ask("POST", "", said)).url

    def change(self, issue: Issue, *, state: str, body: str) -> None:
        """Set its state (`open` or `closed`) and text."""
        self._ask("PATCH", f"/{issue.number}", {"state": state, "body": body[:_MOST_BYTES]})

    def _ask(self, method: str, path: str, said: Mapping[str, Any]) -> Any:
        url = f"{self.api}/repos/{self.repository}/issues{path}"
        body = None if method == "GET" else json.dumps(said).encode()
        request = Request(
            method,
            f"{url}?{urlencode(said)}" if method == "GET" else url,
            {
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            f"Bearer {self.token}",
            body,
        )
        self.http.keyring.keep(self.token)
        if not self.http.may_send_secret(url):
            raise UsageError(
                f"{host_of(url)} would get the token without TLS",
                next_step="Give GITHUB_API_URL with https://.",
            )
        # A new issue whose answer was lost must not be opened twice.
        pauses = () if method == "POST" else None
        answer = self.http.persist(url, lambda: self.http.ask_once(request), pauses)
        if answer.status in (200, 201):
            try:
                return json.loads(answer.body)
            except (ValueError, RecursionError) as error:
                raise _not_an_issue() from error
        said_there = self.http.keyring.hide(explanation(answer.body))
        kind = AccessDenied if answer.status in (401, 403, 404) else RegistryFailed
        raise kind(
            f"{method} {url}: HTTP {answer.status}{said_there}",
            next_step="Give the job `issues: write`, and switch issues on in the repository.",
        )


def _issue(document: Mapping[str, Any]) -> Issue:
    try:
        number, url = document["number"], document["html_url"]
        is_open = document["state"] == "open"
    except (LookupError, TypeError) as error:
        raise _not_an_issue() from error
    # The number becomes part of an address that the token is sent to.
    if type(number) is not int or number < 1 or not isinstance(url, str):
        raise _not_an_issue()
    return Issue(number, url, is_open)


def _not_an_issue() -> Unreadable:
    return Unreadable("GitHub's answer is not an issue", next_step="Check GITHUB_API_URL.")


def issues_of(environment: Mapping[str, str]) -> Issues:
    """Those that a workflow's variables name. Raises `UsageError`."""
    names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(
            f"not set: {', '.join(missing)}",
            next_step="GitHub sets them in a workflow; the token is given as `github.token`.",
        )
    api, repository, token = (environment[name] for name in names)
    return Issues(api, repository, token)
