"""A fix's scopes merged into a file: what each says of the fix, and the file's new bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from patcher.rules.backport.merging.cut import Cut, Item, keys_of
from patcher.rules.backport.merging.imported import merge_imports
from patcher.rules.backport.merging.lines import merge_lines
from patcher.rules.backport.merging.state import Edits, Said, State
from patcher.rules.backport.scope import IMPORTS, MODULE, Sides


@dataclass(frozen=True, slots=True)
class Merged:
    """A file's scopes, and its bytes with the fix in all that need it."""

    said: tuple[Said, ...]
    data: bytes


def merge_file(data: bytes, sides: Sequence[Sides]) -> Merged:
    """Merge the sides of one file's scopes into it. Raises `NotPython` for anything but source.

    Every scope is merged by itself; what is in none of them keeps its bytes.
    """
    file = Cut(data)
    going = frozenset(each.scope.name for each in sides if each.after is None)
    merged = [_merge_scope(file, each, going) for each in sides]
    said = tuple(own for own, _ in merged)
    if any(each.state is State.UNKNOWN for each in said):
        return Merged(said, data)
    # Where a class and the module end at one line, what comes within the class is before the rest.
    merged.sort(key=lambda each: _depth(file, each[0].scope.name), reverse=True)
    edits = [edit for _, change in merged for edit in change]
    lines = list(file.lines)
    # From the end, so that what is before an edit keeps its place. Of two at one place the later
    # named goes in first, and stays behind.
    edits.reverse()
    edits.sort(key=lambda edit: edit[:2], reverse=True)
    for first, end, new in edits:
        lines[first:end] = new
    result = b"".join(lines)
    if file.lines and not file.lines[-1].endswith((b"\n", b"\r")):
        result = result.rstrip(b"\r\n")  # the last line keeps having no end
    return Merged(said, result)


def _depth(file: Cut, name: str) -> int:
    """In how many classes a scope's edits are: those of a class's own lines are in it."""
    return name.count(".") + (name in file.spans)


def _merge_scope(file: Cut, sides: Sides, going: frozenset[str]) -> tuple[Said, Edits]:
    """One scope; `going` are the names that the fix takes away."""
    name = sides.scope.name
    spans = file.spans.get(name, [])
    if len(spans) > 1:
        lines = " and ".join(str(span.first + 1) for span in spans)
        return Said(sides.scope, State.UNKNOWN, f"there are several {name}: lines {lines}"), []
    if name == IMPORTS:
        return merge_imports(file, sides, going)
    if sides.before is None and sides.after is None:
        return Said(sides.scope, State.UNKNOWN, f"the fix's own files have several {name}"), []
    if sides.before is None:
        return _add(file, sides)
    if name != MODULE and not spans:
        if sides.after is None:
            return Said(sides.scope, State.LANDED), []
        return Said(sides.scope, State.ABSENT, f"there is no {name}"), []
    if sides.after is None:
        return _remove(file, sides)
    if name == MODULE or spans[0].is_class:
        return _merge_own_lines(file, sides)
    span = spans[0]
    ours = file.lines[span.first : span.end]
    items = [Item(line.rstrip(b"\r\n"), (line,)) for line in ours]
    said, new = merge_lines(sides, items, span.first, file.newline)
    return said, [] if new is None else [(span.first, span.end, new)]


def _merge_own_lines(file: Cut, sides: Sides) -> tuple[Said, Edits]:
    """Merge a class's or module's own lines; functions that one side lacks take no part."""
    name = sides.scope.name
    before, after = _stubs(sides.before), _stubs(sides.after)
    ours = {item.key for item in file.items(name) if item.stands_for}
    shared = before & after & ours
    dropped = frozenset((before | after | ours) - shared)
    plain = Sides(sides.scope, _without(sides.before, dropped), _without(sides.after, dropped))
    items = file.items(name, dropped)
    span = None if name == MODULE else file.spans[name][0]
    first, end = (span.first, span.end) if span else (0, len(file.lines))
    said, new = merge_lines(plain, items, first, file.newline)
    return said, [] if new is None else _own_edits(file, first, end, new)


def _own_edits(file: Cut, first: int, end: int, new: list[bytes]) -> Edits:
    """Only the lines that change, so that functions between them can be edited beside."""
    from patcher.diff import Matcher

    codes = Matcher(file.lines[first:end], new).get_opcodes()
    return [(first + a, first + b, new[c:d]) for tag, a, b, c, d in codes if tag != "equal"]


_STUB = re.compile(rb"\s*(?:def \w+\(\)|class \w+): \.\.\.")


def _stubs(text: bytes | None) -> set[bytes]:
    """The keys of stubs in a class's or module's own text."""
    return {key for key in keys_of(text) if _STUB.fullmatch(key)}


def _without(text: bytes | None, dropped: frozenset[bytes]) -> bytes:
    return b"".join(key + b"\n" for key in keys_of(text) if key not in dropped)


def _add(file: Cut, sides: Sides) -> tuple[Said, Edits]:
    """A function or class that the fix brings."""
    name, after = sides.scope.name, sides.after or b""
    there = file.text(name, whole=True)
    if there is not None:
        line = file.spans[name][0].first + 1
        if keys_of(there) == keys_of(after):
            return Said(sides.scope, State.LANDED, "", line), []
        reason = f"the fix brings {name}, and another one is there"
        return Said(sides.scope, State.UNKNOWN, reason, line), []
    parent = name.rpartition(".")[0] or MODULE
    if parent != MODULE and len(file.spans.get(parent, [])) != 1:
        return Said(sides.scope, State.ABSENT, f"there is no {parent}"), []
    blanks = [file.newline] * (2 if parent == MODULE else 1)
    lines = [key + file.newline for key in keys_of(after)]
    # Behind the nearest of what is before it in the fix's file, where that is nearer than what is
    # behind it: what a class reads while it is made must be above it.
    before, behind = (
        next(((at, each) for at, each in enumerate(names) if each in file.spans), None)
        for names in (sides.follows, sides.precedes)
    )
    if behind is not None and (before is None or behind[0] < before[0]):
        at = file.spans[behind[1]][0].first
        return Said(sides.scope, State.NEEDED, "", at + 1), [(at, at, [*lines, *blanks])]
    if before is not None:
        at = file.spans[before[1]][0].end
    else:
        at = len(file.lines) if parent == MODULE else file.spans[parent][0].end
    if at and not file.lines[at - 1].endswith((b"\n", b"\r")):
        blanks = [file.newline, *blanks]
    return Said(sides.scope, State.NEEDED, "", at), [(at, at, [*blanks, *lines])]


def _remove(file: Cut, sides: Sides) -> tuple[Said, Edits]:
    """A function or class that the fix takes away."""
    name = sides.scope.name
    span = file.spans[name][0]
    if keys_of(file.text(name, whole=True)) != keys_of(sides.before):
        reason = f"the fix takes {name} away, and another one is there"
        return Said(sides.scope, State.UNKNOWN, reason, span.first + 1), []
    first = span.first
    while first and not file.lines[first - 1].strip():
        first -= 1
    return Said(sides.scope, State.NEEDED, "", span.first + 1), [(first, span.end, [])]
