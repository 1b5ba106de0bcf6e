"""The answer as table, data and Markdown: whole, bounded, and safe whatever an index says."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from patcher.errors import UsageError
from patcher.landed.claims import check
from patcher.landed.history import History, Step
from patcher.landed.timeline import Transition, Turn, timeline
from patcher.report.document import as_json
from patcher.report.formats import Format, format_of
from patcher.report.landed import Answer, data, text
from patcher.report.markdown import LIMIT, code, markdown, prose
from patcher.rules.rule import Place
from patcher.rules.verdict import Status
from patcher.sources.everywhere import Notice
from patcher.sources.git import Commit
from tests.landed.findings import PATCH, all_releases, made, real, story
from tests.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from markdown_it.token import Token

# Everything that a name, a reason, a path or a subject could try.
HOSTILE = (
    "</code></td><script>alert(1)</script><img src=x onerror=alert(2)> `|` \\| \\ | ![i](http://h/x)"
    " [l](javascript:alert(3)) @somebody #1 <!-- {{ 7*7 }} {% x %} \x1b[31m\x07\r\n## head\u202e"
    "&amp;"
)


def hostile_answer() -> Answer:
    place = Place(PATCH.target, 1, 1, HOSTILE, HOSTILE, needed=True)
    line = timeline(
        PATCH,
        [
            made("0.1.0", Status.NEEDED, places=[place], artifact=HOSTILE),
            made("0.2.0", Status.UNKNOWN, reason=HOSTILE, artifact=HOSTILE + "2"),
            made("0.3.0", Status.CLEAN, elsewhere=(Notice(HOSTILE, 1, HOSTILE, needed=True),)),
            made(None, Status.ABSENT, reason=HOSTILE, artifact=HOSTILE + "3"),
        ],
    )
    commit = Commit("a" * 40, datetime(2026, 3, 13, tzinfo=UTC), HOSTILE)
    step = Step(Transition(Turn.LANDED, line.findings[0], None, ()), commit, commit, HOSTILE)
    walked = History(
        PATCH, HOSTILE, commit, line.findings[0], (step,), 3, 3, bisected=True, shallow=True
    )
    return Answer((line,), (check(line),), (walked,))


@all_releases
def test_the_table_of_the_real_releases(release_file: Callable[..., bytes]) -> None:
    rows = text(Answer((timeline(PATCH, real(release_file)),))).splitlines()
    assert [row.split("  line")[0].split() for row in rows[1:7]] == [
        ["0.15.0", "-", "0.16.0", "needed", "1", "0"],
        ["0.17.0", "-", "0.17.1", "needed", "3", "0"],
        ["0.18.0", "-", "0.19.1", "clean", "0", "2"],
        ["0.20.0", "-", "0.24.0", "needed", "1", "2"],
        ["0.25.0", "-", "0.27.1", "needed", "1", "3"],
        ["0.28.0", "-", "0.33.0", "clean", "0", "1"],
    ]
    assert rows[8].startswith("kv-b-proj-dtype: needed in 0.15.0")


@all_releases
def test_the_answer_fits_the_terminal_and_breaks_no_version(
    release_file: Callable[..., bytes],
) -> None:
    answer = Answer((timeline(PATCH, real(release_file)),))
    whole = text(answer)
    for width in (40, 80, 120):
        lines = text(answer, width).splitlines()
        assert max(map(len, lines)) <= width
        told = " ".join(lines[lines.index("") + 1 :])
        assert " ".join(told.split()) == whole.splitlines()[-1]
    assert text(answer, 80).splitlines()[1].endswith("…"), "a row is a line while there is room"
    assert text(answer, 40).splitlines()[:2] == ["0.15.0 - 0.16.0", "  verdict    needed"]


def test_colour_is_added_to_the_words_and_only_for_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = Answer((timeline(PATCH, story("ncau")),))
    plain = text(answer, 200)
    with terminal(monkeypatch, "stdout"):
        coloured, to_a_file = text(answer, 200), text(answer)
        for refusal in ("NO_COLOR", "TERM"):
            with monkeypatch.context() as refused:
                refused.setenv(refusal, "dumb")
                assert text(answer, 200) == plain
    assert "\x1b" not in plain + to_a_file
    assert click.unstyle(coloured) == plain
    assert coloured.count("\x1b[31m") == 1


def test_several_patches_are_shown_at_a_glance_where_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = dataclasses.replace(PATCH, name="other")
    # The second patch was not asked of the newest.
    lines = timeline(PATCH, story("auncn")), timeline(other, story("ccnn"))
    assert text(Answer(lines)).splitlines()[:4] == [
        "0.1.0 to 0.5.0, a letter each: N needed, c clean, - absent, ? unknown",
        "kv-b-proj-dtype  -?NcN",
        "other            ccNN ",
        "",
    ]
    assert text(Answer(lines)).splitlines()[4:6] == [
        PATCH.name,
        text(Answer(lines[:1])).splitlines()[0],
    ]
    assert "letter" not in text(Answer(lines[:1]))
    assert "letter" not in text(Answer(lines), 21)
    with terminal(monkeypatch, "stdout"):
        assert "\x1b[31mN\x1b[0m\x1b[32mc" in text(Answer(lines), 22)
        assert "\x1b" not in text(Answer(lines)), "a file"


def test_what_was_not_judged_shows_no_counts() -> None:
    rows = text(Answer((timeline(PATCH, story("au")),))).splitlines()
    assert [row.split()[1:4] for row in rows[1:3]] == [["absent", "-", "-"], ["unknown", "-", "-"]]


def test_an_empty_answer_is_an_empty_table() -> None:
    assert text(Answer()) == ""


def test_no_terminal_escape_comes_through() -> None:
    shown = text(hostile_answer())
    assert all(character.isprintable() or character == "\n" for character in shown)


@all_releases
def test_data_is_json_and_holds_every_finding(release_file: Callable[..., bytes]) -> None:
    line = timeline(PATCH, real(release_file))
    said = json.loads(as_json("landed", **data(Answer((line,), (check(line),)))))
    (patch,) = said["patches"]
    assert [each["version"] for each in patch["findings"]] == [
        str(f.version) for f in line.findings
    ]
    assert patch["transitions"][2] == {
        "turn": "regressed", "at": "0.20.0", "after": "0.19.1", "unread": []
    }  # fmt: skip
    assert patch["findings"][-1]["places"][0]["needed"] is False
    assert said["checks"][0]["refuted"] == []
    assert said["checks"][0]["held"] == 28


def test_hostile_text_is_data_and_nothing_else_in_json() -> None:
    said = json.loads(as_json("landed", **data(hostile_answer())))
    assert said["patches"][0]["findings"][0]["artifact"] == HOSTILE
    assert said["histories"][0]["steps"][0]["commit"]["subject"] == HOSTILE


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.md", Format.MARKDOWN),
        ("a.HTML", Format.HTML),
        ("a.b.json", Format.JSON),
        ("a.txt", Format.TABLE),
    ],
)
def test_a_files_suffix_chooses_its_format(name: str, form: Format) -> None:
    assert format_of(Path(name)) is form


@pytest.mark.parametrize("name", ["a", "a.pdf", ".md"])
def test_a_suffix_without_a_format_is_a_wrong_call(name: str) -> None:
    with pytest.raises(UsageError, match="format"):
        format_of(Path(name))


def tokens(text: str) -> list[Token]:
    """The comment as a parser sees it, inline parts included."""
    parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [part for token in parsed for part in [token, *(token.children or [])]]


def raw_html(parts: Iterable[Token]) -> set[str]:
    return {
        line
        for part in parts
        if part.type in {"html_block", "html_inline"}
        for line in part.content.strip().splitlines()
    }


@all_releases
def test_markdown_has_a_row_for_each_band(release_file: Callable[..., bytes]) -> None:
    line = timeline(PATCH, real(release_file))
    parts = tokens(markdown(Answer((line,), (check(line),))))
    assert sum(part.type == "tr_open" for part in parts) == 1 + 6
    cells = [part.content for part in parts if part.type == "code_inline"]
    assert "0.20.0 - 0.24.0" in cells


def test_hostile_text_stays_text_in_markdown() -> None:
    text = markdown(hostile_answer())
    parts = tokens(text)
    kinds = {part.type for part in parts}
    assert not kinds & {"link_open", "image", "hardbreak", "fence", "code_block"}
    titles = "<details><summary>Reads in other files</summary>"
    assert raw_html(parts) <= {titles, "</details>", "<code>", "</code>"}
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == sum(part.type == "tr_open" for part in parts)
    assert sum(part.type == "td_open" for part in parts) == 4 * 5 + 4
    assert "somebody" in text
    assert "@somebody" not in text


markup = st.text(st.sampled_from("|`\\*_~<>[]()!#&;@:/ ab1\n-") | st.characters(), max_size=60)


@given(markup)
def test_any_text_is_one_code_span(text: str) -> None:
    parts = tokens(f"| a |\n|---|\n| {code(text)} |\n")
    assert sum(part.type == "td_open" for part in parts) == 1
    assert raw_html(parts) <= {"<code>", "</code>"}
    assert {part.type for part in parts if part.level > 4} <= {
        "text", "text_special", "code_inline", "html_inline"
    }  # fmt: skip


@given(markup)
def test_a_sentence_has_no_markup(text: str) -> None:
    parts = tokens(f"x {prose(text)}")
    assert {part.type for part in parts} <= {
        "paragraph_open", "inline", "text", "text_special", "paragraph_close"
    }  # fmt: skip


def test_markdown_fits_a_comment_however_much_was_found() -> None:
    line = timeline(
        PATCH, [made(f"0.{at}.0", Status.UNKNOWN, reason="x" * 400) for at in range(900)]
    )
    many = markdown(Answer((line,) * 9, (check(line),)))
    assert LIMIT - 1000 < len(many) <= LIMIT
    assert "more lines are left out" in many
    alone = markdown(Answer((line,)))
    assert "840 older rows are left out" in alone
    assert "0.899.0" in alone


def test_a_refuted_claim_comes_first_in_markdown() -> None:
    line = timeline(dataclasses.replace(PATCH, affected=(">=0.1",)), story("nc"))
    text = markdown(Answer((line,), (check(line),)))
    assert text.startswith(f"## The claim of `{PATCH.name}` is refuted\n")
