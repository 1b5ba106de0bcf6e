"""The one issue: opened, updated, left alone, closed, opened again; and what an alarm is."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from patcher.errors import AccessDenied, Exit, Unreadable, UsageError
from patcher.report.alarm import Day, judge, keep, state_json
from patcher.web.github import Issues, issues_of
from patcher.web.http import Http
from tests.scripted import HANG_UP, Reply, Seen, Server, serving

FIRST = datetime.date(2026, 7, 5)
SECOND = datetime.date(2026, 7, 6)


def checks(*, refuted: bool = False, unread: tuple[str, ...] = (), held: int = 3) -> dict[str, Any]:
    found = [{"direction": "landed", "artifacts": ["0.29.0"]}] if refuted else []
    check = {"patch": "p", "refuted": found, "unread": list(unread), "held": held}
    return {"command": "landed", "checks": [check]}


def day(folder: Path, document: Any, today: datetime.date = FIRST) -> Day:
    """A day's judgement; its state is there for the next."""
    report, state = folder / "landed.json", folder / "state.json"
    report.write_text(json.dumps(document))
    judged = judge(report, state, today)
    state.write_text(state_json(judged))
    return judged


def test_a_refuted_claim_is_an_alarm_at_once(tmp_path: Path) -> None:
    assert day(tmp_path, checks(refuted=True, unread=("0.30.0",))).exit_code == Exit.FINDING
    assert day(tmp_path, checks()).exit_code == Exit.OK


@pytest.mark.parametrize(
    "document",
    [
        checks(unread=("0.30.0",)),
        checks(held=0),
        {"command": "error", "error": {}},
        {"command": "landed", "checks": []},
    ],
)
def test_what_is_unread_is_an_alarm_on_the_second_day(tmp_path: Path, document: Any) -> None:
    first = day(tmp_path, document)
    assert (first.exit_code, len(first.unread)) == (Exit.OK, 1)
    assert day(tmp_path, document).exit_code == Exit.OK, "the same day, run again by hand"
    assert day(tmp_path, document, SECOND).exit_code == Exit.UNDECIDED
    assert day(tmp_path, checks(), SECOND).exit_code == Exit.OK


def test_another_artifact_has_a_first_day_of_its_own(tmp_path: Path) -> None:
    day(tmp_path, checks(unread=("0.30.0",)))
    assert day(tmp_path, checks(unread=("0.31.0",)), SECOND).exit_code == Exit.OK


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        '{"unread": 3}',
        '{"unread": ',
        '{"unread": {"p: x": "@all ![x](y)"}}',
        '{"unread": {"p: x": 1}}',
        '{"unread": ' * 100_000,
    ],
    ids=lambda state: state[:40],
)
def test_a_state_that_is_not_whole_is_none(tmp_path: Path, state: str) -> None:
    (tmp_path / "landed.json").write_text(json.dumps(checks(unread=("x",))))
    (tmp_path / "state.json").write_text(state)
    judged = judge(tmp_path / "landed.json", tmp_path / "state.json", SECOND)
    assert judged.unread == {"p: x": "2026-07-06"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"command": "verify"}', '{"command": "landed"}', "[" * 100_000]
)
def test_what_is_no_report_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "landed.json").write_text(text)
    with pytest.raises(Unreadable, match="is not a report"):
        judge(tmp_path / "landed.json", tmp_path / "state.json", FIRST)


class Tracker:
    """What GitHub keeps: the issues, newest first."""

    def __init__(self) -> None:
        self.issues: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def answer(self, seen: Seen) -> Reply:
        self.calls.append(seen.method)
        said: Mapping[str, Any] = json.loads(seen.body or "{}")
        if seen.method == "GET":
            return Reply(body=json.dumps(self.issues).encode())
        if seen.method == "POST":
            self.issues.insert(0, {"number": 7, "html_url": "url/7", "state": "open", **said})
        else:
            assert seen.path == "/repos/o/r/issues/7"
            self.issues[0].update(said)
        return Reply(body=json.dumps(self.issues[0]).encode())


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


@pytest.fixture
def issues(tracker: Tracker) -> Iterator[Issues]:
    with serving(tracker.answer) as server:
        yield Issues(server.url, "o/r", "s3cret")


REFUTED = Day(("p: landed: 0.29.0",), {}, "2026-07-05")
HOLDS = Day((), {}, "2026-07-06")
FIRST_DAY = Day((), {"x": "2026-07-06"}, "2026-07-06")
SECOND_DAY = Day((), {"x": "2026-07-05"}, "2026-07-06")


def test_one_issue_from_the_first_alarm_to_the_second(tracker: Tracker, issues: Issues) -> None:
    assert keep(HOLDS, "a", issues) == "no claim is refuted, and no issue is open"
    assert keep(REFUTED, "b", issues) == "opened url/7"
    assert keep(REFUTED, "c", issues) == "updated url/7"
    assert tracker.issues[0]["body"] == "c"
    assert "stays as it is" in keep(FIRST_DAY, "d", issues)
    assert (tracker.issues[0]["state"], tracker.issues[0]["body"]) == ("open", "c")
    assert keep(HOLDS, "e", issues) == "closed url/7: the claims hold again"
    assert (tracker.issues[0]["state"], tracker.issues[0]["body"]) == ("closed", "e")
    assert keep(HOLDS, "f", issues) == "no claim is refuted, and no issue is open"
    assert keep(SECOND_DAY, "g", issues) == "updated url/7"
    assert tracker.issues[0]["state"] == "open"
    assert tracker.issues[0]["body"].startswith("Not all could be read since 2026-07-05")
    assert tracker.calls.count("POST") == 1


def test_an_issue_is_never_without_words(tracker: Tracker, issues: Issues, tmp_path: Path) -> None:
    keep(day(tmp_path, checks(refuted=True)), " \n", issues)
    assert tracker.issues[0]["body"] == "- `p: landed: 0.29.0`"
    keep(HOLDS, "", issues)
    assert tracker.issues[0]["body"] == "The claims hold again."


def test_a_pull_request_with_the_label_is_no_issue(tracker: Tracker, issues: Issues) -> None:
    tracker.issues = [{"number": 1, "html_url": "u", "state": "open", "pull_request": {}}]
    assert issues.find() is None


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(403), AccessDenied),
        (Reply(404), AccessDenied),
        (Reply(500), Unreadable),
        (Reply(body=b"<html>"), Unreadable),
        (Reply(body=b'[{"number": 1}]'), Unreadable),
        (Reply(body=b'[{"number": "../../x", "html_url": "u", "state": "open"}]'), Unreadable),
        (Reply(body=b'[{"number": 1, "html_url": [], "state": "open"}]'), Unreadable),
        (Reply(body=b"[1]"), Unreadable),
        (Reply(body=b"1"), Unreadable),
        (Reply(body=b"[" * 100_000), Unreadable),
        (HANG_UP, Unreadable),
    ],
)
def test_github_failing_is_told_without_the_token(reply: Reply, kind: type[Exception]) -> None:
    with serving(lambda _: reply) as server:
        with pytest.raises(kind) as error:
            Issues(server.url, "o/r", "s3cret", Http(wait=lambda _: None)).find()
        assert isinstance(server, Server)
        assert len(server.seen) == (5 if reply.status in (0, 500) else 1)
    assert "s3cret" not in str(error.value)


def test_an_issue_is_not_opened_twice() -> None:
    """The answer to a POST may be lost, and the issue there."""
    with serving(lambda _: HANG_UP) as server:
        with pytest.raises(Unreadable, match="the connection broke"):
            Issues(server.url, "o/r", "s3cret", Http(wait=lambda _: None)).open("t", "b")
        assert len(server.seen) == 1


def test_the_token_is_not_taken_elsewhere() -> None:
    with serving(lambda _: Reply(body=b"[]")) as other:
        there: dict[str, str | None] = {"Location": f"{other.url}/else"}
        with serving(lambda _: Reply(302, there)) as server:
            assert Issues(server.url, "o/r", "s3cret").find() is None
            assert "authorization" in server.seen[0].headers
        assert "authorization" not in other.seen[0].headers


def test_the_token_does_not_leave_this_machine_without_tls() -> None:
    with pytest.raises(UsageError, match=r"api\.example would get the token without TLS"):
        Issues("http://api.example", "o/r", "s3cret").find()


def test_netrc_does_not_take_the_tokens_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(lambda _: Reply(body=b"[]")) as server:
        Issues(server.url, "o/r", "s3cret").find()
        assert server.seen[0].headers["authorization"] == "Bearer s3cret"


def test_the_variables_of_a_workflow_are_asked_for() -> None:
    with pytest.raises(UsageError, match="not set: GITHUB_REPOSITORY, GITHUB_TOKEN"):
        issues_of({"GITHUB_API_URL": "https://api.github.com", "GITHUB_TOKEN": ""})
