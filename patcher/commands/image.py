"""`vllm-patcher image`: a patched image on a pinned base, in a daemon, a registry or a layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_name, complete_platform
from patcher.commands.options import (
    EPILOG,
    chosen,
    http_settings,
    json_option,
    lock_option,
    parsed_platform,
    patch_options,
    reach_options,
    root_option,
)
from patcher.errors import UsageError
from patcher.lock import lock_path
from patcher.report.document import as_json
from patcher.talk import say, say_steps

_REPOSITORY = "vllm-openai-patched"

_EXAMPLES = """
vllm-patcher image 0.23.0                           # in your Docker daemon
vllm-patcher image 0.23.0 --to ghcr.io/you/vllm     # in a registry, no daemon
vllm-patcher image 0.23.0 --to oci:out --platform linux/arm64
vllm-patcher image 0.23.0 --to ghcr.io/you/vllm --dry-run
"""


@click.command(
    cls=Command,
    epilog=EPILOG,
    examples=_EXAMPLES,
    short_help="Bake a patched image, prove it, and tag it.",
)
@click.argument("name", shell_complete=complete_name)
@patch_options
@click.option(
    "--platform",
    metavar="OS/ARCH",
    shell_complete=complete_platform,
    help="For example linux/arm64; default: this machine's, and with --to all that there are.",
)
@root_option
@lock_option
@click.option(
    "--repository",
    metavar="REPO",
    help=f"What the image is called in the local daemon; default: {_REPOSITORY}.",
)
@click.option(
    "--to",
    metavar="PLACE",
    help="Publish to REGISTRY/REPO[:TAG] or oci:DIR[:TAG], every platform, without a daemon.",
)
@click.option(
    "--context",
    "context_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Build nothing: write the Dockerfile and its files, for buildx, kaniko or bake.",
)
@click.option(
    "--dry-run", is_flag=True, help="With --to: say what would be sent, and send nothing."
)
@click.option("--allow-clean", is_flag=True, help="Tag a base that needs no patch as patched.")
@reach_options
@json_option
def image(
    name: str,
    patches: Sequence[str],
    folders: Sequence[Path],
    platform: str | None,
    root: str | None,
    lock: Path | None,
    repository: str | None,
    to: str | None,
    context_folder: Path | None,
    dry_run: bool,
    allow_clean: bool,
    ca_file: Path | None,
    plain_http: Sequence[str],
    as_data: bool,
) -> None:
    """Bake a patched image on a digest-pinned base, prove it, and tag it.

    NAME is a name in images.lock: a version (0.23.1rc1 means its newest locked build), one build
    (0.23.1rc1.dev672), a commit, a reference; the local Docker daemon pulls and builds it. Or
    the name of an image that only the daemon has: it is built on by its id.
    Or oci:DIR[:NAME], an image in an OCI layout: a layer is appended there, without a daemon.
    Nothing is run in the image, so any platform can be built on any machine.

    With --to nothing is pulled either: one layer is put on every platform of the base, straight
    in the registry. The tags move last, after the result was read back and verified.
    With --context nothing is built: the Dockerfile and the files that it copies are written.

    --ca-file and --plain-http are for the registries that this program asks itself; a Docker
    daemon pulls by its own settings.
    """
    from patcher.jobs.image import Order
    from patcher.jobs.opening import context_job, daemon_job, publish_job
    from patcher.places.layout import PREFIX
    from patcher.report.image import image_json, image_lines
    from patcher.report.steps import image_steps
    from patcher.rules.catalogue import is_file

    if context_folder is not None and (to is not None or dry_run or allow_clean):
        raise UsageError(
            "--context writes a Dockerfile for a base that needs a patch, and nothing else",
            next_step="Leave out --to, --dry-run and --allow-clean.",
        )
    if to is not None and repository is not None:
        raise UsageError("--to says the repository too", next_step="Leave --repository out.")
    order = Order(
        chosen(patches, folders, ca_file, plain_http),
        parsed_platform(platform),
        allow_clean=allow_clean,
        dry_run=dry_run,
        root=root,
    )
    settings, pins = http_settings(ca_file, plain_http), lock_path(lock)
    called = repository or _REPOSITORY
    in_daemon = context_folder is None and to is None and not name.startswith(PREFIX)
    if context_folder is not None:
        report = context_job(name, context_folder, called, pins, order, settings, say)
    elif not in_daemon:
        report = publish_job(name, to, pins, order, settings, say)
    elif dry_run:
        raise UsageError("--dry-run goes with --to", next_step="Say where to publish.")
    else:
        report = daemon_job(name, called, pins, order, settings, say)
    if as_data:
        hand_over(as_json("image", **image_json(report)))
        return
    show(image_lines(report))
    again = ["--ca-file", str(ca_file)] if ca_file else []
    again += [word for host in plain_http for word in ("--plain-http", host)]
    own = [*folders, *(Path(each).parent for each in patches if is_file(each))]
    again += [word for each in dict.fromkeys(own) for word in ("--patches", str(each))]
    folder = context_folder and context_folder.absolute()
    say_steps(image_steps(report, in_daemon=in_daemon, context=folder, options=again))
