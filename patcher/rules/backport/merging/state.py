"""What the scopes of a file say about a fix: each by itself, and all together."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patcher.rules.backport.scope import Scope


class State(enum.StrEnum):
    """What one scope of a file says about a fix."""

    NEEDED = "needed"
    LANDED = "landed"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    NEUTRAL = "neutral"  # comments, imports: nothing that a verdict could rest on


# Lines `first` to `end` of a file, counted from 0 and without `end`, and what takes their place.
Edits = list[tuple[int, int, list[bytes]]]


@dataclass(frozen=True, slots=True)
class Said:
    """What one scope says: its state, why, and its line in the file (from 1) where it has one."""

    scope: Scope
    state: State
    reason: str = ""
    line: int | None = None


def overall(said: Sequence[Said]) -> Said:
    """What all scopes of a fix say together: all of it, or none, or it is not known."""
    by_state: Mapping[State, list[Said]] = {
        state: [each for each in said if each.state is state] for state in State
    }
    if by_state[State.UNKNOWN]:
        return by_state[State.UNKNOWN][0]
    needed, landed, absent = (
        by_state[state] for state in (State.NEEDED, State.LANDED, State.ABSENT)
    )
    if absent and (needed or landed):
        part = (needed or landed)[0]
        reason = f"{absent[0].reason}, but {part.scope} is {part.state}"
        return Said(absent[0].scope, State.UNKNOWN, reason)
    if needed and landed:
        reason = f"half of the fix: {landed[0].scope} has it, {needed[0].scope} lacks it"
        return Said(needed[0].scope, State.UNKNOWN, reason)
    for some in (needed, landed, absent):
        if some:
            return some[0]
    return Said(said[0].scope, State.UNKNOWN, "nothing in it tells whether the fix is there")
