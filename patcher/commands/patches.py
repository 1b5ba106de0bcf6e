"""`vllm-patcher patches`: the catalogue."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_patch
from patcher.commands.options import folders_option, json_option
from patcher.report.document import as_json
from patcher.terminal import width_of

EPILOG = """\
Exit codes: 0 as wanted; 2 no such patch; 3 a patch's file cannot be loaded."""


_EXAMPLES = """
vllm-patcher patches
vllm-patcher patches kv-b-proj-dtype
"""


@click.command(
    cls=Command,
    examples=_EXAMPLES,
    epilog=EPILOG,
    short_help="List the fixes that are known, or explain some.",
)
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...", shell_complete=complete_patch)
@folders_option
@json_option
def patches(names: Sequence[str], folders: Sequence[Path], as_data: bool) -> None:
    """List the fixes that are known, or explain those that are named.

    For each patch: which versions of vLLM it is claimed for, and in which release upstream has the
    fix. Of a named one also why, upstream's issues and pull requests, the files, and what changes.
    The claims bound where a patch is applied; `landed --check` holds them against the releases.

    FILE is the file of a patch of your own, as ./mine.py. It is run, as all in a folder of patches
    are: take none that you would not run yourself.
    """
    from patcher.report.patches import catalogue_table, data, explained
    from patcher.rules.catalogue import select

    chosen = select(names, folders=folders)
    if as_data:
        hand_over(as_json("patches", patches=[data(patch) for patch in chosen]))
    elif names:
        width = width_of(sys.stdout)
        for patch in chosen:
            show([*([] if patch is chosen[0] else [""]), *explained(patch, width)])
    else:
        show(catalogue_table(chosen, width_of(sys.stdout)))
