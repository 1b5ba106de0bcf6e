"""What holds for every program: the verifier is never lenient, the rewriter is sound."""

from __future__ import annotations

import codecs
import os
import re

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from patcher.errors import NotPython, PatcherError, RewriteRefused
from patcher.rules.guard.writing.rewrite import rewrite

from .claims import (
    RULE,
    assert_never_lenient,
    assert_only_edits_differ,
    assert_rewrite_is_sound,
    told,
)
from .oracle import Program
from .programs import programs

pytestmark = pytest.mark.no_cover

# Runs for each set of packed layers: more would make the tests slow, not sharper.
RUNS = 48
steady = settings(
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# `make quick` loads a profile with a tenth of the examples, `make fuzz` draws new ones, and more.
SHARE = settings().max_examples / 100
every_program = settings(steady, max_examples=round(400 * SHARE))
fewer_programs = settings(steady, max_examples=round(150 * SHARE))


def compiles(source: bytes) -> bool:
    try:
        compile(source, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


@every_program
@given(programs)
def test_no_program_that_can_die_is_called_clean(text: str) -> None:
    source = text.encode()
    assume(compiles(source))
    assert_never_lenient(source, Program(source).deaths(RUNS))


@fewer_programs
@given(programs)
def test_a_rewritten_program_lives_and_does_the_same(text: str) -> None:
    source = text.encode()
    assume(compiles(source))
    assert_rewrite_is_sound(source, RUNS)


def dressed(text: str, newline: str, indent: str, comment: str, top: str, *, final: bool) -> str:
    """The same program with other whitespace, and comments where Python allows them."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        depth = len(line) - len(line.lstrip(" "))
        tail = f"  # {comment}" if number % 3 == 0 else ""
        lines.append(f"{indent * (depth // 4)}{line.lstrip(' ')}{tail}")
    body = newline.join([top, *lines] if top else lines)
    return body + newline * final


comments = st.text(st.sampled_from("aé ß'\"{}()kv_b_proj.weight.dtype€≠"), max_size=12)
encodings = st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "iso8859-15", "cp1252"])


@st.composite
def dressed_programs(draw: st.DrawFn) -> bytes:
    """A program's bytes, in an encoding, with the newlines and marks that real files have."""
    encoding = draw(encodings)
    cookie = f"# -*- coding: {encoding} -*-" if not encoding.startswith("utf-8") else ""
    top = cookie or draw(st.sampled_from(["", "", "\f", "# kv_b_proj", '"""weight."""', "\f\f#"]))
    text = dressed(
        draw(programs),
        newline=draw(st.sampled_from(["\n", "\r\n"])),
        indent=draw(st.sampled_from(["    ", "\t", " ", "\f    "])),
        comment=draw(comments),
        top=top,
        final=draw(st.booleans()),
    )
    return text.encode(encoding, errors="replace")


@fewer_programs
@given(dressed_programs())
def test_newlines_tabs_marks_and_encodings_stay(source: bytes) -> None:
    assume(compiles(source))
    try:
        rewritten = rewrite(source, RULE)
    except RewriteRefused:
        return
    assert_only_edits_differ(source, rewritten)
    assert compiles(rewritten.data)
    assert rewritten.data.startswith(codecs.BOM_UTF8) == source.startswith(codecs.BOM_UTF8)
    assert rewrite(rewritten.data, RULE).data == rewritten.data


@settings(every_program, max_examples=round(100 * SHARE))
@given(dressed_programs())
def test_the_verifier_reads_through_newlines_tabs_marks_and_encodings(source: bytes) -> None:
    assume(compiles(source))
    program = Program(source)
    plain = re.sub(rb"  #[^\r\n]*", b"", source)
    assert verdicts(source) == verdicts(plain)
    assert_never_lenient(source, program.deaths(RUNS))


def verdicts(source: bytes) -> list[tuple[int, bool]] | None:
    reads = told(source)
    return None if reads is None else [(read.line, read.guarded) for read in reads]


pieces = st.sampled_from(
    ["self", ".kv_b_proj", ".weight", ".dtype", "hasattr", "(", ")", '"weight"', "if ", " else ",
     "and ", "not ", "lambda:", "return", ":", "\n", "\n    ", "\r", "\r\n", "\\\n", "=", ":=", ",",
     "f'", "'", '"""', "{", "}", "#", "\x00", "\x0c", "é", "match ", "case ", "async ", "await ",
     "def f", "class C", "[", "]", "for ", " in ", "1", "1if", "*", "**", "@", "->", "del "]
)  # fmt: skip


@settings(steady, max_examples=round(800 * SHARE))
@given(st.lists(pieces, max_size=14).map("".join).map(str.encode) | st.binary(max_size=30))
@example(b"return(lambda:x)()")
@example(b"x = (1)if(self.kv_b_proj.weight.dtype)else(2)")
@example(b"x = 1\ry = self.kv_b_proj.weight.dtype\r")
@example(b"# coding: nothing\nx = 1")
@example(b"\xef\xbb\xbf# coding: latin-1\nx = 1")
@example(b"x = " + b"(" * 300 + b")" * 300)
@example(b"x = " + b"-" * 20000 + b"1")
@example(b"x" + b".a" * 20000)
@example(b"x = " + b" + ".join([b"1"] * 20000))
@example(b"if a:\n" + b"".join(b" " * n + b"if a:\n" for n in range(1, 120)) + b" " * 120 + b"a")
def test_no_bytes_make_anything_but_an_answer_or_our_own_error(source: bytes) -> None:
    try:
        reads = told(source) or ()
    except NotPython:
        pass
    else:
        assert all(read.line >= 1 and read.column >= 1 for read in reads)
    try:
        rewritten = rewrite(source, RULE)
    except PatcherError:
        return
    assert_only_edits_differ(source, rewritten)
    assert not compiles(source) or compiles(rewritten.data)
