"""What is said beside the answer, on stderr: `--quiet` leaves errors alone, `--verbose` adds each
request and step, with the seconds since the start.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Callable, Sequence

import click

from patcher.terminal import fitted, takes_colour, width_of
from patcher.text import printable

_LONGEST = 2000


class Volume(enum.IntEnum):
    """How much is said."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


def _echo(line: str) -> None:
    click.echo(line, err=True)


_show: Callable[[str], None] = _echo
_volume = Volume.USUAL
_start = time.monotonic()


def set_volume(volume: Volume) -> None:
    """Say so much from now on, in all threads."""
    global _volume
    _volume = volume


def volume() -> Volume:
    """How much is said now."""
    return _volume


def through(show: Callable[[str], None] | None) -> None:
    """Send lines through this from now on, while bars are shown; None: straight to stderr."""
    global _show
    _show = show or _echo


def complain(text: str, colour: str | None = None) -> None:
    """Say what went wrong, at any volume."""
    _print(Volume.QUIET, text, colour=colour)


def say(text: str, colour: str | None = None) -> None:
    """Say a line that may hold what an image or a registry says."""
    _print(Volume.USUAL, text, colour=colour)


def say_command(command: str) -> None:
    """Show a command that a person may copy: on a line of its own, which is never broken."""
    _print(Volume.USUAL, f"  {command}", whole=True)


def say_steps(commands: Sequence[str]) -> None:
    """Show the commands that a person may go on with, if there are any."""
    if commands:
        say("next:")
    for command in commands:
        say_command(command)


def detail(text: str) -> None:
    """Say a step that only `--verbose` asks for. It must hold no credential: see `printable`."""
    _print(Volume.VERBOSE, text, whole=True)


def _print(least: Volume, text: str, *, whole: bool = False, colour: str | None = None) -> None:
    if _volume < least:
        return
    when = f"{time.monotonic() - _start:7.2f} s  " if _volume is Volume.VERBOSE else ""
    line = f"{when}{printable(text, _LONGEST)}"
    for each in [line] if whole else fitted(line, width_of(sys.stderr)):
        coloured = colour and takes_colour(sys.stderr)
        _show(click.style(each, fg=colour) if coloured else each)
