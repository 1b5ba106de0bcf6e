"""`vllm-patcher alarm`: one issue, open while a claim is refuted."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import click

from patcher.commands.command import Command
from patcher.files import write_atomically
from patcher.talk import say

EPILOG = """\
Exit codes: 0 the claims hold, or something is unread for the first day; 1 a claim is refuted;
2 a wrong call; 3 something is unread for more than a day, or GitHub cannot be reached."""


_EXAMPLES = """
vllm-patcher landed --check --json > report.json
vllm-patcher landed --check --format markdown > body.md
vllm-patcher alarm report.json body.md --state unread.json
"""


@click.command(
    cls=Command,
    examples=_EXAMPLES,
    epilog=EPILOG,
    short_help="Keep an issue open while a claim is refuted.",
)
@click.argument("report", type=click.Path(path_type=Path))
@click.argument("body", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="What was unread since when; read, and written anew. Keep it between the runs.",
)
@click.pass_context
def alarm(context: click.Context, report: Path, body: Path, state: Path) -> None:
    """Keep one GitHub issue open and up to date while upstream refutes a patch's claim.

    REPORT is what `landed --check --json` printed, BODY what `landed --check --format markdown`
    did: the issue's text. Where BODY is empty, REPORT's own words serve. The issue is closed when
    all claims hold again. What could not be read raises no alarm on its first day.

    The repository and the right to write its issues come from the variables that GitHub gives a
    workflow: GITHUB_API_URL, GITHUB_REPOSITORY, GITHUB_TOKEN.
    """
    from patcher.report.alarm import judge, keep, state_json
    from patcher.web.github import issues_of

    issues = issues_of(os.environ)
    day = judge(report, state, datetime.datetime.now(datetime.UTC).date())
    # Before GitHub is asked: a day on which it is away counts all the same.
    write_atomically(state, state_json(day).encode())
    for name, since in day.unread.items():
        say(f"unread since {since}: {name}")
    say(keep(day, body.read_text("utf-8", "replace"), issues))
    context.exit(day.exit_code)
