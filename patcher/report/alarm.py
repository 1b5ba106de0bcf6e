"""The one issue that is open while content refutes what a patch claims.

A report of `landed --check --json` is a day's answer. What it refutes is an alarm at once. What
it could not read is one from the second day on: an index that is away for an hour is not news. So
the days since when each artifact is unread are kept between runs, in a file.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import Exit, Unreadable
from patcher.files import read_file
from patcher.report.markdown import code

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.web.github import Issues

TITLE = "A patch claims what upstream's releases refute"

# All that is unread where no report came about at all.
_ALL = "everything"

_MOST_REPORT = 64 << 20


@dataclass(frozen=True, slots=True)
class Day:
    """A day's answer. `unread` maps what could not be read to the first day of that."""

    refuted: tuple[str, ...]
    unread: Mapping[str, str]
    today: str

    @property
    def overdue(self) -> tuple[str, ...]:
        """What was unread before today too."""
        return tuple(name for name, since in self.unread.items() if since < self.today)

    @property
    def exit_code(self) -> Exit:
        """As `landed --check`, but that the first unread day does not count."""
        if self.refuted:
            return Exit.FINDING
        return Exit.UNDECIDED if self.overdue else Exit.OK


def judge(report: Path, state: Path, today: datetime.date) -> Day:
    """A day's answer out of its report, and the state that the last day left.

    A state that is missing or not whole does not count. Raises `Unreadable` for anything but a
    report.
    """
    day = today.isoformat()
    try:
        document = json.loads(read_file(report, _MOST_REPORT))
        checks = [] if document["command"] == "error" else document["checks"]
        names = [name for check in checks for name in _unread(check)]
        refuted = tuple(line for check in checks for line in _refuted(check))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unreadable(
            f"{report} is not a report: {type(error).__name__}",
            next_step="Give the file that `vllm-patcher landed --check --json` wrote.",
        ) from error
    before = _before(state)
    unread = names if checks else [_ALL]
    return Day(refuted, {name: before.get(name, day) for name in unread}, day)


def _unread(check: Mapping[str, Any]) -> list[str]:
    """With nothing held and nothing refuted, nothing was compared."""
    names = [f"{check['patch']}: {name}" for name in check["unread"]]
    judged = check["held"] or check["refuted"]
    return names if judged or names else [f"{check['patch']}: {_ALL}"]


def _refuted(check: Mapping[str, Any]) -> list[str]:
    return [
        f"{check['patch']}: {each['direction']}: {', '.join(each['artifacts'])}"
        for each in check["refuted"]
    ]


def _before(state: Path) -> dict[str, str]:
    try:
        known = json.loads(read_file(state, _MOST_REPORT))["unread"]
        # A day as this writes it; anything else would get into the issue's text.
        days = {name: datetime.date.fromisoformat(since) for name, since in known.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: day.isoformat() for name, day in days.items()}


def state_json(day: Day) -> str:
    """What the next day needs to know."""
    return json.dumps({"schema": 1, "unread": dict(day.unread)}, indent=2, sort_keys=True) + "\n"


def keep(day: Day, body: str, issues: Issues) -> str:
    """Open, update or close the issue; the sentence that says what was done.

    It is closed only when all claims hold: what is unread for the first day proves nothing, and
    leaves it as it is. Raises as `Issues`.
    """
    issue = issues.find()
    if day.exit_code is not Exit.OK:
        text = _body(day, body)
        if issue is None:
            return f"opened {issues.open(TITLE, text)}"
        issues.change(issue, state="open", body=text)
        return f"updated {issue.url}"
    if issue is None or not issue.is_open:
        return "no claim is refuted, and no issue is open"
    if day.unread:
        return f"not all could be read today: {issue.url} stays as it is"
    issues.change(issue, state="closed", body=body if body.strip() else "The claims hold again.")
    return f"closed {issue.url}: the claims hold again"


def _body(day: Day, body: str) -> str:
    """The issue's text: what was given, or in short what is refuted, where nothing was."""
    body = body if body.strip() else "\n".join(f"- {code(line)}" for line in day.refuted)
    if day.refuted or not day.overdue:
        return body
    since = min(day.unread.values())
    return (
        f"Not all could be read since {since}, so nobody knows whether the claims hold.\n\n{body}"
    )
