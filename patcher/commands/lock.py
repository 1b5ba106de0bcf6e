"""`vllm-patcher lock`: the pins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from patcher.commands.options import (
    EPILOG,
    ca_file_option,
    http_settings,
    json_option,
    lock_option,
    lock_path,
    plain_http_option,
    say,
)
from patcher.errors import Exit, printable
from patcher.report.text import as_json

offline_option = click.option("--offline", is_flag=True, help="Ask no registry.")


_EPILOG = """\b
Exit codes: 0 as wanted; 1 something is doubtful, moved or gone;
2 a wrong call; 3 could not decide or reach."""


@click.group("lock", epilog=_EPILOG)
def lock_group() -> None:
    """The pins: which image a vLLM version means, by digest."""


@lock_group.command("list", epilog=EPILOG)
@lock_option
@json_option
def lock_list(lock: Path | None, as_data: bool) -> None:
    """List the locked images: version, what is pinned, reference."""
    from patcher.lock.file import load
    from patcher.report.text import entry_json, lock_table

    entries = load(lock_path(lock)).entries
    if as_data:
        click.echo(as_json("lock list", images=[entry_json(entry) for entry in entries]))
    elif entries:
        click.echo("\n".join(lock_table(entries)))


@lock_group.command("add", epilog=EPILOG)
@click.argument("version")
@click.argument("reference")
@lock_option
@offline_option
@ca_file_option
@plain_http_option
@json_option
def lock_add(
    version: str,
    reference: str,
    lock: Path | None,
    offline: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Lock VERSION to the image REFERENCE, by the digests that its registry has.

    Write a nightly's whole version: 0.23.1rc1.dev672+g93d8f834d, not 0.23.1rc1, which would sort
    above all of them. With --offline a digest (...@sha256:...) is taken at its word.
    """
    from patcher.lock.upkeep import add_to_lock, others_of
    from patcher.report.text import entry_json, lock_table

    settings = None if offline else http_settings(ca_file, plain_http)
    path = lock or Path("images.lock")
    # Where no other file is named, the one here takes the place of the one that is shipped.
    start = path if lock else lock_path(None)
    is_new = not path.exists()
    others = others_of(path if path.exists() else start, version, reference)
    entry = add_to_lock(path, start, version, reference, settings)
    if is_new and start != path:
        say(f"made {path}, with the pins that came with the program")
    for other in others:
        say(f"note: {version} is locked as {other} too; a name picks one of them")
    if as_data:
        click.echo(as_json("lock add", image=entry_json(entry)))
    else:
        click.echo("\n".join(lock_table([entry])))


@lock_group.command("check", epilog=_EPILOG)
@lock_option
@offline_option
@ca_file_option
@plain_http_option
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

    A tag that leads elsewhere has moved; a digest that is gone can no longer be built upon.
    """
    from patcher.lock.entries import check
    from patcher.lock.file import load
    from patcher.lock.upkeep import drifts_of

    found = load(lock_path(lock))
    flaws = check(found)
    drifts = () if offline else drifts_of(found, http_settings(ca_file, plain_http))
    if as_data:
        entries = len(found.entries)
        click.echo(as_json("lock check", entries=entries, flaws=flaws, drifts=drifts))
    else:
        said = [(one.image, one.problem) for one in flaws] + [(d.image, d.problem) for d in drifts]
        for image, problem in said:
            click.echo(f"{printable(image)}: {printable(problem)}")
    asked = "no registry was asked" if offline else f"{len(drifts)} drifts"
    say(f"{len(found.entries)} images: {len(flaws)} flaws, {asked}")
    unknown = [drift for drift in drifts if drift.drift == "unknown"]
    if flaws or len(unknown) < len(drifts):
        context.exit(Exit.FINDING)
    context.exit(Exit.UNDECIDED if unknown else Exit.OK)
