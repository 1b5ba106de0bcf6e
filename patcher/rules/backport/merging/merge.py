"""A fix's scopes merged into a file: what each says of the fix, and the file's new bytes."""

from __future__ import annotations

import ast
import enum
import io
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from patcher.rules.backport.merging.cut import Cut, Item
from patcher.rules.backport.merging.three_way import Kind, Region, matches, merge, split
from patcher.rules.backport.scope import IMPORTS, MODULE, Scope, Sides
from patcher.syntax import is_string, parse_block, parse_python


class State(enum.StrEnum):
    """What one scope of a file says about a fix."""

    NEEDED = "needed"
    LANDED = "landed"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    NEUTRAL = "neutral"  # comments, imports: nothing that a verdict could rest on


@dataclass(frozen=True, slots=True)
class Found:
    """One scope's state, why, and its line in the file (from 1) where it has one."""

    scope: Scope
    state: State
    reason: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """A file's scopes, and its bytes with the fix in all that need it."""

    found: tuple[Found, ...]
    data: bytes


def merge_file(data: bytes, sides: Sequence[Sides]) -> Merged:
    """Merge the sides of one file's scopes into it. Raises `NotPython` for anything but source.

    Every scope is merged by itself; what is in none of them keeps its bytes.
    """
    file = Cut(data)
    edits: list[tuple[int, int, list[bytes]]] = []
    found = []
    going = frozenset(each.scope.name for each in sides if each.after is None)
    for each in sides:
        state, change = _merge_scope(file, each, going)
        found.append(state)
        edits += change
    if any(each.state is State.UNKNOWN for each in found):
        return Merged(tuple(found), data)
    lines = list(file.lines)
    # From the end, so that what is before an edit keeps its place. Of two at one place the later
    # named goes in first, and stays behind.
    edits.reverse()
    edits.sort(key=lambda edit: edit[:2], reverse=True)
    for first, end, new in edits:
        lines[first:end] = new
    merged = b"".join(lines)
    if file.lines and not file.lines[-1].endswith((b"\n", b"\r")):
        merged = merged.rstrip(b"\r\n")  # the last line keeps having no end
    return Merged(tuple(found), merged)


Edits = list[tuple[int, int, list[bytes]]]


def _merge_scope(file: Cut, sides: Sides, going: frozenset[str]) -> tuple[Found, Edits]:
    name = sides.scope.name
    spans = file.spans.get(name, [])
    if len(spans) > 1:
        lines = " and ".join(str(span.first + 1) for span in spans)
        return Found(sides.scope, State.UNKNOWN, f"there are several {name}: lines {lines}"), []
    if name == IMPORTS:
        return _merge_imports(file, sides, going)
    if sides.before is None:
        return _add(file, sides)
    if name != MODULE and not spans:
        if sides.after is None:
            return Found(sides.scope, State.LANDED), []
        return Found(sides.scope, State.ABSENT, f"there is no {name}"), []
    if sides.after is None:
        return _remove(file, sides)
    if name == MODULE or spans[0].is_class:
        return _merge_own_lines(file, sides)
    span = spans[0]
    ours = file.lines[span.first : span.end]
    items = [Item(line.rstrip(b"\r\n"), (line,)) for line in ours]
    found, new = _merge_items(file, sides, items, span.first)
    if new is None:
        return found, []
    # The last line of a file may have no end; it keeps having none.
    if not ours[-1].endswith((b"\n", b"\r")):
        new[-1] = new[-1].rstrip(b"\r\n")
    return found, [(span.first, span.end, new)]


def _merge_items(
    file: Cut, sides: Sides, items: list[Item], first: int
) -> tuple[Found, list[bytes] | None]:
    """Merge a scope's lines; None for the new ones where there is nothing to write."""
    before, after = _Text.of(sides.before), _Text.of(sides.after)
    ours = [item.key for item in items]
    regions = _regions(before, ours, after)
    kinds = {region.kind for region in regions if not _is_idle(region, before, after)}
    line = first + 1
    if Kind.THEIRS not in kinds and Kind.CONFLICT not in kinds:
        state = State.LANDED if Kind.SAME in kinds else State.NEUTRAL
        return Found(sides.scope, state, "", line), None
    # It can be taken out, whole and cleanly. Where it could be put in as well, for it repeats what
    # stands beside it, the image has what it is nearer to.
    if _could_be_undone(before, ours, after) and (
        kinds & {Kind.CONFLICT, Kind.SAME} or _nearer(ours, after, before)
    ):
        return Found(sides.scope, State.LANDED, "", line), None
    regions = [part for each in regions for part in _one_after_the_other(each, ours, after)]
    kinds = {region.kind for region in regions if not _is_idle(region, before, after)}
    if Kind.CONFLICT in kinds:
        at = next(
            region.ours.start
            for region in regions
            if region.kind is Kind.CONFLICT and not _is_idle(region, before, after)
        )
        reason = f"conflict at line {first + at + 1}: it was rewritten there, by the fix or since"
        return Found(sides.scope, State.UNKNOWN, reason, line), None
    if Kind.SAME in kinds:
        reason = f"half of the fix is in {sides.scope.name}"
        return Found(sides.scope, State.UNKNOWN, reason, line), None
    new: list[bytes] = []
    for region in regions:
        if region.kind is Kind.THEIRS:
            new += _theirs(file, region, items, after.keys)
        else:
            for at in region.ours:
                new += [*items[at].lines, *items[at].carried]
    return Found(sides.scope, State.NEEDED, "", line), _ended(new, file.newline)


@dataclass(frozen=True, slots=True)
class _Text:
    """A side's lines as they are compared, and which are blank, a comment or a docstring's."""

    keys: list[bytes]
    is_idle: list[bool]

    @classmethod
    def of(cls, text: bytes | None) -> _Text:
        return cls(_keys(text), _idle(text))


def _regions(before: _Text, ours: list[bytes], after: _Text) -> list[Region]:
    """The regions of a merge; a conflict is looked into: lines beside each other are none."""
    regions = _looked_into(before, ours, after, agreed=False)
    if any(each.kind is Kind.CONFLICT for each in regions):
        agreed = _looked_into(before, ours, after, agreed=True)
        if all(each.kind is not Kind.CONFLICT for each in agreed):
            return agreed
    return regions


def _looked_into(before: _Text, ours: list[bytes], after: _Text, *, agreed: bool) -> list[Region]:
    regions: list[Region] = []
    for region in merge(before.keys, ours, after.keys, agreed=agreed):
        if region.kind is Kind.CONFLICT:
            regions += _look_into(region, before, ours, after)
        else:
            regions.append(region)
    return regions


def _plain(region: Region, before: _Text, ours: list[bytes], after: _Text) -> Region:
    """A conflict is none where the image's lines differ in blank lines or comments alone."""
    if region.kind is not Kind.CONFLICT:
        return region
    was, is_, becomes = (
        [line for line in side[_slice(part)] if line.strip()]
        for side, part in (
            (before.keys, region.base),
            (ours, region.ours),
            (after.keys, region.theirs),
        )
    )
    if is_ == becomes:
        return replace(region, kind=Kind.SAME)
    was, is_ = ([line for line in side if not _COMMENT.match(line)] for side in (was, is_))
    return replace(region, kind=Kind.THEIRS) if is_ == was else region


_COMMENT = re.compile(rb"\s*#")


def _is_idle(region: Region, before: _Text, after: _Text) -> bool:
    """Whether the fix changes nothing there but comments, docstrings and blank lines."""
    return all(before.is_idle[at] for at in region.base) and all(
        after.is_idle[at] for at in region.theirs
    )


def _look_into(region: Region, before: _Text, ours: list[bytes], after: _Text) -> list[Region]:
    """A conflict as what it is: the fix, where the image changed lines beside it; or its parts.

    It has the fix where all lines that the fix brings are there, in its order, and none that it
    takes. Where it has some of them, nobody can tell whose they are.
    """
    was, is_, becomes = (
        before.keys[_slice(region.base)],
        ours[_slice(region.ours)],
        after.keys[_slice(region.theirs)],
    )
    kept, still, there = (matches(was, becomes), matches(was, is_), matches(becomes, is_))
    stays = set(kept.values())
    gone = [at for at in range(len(was)) if at not in kept and not before.is_idle[region.base[at]]]
    brought = [
        at for at in range(len(becomes)) if at not in stays and not after.is_idle[region.theirs[at]]
    ]
    telling = [at for at in brought if re.search(rb"\w", becomes[at])]
    if telling and all(at in there for at in telling) and not any(at in still for at in gone):
        return [replace(region, kind=Kind.SAME)]
    own = {line for at, line in enumerate(is_) if at not in still.values()}
    if any(becomes[at] in own for at in telling):
        return [region]
    parts = split(before.keys, ours, after.keys, region)
    return [_plain(part, before, ours, after) for part in parts]


def _one_after_the_other(region: Region, ours: list[bytes], after: _Text) -> list[Region]:
    """Lines that both put in at one place: the image's own, then the fix's.

    Whether their order says anything is the proof's to find out, which it does of simple
    statements. Where a line is in both, nobody can tell whose it is.
    """
    is_, becomes = ours[_slice(region.ours)], after.keys[_slice(region.theirs)]
    shared = {line for line in is_ if re.search(rb"\w", line)} & set(becomes)
    acts = any(_ACTS.fullmatch(line) for line in (*is_, *becomes))
    if region.kind is not Kind.CONFLICT or region.base or shared or acts:
        return [region]
    middle, end = region.ours.stop, region.theirs.start
    return [
        Region(Kind.OURS, region.base, region.ours, range(end, end)),
        Region(Kind.THEIRS, region.base, range(middle, middle), region.theirs),
    ]


# A call, or where a block begins or may end.
_ACTS = re.compile(rb"\s*(?:[^#]*(?:\(.*|:\s*(?:#.*)?)|(?:return|raise|break|continue|yield)\b.*)")


def _could_be_undone(before: _Text, ours: list[bytes], after: _Text) -> bool:
    """Whether all of the fix can be taken out of the image's lines, and brings some.

    What only takes lines away can be undone in any image that never had them.
    """
    regions = [each for each in _regions(after, ours, before) if not _is_idle(each, after, before)]
    undone = [each for each in regions if each.kind is Kind.THEIRS]
    brought = any(
        re.search(rb"\w", after.keys[at])
        for each in undone
        for at in each.base
        if not after.is_idle[at]
    )
    return brought and all(each.kind in (Kind.THEIRS, Kind.OURS, Kind.STABLE) for each in regions)


def _nearer(ours: list[bytes], one: _Text, other: _Text) -> bool:
    """Whether the image's lines differ less from the one side's than from the other's."""

    def far(side: _Text) -> int:
        return len(side.keys) + len(ours) - 2 * len(matches(side.keys, ours))

    return far(one) < far(other)


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _theirs(file: Cut, region: Region, items: list[Item], after: list[bytes]) -> list[bytes]:
    """The fix's lines of a region; a stub among them stands for the file's own function."""
    own = {item.key: item for item in items if item.stands_for}
    new: list[bytes] = []
    for at in region.theirs:
        there = own.get(after[at])
        new += there.lines if there else [after[at] + file.newline]
    for at in region.ours:
        new += items[at].carried
    return new


def _ended(lines: list[bytes], newline: bytes) -> list[bytes]:
    """Lines of which only the last may lack an end."""
    body = [line if line.endswith((b"\n", b"\r")) else line + newline for line in lines[:-1]]
    return [*body, *lines[-1:]]


def _merge_own_lines(file: Cut, sides: Sides) -> tuple[Found, Edits]:
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
    found, new = _merge_items(file, plain, items, first)
    if new is None:
        return found, []
    if len(new) and not file.lines[end - 1].endswith((b"\n", b"\r")):
        new[-1] = new[-1].rstrip(b"\r\n")
    return found, _own_edits(file, first, end, new)


def _own_edits(file: Cut, first: int, end: int, new: list[bytes]) -> Edits:
    """Only the lines that change, so that functions between them can be edited beside."""
    from difflib import SequenceMatcher

    codes = SequenceMatcher(None, file.lines[first:end], new, autojunk=False).get_opcodes()
    return [(first + a, first + b, new[c:d]) for tag, a, b, c, d in codes if tag != "equal"]


_STUB = re.compile(rb"\s*(?:def \w+\(\)|class \w+): \.\.\.")


def _stubs(text: bytes | None) -> set[bytes]:
    """The keys of stubs in a class's or module's own text."""
    return {key for key in _keys(text) if _STUB.fullmatch(key)}


def _without(text: bytes | None, dropped: frozenset[bytes]) -> bytes:
    return b"".join(key + b"\n" for key in _keys(text) if key not in dropped)


def _add(file: Cut, sides: Sides) -> tuple[Found, Edits]:
    """A function or class that the fix brings."""
    name, after = sides.scope.name, sides.after or b""
    there = file.text(name, whole=True)
    if there is not None:
        line = file.spans[name][0].first + 1
        if _keys(there) == _keys(after):
            return Found(sides.scope, State.LANDED, "", line), []
        reason = f"the fix brings {name}, and another one is there"
        return Found(sides.scope, State.UNKNOWN, reason, line), []
    parent = name.rpartition(".")[0] or MODULE
    if parent != MODULE and len(file.spans.get(parent, [])) != 1:
        return Found(sides.scope, State.ABSENT, f"there is no {parent}"), []
    blanks = [file.newline] * (2 if parent == MODULE else 1)
    lines = [key + file.newline for key in _keys(after)]
    # Behind the nearest of what is before it in the fix's file, where that is nearer than what is
    # behind it: what a class reads while it is made must be above it.
    before, behind = (
        next(((at, each) for at, each in enumerate(names) if each in file.spans), None)
        for names in (sides.follows, sides.precedes)
    )
    if behind is not None and (before is None or behind[0] < before[0]):
        at = file.spans[behind[1]][0].first
        return Found(sides.scope, State.NEEDED, "", at + 1), [(at, at, [*lines, *blanks])]
    if before is not None:
        at = file.spans[before[1]][0].end
    else:
        at = len(file.lines) if parent == MODULE else file.spans[parent][0].end
    if at and not file.lines[at - 1].endswith((b"\n", b"\r")):
        blanks = [file.newline, *blanks]
    return Found(sides.scope, State.NEEDED, "", at), [(at, at, [*blanks, *lines])]


def _remove(file: Cut, sides: Sides) -> tuple[Found, Edits]:
    """A function or class that the fix takes away."""
    name = sides.scope.name
    span = file.spans[name][0]
    if _keys(file.text(name, whole=True)) != _keys(sides.before):
        reason = f"the fix takes {name} away, and another one is there"
        return Found(sides.scope, State.UNKNOWN, reason, span.first + 1), []
    first = span.first
    while first and not file.lines[first - 1].strip():
        first -= 1
    return Found(sides.scope, State.NEEDED, "", span.first + 1), [(first, span.end, [])]


def _merge_imports(file: Cut, sides: Sides, going: frozenset[str]) -> tuple[Found, Edits]:
    """Add what the fix imports and the file does not; an import is never taken away.

    A name may be another's only where the fix takes that other away, a function or an import: the
    later import is the one that counts.
    """
    there = _bindings(file.imports)
    before = _bindings(_parsed_imports(sides.before))
    edits: Edits = []
    after = _parsed_imports(sides.after)
    stays = _bound(file, before - _bindings(after)) - going
    for at, node in enumerate(after):
        new = [alias for alias, key in _aliases(node) if key not in before and key not in there]
        if not new:
            continue
        clashing = [alias for alias in new if (alias.asname or alias.name) in stays]
        if clashing:
            names = ", ".join(alias.asname or alias.name for alias in clashing)
            reason = f"the fix imports {names}, and something else has that name"
            return Found(sides.scope, State.UNKNOWN, reason), []
        bound = {alias.asname or alias.name for alias in new}
        # Behind what has the name now, for the last one counts.
        place = max(_place(file, node, after[:at]), _last_end(file.imports, bound))
        text = ast.unparse(_only(node, new)).encode() + file.newline
        edits.append((place, place, [text]))
    return Found(sides.scope, State.NEUTRAL), edits


def _last_end(imports: Sequence[ast.Import | ast.ImportFrom], names: set[str]) -> int:
    """The last line of the last import that binds one of the names; 0 for none."""
    ends = [
        each.end_lineno or 0
        for each in imports
        if any((alias.asname or alias.name) in names for alias in each.names)
    ]
    return max(ends, default=0)


def _only(node: ast.Import | ast.ImportFrom, aliases: list[ast.alias]) -> ast.stmt:
    if isinstance(node, ast.Import):
        return ast.Import(aliases)
    return ast.ImportFrom(node.module, aliases, node.level)


def _place(file: Cut, node: ast.stmt, earlier: Sequence[ast.stmt]) -> int:
    """After the file's last import of the same module, else of one that the fix has before it.

    One from the future comes first: Python wants it so.
    """
    ends = {ast.unparse(each): each.end_lineno or 0 for each in file.imports}
    module = getattr(node, "module", None)
    if module == "__future__":
        return file.first_statement
    same = [each for each in file.imports if module and getattr(each, "module", None) == module]
    if same:
        return same[-1].end_lineno or 0
    for each in reversed(earlier):
        if ast.unparse(each) in ends:
            return ends[ast.unparse(each)]
    return max(ends.values(), default=file.first_statement)


Key = tuple[str, str, str]


def _aliases(node: ast.Import | ast.ImportFrom) -> list[tuple[ast.alias, Key]]:
    module = "" if isinstance(node, ast.Import) else "." * node.level + (node.module or "")
    return [(alias, (module, alias.name, alias.asname or "")) for alias in node.names]


def _bindings(nodes: Sequence[ast.Import | ast.ImportFrom]) -> set[Key]:
    return {key for node in nodes for _, key in _aliases(node)}


def _bound(file: Cut, but: set[Key]) -> set[str]:
    names = {
        (alias.asname or alias.name).partition(".")[0]
        for node in file.imports
        for alias, key in _aliases(node)
        if key not in but
    }
    return names | {span.name for span in file.children(MODULE)}


def _parsed_imports(text: bytes | None) -> list[ast.Import | ast.ImportFrom]:
    body = parse_python(text or b"").body
    return [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]


def _keys(text: bytes | None) -> list[bytes]:
    """Lines as they are compared: without their ends."""
    return [line.rstrip(b"\r\n") for line in (text or b"").splitlines(keepends=True)]


def _idle(text: bytes | None) -> list[bool]:
    """For each line of a scope, whether it is blank, a comment, or part of a docstring."""
    plain = (text or b"").decode(errors="replace").replace("\r\n", "\n")
    count = len(_keys(text))
    busy: set[int] = set()
    try:
        docstrings = {
            (node.lineno, node.col_offset)
            for node in ast.walk(parse_block(plain.encode()))
            if is_string(node)
        }
        for token in tokenize.generate_tokens(io.StringIO(plain).readline):
            if token.type not in _SILENT and token.start not in docstrings:
                busy.update(range(token.start[0] - 1, token.end[0]))
    except (tokenize.TokenError, SyntaxError):
        return [False] * count
    return [line not in busy for line in range(count)]


_SILENT = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


def overall(found: Sequence[Found]) -> Found:
    """What all scopes of a fix say together: all of it, or none, or it is not known."""
    by_state: Mapping[State, list[Found]] = {
        state: [each for each in found if each.state is state] for state in State
    }
    if by_state[State.UNKNOWN]:
        return by_state[State.UNKNOWN][0]
    needed, landed, absent = (
        by_state[state] for state in (State.NEEDED, State.LANDED, State.ABSENT)
    )
    if absent and (needed or landed):
        part = (needed or landed)[0]
        reason = f"{absent[0].reason}, but {part.scope} is {part.state}"
        return Found(absent[0].scope, State.UNKNOWN, reason)
    if needed and landed:
        reason = f"half of the fix: {landed[0].scope} has it, {needed[0].scope} lacks it"
        return Found(needed[0].scope, State.UNKNOWN, reason)
    for some in (needed, landed, absent):
        if some:
            return some[0]
    return Found(found[0].scope, State.UNKNOWN, "nothing in it tells whether the fix is there")
