"""What the commands share: options, exit codes in --help, the lock file."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from patcher.commands.completion import complete_patch, complete_platform
from patcher.errors import PatcherError, UsageError
from patcher.talk import say

if TYPE_CHECKING:
    from patcher.oci.reference import Platform
    from patcher.rules.patch import Patch
    from patcher.rules.source import Source
    from patcher.sources.path import FileSource
    from patcher.web.http import HttpSettings

_Command = TypeVar("_Command", bound=Callable[..., Any])

# The SOURCE that is the file on standard input.
STDIN = "-"

EPILOG = """\
Exit codes: 0 as wanted; 1 a finding (a patch is needed, or nothing is there
to patch); 2 a wrong call; 3 could not decide or reach."""

# Of commands that judge nothing.
PLAIN_EPILOG = """\
Exit codes: 0 as wanted; 2 a wrong call; 3 could not read, write or reach."""

json_option = click.option("--json", "as_data", is_flag=True, help="Print JSON on stdout.")
folders_option = click.option(
    "--patches",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder of patches of your own, beside the catalogue; may be repeated, or be in the "
    "variable VLLM_PATCHER_PATCHES. Its files are run.",
)


def patch_options(command: _Command) -> _Command:
    """--patch and --patches, everywhere a patch can be named."""
    option = click.option(
        "--patch",
        "patches",
        multiple=True,
        metavar="NAME|FILE",
        shell_complete=complete_patch,
        help="Only this patch, by its name or its file, as ./mine.py, which is run: take no file "
        "that you would not run yourself. May be repeated.",
    )
    return option(folders_option(command))


platform_option = click.option(
    "--platform",
    metavar="OS/ARCH",
    shell_complete=complete_platform,
    help="For example linux/arm64; default: this machine's.",
)
root_option = click.option(
    "--root",
    metavar="PATH",
    help="The folder that holds the vLLM that is meant, in an image that holds several.",
)
lock_option = click.option(
    "--lock",
    type=click.Path(path_type=Path),
    help="The lock file; default: ./images.lock, or the one that came with the program.",
)
ca_file_option = click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    help="Certificates (PEM) to trust besides the usual ones: your own registry's or proxy's.",
)
plain_http_option = click.option(
    "--plain-http",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Speak to this registry without TLS; on loopback that is done anyway. May be repeated.",
)

stdin_option = click.option(
    "--stdin-filename",
    "named",
    metavar="PATH",
    help="What the file on standard input is called in vLLM, where SOURCE is -.",
)


def one_form(form: str | None, as_data: bool) -> str | None:
    """The form that `--format` and `--json` ask for; None for neither. Raises `UsageError`."""
    if as_data and form not in {None, "json"}:
        raise UsageError(f"--json is not --format {form}", next_step="Give one of the two.")
    return "json" if as_data else form


def reach_options(command: _Command) -> _Command:
    """--ca-file and --plain-http: how to reach registries and indexes."""
    return ca_file_option(plain_http_option(command))


def source_options(command: _Command) -> _Command:
    """Which vLLM a SOURCE means, and how to reach it: --platform, --root, --lock and those two."""
    return platform_option(root_option(lock_option(reach_options(command))))


def say_of_version(source: Source) -> None:
    """Say it where a source states a version that has no place among vLLM's releases."""
    from patcher.report.verdicts import version_note

    with contextlib.suppress(PatcherError):  # what cannot be read is told by the verdict
        if note := version_note(source.version()):
            say(f"{source.label}: {note}")


def chosen(
    names: Sequence[str],
    folders: Sequence[Path],
    ca_file: Path | None,
    plain_http: Sequence[str] = (),
) -> tuple[Patch, ...]:
    """The patches that `--patch` and `--patches` mean, able to read vLLM's releases.

    Raises `UnknownPatch`, `BrokenCatalogue`.
    """
    from patcher.rules.catalogue import select
    from patcher.sources.upstream import Releases

    upstream = Releases(settings=functools.partial(http_settings, ca_file, plain_http))
    return select(names, upstream, folders)


def parsed_platform(text: str | None) -> Platform | None:
    """The platform that an option names. Raises `BadReference`."""
    if text is None:
        return None
    from patcher.oci.reference import parse_platform

    return parse_platform(text)


def http_settings(ca_file: Path | None, plain_http: Sequence[str]) -> HttpSettings:
    """How to reach registries, as the two options say."""
    from patcher.web.http import HttpSettings

    for name in plain_http:
        if "/" in name:
            host = name.partition("://")[2] or name
            raise UsageError(
                f"--plain-http {name} is more than a host",
                next_step=f"Write it as {host.partition('/')[0]}.",
            )
    return HttpSettings(ca_file, frozenset(plain_http))


def given_source(sources: Sequence[str], named: str | None) -> FileSource | None:
    """The file on standard input, where a SOURCE is -. Raises `UsageError`, `Unreadable`."""
    from patcher.sources.path import given_file

    count = list(sources).count(STDIN)
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
