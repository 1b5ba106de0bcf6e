"""The program's commands. Each module of `patcher.commands` parses, calls and prints; no logic.

Data goes to stdout, everything else to stderr. The exit codes are those of `patcher.errors`.
Heavy modules are imported inside the commands: `verify` of a file needs none of them.
"""

from __future__ import annotations

import os

import click

from patcher import __version__
from patcher.commands import baking, judging, landed, locking
from patcher.commands.options import EPILOG

# The \b keeps click from filling the lines that follow.
HELP = """\
Get a source fix into a vLLM container image today, proven.

\b
vllm-patcher verify pypi:0.23.0          is this vLLM affected?
vllm-patcher image 0.23.1rc1             bake a patched image on a pinned base
vllm-patcher patch .venv --in-place      patch an installed vLLM
vllm-patcher demo                        all of it, without Docker
"""


@click.group(help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-patcher")
@click.pass_context
def cli(context: click.Context) -> None:
    """See HELP."""
    if os.environ.get("NO_COLOR"):
        context.color = False


for command in (
    judging.verify,
    judging.diff,
    baking.image,
    baking.patch,
    baking.demo,
    landed.landed,
    landed.cache_group,
    locking.lock_group,
):
    cli.add_command(command)
