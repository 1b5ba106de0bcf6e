"""`vllm-patcher image NAME --to PLACE`: the part of `image` that needs no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.commands.options import say
from patcher.report.text import as_json

if TYPE_CHECKING:
    from patcher.jobs.image import Order
    from patcher.web.http import HttpSettings

to_option = click.option(
    "--to",
    metavar="PLACE",
    help="Publish to REGISTRY/REPO[:TAG] or oci:DIR[:TAG], every platform, without a daemon.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="With --to: say what would be sent, and send nothing."
)


def publish_to(
    name: str, to: str, lock: Path, order: Order, settings: HttpSettings, as_data: bool
) -> None:
    """Publish and print what was done."""
    from patcher.jobs.opening import publish_job
    from patcher.jobs.published import published_json, published_lines

    report = publish_job(name, to, lock, order, settings, say)
    if as_data:
        click.echo(as_json("image", **published_json(report)))
    else:
        click.echo("\n".join(published_lines(report)))
