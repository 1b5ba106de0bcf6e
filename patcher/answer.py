"""The border to stdout: every answer goes out here. Talk, on stderr, goes out by `patcher.talk`.

An answer may hold what an image, a registry or a file says. A line is made safe here; of a whole
document only its renderer knows how, and the type says that it has done so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import NewType

from patcher.terminal import takes_colour
from patcher.text import printable

Document = NewType("Document", str)
"""A whole answer that its renderer in `patcher.report` has made safe: JSON, Markdown, a page."""

_LONGEST = 5000
# Those of `styled`, and no other: what hides a text, or writes black on black, is not ours.
_COLOUR = re.compile(r"(\x1b\[(?:0|1|3[1-6])m)")


def show(lines: Iterable[str]) -> None:
    """Lines of the answer. The one escape that is kept is a colour, where it can be seen."""
    coloured = takes_colour(sys.stdout)
    for line in lines:
        parts = _COLOUR.split(line) if coloured else [line]
        parts[::2] = [printable(part, _LONGEST) for part in parts[::2]]  # the others are colours
        print("".join(parts))
    sys.stdout.flush()


def hand_over(document: Document) -> None:
    """A whole answer."""
    print(ended(document), end="", flush=True)


def ended(document: Document) -> str:
    """A document with a line break at its end, unless it is empty."""
    return document if document.endswith("\n") or not document else f"{document}\n"


def pass_on(data: bytes) -> None:
    """A file's own bytes, for a program: a diff must apply again."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
