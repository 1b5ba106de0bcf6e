"""`vllm-patcher lock`: the pins."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Group
from patcher.commands.completion import complete_name, complete_repository
from patcher.commands.options import (
    PLAIN_EPILOG,
    http_settings,
    json_option,
    lock_option,
    one_form,
    reach_options,
)
from patcher.errors import Exit
from patcher.files import is_there
from patcher.lock import lock_path
from patcher.progress import counting
from patcher.report.document import as_json
from patcher.talk import complain, say
from patcher.terminal import fitted, width_of
from patcher.text import counted

if TYPE_CHECKING:
    from patcher.lock.adding import Looked
    from patcher.lock.entries import Entry, Lock, Unread

_HERE = Path("images.lock")

offline_option = click.option("--offline", is_flag=True, help="Ask no registry.")
changed_lock_option = click.option(
    "--lock",
    type=click.Path(path_type=Path),
    help="The lock file to change; default: ./images.lock, created with the pins that came with "
    "the program.",
)
own_lock_option = click.option(
    "--lock",
    type=click.Path(path_type=Path),
    default=_HERE,
    help="The lock file; default: ./images.lock.",
)

form_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "markdown"]),
    help="Markdown is for a pull request's text. Default: a table.",
)

locate_option = click.option(
    "--locate",
    is_flag=True,
    help="Also read the image, all of it once, and write down where in its layers vLLM's files "
    "are: whoever uses the lock then reads some 100 KB of it.",
)


def _looked(locate: bool) -> Looked:
    """What the patches of the catalogue look for."""
    from patcher.lock.adding import Looked
    from patcher.rules.catalogue import select
    from patcher.sources.everywhere import searched_for

    patches = select([])
    targets = sorted({target for patch in patches for target in patch.targets})
    return Looked(tuple(targets), tuple(searched_for(patches)), locate)


_EPILOG = """\
Exit codes: 0 as wanted; 1 something is doubtful, moved or gone;
2 a wrong call; 3 could not decide or reach."""

_EXAMPLES = """
vllm-patcher lock list
vllm-patcher lock add 0.23.0 vllm/vllm-openai:v0.23.0
"""


_LIST_EXAMPLES = """
vllm-patcher lock list
vllm-patcher lock list --lock other.lock --json
"""
_ADD_EXAMPLES = """
vllm-patcher lock add 0.23.0 vllm/vllm-openai:v0.23.0
vllm-patcher lock add 0.23.0 ghcr.io/you/vllm:mine --locate
"""
_CHECK_EXAMPLES = """
vllm-patcher lock check
vllm-patcher lock check --offline
"""
_UPDATE_EXAMPLES = """
vllm-patcher lock update
vllm-patcher lock update vllm/vllm-openai --locate
vllm-patcher lock update --format markdown          # for a pull request
"""
_PRUNE_EXAMPLES = """
vllm-patcher lock prune
vllm-patcher lock prune --lock other.lock --json
"""


@click.group("lock", cls=Group, epilog=_EPILOG, examples=_EXAMPLES)
def lock_group() -> None:
    """The pins: which image a vLLM version means, by digest."""


@lock_group.command(
    "list", short_help="List what is locked.", epilog=PLAIN_EPILOG, examples=_LIST_EXAMPLES
)
@lock_option
@json_option
def lock_list(lock: Path | None, as_data: bool) -> None:
    """List what is locked: a line for each version, platform or index, digest and reference.

    `unknown` is a digest of which it is not known whether it is an index's or one platform's. On a
    terminal digests are cut to twelve digits.
    """
    from patcher.lock.file import load
    from patcher.report.lock import entry_json, lock_table

    entries = load(lock_path(lock)).entries
    if as_data:
        hand_over(as_json("lock list", images=[entry_json(entry) for entry in entries]))
    elif entries:
        show(lock_table(entries, width_of(sys.stdout)))


@lock_group.command(
    "add",
    short_help="Lock a version to an image, by digest.",
    epilog=PLAIN_EPILOG,
    examples=_ADD_EXAMPLES,
)
@click.argument("version")
@click.argument("reference")
@changed_lock_option
@locate_option
@offline_option
@reach_options
@json_option
def lock_add(
    version: str,
    reference: str,
    lock: Path | None,
    locate: bool,
    offline: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Lock VERSION to the image REFERENCE, by the digests that its registry has.

    Write a nightly's whole version: 0.23.1rc1.dev672+g93d8f834d, not 0.23.1rc1, which would sort
    above all of them. With --offline a digest (...@sha256:...) is taken at its word.
    """
    from patcher.layer_cache import LayerCache
    from patcher.lock.adding import add_to_lock
    from patcher.lock.file import load
    from patcher.report.lock import entry_json, lock_table
    from patcher.web.http import Http

    http = None if offline else Http(http_settings(ca_file, plain_http))
    path, start = _own(lock)
    is_new = not is_there(path)
    looked = _looked(locate) if locate else None
    entry = add_to_lock(path, start, version, reference, http, looked, LayerCache())
    if locate:
        _say_located([entry])
    if is_new and start != path:
        _say_created(path)
    _say_what_it_means(version, entry, load(path))
    if as_data:
        hand_over(as_json("lock add", image=entry_json(entry)))
    else:
        show(lock_table([entry], width_of(sys.stdout)))


def _say_created(path: Path) -> None:
    say(f"created {path} with the pins that came with the program")


def _say_what_it_means(version: str, entry: Entry, known: Lock) -> None:
    """Where the version that was locked means another image than one might think."""
    from patcher.lock.entries import Kind
    from patcher.lock.picking import meant_by
    from patcher.versions import base, parsed

    stated = parsed(entry.original.reference.tag or "")
    is_release = Kind.RELEASE.has(entry.original.reference)
    if stated and is_release and base(stated) != base(entry.locked.version):
        say(f"note: the tag is that of vLLM {stated}, and is locked as {version}")
    if Kind.NIGHTLY.has(entry.original.reference) and not entry.locked.version.is_devrelease:
        say(f"note: {version} sorts above all its nightlies; a nightly's own version has .devN")
    others = [
        str(other.original.reference)
        for other in known.entries
        if other.locked.version == entry.locked.version and other.key != entry.key
    ]
    if others:
        meant = meant_by(known, version)
        say(f"note: {version} is locked as {', '.join(others)} too")
        if meant is not None:
            say(f"note: {version} means {meant.original.reference}; name a reference for another")


def _say_located(entries: Sequence[Entry]) -> None:
    for entry in entries:
        for platform, pin in entry.locked.platforms.items():
            done = f"{entry.locked.version} for {platform}: "
            if pin.located is None:
                say(f"{done}not located: it is not one plain vLLM in layers of gzip")
            else:
                say(f"{done}located in {pin.located.root}")


@lock_group.command(
    "remove",
    short_help="Drop images from the lock.",
    epilog=PLAIN_EPILOG,
    examples="vllm-patcher lock remove 0.23.0",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_name)
@changed_lock_option
@json_option
def lock_remove(names: Sequence[str], lock: Path | None, as_data: bool) -> None:
    """Drop images from the lock: each NAME is a version, a reference or a commit in it.

    A name that fits several images is refused, and nothing is dropped; VERSION=REFERENCE names one
    of several versions of one reference.
    """
    from patcher.lock.adding import remove_from_lock
    from patcher.report.lock import entry_json, lock_table

    path, start = _own(lock)
    is_new = not is_there(path)
    gone = remove_from_lock(path, start, names)
    if is_new and start != path:
        _say_created(path)
    if as_data:
        hand_over(as_json("lock remove", removed=[entry_json(entry) for entry in gone]))
    else:
        show(lock_table(gone, width_of(sys.stdout)))
    say(f"removed {counted(len(gone), 'image')} from {path}")


def _own(lock: Path | None) -> tuple[Path, Path]:
    """The lock file to change, and the one that it begins with where it is not there yet.

    Where no other file is named, the one here takes the place of the one that is shipped.
    """
    return (lock, lock) if lock else (_HERE, lock_path(None))


@lock_group.command(
    "check",
    short_help="Check the lock against itself and the registries.",
    epilog=_EPILOG,
    examples=_CHECK_EXAMPLES,
)
@lock_option
@offline_option
@reach_options
@json_option
@click.pass_context
def lock_check(
    context: click.Context,
    lock: Path | None,
    offline: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Check the lock: its form, whether its entries agree, and what the registries say today.

    A tag that leads elsewhere has moved; nothing can be built on a digest that is gone.
    """
    from patcher.lock.drift import Drift, Drifted, check_pins
    from patcher.lock.entries import check
    from patcher.lock.file import load
    from patcher.registry.repository import Repository
    from patcher.web.http import Http

    found = load(lock_path(lock))
    flaws = check(found)
    drifts: list[Drifted] = []
    if not offline:
        open_at = functools.partial(Repository, http=Http(http_settings(ca_file, plain_http)))
        with counting("asking the registries") as watch:
            drifts = list(check_pins(found, open_at, watch))
    if as_data:
        entries = len(found.entries)
        hand_over(as_json("lock check", entries=entries, flaws=flaws, drifts=drifts))
    else:
        said = [(one.image, one.problem) for one in flaws] + [(d.image, d.problem) for d in drifts]
        for image, problem in said:
            show(fitted(f"{image}: {problem}", width_of(sys.stdout)))
    unknown = [drift for drift in drifts if drift.drift is Drift.UNKNOWN]
    asked = f"{len(drifts) - len(unknown)} drifted, {len(unknown)} not reached"
    registries = "no registry was asked" if offline else asked
    say(f"{counted(len(found.entries), 'image')}: {len(flaws)} with flaws, {registries}")
    if flaws or len(unknown) < len(drifts):
        context.exit(Exit.FINDING)
    context.exit(Exit.UNDECIDED if unknown else Exit.OK)


@lock_group.command(
    "update",
    short_help="Lock what is newer in the registries.",
    epilog=PLAIN_EPILOG,
    examples=_UPDATE_EXAMPLES,
)
@click.argument("names", nargs=-1, metavar="[REPOSITORY]...", shell_complete=complete_repository)
@own_lock_option
@locate_option
@reach_options
@form_option
@json_option
@click.pass_context
def lock_update(
    context: click.Context,
    names: Sequence[str],
    lock: Path,
    locate: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
    form: str | None,
    as_data: bool,
) -> None:
    """Lock what is newer in the registries, and print it. Drops nothing.

    It looks in the repositories that the lock has images of, or only in the named ones
    (vllm/vllm-openai). Newer is what comes after the newest locked one of its kind: a release
    (v0.23.0), a dated build (2026070501), a nightly (nightly-COMMIT). A release's version is its
    tag. That of the others is read out of the image: its layers are streamed from the top down to
    the one that vLLM is in.

    An image that cannot be read is reported, and the others are locked all the same; then the
    exit code is 3.
    """
    from patcher.layer_cache import LayerCache
    from patcher.lock.entries import add
    from patcher.lock.file import edit, load
    from patcher.lock.newer import find_newer
    from patcher.report.lock import entry_json, lock_table, update_markdown
    from patcher.web.http import Http

    style = one_form(form, as_data)
    http = Http(http_settings(ca_file, plain_http), say=say)
    done = find_newer(load(lock), names, http, LayerCache(), say, _looked(locate))
    if locate:
        _say_located(done.added)
    if done.added:
        edit(lock, lock, lambda known: functools.reduce(add, done.added, known))
    if style == "json":
        added = [entry_json(entry) for entry in done.added]
        said = {"repositories": done.repositories, "added": added, "unread": done.unread}
        hand_over(as_json("lock update", **said))
    elif style == "markdown":
        hand_over(update_markdown(done))
    elif done.added:
        show(lock_table(done.added, width_of(sys.stdout)))
    _complain_of(done.unread)
    where = ", ".join(done.repositories) or "no repository"
    say(f"{lock}: {counted(len(done.added), 'image')} added; looked in {where}")
    context.exit(Exit.UNDECIDED if done.unread else Exit.OK)


@lock_group.command(
    "prune",
    short_help="Drop the digests that are gone upstream.",
    epilog=PLAIN_EPILOG,
    examples=_PRUNE_EXAMPLES,
)
@own_lock_option
@reach_options
@form_option
@json_option
@click.pass_context
def lock_prune(
    context: click.Context,
    lock: Path,
    ca_file: Path | None,
    plain_http: Sequence[str],
    form: str | None,
    as_data: bool,
) -> None:
    """Drop the digests that are gone upstream, and print them.

    A tag that moved or went drops nothing, as its digest can still be pulled. Nor does a registry
    that does not answer; then the exit code is 3.
    """
    from patcher.lock.drift import dropped, find_gone
    from patcher.lock.file import edit, load
    from patcher.report.lock import gone_json, gone_summary, pins_table, prune_markdown
    from patcher.web.http import Http

    style = one_form(form, as_data)
    http = Http(http_settings(ca_file, plain_http), say=say)
    with counting("asking the registries") as watch:
        done = find_gone(load(lock), http, watch)
    if done.gone:
        edit(lock, lock, lambda known: dropped(known, done.gone))
    if style == "json":
        gone = [gone_json(each) for each in done.gone]
        hand_over(as_json("lock prune", gone=gone, unread=done.unread))
    elif style == "markdown":
        hand_over(prune_markdown(done))
    elif done.gone:
        show(pins_table([(each.entry, each.pins) for each in done.gone], width_of(sys.stdout)))
    _complain_of(done.unread)
    say(f"{lock}: {gone_summary(done.gone)}")
    context.exit(Exit.UNDECIDED if done.unread else Exit.OK)


def _complain_of(unread: Sequence[Unread]) -> None:
    for each in unread:
        complain(f"{each.image}: could not be read, and stays as it was: {each.problem}")
