"""What a terminal can show: how wide a line may be, colours, moving bars."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from patcher.text import printable


def width_of(stream: TextIO) -> int | None:
    """The columns of the terminal that reads a stream; None where none does."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def takes_colour(stream: TextIO) -> bool:
    """Whether it may be coloured: the terminal can, and nobody has refused it (no-color.org)."""
    return stream.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")


def is_dumb() -> bool:
    """Whether the terminal says of itself that it knows no control sequence."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def styled(text: str, colour: str | None = None, *, bold: bool | None = None) -> str:
    """A text for stdout, in a colour where that takes one."""
    import click

    plain = not (colour or bold) or not takes_colour(sys.stdout)
    return text if plain else click.style(text, fg=colour, bold=bold)


def fitted(text: str, width: int | None) -> list[str]:
    """A sentence as lines of a width at most, broken between words; no word is broken, as a
    version, a path or a digest is one.
    """
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    # A break can put what a CI runner takes for a command at the start of a line: its log may be
    # a terminal's.
    return [printable(line, len(text)) for line in lines]
