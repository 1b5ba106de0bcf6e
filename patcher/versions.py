"""vLLM's versions (PEP 440): releases, and the nightlies between them.

A nightly's version is `0.23.1rc1.dev672+g93d8f834d`: the next version's name, the number of
commits since the last tag, and the commit. `0.23.1rc1` alone is not a build: it names them all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Below every release that a claim is made for, and above.
_FIRST, _BEYOND = Version("0.1.0"), Version("100")

# Version() itself takes surrounding blanks and newlines, and letters beyond ASCII.
_CHARACTERS = re.compile(r"[A-Za-z0-9.+!_-]{1,128}")


def parsed(text: str) -> Version | None:
    """The version that the text spells; None for any other text."""
    try:
        return Version(text) if _CHARACTERS.fullmatch(text) else None
    except (InvalidVersion, ValueError):
        return None


def placed(text: str | None) -> Version | None:
    """The version that the text spells, if it has a place among vLLM's releases.

    None for 0.1.dev1+g93d8f834d, 0.0.0 and 999.0: a build without vLLM's tags states such, and no
    claim about versions holds for it.
    """
    version = parsed(text or "")
    return version if version and _FIRST <= version < _BEYOND else None


def base(version: Version) -> Version:
    """What stays of a version without `.devN` and the local part: `0.23.1rc1`."""
    text = re.sub(r"\.dev[0-9]+", "", version.public)
    return Version(text)


def nearest(name: str, known: Iterable[Version]) -> str:
    """What a person can have meant by a name that is not a known version, as a sentence.

    The versions around it; above all of them, those that are spelled like it, and the newest.
    """
    ordered, wanted = sorted(set(known)), parsed(name)
    if not ordered:
        return "No version is known."
    below = [version for version in ordered if wanted is None or version < wanted]
    if len(below) < len(ordered):
        return _near_it([*below[-2:], *ordered[len(below) :][:2]])
    from difflib import get_close_matches

    alike = get_close_matches(name, list(map(str, reversed(ordered))), 4, 0.8)
    return f"{_near_it(alike)} The newest is {ordered[-1]}.".strip()


def _near_it(versions: Sequence[Version | str]) -> str:
    return f"Near it: {', '.join(map(str, versions))}." if versions else ""


def same_commit(one: str, other: str) -> bool:
    """Whether two commits, either of them shortened, can be the same."""
    return one.startswith(other) or other.startswith(one)
