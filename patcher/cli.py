"""The commands: parse, call, print. No logic.

Data goes to stdout, everything else to stderr. The exit codes are those of `patcher.errors`.
Heavy modules are imported inside the commands: `verify` of a file needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher import __version__
from patcher.errors import Exit, UsageError
from patcher.patch import apply, data_path, judge, select
from patcher.report import as_json, exit_for, verdict_lines, verdict_summary

if TYPE_CHECKING:
    from patcher.images.reference import Platform

EPILOG = """\b
Exit codes: 0 as wanted; 1 a finding (unguarded reads remain, nothing to patch);
2 a wrong call; 3 could not decide or reach."""

json_option = click.option("--json", "as_data", is_flag=True, help="Print JSON on stdout.")
patch_option = click.option(
    "--patch", "patches", multiple=True, metavar="NAME", help="Only this patch; may be repeated."
)
platform_option = click.option(
    "--platform", metavar="OS/ARCH", help="For example linux/arm64; default: this machine's."
)
lock_option = click.option(
    "--lock",
    type=click.Path(path_type=Path),
    help="The lock file; default: ./images.lock, or the one that came with the program.",
)


def say(text: str) -> None:
    """Talk, on stderr."""
    click.echo(text, err=True)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-patcher")
@click.pass_context
def cli(context: click.Context) -> None:
    r"""Get a source fix into a vLLM container image today, proven.

    \b
    vllm-patcher verify pypi:0.23.0          is this vLLM affected?
    vllm-patcher image 0.23.1rc1             bake a patched image on a pinned base
    vllm-patcher patch .venv --in-place      patch an installed vLLM
    vllm-patcher demo                        all of it, without Docker
    """
    if os.environ.get("NO_COLOR"):
        context.color = False


@cli.command(epilog=EPILOG)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@patch_option
@platform_option
@lock_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    sources: Sequence[str],
    patches: Sequence[str],
    platform: str | None,
    lock: Path | None,
    as_data: bool,
) -> None:
    """Name every unguarded read in a vLLM, as a compiler does.

    SOURCE is a file, a site-packages tree or virtual environment, pypi:0.23.0, oci:DIR[:NAME],
    a local image, or a name in images.lock. What cannot be shown to be guarded is unguarded.
    """
    from patcher.sources.spec import open_source

    wanted, place = select(patches), _platform(platform)
    judged = []
    for spec in sources:
        source = open_source(spec, _lock(lock), place)
        judged += [(patch, judge(patch, source)) for patch in wanted]
    verdicts = [verdict for _, verdict in judged]
    if as_data:
        click.echo(as_json("verify", verdicts=verdicts))
    for patch, verdict in judged:
        if not as_data:
            for line in verdict_lines(verdict, patch):
                click.echo(line)
        say(verdict_summary(verdict))
    context.exit(exit_for(verdicts))


@cli.command(epilog=EPILOG)
@click.argument("source")
@patch_option
@platform_option
@lock_option
@json_option
@click.pass_context
def diff(
    context: click.Context,
    source: str,
    patches: Sequence[str],
    platform: str | None,
    lock: Path | None,
    as_data: bool,
) -> None:
    """Show what the patches would change in SOURCE, as a unified diff. Changes nothing.

    SOURCE is what `verify` takes. The shown result has passed every proof. Exits 1 where there
    is nothing to patch, as there is then no diff.
    """
    from patcher.diff import unified_diff
    from patcher.sources.spec import open_source

    found = open_source(source, _lock(lock), _platform(platform))
    texts = []
    for patch in select(patches):
        before = found.read(patch.target)
        rewritten = apply(patch, before)
        texts.append(unified_diff(before, rewritten.data, patch.target))
        if not rewritten.edits:
            say(f"{found.label}: {patch.name}: already patched, no unguarded read")
    if as_data:
        click.echo(as_json("diff", source=found.label, diff="".join(texts)))
    else:
        click.echo("".join(texts).encode(errors="surrogateescape"), nl=False)
    context.exit(Exit.OK if any(texts) else Exit.FINDING)


@cli.command(epilog=EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|TREE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write here: a file for FILE, a folder for TREE.",
)
@click.option("--in-place", is_flag=True, help="Replace the file; remove its stale bytecode.")
@patch_option
@json_option
def patch(
    path: Path, output: Path | None, in_place: bool, patches: Sequence[str], as_data: bool
) -> None:
    """Patch a vLLM that is not in an image: one file, or a tree that holds the package.

    TREE is a site-packages folder or a virtual environment. Nothing is written unless the result
    has passed every proof; a failure leaves every byte as it was. A second run finds nothing to
    do and says so.
    """
    from patcher.inplace import patch_path

    if (output is None) is not in_place:
        raise UsageError("say where the result goes", next_step="Give either -o OUT or --in-place.")
    done = patch_path(path, select(patches), output)
    if as_data:
        click.echo(as_json("patch", files=done))
    for file in done:
        if not as_data:
            click.echo(file.path)
        for line in file.lines:
            say(line)


@cli.command(epilog=EPILOG)
@click.argument("name")
@patch_option
@platform_option
@lock_option
@click.option(
    "--repository",
    default="vllm-openai-patched",
    show_default=True,
    metavar="REPO",
    help="The name that the tags go under.",
)
@click.option("--allow-clean", is_flag=True, help="Tag a base that needs no patch as patched.")
@json_option
def image(
    name: str,
    patches: Sequence[str],
    platform: str | None,
    lock: Path | None,
    repository: str,
    allow_clean: bool,
    as_data: bool,
) -> None:
    """Bake a patched image on a digest-pinned base, prove it, and tag it.

    NAME is a name in images.lock: a version (0.23.1rc1 means its newest locked build), one build
    (0.23.1rc1.dev672), a commit, a reference; the local Docker daemon pulls and builds it.
    Or oci:DIR[:NAME], an image in an OCI layout: a layer is appended there, without a daemon.
    Nothing is run in the image, so any platform can be built on any machine.
    """
    from patcher.engines import docker_job, layout_job
    from patcher.report import image_json, image_lines

    wanted, place = select(patches), _platform(platform)
    if name.startswith("oci:"):
        report = layout_job(name.removeprefix("oci:"), place, wanted, allow_clean, say)
    else:
        report = docker_job(name, _lock(lock), place, wanted, repository, allow_clean, say)
    if as_data:
        click.echo(as_json("image", **image_json(report)))
    else:
        click.echo("\n".join(image_lines(report)))


@cli.command(epilog=EPILOG)
@click.argument("version", default="0.23.0")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    metavar="DIR",
    help="Where the OCI layout is written.",
)
@json_option
def demo(version: str, output: Path, as_data: bool) -> None:
    """Show the whole job on a real vLLM release, without Docker.

    Takes the files out of VERSION's wheel on PyPI by range requests, makes a small base image of
    them, patches, verifies, appends, tags, and reads it all back. The same digest on every run.
    """
    from patcher.demo import run
    from patcher.report import demo_json, demo_lines

    result = run(version, output, say)
    if as_data:
        click.echo(as_json("demo", **demo_json(result)))
    else:
        click.echo("\n".join(demo_lines(result)))


@cli.group("lock", epilog=EPILOG)
def lock_group() -> None:
    """The pins: which image a vLLM version means, by digest."""


@lock_group.command("list", epilog=EPILOG)
@lock_option
@json_option
def lock_list(lock: Path | None, as_data: bool) -> None:
    """List the locked images: version, what is pinned, reference."""
    from patcher.images.lockfile import load
    from patcher.report import entry_json, lock_table

    entries = load(_lock(lock)).entries
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

    found = load(_lock(lock))
    flaws = check(found)
    if as_data:
        click.echo(as_json("lock check", entries=len(found.entries), flaws=flaws))
    else:
        for flaw in flaws:
            click.echo(f"{flaw.image}: {flaw.problem}")
    say(f"{len(found.entries)} images, {len(flaws)} flaws")
    context.exit(Exit.FINDING if flaws else Exit.OK)


def _platform(text: str | None) -> Platform | None:
    if text is None:
        return None
    from patcher.images.reference import parse_platform

    return parse_platform(text)


def _lock(path: Path | None) -> Path:
    if path is not None:
        return path
    here = Path("images.lock")
    return here if here.exists() else data_path("images.lock")
