"""The edits between two versions of a file, line by line."""

from __future__ import annotations

from patcher.diff import Matcher
from patcher.rules.rule import Edit, Rewritten


def rewritten(before: bytes, after: bytes) -> Rewritten:
    """The new bytes and the edits that lead to them; an edit spans whole lines."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    edits = []
    for tag, a, b, c, d in Matcher(old, new).get_opcodes():
        if tag != "equal":
            parts = b"".join(old[a:b]), b"".join(new[c:d])
            edits.append(Edit(starts[a], starts[b], *parts, line=a + 1))
    return Rewritten(after, tuple(edits))
