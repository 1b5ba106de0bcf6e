"""`vllm-patcher demo`: the whole job on a real release, without Docker."""

from __future__ import annotations

from pathlib import Path

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.options import EPILOG, ca_file_option, http_settings, json_option
from patcher.report.document import as_json
from patcher.talk import say, say_steps

_EXAMPLES = """
vllm-patcher demo
vllm-patcher demo 0.24.0 -o /tmp/demo
"""


@click.command(cls=Command, epilog=EPILOG, examples=_EXAMPLES)
@click.argument("version", default="0.23.0")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    metavar="DIR",
    help="Where the OCI layout is written.",
)
@ca_file_option
@json_option
def demo(version: str, output: Path, ca_file: Path | None, as_data: bool) -> None:
    """Show the whole job on a real vLLM release, without Docker.

    Takes the files out of VERSION's wheel on PyPI by range requests, makes a small base image of
    them, patches, verifies, appends, tags, and reads it all back. The same digest on every run.
    """
    from patcher.jobs.demo import run
    from patcher.report.image import demo_json, demo_lines
    from patcher.report.steps import demo_steps

    result = run(version, output, http_settings(ca_file, ()), say)
    if as_data:
        hand_over(as_json("demo", **demo_json(result)))
        return
    show(demo_lines(result))
    say_steps(demo_steps(result))
