"""`vllm-patcher landed`: is upstream's fix in?"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import ended, hand_over
from patcher.commands.command import Command
from patcher.commands.completion import complete_source
from patcher.commands.options import (
    chosen,
    http_settings,
    json_option,
    lock_option,
    one_form,
    patch_options,
    reach_options,
)
from patcher.errors import Exit, UsageError
from patcher.files import is_folder, write_atomically
from patcher.landed import Scope
from patcher.lock import lock_path
from patcher.progress import counting
from patcher.report.formats import Format, format_of, rendered
from patcher.rules.patch import Patch
from patcher.rules.verdict import Status
from patcher.talk import say
from patcher.terminal import width_of
from patcher.web.http import HttpSettings

if TYPE_CHECKING:
    from packaging.version import Version

    from patcher.report.landed import Answer

EPILOG = """\
Exit codes: 0 as wanted; 1 a claim is refuted (--check); 2 a wrong call;
3 something could not be read or decided; what could is still answered."""


_EXAMPLES = """
vllm-patcher landed --patch kv-b-proj-dtype         # releases on PyPI
vllm-patcher landed --images                        # what images.lock pins
vllm-patcher landed --git vllm@main                 # which commits of a clone
vllm-patcher landed --check                         # do the claims hold?
vllm-patcher landed -o landed.html                  # as a page
"""


@click.command(
    cls=Command, epilog=EPILOG, examples=_EXAMPLES, short_help="Say whether upstream's fix is in."
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", shell_complete=complete_source)
@click.option("--since", metavar="VERSION", help="The oldest version to read; 0 for all.")
@click.option("--until", metavar="VERSION", help="The newest version to read.")
@click.option("--pre", is_flag=True, help="Read pre-releases and nightlies too.")
@patch_options
@click.option("--index", metavar="URL", help="Read this index instead of PyPI (PEP 503, PEP 691).")
@click.option(
    "--wheel", "wheels", multiple=True, metavar="URL", help="Read this wheel; may be repeated."
)
@click.option("--images", is_flag=True, help="Read every image of images.lock that can be reached.")
@lock_option
@click.option(
    "--git", metavar="DIR[@REF]", help="Walk a local clone; name the commits that fixed and broke."
)
@click.option(
    "--bisect",
    is_flag=True,
    help="With --git: only the newest such commit, by a few reads; see above.",
)
@click.option("--check", is_flag=True, help="Compare with what each patch claims in `affected`.")
@click.option(
    "--format",
    "form",
    type=click.Choice([each.value for each in Format]),
    help="Default: what FILE's suffix says, else a table.",
)
@json_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the answer here instead of stdout.",
)
@click.option(
    "--everywhere",
    is_flag=True,
    help="Also look for the read in other files: 4 times the bytes of a wheel's verdict.",
)
@click.option("--no-cache", is_flag=True, help="Read everything again.")
@reach_options
@click.pass_context
def landed(
    context: click.Context,
    sources: Sequence[str],
    since: str | None,
    until: str | None,
    pre: bool,
    patches: Sequence[str],
    folders: Sequence[Path],
    index: str | None,
    wheels: Sequence[str],
    images: bool,
    lock: Path | None,
    git: str | None,
    bisect: bool,
    check: bool,
    form: str | None,
    as_data: bool,
    output: Path | None,
    everywhere: bool,
    no_cache: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
) -> None:
    """Say whether upstream's fix is in: for each release, nightly, image or commit, by content.

    Without arguments every release on PyPI is read that the patches' claims reach back to; a
    few ranges of each wheel are fetched, none is downloaded. SOURCE is what `verify` takes; with
    SOURCE, --wheel or --images only these are read, unless --index is given too.

    --git walks every commit of a branch that touched the file, through renames. --bisect reads
    few of them: it looks back from the newest in doubling steps until the verdict differs, then
    halves the gap. The commit that it names fixed or broke it, but where a fix came and went
    again between two commits that it read (vLLM's history has such), it does not see that, and a
    newer one may exist. Leave it out to be sure.

    --check is for a daily job: exit 1 and the patch, release and direction where content refutes
    a claim. Editing `affected` in the patch's file clears it.
    """
    wanted = chosen(patches, folders, ca_file, plain_http)
    style = _format(form, as_data, output)
    scope = Scope(
        releases=index is not None or not (sources or wheels or images),
        index=index,
        since=_version(since),
        until=_version(until),
        pre=pre,
        wheels=tuple(wheels),
        images=images,
        sources=tuple(sources),
        lock=lock_path(lock),
        cached=not no_cache,
        everywhere=everywhere,
        settings=http_settings(ca_file, plain_http),
    )
    if output and not is_folder(output.absolute().parent):
        raise UsageError(
            f"there is no folder {output.parent} for {output.name}", next_step="Make it first."
        )
    if scope.since and scope.until and scope.since > scope.until:
        raise UsageError(f"--since {since} is after --until {until}", next_step="Swap them.")
    if git is None:
        if bisect:
            raise UsageError("--bisect needs a clone", next_step="Name it with --git DIR.")
        answer = _surveyed(wanted, scope, check)
    else:
        alone = Scope(lock=scope.lock, cached=scope.cached, settings=HttpSettings())
        if check or scope != alone:
            raise UsageError(
                "--git walks commits, which have no version and no index",
                next_step="Give it with --bisect, --patch and output options only.",
            )
        answer = _walked(wanted, git, bisect)
    _write(answer, style, output)
    context.exit(_exit(answer))


def _surveyed(patches: Sequence[Patch], scope: Scope, check: bool) -> Answer:
    """Read the artifacts and order what they say."""
    from patcher.landed import claims
    from patcher.landed.survey import survey
    from patcher.landed.timeline import timelines
    from patcher.report.landed import Answer

    if scope.releases and scope.since is None:
        scope = dataclasses.replace(scope, since=claims.oldest_claimed(patches))
        if scope.since and scope.until and scope.since > scope.until:
            raise UsageError(
                f"the oldest claimed version, {scope.since}, is after --until {scope.until}",
                next_step="Give --since, too; 0 is for all.",
            )
    with counting("reading") as watch:
        findings = survey(patches, scope, say, watch)
    lines = timelines(patches, findings)
    return Answer(lines, tuple(claims.check(line) for line in lines) if check else ())


def _walked(patches: Sequence[Patch], spec: str, bisect: bool) -> Answer:
    """Walk the clone once for each patch."""
    from patcher.landed.history import history
    from patcher.report.landed import Answer
    from patcher.sources.git import open_git

    # What `verify` takes, too.
    source = open_git(spec.removeprefix("git:"))
    with contextlib.closing(source.clone), counting("walking") as watch:
        histories = [
            history(patch, source.clone, source.commit, watch, bisect=bisect) for patch in patches
        ]
    return Answer(histories=tuple(histories))


def _exit(answer: Answer) -> Exit:
    """A check decides by its claims; else the answer is whole, or it is not."""
    from patcher.landed import claims

    if answer.checks:
        return claims.exit_for(answer.checks)
    holes = [line for line in answer.timelines if line.unread or not line.findings]
    lost = [each for each in answer.histories if each.head.verdict.status is Status.UNKNOWN]
    never = [each for each in answer.histories if not each.touching]
    return Exit.UNDECIDED if holes or lost or never else Exit.OK


def _write(answer: Answer, form: Format, output: Path | None) -> None:
    if output is None:
        hand_over(rendered(answer, form, width_of(sys.stdout)))
    else:
        write_atomically(output, ended(rendered(answer, form, None)).encode())
        say(f"wrote {output}")


def _format(form: str | None, as_data: bool, output: Path | None) -> Format:
    if asked := one_form(form, as_data):
        return Format(asked)
    return format_of(output) if output else Format.TABLE


def _version(text: str | None) -> Version | None:
    if text is None:
        return None
    from patcher.versions import parsed

    version = parsed(text)
    if version is None:
        raise UsageError(
            f"{text!r} is not a version", next_step="Write it as PEP 440 does: 0.23.0."
        )
    return version
