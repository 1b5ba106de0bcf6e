"""`vllm-patcher lock`: the pins."""

from __future__ import annotations

from pathlib import Path

import click

from patcher.commands.options import EPILOG, json_option, lock_option, lock_path, say
from patcher.errors import Exit
from patcher.report import as_json


@click.group("lock", epilog=EPILOG)
def lock_group() -> None:
    """The pins: which image a vLLM version means, by digest."""


@lock_group.command("list", epilog=EPILOG)
@lock_option
@json_option
def lock_list(lock: Path | None, as_data: bool) -> None:
    """List the locked images: version, what is pinned, reference."""
    from patcher.images.lockfile import load
    from patcher.report import entry_json, lock_table

    entries = load(lock_path(lock)).entries
    if as_data:
        click.echo(as_json("lock list", images=[entry_json(entry) for entry in entries]))
    elif entries:
        click.echo("\n".join(lock_table(entries)))


@lock_group.command("add", epilog=EPILOG)
@click.argument("version")
@click.argument("reference")
@lock_option
@json_option
def lock_add(version: str, reference: str, lock: Path | None, as_data: bool) -> None:
    """Lock VERSION to the image REFERENCE.

    A reference without a digest (vllm/vllm-openai:v0.23.0) is looked up in its registry, through
    the Docker daemon. One with a digest (...@sha256:...) is taken at its word: a pull proves it.
    """
    from patcher.engines import add_to_lock
    from patcher.report import entry_json, lock_table

    entry = add_to_lock(lock or Path("images.lock"), version, reference)
    if as_data:
        click.echo(as_json("lock add", image=entry_json(entry)))
    else:
        click.echo("\n".join(lock_table([entry])))


@lock_group.command("check", epilog=EPILOG)
@lock_option
@json_option
@click.pass_context
def lock_check(context: click.Context, lock: Path | None, as_data: bool) -> None:
    """Check the lock: its form, its order, and whether its entries contradict each other."""
    from patcher.images.lock import check
    from patcher.images.lockfile import load

    found = load(lock_path(lock))
    flaws = check(found)
    if as_data:
        click.echo(as_json("lock check", entries=len(found.entries), flaws=flaws))
    else:
        for flaw in flaws:
            click.echo(f"{flaw.image}: {flaw.problem}")
    say(f"{len(found.entries)} images, {len(flaws)} flaws")
    context.exit(Exit.FINDING if flaws else Exit.OK)
