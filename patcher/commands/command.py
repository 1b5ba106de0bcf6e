"""What every command has: `--quiet` and `--verbose`, and examples in its help."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from patcher.talk import Volume, set_volume

_VOLUME = "patcher.volume"

# In each command, and not only at the top: click keeps the option that the first call was given.
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _chosen(volume: Volume, context: click.Context, _: click.Parameter, is_set: bool) -> None:
    """Set it for the run. Both options may come before and after the command's name."""
    if is_set:
        if context.meta.setdefault(_VOLUME, volume) is not volume:
            raise click.UsageError("--quiet and --verbose exclude each other.", context)
        set_volume(volume)


def _volume_options() -> list[click.Parameter]:
    said = {
        Volume.QUIET: ("-q", "--quiet", "Only data and errors: no talk, no bars."),
        Volume.VERBOSE: ("-v", "--verbose", "Each request and step, with its time, on stderr."),
    }
    return [
        click.Option(
            [short, long],
            is_flag=True,
            expose_value=False,
            callback=partial(_chosen, volume),
            help=text,
        )
        for volume, (short, long, text) in said.items()
    ]


class Command(click.Command):
    """A command. `examples` are calls of it as they are typed, a line each, at most 78 wide."""

    def __init__(self, *args: Any, examples: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.context_settings = _SETTINGS
        self.examples = examples
        self.params += _volume_options()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command`: the examples come before it."""
        _write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


class Group(Command, click.Group):
    """A group of commands, which is a command too."""

    command_class = Command


def _write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """As they are: a line that is filled cannot be copied."""
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"  {line}\n")


def reset_volume(context: click.Context) -> None:
    """As much as usual is said, but for what the call asks: another run may have gone before."""
    set_volume(context.meta.get(_VOLUME, Volume.USUAL))
