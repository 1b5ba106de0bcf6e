"""A unified diff: its hunks, and all made in a file where their lines are, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from patcher.diff import lines_of
from patcher.errors import RewriteRefused, Unreadable

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@ ?(.*)")
# Names a file that no hunk need follow for: a rename, an empty one, one that is not text.
_HEADER = re.compile(r"diff --git a/(\S+) b/(\S+)\s*")
# What a file's header says of the whole file, where hunks do not tell all.
_WHOLE = ("Binary files ", "GIT binary patch", "rename from ", "copy from ", "deleted file mode ")
_BUILT = ("csrc/", "cmake/", "rust/", "CMakeLists.txt")
# A pull request of vLLM's has some thousands; each may be a character, of which there are more.
_MOST_LINES = 500_000
_COMPILED = (".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".rs")


class NotFitting(Unreadable):
    """A diff whose hunks do not fit a release; `is_in`: because they are made there."""

    def __init__(self, problem: str, *, next_step: str, is_in: bool = False) -> None:
        super().__init__(problem, next_step=next_step)
        self.is_in = is_in


def is_compiled(path: str) -> bool:
    """Whether a file is part of what a build of vLLM compiles."""
    return path.startswith(_BUILT) or path.endswith(_COMPILED)


@dataclass(frozen=True, slots=True)
class Hunk:
    """A hunk's lines on both sides; `line` is where its file had it, from 1, and `heading` the text
    behind its second `@@`.
    """

    line: int
    before: list[str]
    after: list[str]
    heading: str = ""


def hunks_of(diff: str) -> dict[str, list[Hunk]]:
    """The hunks of each file. Raises `Unreadable`."""
    found: dict[str, list[Hunk]] = {}
    old = path = ""
    if diff.count("\r\n") == diff.count("\n"):  # as a browser on Windows may keep it
        diff = diff.replace("\r\n", "\n")
    lines = lines_of(diff)
    if len(lines) > _MOST_LINES:
        raise _no_diff(_MOST_LINES, "it is longer than that of any one fix")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if header := _HEADER.fullmatch(line):
            path = header[2]
            found.setdefault(path, [])
        elif line.startswith(_WHOLE) and (path.startswith("vllm/") or is_compiled(path)):
            raise RewriteRefused(
                f"{path} is moved, taken away, or not text: that is not taken back",
                next_step="Give the diff without it, if the fix does not need it.",
            )
        elif line.startswith("--- "):
            old = line[4:].split("\t")[0].strip().removeprefix("a/")
        elif line.startswith("+++ "):
            path = line[4:].split("\t")[0].strip().removeprefix("b/")
            path = old if path == "/dev/null" else path
            found.setdefault(path, [])
        elif read := hunk_at(lines, at - 1):
            if not path:
                raise _no_diff(at, "a hunk before the name of its file")
            hunk, at = read
            found[path].append(hunk)
    if not found:
        raise _no_diff(1, "it names no file")
    return found


def hunk_at(lines: Sequence[str], at: int) -> tuple[Hunk, int] | None:
    """The hunk that begins at a line of a diff, and which line follows it; None where none begins.

    Raises `Unreadable`.
    """
    head = _HUNK.match(lines[at])
    if head is None:
        return None
    sizes = [int(count if count is not None else 1) for count in head.group(2, 3)]
    sides: tuple[list[str], list[str]] = ([], [])
    at += 1
    while at < len(lines) and (len(sides[0]) < sizes[0] or len(sides[1]) < sizes[1]):
        mark, text = lines[at][:1], lines[at][1:] or "\n"
        at += 1
        if mark not in (" ", "-", "+", "\n", "\r", "\\"):
            raise _no_diff(at, "a line that is none of a hunk's")
        if mark in (" ", "-", "\n", "\r"):
            sides[0].append(text)
        if mark in (" ", "+", "\n", "\r"):
            sides[1].append(text)
    if [len(side) for side in sides] != sizes:
        raise _no_diff(at, "its last hunk is not whole")
    return Hunk(int(head[1]), *sides, head[4].strip()), at


def _no_diff(line: int, problem: str) -> Unreadable:
    return Unreadable(
        f"the diff, line {line}: {problem}", next_step="Give a unified diff, as git diff writes it."
    )


def applied(path: str, source: bytes, hunks: Sequence[Hunk], version: str) -> bytes:
    """The file with the hunks made, where they fit it in one way alone. Raises `NotFitting`."""
    lines = lines_of(source.decode())
    # A character a line, and one for all lines that no hunk has: so text is found in a text.
    known = {line: chr(at) for at, line in enumerate(_lines_in(hunks), 1)}
    text = _spelled(known, lines)
    wanted = [_spelled(known, hunk.before) for hunk in hunks]
    first = _in_order(text, wanted)
    bad, said = len(first), "does not fit"
    if bad == len(hunks):
        # As far down as they fit: equal hunks of two functions would each fit in the other, too.
        back = _in_order(text[::-1], [each[::-1] for each in reversed(wanted)])
        last = [len(text) - at - len(each) for at, each in zip(back[::-1], wanted, strict=True)]
        bad = next((at for at, place in enumerate(first) if place != last[at]), bad)
        said = "fits twice"
    if bad < len(hunks):
        start = first[bad - 1] + len(wanted[bad - 1]) if bad else 0
        there = _spelled(known, hunks[bad].after) in text[start:]
        raise NotFitting(
            f"{path} of vLLM {version}: the hunk of line {hunks[bad].line} "
            f"{'is there already' if there else said}",
            next_step="Name another release with --from; or, once a release has the fix, "
            "--before, --after and --function.",
            is_in=there,
        )
    done: list[str] = []
    at = 0
    for hunk, place in zip(hunks, first, strict=True):
        done += [*lines[at:place], *hunk.after]
        at = place + len(hunk.before)
    return "".join([*done, *lines[at:]]).encode()


def _in_order(text: str, parts: Sequence[str]) -> list[int]:
    """Where each part is first, behind those before it; up to one that is not there."""
    found: list[int] = []
    end = 0
    for part in parts:
        at = text.find(part, end)
        if at < 0:
            break
        found.append(at)
        end = at + len(part)
    return found


def turned(hunks: Sequence[Hunk]) -> list[Hunk]:
    """The hunks that undo these."""
    return [Hunk(each.line, each.after, each.before) for each in hunks]


def _lines_in(hunks: Sequence[Hunk]) -> Iterable[str]:
    """Each line of the hunks once."""
    sides = [side for hunk in hunks for side in (hunk.before, hunk.after)]
    return dict.fromkeys(line for side in sides for line in side)


def _spelled(known: Mapping[str, str], lines: Sequence[str]) -> str:
    return "".join([known.get(line, "\0") for line in lines])
