"""`vllm-patcher verify`: what a vLLM needs; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_source
from patcher.commands.options import (
    EPILOG,
    STDIN,
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
from patcher.errors import Exit, PatcherError, UsageError
from patcher.lock import lock_path
from patcher.report.verdicts import (
    COLOURS,
    exit_for,
    notice_line,
    verdict_lines,
    verdict_summary,
    verify_json,
)
from patcher.rules.verdict import Status
from patcher.talk import complain, say

if TYPE_CHECKING:
    from patcher.jobs.verify import SourceReport

_EXAMPLES = """
vllm-patcher verify pypi:0.23.0                     # a release on PyPI
vllm-patcher verify .venv --patch kv-b-proj-dtype   # an installed vLLM
vllm-patcher verify vllm/vllm-openai:v0.23.0        # an image, without a pull
vllm-patcher verify git:vllm@main                   # a commit of a clone
"""


@click.command(
    cls=Command,
    epilog=EPILOG,
    examples=_EXAMPLES,
    short_help="Name every place that needs a patch.",
)
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=complete_source
)
@patch_options
@source_options
@click.option(
    "--proof",
    is_flag=True,
    help="Read the proof beside an image that `image --to` made, and hold it against the image.",
)
@click.option(
    "--everywhere",
    is_flag=True,
    help="Also name the places in other files of an installed tree or an image; they do not "
    "decide.",
)
@stdin_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    sources: Sequence[str],
    patches: Sequence[str],
    folders: Sequence[Path],
    platform: str | None,
    root: str | None,
    lock: Path | None,
    ca_file: Path | None,
    plain_http: Sequence[str],
    proof: bool,
    everywhere: bool,
    named: str | None,
    as_data: bool,
) -> None:
    """Name every place in a vLLM that needs a patch, as a compiler does.

    SOURCE is a file, a site-packages tree or virtual environment, pypi:0.23.0, a wheel or its
    address, oci:DIR[:NAME], git:DIR@REF, a name in images.lock, or - for a file on standard input.
    Anything else is an image: looked for in the Docker daemon (alone: docker:NAME), then in its
    registry (alone: registry:NAME), and read there without a pull. What cannot be shown
    to be right counts as needing the patch. Of an image that holds several vLLMs, each that some
    Python of it could import is judged. One SOURCE that cannot be read is unknown; the others are
    judged all the same.
    """
    from patcher.jobs.verify import unread, verify_source
    from patcher.sources.spec import open_source

    given = given_source(sources, named)
    if proof:
        if patches or platform or root or everywhere or given:
            raise UsageError(
                "--proof is about all that the proof says",
                next_step="Leave --patch, --platform, --root, --everywhere and - out.",
            )
        _verify_proofs(context, sources, folders, ca_file, plain_http, as_data)
        return
    wanted = chosen(patches, folders, ca_file, plain_http)
    opened = partial(
        open_source,
        lock=lock_path(lock),
        platform=parsed_platform(platform),
        settings=partial(http_settings, ca_file, plain_http),
        root=root,
        whole=everywhere,
    )
    reports = []
    for spec in sources:
        try:
            source = given if given and spec == STDIN else opened(spec)
            report = verify_source(source, wanted, elsewhere=everywhere)
        except PatcherError as error:
            report = unread(spec, wanted, error)
        _say_what_it_is(report)
        reports.append(report)
    lost = [report.error for report in reports if report.error]
    if len(lost) == len(reports):
        raise lost[0]
    if as_data:
        hand_over(verify_json(reports))
    _tell(reports, places=not as_data, in_full=bool(patches))
    code = exit_for(verdict for report in reports for verdict in report.verdicts)
    is_open = any(report.question for report in reports)
    context.exit(Exit.UNDECIDED if code is Exit.OK and is_open else code)


def _say_what_it_is(report: SourceReport) -> None:
    """As each source is read, since the next one may take minutes."""
    for note in report.notes:
        say(note)
    if report.question:
        complain(f"{report.label}: {report.question}")
    for copy in report.judged:
        say_of_version(copy)


def _tell(reports: Sequence[SourceReport], *, places: bool, in_full: bool) -> None:
    """The verdicts; with `places` each place that needs a patch, on stdout."""
    for report in reports:
        for verdict in report.verdicts:
            if places:
                show(verdict_lines(verdict, report.locate))
            # With --quiet too: what could not be judged is an error.
            tell = say if verdict.status in {Status.NEEDED, Status.CLEAN} else complain
            summary = verdict_summary(verdict, in_full=in_full)
            tell(summary, None if verdict.outside else COLOURS[verdict.status])
    for report in reports:
        for found in report.elsewhere:
            say(notice_line(found, report.root))
    for report in reports:
        for verdict in report.idle:
            say(f"{verdict_summary(verdict)}: no Python is seen to import it")
    for report in reports:
        if report.error:
            complain(f"{report.label}: next: {report.error.next_step}")


def _verify_proofs(
    context: click.Context,
    names: Sequence[str],
    folders: Sequence[Path],
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    from patcher.jobs.check_proof import check_proofs
    from patcher.report.verdicts import difference_line, proof_summary, proofs_json

    # The program's patches and the user's own. A proof comes from elsewhere: nothing is loaded
    # because it names it.
    known = {patch.name: patch for patch in chosen((), folders, ca_file, plain_http)}
    settings = http_settings(ca_file, plain_http)
    checked = [each for name in names for each in check_proofs(name, settings, known)]
    after = [verdict for each in checked for verdict in each.after]
    if as_data:
        hand_over(proofs_json(checked))
    for each in checked:
        if not as_data:
            show(difference_line(each, difference) for difference in each.differences)
        for line in proof_summary(each):
            say(line)
    code = Exit.FINDING if any(each.differences for each in checked) else exit_for(after)
    is_open = any(each.undecided or each.problem for each in checked)
    context.exit(Exit.UNDECIDED if code is Exit.OK and is_open else code)
