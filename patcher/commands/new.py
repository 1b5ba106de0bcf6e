"""`vllm-patcher new`: a patch drafted from upstream's fix."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.commands.command import Command
from patcher.commands.options import json_option
from patcher.errors import Finding, UsageError
from patcher.report.text import as_json
from patcher.talk import say
from patcher.terminal import width_of

if TYPE_CHECKING:
    from patcher.landed.timeline import Timeline
    from patcher.rules.backport.draft import Draft
    from patcher.rules.rule import Upstream

EPILOG = """\
Exit codes: 0 the patch is written; 1 the fix cannot be taken, or that release does not need it;
2 a wrong call; 3 a release, a diff or GitHub cannot be read."""


_EXAMPLES = """
vllm-patcher new fix-it --pr 47953 --from 0.26.0
vllm-patcher new fix-it --before 0.27.1 --after 0.28.0 \\
  --function vllm/a/b.py:Class.method -o patches
"""


@click.command(
    cls=Command, examples=_EXAMPLES, epilog=EPILOG, short_help="Draft a patch from upstream's fix."
)
@click.argument("name")
@click.option(
    "--diff",
    "diff_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The diff of a pull request, as GitHub gives it at .../pull/N.diff.",
)
@click.option("--pr", type=int, metavar="N", help="Fetch that diff from GitHub.")
@click.option("--from", "release", metavar="VERSION", help="A release that the diff fits.")
@click.option("--before", metavar="VERSION", help="The last release without the fix.")
@click.option("--after", metavar="VERSION", help="The first release with it.")
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="FILE:NAME",
    help="With --before and --after: what to take, as vllm/a/b.py:Class.method. May be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="The folder that the patch is written to; default: here.",
)
@json_option
def new(
    name: str,
    diff_file: Path | None,
    pr: int | None,
    release: str | None,
    before: str | None,
    after: str | None,
    functions: Sequence[str],
    output: Path,
    as_data: bool,
) -> None:
    """Draft the patch NAME from upstream's fix, and say which releases need it.

    From a diff (--diff or --pr) and a release that it fits (--from): the functions that it changes
    are found, what nothing uses is left out and named, and they are written to NAME.diff beside the
    patch: that file holds code of vLLM's. Or from two releases and functions: then the patch holds
    their names and digests, and no line of vLLM.

    The releases from a few before it are read: the patch claims the run of those that need it.
    """
    from patcher.files import make_directory, write_atomically
    from patcher.landed.survey import survey_around
    from patcher.landed.timeline import needed_around
    from patcher.report import landed as report
    from patcher.rules.backport.draft import patch_file, whole_diff
    from patcher.rules.catalogue import is_file, select
    from patcher.sources.upstream import Releases

    if is_file(name):
        raise UsageError(f"{name!r} is no name", next_step="Take letters, digits and -.")
    upstream = Releases()
    draft = _draft(diff_file, pr, release, before, after, functions, upstream)
    for each in draft.dropped:
        say(f"left out: {each}")
    stem = name.replace("-", "_")
    path, beside = output / f"{stem}.py", output / f"{stem}.diff"
    there = next((each for each in (path, beside) if each.exists()), None)
    if there is not None:
        raise UsageError(f"{there} is there already", next_step="Take another name.")
    make_directory(output)
    kept = "" if draft.after else beside.name
    if kept:
        write_atomically(beside, whole_diff(draft).encode())
    base = release or before or ""
    named = str(path) if path.is_absolute() else f"./{path}"
    try:
        write_atomically(path, patch_file(name, draft, [f"=={base}"], pr, kept).encode())
        patch = select([named], upstream)[0]
        line = survey_around(patch, base, say)
        affected = needed_around(line, base)
        if not affected:
            raise Finding(
                f"vLLM {base} does not need it: {_said(line, base)}",
                next_step="Name a release that has the bug.",
            )
        write_atomically(path, patch_file(name, draft, affected, pr, kept).encode())
    except BaseException:
        path.unlink(missing_ok=True)
        if kept:
            beside.unlink(missing_ok=True)
        raise
    if as_data:
        taken = [str(each.scope) for each in draft.sides]
        said = {"path": path, "affected": affected, "functions": taken, "dropped": draft.dropped}
        click.echo(as_json("new", **said))
    else:
        click.echo(report.text(report.Answer((line,)), width_of(sys.stdout)), nl=False)
    for sides in draft.sides:
        say(f"takes {sides.scope}")
    say(f"wrote {path}: it claims {' or '.join(affected)}. Fill in its title and why; then")
    say(f"vllm-patcher diff --patch {shlex.quote(named)} pypi:{base}")


def _said(line: Timeline, version: str) -> str:
    found = next((each for each in line.findings if str(each.version) == version), None)
    if found is None:
        return "it was not read"
    return f"{found.verdict.status.value} ({found.verdict.reason or found.verdict.counts})"


def _draft(
    diff_file: Path | None,
    pr: int | None,
    release: str | None,
    before: str | None,
    after: str | None,
    functions: Sequence[str],
    upstream: Upstream,
) -> Draft:
    from patcher.errors import Unreadable
    from patcher.rules.backport.draft import of_diff, of_releases

    by_diff = (diff_file is not None) != (pr is not None) and release is not None
    if by_diff and not (before or after or functions):
        if diff_file is not None:
            try:
                text = diff_file.read_text("utf-8")
            except (OSError, ValueError) as error:
                raise Unreadable(
                    f"{diff_file} cannot be read: {type(error).__name__}", next_step="Check it."
                ) from error
        else:
            from patcher.web.github import pull_request_diff

            text = pull_request_diff(pr or 0)
        return of_diff(text, release or "", upstream)
    if before and after and functions and not (diff_file or release):
        return of_releases(functions, before, after, upstream)
    raise UsageError(
        "say what the fix is",
        next_step="Give --diff FILE or --pr N, and --from VERSION; or --before, --after and "
        "--function.",
    )
