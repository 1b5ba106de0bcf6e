"""The handwritten snippets, read from `snippets/*.txt`.

A file is a group. Each snippet starts with `=== name`; a line `strict: reason` may follow:
the verifier is expected not to see that this snippet is safe. Nothing else is said about a
verdict: `oracle` executes the snippet to know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("snippets")
SNIPPET = re.compile(
    r"^=== (?P<name>.+)\n(?:strict: (?P<strict>.+)\n)?(?P<source>(?:(?!===).*\n)+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A module's source, and why the verifier may be stricter than execution, if it may."""

    name: str
    source: bytes
    strict: str | None


def load_group(path: Path) -> list[Snippet]:
    text = path.read_text(encoding="utf-8")
    found = list(SNIPPET.finditer(text))
    assert sum(len(match[0]) for match in found) == len(text), f"{path} has lines of no snippet"
    return [
        Snippet(f"{path.stem}/{match['name']}", match["source"].encode(), match["strict"])
        for match in found
    ]


SNIPPETS = [snippet for path in sorted(FOLDER.glob("*.txt")) for snippet in load_group(path)]
