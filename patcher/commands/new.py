"""`vllm-patcher new`: a patch drafted from upstream's fix."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over
from patcher.commands.command import Command
from patcher.commands.options import ca_file_option, http_settings, json_option
from patcher.errors import Finding, UsageError
from patcher.report.document import as_json
from patcher.talk import say
from patcher.terminal import width_of

if TYPE_CHECKING:
    from patcher.landed.timeline import Timeline
    from patcher.rules.backport.draft import Draft
    from patcher.rules.backport.written import About
    from patcher.rules.rule import Upstream
    from patcher.web.http import HttpSettings

EPILOG = """\
Exit codes: 0 the patch is written; 1 the fix cannot be taken, or that release does not need it;
2 a wrong call; 3 a release, a diff or GitHub cannot be read."""


_EXAMPLES = """
vllm-patcher new fix-it --pr 47953 --from 0.26.0
vllm-patcher new fix-it --before 0.27.1 --after 0.28.0 \\
  --function vllm/a/b.py:Class.method -o patches
"""

# That of a pull request has some 100 KB.
_MOST_DIFF = 16 << 20


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
@click.option(
    "--pr",
    type=int,
    metavar="N",
    help="Fetch that diff from GitHub; with --before and --after: its number.",
)
@click.option(
    "--from", "release", metavar="VERSION", help="The release that you run, which lacks the fix."
)
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
@ca_file_option
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
    ca_file: Path | None,
    as_data: bool,
) -> None:
    """Draft the patch NAME from upstream's fix, and say which releases need it.

    From a diff (--diff or --pr) and the release that you run (--from): where the diff does not fit
    that one, the nearest that it fits is found. The functions that it changes are taken, what
    nothing uses is left out and named, and they are written to NAME.diff beside the patch: that
    file holds code of vLLM's. Or from two releases and functions: then the patch holds their names
    and digests, and no line of vLLM.

    The releases from a few before it are read: the patch claims the run of those that need it.
    """
    from patcher.files import all_or_none, new_folder
    from patcher.jobs.draft import moved_files
    from patcher.report import landed
    from patcher.rules.backport.draft import of_releases, with_moves
    from patcher.rules.backport.written import About, patch_file, whole_diff
    from patcher.sources.upstream import Releases

    path, beside = _free_paths(name, output)
    settings = http_settings(ca_file, ())
    upstream = Releases(settings=lambda: settings)
    about = About(pr)
    of_two = before or after or functions
    if release and diff_file is not None and pr is None and not of_two:
        base, draft = release, _of_diff(_read(diff_file), release, upstream, settings)
    elif release and pr is not None and diff_file is None and not of_two:
        diff, about = _fetched(pr, settings)
        base, draft = release, _of_diff(diff, release, upstream, settings)
    elif before and after and functions and not (diff_file or release):
        _expect_order(before, after)
        base, draft = before, of_releases(functions, before, after, upstream)
    else:
        raise UsageError(
            "say what the fix is",
            next_step="Give --diff FILE or --pr N, and --from VERSION, the release that you run; "
            "or --before, --after and --function.",
        )
    for each in draft.dropped:
        say(f"left out: {each}")
    for sides in draft.sides:
        say(f"takes {sides.scope}")
    for move in draft.moved:
        say(str(move))
    kept = "" if draft.after else beside.name
    named = str(path) if path.is_absolute() else f"./{path}"
    with new_folder(output), all_or_none() as write:
        if kept:
            write(beside, whole_diff(draft))
        write(path, patch_file(name, draft, [f"=={base}"], about, kept))
        line, affected = _claim(named, base, upstream, settings)
        if moved := moved_files(draft, _files_of(line), upstream):
            for move in moved:
                say(str(move))
            draft = with_moves(draft, moved, upstream)
            write(path, patch_file(name, draft, [f"=={base}"], about, kept))
            line, affected = _claim(named, base, upstream, settings)
        if not as_data:
            hand_over(landed.text(landed.Answer((line,)), width_of(sys.stdout)))
        if not affected:
            raise _not_needed(line, base)
        write(path, patch_file(name, draft, affected, about, kept))
    if as_data:
        taken = [str(each.scope) for each in draft.sides]
        moves = [asdict(each) for each in draft.moved]
        said = {"path": path, "affected": affected, "functions": taken, "dropped": draft.dropped}
        hand_over(as_json("new", **said, moved=moves))
    say(f"wrote {path}: it claims {' or '.join(affected)}. Fill in its title and why; then")
    say(f"vllm-patcher diff --patch {shlex.quote(named)} pypi:{base}")


def _expect_order(before: str, after: str) -> None:
    """The other way round the patch would take the fix out."""
    from patcher.versions import parsed

    first, second = parsed(before), parsed(after)
    if first and second and first >= second:
        raise UsageError(f"--before {before} is not before --after {after}", next_step="Swap them.")


def _free_paths(name: str, output: Path) -> tuple[Path, Path]:
    """Where the patch and its diff are to be written. Raises `UsageError` where one is there."""
    from patcher.files import is_there
    from patcher.rules.catalogue import is_file

    if is_file(name):
        raise UsageError(f"{name!r} is not a patch's name", next_step="Take letters, digits and -.")
    stem = name.replace("-", "_")
    paths = output / f"{stem}.py", output / f"{stem}.diff"
    for each in paths:
        if is_there(each):
            raise UsageError(
                f"{each} is there already", next_step="Delete it, or take another name."
            )
    return paths


def _files_of(line: Timeline) -> list[tuple[str, set[str]]]:
    """The releases that were read, and which of the patch's files each has."""
    return [
        (str(each.version), {file.target for file in each.verdict.files})
        for each in line.versioned
        if each.verdict.by_content
    ]


def _claim(
    named: str, base: str, upstream: Upstream, settings: HttpSettings
) -> tuple[Timeline, tuple[str, ...]]:
    """What the releases around `base` say of a patch's file, and which of them it can claim."""
    from patcher.landed.survey import survey_around
    from patcher.landed.timeline import claiming, needed_around
    from patcher.rules.catalogue import select

    [patch] = select([named], upstream)
    line = survey_around(patch, base, settings, say)
    affected = needed_around(line, base)
    return claiming(line, affected), affected


def _not_needed(line: Timeline, version: str) -> Finding:
    """Why a release gets no patch, and which would."""
    from patcher.landed.timeline import bands
    from patcher.report.evidence import span
    from patcher.rules.verdict import Status

    found = next((each for each in line.findings if str(each.version) == version), None)
    needed = [span(band.findings) for band in bands(line.versioned) if band.status is Status.NEEDED]
    others = f"It merges into {', '.join(needed)}. " if needed else ""
    if found is None:
        return Finding(f"vLLM {version} was not read", next_step=f"{others}Check the version.")
    why = found.verdict.reason or found.verdict.counts
    if found.verdict.status is Status.CLEAN:
        return Finding(
            f"vLLM {version} has the fix: {why}", next_step=f"{others}Name one that lacks it."
        )
    return Finding(
        f"vLLM {version} cannot take the fix as it is: {why}",
        next_step=f"{others}Run one of these, or write the fix for {version} in a diff of your own "
        "or as a Replace: docs/writing-a-patch.md."
        if needed
        else "Write it in a diff of your own, or as a Replace: docs/writing-a-patch.md.",
    )


def _of_diff(text: str, release: str, upstream: Upstream, settings: HttpSettings) -> Draft:
    from patcher.jobs.draft import draft_near
    from patcher.landed.survey import known_releases

    draft, fitted = draft_near(text, release, upstream, lambda: known_releases(settings))
    if fitted != release:
        say(f"the diff does not fit vLLM {release}; it fits {fitted}, and is read there")
    return draft


def _fetched(number: int, settings: HttpSettings) -> tuple[str, About]:
    """The diff of a pull request, and what GitHub says of it."""
    from patcher.rules.backport.written import About
    from patcher.web.http import Http
    from patcher.web.pull_request import described, pull_request

    request = pull_request(number, Http(settings, say=say))
    say(described(request))
    return request.diff, About(number, request.title, request.state)


def _read(path: Path) -> str:
    from patcher.errors import Unreadable

    try:
        with path.open("rb") as file:  # a pipe will do: <(git diff ...)
            data = file.read(_MOST_DIFF + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        raise Unreadable(
            f"{path} cannot be read: {type(error).__name__}", next_step="Check it."
        ) from error
    if len(data) > _MOST_DIFF:
        raise Unreadable(
            f"{path} has more than {_MOST_DIFF >> 20} MiB", next_step="Give the diff of one fix."
        )
    return text
