"""`vllm-patcher patch` and its undo, `revert`: a vLLM that is not in an image."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.options import (
    ca_file_option,
    chosen,
    json_option,
    patch_options,
    say_of_version,
)
from patcher.errors import UsageError
from patcher.report.document import as_json
from patcher.talk import Volume, say, say_command, volume
from patcher.text import printable

if TYPE_CHECKING:
    from patcher.jobs.in_place import Done
    from patcher.jobs.revert import Reverted

_PATCH_EPILOG = """\
Exit codes: 0 patched, or nothing is there to patch; 1 a place is refused;
2 a wrong call; 3 could not decide or reach."""

_REVERT_EPILOG = """\
Exit codes: 0 as wanted; 1 no original is kept, or a file was changed since;
2 a wrong call; 3 could not read or write."""

_PATCH_EXAMPLES = """
vllm-patcher patch .venv --in-place                 # an installed vLLM
vllm-patcher patch .venv --in-place --backup        # and keep the originals
vllm-patcher patch mla_attention.py -o patched.py   # one file, into another
"""

_REVERT_EXAMPLES = """
vllm-patcher revert .venv
"""


@click.command(
    cls=Command,
    epilog=_PATCH_EPILOG,
    examples=_PATCH_EXAMPLES,
    short_help="Patch an installed vLLM, or one file of it.",
)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|TREE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write here: a file for FILE, a folder for TREE.",
)
@click.option("--in-place", is_flag=True, help="Replace the file; remove its stale bytecode.")
@click.option(
    "--backup", is_flag=True, help="With --in-place: keep the originals, for `revert` to put back."
)
@patch_options
@ca_file_option
@json_option
def patch(
    path: Path,
    output: Path | None,
    in_place: bool,
    backup: bool,
    patches: Sequence[str],
    folders: Sequence[Path],
    ca_file: Path | None,
    as_data: bool,
) -> None:
    """Patch a vLLM that is not in an image: one file, or a tree that holds the package.

    TREE is a site-packages folder or a virtual environment. Nothing is written unless the result
    has passed every proof; a failure leaves every byte as it was. A second run finds nothing to
    do and says so.
    """
    from patcher.jobs.in_place import patch_path
    from patcher.sources.path import open_path

    if (output is None) is not in_place:
        raise UsageError("say where the result goes", next_step="Give either -o OUT or --in-place.")
    if backup and not in_place:
        raise UsageError("-o OUT leaves the originals alone", next_step="Leave --backup out.")
    say_of_version(open_path(path))
    done = patch_path(path, chosen(patches, folders, ca_file), output, backup=backup)
    _tell("patch", done, as_data)
    if backup and any(file.edits for file in done):
        say("the originals are kept; this puts them back:")
        say_command(f"vllm-patcher revert {shlex.quote(str(path))}")


@click.command(
    cls=Command,
    epilog=_REVERT_EPILOG,
    examples=_REVERT_EXAMPLES,
    short_help="Put back what patch --backup kept.",
)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|TREE")
@json_option
def revert(path: Path, as_data: bool) -> None:
    """Put back the originals that `patch --in-place --backup` kept: all of them, or none.

    A file that was changed since it was patched is named, and then nothing is touched. Mode,
    owner and ACL stay, and bytecode of the patched source goes.
    """
    from patcher.jobs.revert import revert_path

    _tell("revert", revert_path(path), as_data)


def _tell(command: str, done: Sequence[Done | Reverted], as_data: bool) -> None:
    """The files on stdout, and what was done to each on stderr.

    Where a terminal shows both, the second names the file already.
    """
    if as_data:
        hand_over(as_json(command, files=done))
    is_said = sys.stdout.isatty() and sys.stderr.isatty() and volume() is not Volume.QUIET
    for file in done:
        if not (as_data or is_said):
            show([printable(str(file.path), 5000)])
        for line in file.lines:
            say(line)
