"""Foreign text at each border is text: no escape, no new line, no command, no credential."""

from __future__ import annotations

import html
import json
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patcher.daemon.dockerfile import json_paths, label_key, quoted
from patcher.errors import BadReference, PatcherError, Undecided
from patcher.report.document import as_json, error_json
from patcher.report.markdown import code, prose
from patcher.report.page import _safe
from patcher.text import printable

# Unicode's own word for what no terminal may get: control, format, surrogate, line, paragraph.
# The planes between hold none, and are most of a million to ask.
CONTROLS = [
    chr(number)
    for number in (*range(0x20000), *range(0xE0000, 0xF0000))
    if unicodedata.category(chr(number)) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
]

MARKUP = [
    "::",
    "##[",
    "##vso[",
    "@all",
    "#1",
    "`",
    "|",
    "\\",
    "<b>",
    "&",
    "![",
    "](",
    "*",
    "$",
    '"',
]

hostile = st.lists(
    st.sampled_from([*MARKUP, "\n", "\r", "\x1b[2J", " ", "\t", "x"])
    | st.sampled_from(CONTROLS)
    | st.text(max_size=4),
    max_size=12,
).map("".join)


def is_command(line: str) -> bool:
    """As GitHub's runner reads a line (ActionCommand.cs, both forms), Azure's and TeamCity's."""
    return line.strip().startswith("::") or re.search(r"##\w*\[", line) is not None


def test_every_control_character_is_spelled_out() -> None:
    for character in CONTROLS:
        shown = printable(f"a{character}b")
        assert character not in shown
        assert shown.isprintable()
        assert shown.startswith("a\\")


@settings(max_examples=50)
@given(hostile)
@example("::add-mask::x")
@example(" \u00a0::stop-commands::x")
@example("all is well ##[error]x ##vso[task.setvariable]y ##teamcity[z]")
def test_what_is_shown_is_one_line_and_no_command(text: str) -> None:
    shown = printable(text, 10_000)
    assert shown.isprintable()
    assert not is_command(shown)
    assert printable(shown, 10_000) == shown, "an error is shown again inside another"
    if text.isprintable() and not is_command(text):
        assert shown == text


@settings(max_examples=50)
@given(hostile)
def test_every_error_is_two_such_lines_and_json_that_holds_no_command(text: str) -> None:
    error: PatcherError = Undecided(f"{text}x", next_step=text)
    for line in (error.problem, error.next_step, str(error), error.at(text).problem):
        assert line.isprintable()
        assert not is_command(line)
    said = error_json(error, [text])
    assert not any(map(is_command, said.splitlines()))
    assert json.loads(said)["error"]["next_step"] == error.next_step


@settings(max_examples=50)
@given(hostile)
def test_json_keeps_the_text_and_shows_no_command(text: str) -> None:
    said = as_json("x", text=text)
    assert json.loads(said)["text"] == json.loads(json.dumps(text))
    assert not any(map(is_command, said.splitlines()))
    assert said.isascii()


@settings(max_examples=50)
@given(hostile)
def test_in_markdown_it_is_no_markup_and_keeps_to_its_line(text: str) -> None:
    for shown in (code(text), prose(text)):
        assert shown.isprintable() or "\u200b" in shown
        assert len(shown.splitlines()) <= 1
        assert not is_command(shown)
    span = code(text)
    if span.startswith("`"):
        inside = span[1:-1]
        assert not set(inside) & set("`|\\"), "it would end the span or the cell"
    else:
        inside = html.unescape(span.removeprefix("<code>").removesuffix("</code>"))
        marks = span.removeprefix("<code>").removesuffix("</code>")
        assert re.fullmatch(r"(?:[A-Za-z0-9 ]|&#\d+;)*", marks)
    assert inside == printable(text)
    assert re.fullmatch(r"(?:[A-Za-z0-9 .,;:()+-]|&#\d+;)*", prose(text))


@settings(max_examples=50)
@given(hostile)
def test_in_a_page_it_is_no_markup(text: str) -> None:
    from jinja2 import Environment

    template = Environment(autoescape=True, finalize=_safe).from_string(
        "<p title='{{ x }}'>{{ x }}"
    )
    page = template.render(x=text)
    assert html.unescape(page) == f"<p title='{printable(text, 2000)}'>{printable(text, 2000)}"
    assert page.count("<") == 1
    assert page.count("'") == 2


@settings(max_examples=50)
@given(hostile)
def test_in_a_dockerfile_it_is_one_value_or_refused(text: str) -> None:
    """Docker's own words: a backslash escapes the next sign, a quote ends, a dollar names."""
    try:
        value = quoted(text)
    except BadReference:
        assert not text.isprintable()
    else:
        assert len(value.splitlines()) == 1
        assert re.fullmatch(r'"(?:[^"$\\]|\\["$\\])*"', value)
        assert re.sub(r"\\(.)", r"\1", value[1:-1]) == text
        assert len(json.loads(json_paths([text]))) == 1
    try:
        label_key(text)
    except BadReference:
        pass
    else:
        assert re.fullmatch(r"[\w./-]+", text, re.ASCII)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:s3cret@host/x",
        "https://user:s3c/ret@host/x",
        "https://s3cret@host/x",
        "https://user:s3c@ret@host/x",
        "see 'https://user:s3cr/et@host/x', https://user:se/cret@host",
        "https://:s3cret@host",
        "https://user:s3c\nret@host/x",
        "Write it as user:s3cret@host.example.org/x",
        "'registry:user:s3c:ret@host.example.org:5000/x'",
        "user:s3cret@localhost/x and user:s3cret@host:5000/x",
    ],
)
def test_no_password_is_shown(address: str) -> None:
    shown = printable(address)
    assert "s3c" not in shown
    assert "ret" not in shown
    assert "host" in shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host/x?token=s3c&page=2", "http://host/x?token=***&page=2"),
        (
            "see 'http://host/x?page=2&X-Amz-Signature=s3c'",
            "see 'http://host/x?page=2&X-Amz-Signature=***'",
        ),
        ("/x?access_token=s3c#end", "/x?access_token=***#end"),
        ("http://host/x?api_key=s3c&key=s3c&sig=s3c", "http://host/x?api_key=***&key=***&sig=***"),
    ],
)
def test_no_key_in_a_query_is_shown(address: str, shown: str) -> None:
    assert printable(address) == shown


def test_an_address_without_one_stays() -> None:
    plain = "https://host/a@b oci://x/y@sha256:0 git+https://host/repo@v1 a://b c@d ?n=1&keyboard=2"
    assert printable(plain) == plain
    plain = "host:5000/a:b@sha256:1 vllm:v1@sha512:0 git:clone@v1.0 oci:a:b@c.d me@x.org: git:a@b:1"
    assert printable(plain) == plain


def test_a_long_text_costs_no_more_than_its_length() -> None:
    """A scan from each `://` to the end would take minutes."""
    for text in (
        "://x:" * 200_000,
        "://" * 300_000 + " @",
        "://x:" * 100_000 + "@" + "://x:" * 100_000,
        "?" + "&token" * 200_000,
        "?token" * 200_000,
        "'a:" * 300_000 + "@",
        "a:b@" * 200_000,
    ):
        assert len(printable(text)) == 400
