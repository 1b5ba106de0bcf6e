"""`vllm-patcher summary`: what many runs of `image --json` did, in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from patcher.answer import hand_over
from patcher.commands.command import Command
from patcher.errors import Exit, UsageError
from patcher.talk import complain

EPILOG = """\
Exit codes: 0 every base was published, or needs no patch; 2 a wrong call;
3 a base failed, or a report cannot be read."""


_EXAMPLES = """
vllm-patcher image 0.23.0 --to ghcr.io/you/vllm --json > reports/a.json
vllm-patcher summary reports
"""


@click.command(
    cls=Command, examples=_EXAMPLES, epilog=EPILOG, short_help="Sum up the reports of image --json."
)
@click.argument("reports", nargs=-1, metavar="[REPORT]...", type=click.Path(path_type=Path))
@click.option(
    "--bases",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `lock list --json` printed: a base that no report is of has failed.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "outputs"]),
    default="markdown",
    show_default=True,
    help="Markdown, or name=value lines of one report for the next steps of a workflow.",
)
@click.pass_context
def summary(context: click.Context, reports: Sequence[Path], bases: Path | None, form: str) -> None:
    """Sum up the reports of `vllm-patcher image ... --json`, those of failed runs too.

    A REPORT is a file, or a folder of files named *.json.

    A base that needs no patch is listed, and does not count as a failure. One that failed, or a
    report that is not whole, makes the exit code 3; the other bases of a run are listed anyway.
    """
    from patcher.report.summary import FAILED, image_markdown, load, outputs, reports_of, unreported

    if form == "outputs" and len(reports) != 1:
        raise UsageError("outputs are those of one report", next_step="Give one REPORT.")
    rows = [load(path) for path in reports_of(reports)]
    rows += unreported(bases, rows) if bases else []
    hand_over(outputs(rows[0]) if form == "outputs" else image_markdown(rows))
    failed = [row for row in rows if row.outcome == FAILED]
    for row in failed:
        complain(f"failed: {row.base}: {row.reason}")
    context.exit(Exit.UNDECIDED if failed else Exit.OK)
