"""From bytes to a libcst module that gives the same bytes back, or one clear error with a line."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from itertools import accumulate

import libcst as cst

from patcher.errors import NotPython, RewriteRefused
from patcher.rules.guard.writing.layout import NEWLINE
from patcher.syntax import parse_python

# libcst parses by recursion in native code: 10,000 operands of `and` end the process. Its
# visitors recurse in Python, some five frames a level, and give up at some 180 levels by an error.
DEPTH = 500


def parse(source: bytes) -> tuple[cst.Module, str]:
    """Parse a file's bytes; gives the module and its text.

    Raises `NotPython` where Python itself cannot read them, `RewriteRefused` where only libcst
    cannot, or would not reproduce them (libcst 1.9 turns CR-only newlines into nothing).
    """
    tree = _python(source)
    if (found := _deepest(source, tree))[0] > DEPTH:
        raise _refused(found[1], "the code is nested too deeply for libcst")
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise _refused(error.raw_line, "libcst cannot parse it") from error
    except Exception as error:
        # Not only its own errors: a TypeError for `return(lambda:x)()`, seen with 1.9.0.
        reason = f"libcst cannot parse it ({type(error).__name__})"
        raise _refused(_first_failing(source, tree), reason) from error
    text = module.code  # a walk over the tree each time it is asked for
    try:
        again = text.encode(module.encoding)
    except UnicodeError as error:
        # An encoding that can only be read, as `coding: idna` here.
        raise _refused(1, f"its encoding {module.encoding!r} cannot write it") from error
    if again != source:
        raise _refused(_first_difference(source, again), "libcst would alter its bytes")
    return module, text


def line_of(prefix: str) -> int:
    """The number, from 1, of the line on which the text after `prefix` starts."""
    return len(NEWLINE.findall(prefix)) + 1


def deepest_line(source: bytes) -> int:
    """The line of the statement that holds the most deeply nested code."""
    return _deepest(source, _python(source))[1]


def _deepest(source: bytes, tree: ast.Module) -> tuple[int, int]:
    """How deep libcst's tree is at least, and the line of the statement where it is deepest.

    Python's own tree is flat where libcst nests: the operands of `and` and `or`, and strings in a
    row.
    """
    quotes = [line.count(b'"') + line.count(b"'") for line in source.splitlines() or [b""]]
    quoted = list(accumulate(quotes, initial=0))
    deepest = (0, 1)
    rest: list[tuple[ast.AST, int, int]] = [(tree, 0, 1)]
    while rest:
        node, depth, line = rest.pop()
        if isinstance(node, ast.stmt):
            line = node.lineno
        if isinstance(node, ast.BoolOp):
            depth += len(node.values)
        elif isinstance(node, ast.Constant | ast.JoinedStr) and isinstance(
            getattr(node, "value", ""), str | bytes
        ):
            last = min(node.end_lineno or node.lineno, len(quotes))
            marks = quoted[last] - quoted[node.lineno - 1]
            if marks > 2 * DEPTH:
                depth += _strings_between(source, node)
        deepest = max(deepest, (depth, line), key=lambda one: one[0])
        rest += [(child, depth + 1, line) for child in ast.iter_child_nodes(node)]
    return deepest


def _strings_between(source: bytes, node: ast.expr) -> int:
    """How many strings in a row make one constant."""
    first, last = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    try:
        return sum(
            token.type == tokenize.STRING and first <= token.start and token.end <= last
            for token in tokenize.tokenize(io.BytesIO(source).readline)
        )
    except (tokenize.TokenError, SyntaxError):
        return DEPTH + 1


def _python(source: bytes) -> ast.Module:
    """The file's tree as Python reads it. Raises `NotPython`, with the line."""
    try:
        tree = parse_python(source)
        if not any(b"coding" in line for line in source.splitlines()[:2]):
            source.decode()  # Python refuses a file for a stray byte in a comment, ast does not
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise NotPython(
            f"line {line}: not Python source: byte {source[error.start]:#04x} is not UTF-8",
            next_step="Save the file as UTF-8.",
        ) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise NotPython(
            f"line {line}: not Python source: "
            f"{getattr(error, 'msg', None) or str(error) or 'it is nested too deeply'}",
            next_step="Check the file, or try a newer Python.",
        ) from error
    return tree


def _refused(line: int, reason: str) -> RewriteRefused:
    return RewriteRefused(
        f"line {line}: {reason}", next_step="Reformat that line, or guard the reads by hand."
    )


def _first_difference(source: bytes, other: bytes) -> int:
    same = next(
        (i for i, pair in enumerate(zip(source, other, strict=False)) if pair[0] != pair[1]),
        min(len(source), len(other)),
    )
    return line_of(source[:same].decode("latin-1"))


def _first_failing(source: bytes, tree: ast.Module) -> int:
    """The line of the innermost statement that libcst cannot parse; 1 where no single one fails."""
    text = source.decode("latin-1")  # every byte is a character; the length of tokens is unharmed
    failing = [line for line, snippet in _snippets(text, tree) if not _parses(snippet)]
    return max(failing, default=1)


def _snippets(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each statement by itself, with its line: of a compound one the header alone."""
    lines = NEWLINE.split(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            block = lines[node.lineno - 1 : node.end_lineno]
            block[0] = block[0].encode("latin-1")[node.col_offset :].decode("latin-1")
            body = getattr(node, "body", None)
            if body:
                header = block[: max(1, body[0].lineno - node.lineno)]
                block = [*header, "    pass"]
            yield node.lineno, "\n".join(block) + "\n"


def _parses(snippet: str) -> bool:
    try:
        cst.parse_module(snippet)
    except cst.ParserSyntaxError:
        return True  # a part without its whole: says nothing
    except Exception:
        return False
    return True
