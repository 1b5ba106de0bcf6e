"""`vllm-patcher diff`: what the patches would change; nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from patcher.answer import hand_over, pass_on, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_source
from patcher.commands.options import (
    EPILOG,
    chosen,
    given_source,
    http_settings,
    json_option,
    parsed_platform,
    patch_options,
    say_of_version,
    source_options,
    stdin_option,
)
from patcher.errors import Exit
from patcher.lock import lock_path
from patcher.report.diff import shown_diff
from patcher.report.document import as_json
from patcher.rules.apply import apply_all
from patcher.talk import say

_EXAMPLES = """
vllm-patcher diff pypi:0.23.0
vllm-patcher diff .venv --patch kv-b-proj-dtype > fix.diff
"""


@click.command(
    cls=Command,
    epilog=EPILOG,
    examples=_EXAMPLES,
    short_help="Show what the patches would change, as a diff.",
)
@click.argument("source", shell_complete=complete_source)
@patch_options
@source_options
@stdin_option
@json_option
@click.pass_context
def diff(
    context: click.Context,
    source: str,
    patches: Sequence[str],
    folders: Sequence[Path],
    platform: str | None,
    root: str | None,
    lock: Path | None,
    ca_file: Path | None,
    plain_http: Sequence[str],
    named: str | None,
    as_data: bool,
) -> None:
    """Show what the patches would change in SOURCE, as a unified diff. Changes nothing.

    SOURCE is what `verify` takes. The shown result has passed every proof. Exits 1 where there
    is nothing to patch, as there is then no diff.
    """
    from patcher.diff import unified_diff
    from patcher.sources.images import ImageSource
    from patcher.sources.path import concerned
    from patcher.sources.spec import open_source

    settings = partial(http_settings, ca_file, plain_http)
    found = given_source((source,), named) or open_source(
        source, lock_path(lock), parsed_platform(platform), settings, root
    )
    found, wanted = concerned(found, chosen(patches, folders, ca_file, plain_http))
    if isinstance(found, ImageSource):
        found = found.read_for(wanted)
    say_of_version(found)
    outcomes = apply_all(wanted, found.read, lambda _: found.label, found.version())
    texts = [unified_diff(each.before or b"", each.after, each.target) for each in outcomes]
    if not any(texts):
        say(f"{found.label}: nothing to patch")
    if as_data:
        hand_over(as_json("diff", source=found.label, diff="".join(texts)))
    elif sys.stdout.isatty():
        show(shown_diff("".join(texts)))
    else:
        # To a file or a pipe as it is: it must apply again.
        pass_on("".join(texts).encode(errors="surrogateescape"))
    context.exit(Exit.OK if any(texts) else Exit.FINDING)
