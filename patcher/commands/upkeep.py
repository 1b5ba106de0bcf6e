"""`vllm-patcher lock update` and `lock prune`: the pins, kept up with their registries."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import click

from patcher.commands.lock import lock_group
from patcher.commands.options import (
    EPILOG,
    ca_file_option,
    http_settings,
    json_option,
    lock_option,
    plain_http_option,
    say,
)
from patcher.errors import Exit
from patcher.report.text import as_json

_HERE = Path("images.lock")


@lock_group.command("update", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[REPOSITORY]...")
@lock_option
@ca_file_option
@plain_http_option
@json_option
@click.pass_context
def lock_update(
    context: click.Context,
    names: Sequence[str],
    lock: Path | None,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Lock what is newer in the registries. Drops nothing; prints Markdown for a pull request.

    Looked in are the repositories that the lock has images of, or only the named ones
    (vllm/vllm-openai). Newer is a release (v0.23.0), a nightly (nightly-COMMIT) or a dated build
    (2026070501) above the newest locked one of its kind. A release's version is its tag. That of
    the others is read out of the image: the layers above vLLM and its own are streamed, once.

    An image that cannot be read is reported, and the others are locked all the same; then the
    exit code is 3.
    """
    from patcher.layer_cache import LayerCache, default_folder
    from patcher.lock.entries import add
    from patcher.lock.file import edit, load
    from patcher.lock.upkeep import update
    from patcher.report.summary import update_markdown
    from patcher.report.text import entry_json
    from patcher.web.http import Http

    path = lock or _HERE
    http = Http(http_settings(ca_file, plain_http), say=say)
    done = update(load(path), names, http, LayerCache(default_folder()), say)
    if done.added:
        edit(path, path, lambda known: functools.reduce(add, done.added, known))
    if as_data:
        added = [entry_json(entry) for entry in done.added]
        said = {"repositories": done.repositories, "added": added, "unread": done.unread}
        click.echo(as_json("lock update", **said))
    else:
        click.echo(update_markdown(done), nl=False)
    context.exit(Exit.UNDECIDED if done.unread else Exit.OK)


@lock_group.command("prune", epilog=EPILOG)
@lock_option
@ca_file_option
@plain_http_option
@json_option
@click.pass_context
def lock_prune(
    context: click.Context,
    lock: Path | None,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Drop the digests that are gone upstream, and say which. Prints Markdown.

    A tag that moved or went drops nothing, as its digest can still be pulled. Nor does a registry
    that does not answer; then the exit code is 3.
    """
    from patcher.lock.file import load, save
    from patcher.lock.pruning import prune
    from patcher.report.summary import prune_markdown
    from patcher.report.text import entry_json
    from patcher.web.http import Http

    path = lock or _HERE
    done = prune(load(path), Http(http_settings(ca_file, plain_http), say=say))
    if done.gone:
        save(path, done.lock)
    if as_data:
        gone = [
            {
                "image": entry_json(each.entry),
                "digests": [pin.digest for _, pin in each.pins],
                "whole": each.whole,
            }
            for each in done.gone
        ]
        click.echo(as_json("lock prune", gone=gone, unread=done.unread))
    else:
        click.echo(prune_markdown(done), nl=False)
    context.exit(Exit.UNDECIDED if done.unread else Exit.OK)
