"""The program's commands. Each module of `patcher.commands` parses, calls and prints; no logic.

Data goes to stdout, everything else to stderr. The exit codes are those of `patcher.errors`.
Heavy modules are imported inside the commands: `verify` of a file needs none of them.
"""

from __future__ import annotations

import os
from importlib import import_module

import click

from patcher.commands.command import Group, reset_volume
from patcher.commands.options import EPILOG

# Where each command is; what a person needs comes before what workflows call. It is imported when
# it is called: all of them cost 40 ms.
COMMANDS = {
    "verify": "verify:verify",
    "diff": "diff:diff",
    "image": "image:image",
    "patch": "patch:patch",
    "revert": "patch:revert",
    "patches": "patches:patches",
    "new": "new:new",
    "landed": "landed:landed",
    "lock": "lock:lock_group",
    "smoke": "smoke:smoke",
    "demo": "demo:demo",
    "cache": "cache:cache_group",
    "summary": "summary:summary",
    "alarm": "alarm:alarm",
}

HELP = "Get a source fix into a vLLM container image today, proven."
EXAMPLES = """
vllm-patcher verify pypi:0.23.0        # is this vLLM affected?
vllm-patcher image 0.23.1rc1           # bake a patched image on a pinned base
vllm-patcher patches                   # the fixes that it knows
vllm-patcher patch .venv --in-place    # patch an installed vLLM
vllm-patcher demo                      # all of it, without Docker
"""


class Commands(Group):
    """The commands of COMMANDS, imported one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All names, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name; None for an unknown name."""
        module, _, name = COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        found: click.Command = getattr(import_module(f"patcher.commands.{module}"), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; an unknown name that is near to one is told which. click compares with
        the commands that were imported.
        """
        name = args[0]
        if not ctx.resilient_parsing and name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = " or ".join(repr(each) for each in get_close_matches(name, COMMANDS))
            ctx.fail(f"No such command {name!r}.{f' Did you mean {near}?' if near else ''}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    help=HELP,
    examples=EXAMPLES,
    epilog=EPILOG,
)
@click.version_option(
    None, "-V", "--version", package_name="vllm-patcher", prog_name="vllm-patcher"
)
@click.pass_context
def cli(context: click.Context) -> None:
    """See HELP."""
    reset_volume(context)
    if os.environ.get("NO_COLOR"):
        context.color = False
