"""As much of GitHub's REST API (version 2022-11-28) as one issue with a label of its own takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher import __version__
from patcher.errors import AccessDenied, Unreadable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL = "vllm-patcher-landed"

_WAIT = 30.0  # seconds without a byte
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
    token: str

    def find(self) -> Issue | None:
        """The newest, open or closed; None where there never was one."""
        query = {"labels": LABEL, "state": "all", "sort": "created", "per_page": "20"}
        found = [each for each in self._ask("GET", "", query) if "pull_request" not in each]
        return _issue(found[0]) if found else None

    def open(self, title: str, body: str) -> str:
        """A new one; its address."""
        said = {"title": title, "body": body[:_MOST_BYTES], "labels": [LABEL]}
        return _issue(self._ask("POST", "", said)).url

    def change(self, issue: Issue, *, state: str, body: str) -> None:
        """Set its state (`open` or `closed`) and text."""
        self._ask("PATCH", f"/{issue.number}", {"state": state, "body": body[:_MOST_BYTES]})

    def _ask(self, method: str, path: str, said: Mapping[str, Any]) -> Any:
        import requests

        url = f"{self.api}/repos/{self.repository}/issues{path}"
        try:
            answer = requests.request(
                method,
                url,
                params=said if method == "GET" else None,
                json=None if method == "GET" else said,
                headers={
                    "Accept": "application/vnd.github+json",
                    "Authorization": f"Bearer {self.token}",
                    "User-Agent": f"vllm-patcher/{__version__}",
                    "X-GitHub-Api-Version": "2022-11-28",
                },
                timeout=_WAIT,
                allow_redirects=False,
            )
            if answer.status_code in {200, 201}:
                return answer.json()
        except requests.RequestException as error:
            raise Unreadable(
                f"{self.api} does not answer: {type(error).__name__}", next_step="Run it again."
            ) from error
        kind = AccessDenied if answer.status_code in {401, 403, 404} else Unreadable
        raise kind(
            f"{method} {url} was answered with {answer.status_code}",
            next_step="Give the job `issues: write`, and switch issues on in the repository.",
        )


def _issue(document: Mapping[str, Any]) -> Issue:
    try:
        return Issue(document["number"], document["html_url"], document["state"] == "open")
    except (KeyError, TypeError) as error:
        raise Unreadable(
            "GitHub's answer is no issue", next_step="Check GITHUB_API_URL."
        ) from error


def issues_of(environment: Mapping[str, str]) -> Issues:
    """Those that a workflow's variables name. Raises `UsageError`."""
    names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(
            f"not set: {', '.join(missing)}",
            next_step="GitHub sets them in a workflow; the token is given as `github.token`.",
        )
    return Issues(*(environment[name] for name in names))
