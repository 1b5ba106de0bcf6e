"""A unified diff whose context is the whole function, as `git diff -W` writes it.

The text behind the second `@@` of a hunk is the function's qualified name, or the line of the class
around it, which git itself puts there for a class's first method.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from patcher.diff import lines_of
from patcher.errors import Unreadable
from patcher.rules.backport.hunks import hunk_at, is_compiled
from patcher.rules.backport.merging.cut import Cut, sha256
from patcher.rules.backport.scope import IMPORTS, Scope, Sides
from patcher.syntax import parse_python

_QUALIFIED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_START = re.compile(r"\s*(?:@|(?:async )?def |class )")
_CLASS = re.compile(r"class (\w+)")


def sides_of_diff(diff: str) -> list[Sides]:
    """Both sides of every function in a diff. Raises `Unreadable`, with the line at fault."""
    found: list[Sides] = []
    path = ""
    lines = lines_of(diff)
    at = 0
    while at < len(lines):
        line, start = lines[at], at + 1
        if line.startswith("+++ "):
            path = _path(line, lines[at - 1] if at else "", at)
        if read := hunk_at(lines, at):
            hunk, at = read
            sides = "".join(hunk.before), "".join(hunk.after)
            found += _functions(path, hunk.heading, *sides, start)
        else:
            at += 1
    if not found:
        raise _bad(0, "no function changes in it")
    return found


def _path(new: str, old: str, at: int) -> str:
    """The path under site-packages of a file's part of the diff, by its two head lines."""
    before, path = (
        line[4:].split("\t")[0].strip().removeprefix(prefix)
        for line, prefix in ((old, "a/"), (new, "b/"))
    )
    named = before if path == "/dev/null" else path
    if is_compiled(named):
        raise _bad(
            at,
            f"{named} is compiled code: Python alone would be half of this fix",
            next_step="Take an image whose vLLM has the fix, or build vLLM with it.",
        )
    if not named.endswith(".py"):
        raise _bad(at, f"{named} is not Python; only functions of Python files are merged")
    if "/dev/null" in (before, path):
        raise _bad(
            at,
            f"{named} comes or goes as a whole file; only functions of files that stay are merged",
            next_step="Leave the file out if the rest of the fix does without it.",
        )
    return path


def _functions(path: str, heading: str, before: str, after: str, line: int) -> list[Sides]:
    """The functions of a hunk that differ, by qualified name; or the imports of one of these."""
    if heading == IMPORTS:
        return [_imports(path, before, after, line)]
    wholes = [_whole(text) for text in (before, after)]
    if wholes[0].skipped != wholes[1].skipped:
        raise _bad(line, "a hunk is not of whole functions: write the diff with git diff -W")
    cuts = [_cut(whole, line) for whole in wholes]
    margin = wholes[1].margin or wholes[0].margin
    found = []
    for name in dict.fromkeys([*cuts[1].spans, *cuts[0].spans]):
        spans = [span for cut in cuts for span in cut.spans.get(name, [])]
        texts = [cut.text(name, whole=True) for cut in cuts]
        if any(len(cut.spans.get(name, [])) > 1 for cut in cuts):
            raise _bad(line, f"a hunk has several {name}: no rule takes one of several of a name")
        if texts[0] == texts[1] or any(span.is_class for span in spans):
            continue
        qualified = _qualified(heading, name, margin, line)
        scope = Scope(path, qualified, sha256(texts[0]), sha256(texts[1]))
        found.append(Sides(scope, texts[0], texts[1]))
    if not found and before != after:
        raise _bad(line, "a hunk is not of whole functions: write the diff with git diff -W")
    return found


def _imports(path: str, before: str, after: str, line: int) -> Sides:
    """The sides of a hunk of imports, which `vllm-patcher new` writes."""
    try:
        nodes = [node for text in (before, after) for node in parse_python(text).body]
    except SyntaxError as error:
        raise _bad(line, f"the imports are not Python ({error.msg})") from error
    if not all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
        raise _bad(line, f"a hunk of {IMPORTS} holds more than imports")
    old, new = before.encode(), after.encode()
    return Sides(Scope(path, IMPORTS, sha256(old), sha256(new)), old, new)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The functions of a hunk's one side, whose first begins behind this `margin`.

    `skipped` is what git shows around them: the end of the function before, the start of the next.
    """

    text: str
    margin: str
    skipped: tuple[str, ...]


# What is indented is cut as a block of this.
_HEAD = "if 1:\n"


def _whole(text: str) -> _Whole:
    """A hunk's one side without what git shows around the functions."""
    lines = lines_of(text)
    first = next((at for at, line in enumerate(lines) if _START.match(line)), len(lines))
    margin = lines[first][: len(lines[first]) - len(lines[first].lstrip())] if lines[first:] else ""
    end = first + _block(lines[first:]) if margin else len(lines)
    head = _HEAD if margin else ""
    return _Whole(head + "".join(lines[first:end]), margin, (*lines[:first], *lines[end:]))


def _block(lines: Sequence[str]) -> int:
    """How many lines are before a statement that is less indented than the first one.

    A comment may be so, and what is in a string.
    """
    tokens = tokenize.generate_tokens(io.StringIO(_HEAD + "".join(lines)).readline)
    try:
        depth, token = 0, next(tokens)
        while depth or token.type != tokenize.DEDENT:
            token = next(tokens)
            depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        return token.start[0] - 2
    except IndentationError as error:  # between that of the first one and none
        return (error.lineno or 2) - 2
    except tokenize.TokenError:  # it ends within a string or brackets
        return len(lines)


def _cut(whole: _Whole, line: int) -> Cut:
    try:
        parse_python(whole.text)
    except SyntaxError as error:
        raise _bad(
            line, f"a hunk is not of whole functions ({error.msg}): write it with git diff -W"
        ) from error
    return Cut(whole.text.encode())


def _qualified(heading: str, name: str, margin: str, line: int) -> str:
    """A function's name with its class's, which the hunk's heading tells."""
    if not margin or heading == name:  # one in an `if` or `try` of the module is indented too
        return name
    if around := _CLASS.match(heading):
        return f"{around.group(1)}.{name}"
    if _QUALIFIED.fullmatch(heading) and "." in heading:
        return f"{heading.rpartition('.')[0]}.{name}"
    raise _bad(
        line,
        f"which class has {name}? Put Class.{name}, its qualified name, behind the second @@",
    )


def _bad(
    line: int,
    problem: str,
    next_step: str = "git diff -W shows whole functions; --src-prefix and the like are not needed.",
) -> Unreadable:
    return Unreadable(f"the diff, line {line + 1}: {problem}", next_step=next_step)
