"""`vllm-patcher verify` and `vllm-patcher diff`: what a vLLM needs; nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over, pass_on, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_source
from patcher.commands.options import (
    EPILOG,
    ca_file_option,
    chosen,
    http_settings,
    json_option,
    lock_option,
    parsed_platform,
    patch_options,
    plain_http_option,
    platform_option,
    root_option,
    say_of_version,
)
from patcher.errors import Exit, FileAbsent, PatcherError, Unreadable, UsageError, printable
from patcher.lock import lock_path
from patcher.report.text import (
    COLOURS,
    as_json,
    copy_json,
    exit_for,
    notice_line,
    shown_diff,
    verdict_lines,
    verdict_summary,
)
from patcher.rules.apply import apply_all
from patcher.rules.verdict import Status, Verdict, judge
from patcher.talk import complain, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from patcher.oci.installation import Installation
    from patcher.report.text import Locate
    from patcher.rules.patch import Patch
    from patcher.rules.source import Source
    from patcher.sources.everywhere import Notice
    from patcher.sources.path import FileSource
    from patcher.web.http import HttpSettings

_STDIN = "-"

stdin_option = click.option(
    "--stdin-filename",
    "named",
    metavar="PATH",
    help="What the file on standard input is called in vLLM, where SOURCE is -.",
)

_VERIFY_EXAMPLES = """
vllm-patcher verify pypi:0.23.0                     # a release on PyPI
vllm-patcher verify .venv --patch kv-b-proj-dtype   # an installed vLLM
vllm-patcher verify vllm/vllm-openai:v0.23.0        # an image, without a pull
vllm-patcher verify git:vllm@main                   # a commit of a clone
"""

_DIFF_EXAMPLES = """
vllm-patcher diff pypi:0.23.0
vllm-patcher diff .venv --patch kv-b-proj-dtype > fix.diff
"""


@click.command(
    cls=Command,
    epilog=EPILOG,
    examples=_VERIFY_EXAMPLES,
    short_help="Name every place that needs a patch.",
)
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=complete_source
)
@patch_options
@platform_option
@root_option
@lock_option
@ca_file_option
@plain_http_option
@click.option(
    "--proof",
    is_flag=True,
    help="Read the proof beside an image that `image --to` made, and hold it against the image.",
)
@click.option(
    "--everywhere",
    is_flag=True,
    help="Also name the places in other files of an installed tree; they do not decide.",
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
    address, oci:DIR[:NAME], git:DIR@REF, an image in the Docker daemon or in its registry (read
    without a pull), a name in images.lock, or - for a file on standard input. What cannot be shown
    to be right counts as needing the patch. Of an image that holds several vLLMs, each that some
    Python of it could import is judged. One SOURCE that cannot be read is unknown; the others are
    judged all the same.
    """
    from patcher.sources.images import CopySource, ImageSource
    from patcher.sources.path import PathSource, concerned
    from patcher.sources.spec import open_source

    given = _given(sources, named)
    if proof:
        if patches or platform or root or everywhere or given:
            raise UsageError(
                "--proof is about all that the proof says",
                next_step="Leave --patch, --platform, --root, --everywhere and - out.",
            )
        _verify_proofs(context, sources, http_settings(ca_file, plain_http), folders, as_data)
        return
    wanted, place = chosen(patches, folders), parsed_platform(platform)
    settings = partial(http_settings, ca_file, plain_http)
    opened = partial(
        open_source,
        lock=lock_path(lock),
        platform=place,
        settings=settings,
        root=root,
        whole=everywhere,
    )
    told: list[tuple[Verdict, Locate | None]] = []
    elsewhere, idle, told_copies = [], [], []
    lost: list[tuple[str, PatcherError]] = []
    is_open = False
    for spec in sources:
        try:
            source = given if given and spec == _STDIN else opened(spec)
            source, own = concerned(source, wanted)
            copies, others = _copies(source, own, everywhere)
            here = source.locate if isinstance(source, PathSource) else None
            judged = [(judge(patch, copy), here) for copy in copies for patch in own]
            if isinstance(source, ImageSource) and isinstance(copies[0], CopySource):
                found = copies[0].installation
                beside = {
                    each.installation.root: [judge(patch, each) for patch in wanted]
                    for each in source.idle(found)
                }
                idle += [verdict for each in beside.values() for verdict in each]
                is_open = _is_open(source.label, found, beside) or is_open
                told_copies += [copy_json(source.label, copy) for copy in found.copies]
        except PatcherError as error:
            lost.append((spec, error))
            name = printable(spec, 5000)
            unread = partial(Verdict, artifact=name, status=Status.UNKNOWN, reason=error.problem)
            told += [(unread(patch.name), None) for patch in wanted]
        else:
            for copy in copies:
                say_of_version(copy)
            told += judged
            elsewhere += [(each, _root(source)) for each in others]
    if len(lost) == len(sources):
        raise lost[0][1]
    verdicts = [verdict for verdict, _ in told]
    if as_data:
        notices = [notice for (_, notice), _ in elsewhere]
        hand_over(
            as_json("verify", verdicts=verdicts, elsewhere=notices, copies=told_copies, idle=idle)
        )
    for verdict, locate in told:
        if not as_data:
            show(verdict_lines(verdict, locate))
        # What could not be judged is an error to whoever wants no talk.
        tell = say if verdict.status in {Status.NEEDED, Status.CLEAN} else complain
        tell(verdict_summary(verdict), None if verdict.outside else COLOURS[verdict.status])
    for (patch, notice), root_here in elsewhere:
        say(notice_line(notice, patch.rule.words, root_here))
    for verdict in idle:
        say(f"{verdict_summary(verdict)}: no Python is seen to import it")
    for spec, why in lost:
        complain(f"{spec}: next: {why.next_step}")
    code = exit_for(verdicts)
    context.exit(Exit.UNDECIDED if code is Exit.OK and is_open else code)


def _root(source: Source) -> Path | None:
    """The folder that an installed tree has its packages in; None for what is no such tree."""
    from patcher.sources.path import TreeSource

    return source.root if isinstance(source, TreeSource) else None


def _given(sources: Sequence[str], named: str | None) -> FileSource | None:
    """The file on standard input, where a SOURCE is -. Raises `UsageError`, `Unreadable`."""
    from patcher.sources.path import given_file

    count = list(sources).count(_STDIN)
    if count and named is None:
        raise UsageError(
            "the file on standard input has no name",
            next_step="Say what it is called in vLLM: --stdin-filename vllm/.../name.py.",
        )
    if named is None:
        return None
    if count != 1 or sys.stdin is None:
        raise UsageError(
            "--stdin-filename names the one SOURCE that is -, standard input",
            next_step="Give - once, and a file to read there.",
        )
    return given_file(named, sys.stdin.buffer)


def _is_open(label: str, found: Installation, idle: Mapping[str, Sequence[Verdict]]) -> bool:
    """Is it open whether what was judged is what runs? Then it is said, with what to do."""
    from patcher.sources.images import open_question

    status = {
        root: {verdict.status for verdict in each if not verdict.outside}
        for root, each in idle.items()
    }
    unknown = [root for root, each in status.items() if Status.UNKNOWN in each]
    problem = open_question(found, [root for root, each in status.items() if Status.NEEDED in each])
    if problem is None and unknown:
        problem = f"the vLLM in {unknown[0]} cannot be judged"
    if problem is not None:
        complain(f"{label}: undecided: {problem}. Say which is run: --root {found.root}")
    return problem is not None


def _verify_proofs(
    context: click.Context,
    names: Sequence[str],
    settings: HttpSettings,
    folders: Sequence[Path],
    as_data: bool,
) -> None:
    from patcher.jobs.check_proof import check_proofs
    from patcher.report.text import difference_line, proof_json, proof_summary

    # What the program and the person have. A proof is somebody else's: nothing that it names is
    # loaded.
    known = {patch.name: patch for patch in chosen((), folders)}
    checked = [each for name in names for each in check_proofs(name, settings, known)]
    after = [verdict for each in checked for verdict in each.after]
    if as_data:
        proofs = [proof_json(each) for each in checked]
        hand_over(
            as_json("verify", verdicts=after, elsewhere=[], copies=[], idle=[], proofs=proofs)
        )
    for each in checked:
        if not as_data:
            show(difference_line(each, difference) for difference in each.differences)
        for line in proof_summary(each):
            say(line)
    code = Exit.FINDING if any(each.differences for each in checked) else exit_for(after)
    is_open = any(each.undecided or each.problem for each in checked)
    context.exit(Exit.UNDECIDED if code is Exit.OK and is_open else code)


def _copies(
    source: Source, patches: Sequence[Patch], everywhere: bool
) -> tuple[Sequence[Source], list[tuple[Patch, Notice]]]:
    """What is to be judged, and the rules' places elsewhere: a source is mostly one vLLM."""
    from patcher.sources.everywhere import in_image, searched_for
    from patcher.sources.images import ImageSource, NoCopy, told

    if not isinstance(source, ImageSource):
        return [source], _elsewhere(source, patches) if everywhere else []
    targets = sorted({target for patch in patches for target in patch.targets})
    try:
        copies = source.copies(targets, searched_for(patches))
    except (FileAbsent, Unreadable) as error:
        # It is told as a verdict, with its reason.
        return [NoCopy(source.label, error)], []
    found = copies[0].installation
    for line in told(found):
        say(f"{source.label}: {line}")
    notices = [(patch, in_image(found, patch, whole=everywhere)) for patch in patches]
    return copies, [(patch, notice) for patch, each in notices for notice in each]


def _elsewhere(source: Source, patches: Sequence[Patch]) -> list[tuple[Patch, Notice]]:
    """The rules' places in other files of a tree; of anything else only the targets are read."""
    from patcher.sources.everywhere import everywhere
    from patcher.sources.path import TreeSource

    if not isinstance(source, TreeSource):
        raise UsageError(
            f"{source.label} is neither an installed tree nor an image",
            next_step="Leave --everywhere out for it.",
        )
    return [(patch, each) for patch in patches for each in everywhere(source.root, patch)]


@click.command(
    cls=Command,
    epilog=EPILOG,
    examples=_DIFF_EXAMPLES,
    short_help="Show what the patches would change, as a diff.",
)
@click.argument("source", shell_complete=complete_source)
@patch_options
@platform_option
@root_option
@lock_option
@ca_file_option
@plain_http_option
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
    from patcher.sources.path import concerned
    from patcher.sources.spec import open_source

    settings = partial(http_settings, ca_file, plain_http)
    found = _given((source,), named) or open_source(
        source, lock_path(lock), parsed_platform(platform), settings, root
    )
    found, wanted = concerned(found, chosen(patches, folders))
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
