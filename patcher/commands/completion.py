"""What a shell completes beside commands and options: names in the lock, patches, platforms.

What cannot be read offers nothing: an error must not appear in the middle of a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from patcher.errors import PatcherError
from patcher.lock import lock_path
from patcher.text import printable

if TYPE_CHECKING:
    from patcher.lock.entries import Entry

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_USUAL = ("linux/amd64", "linux/arm64")


def complete_patch(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The catalogue's patches, by what each does."""
    from patcher.rules.catalogue import catalogue

    with suppress(PatcherError):
        return _fitting(typed, ((each.name, each.title) for each in catalogue()))
    return []


def complete_name(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The versions in the lock that the call means, by their images."""
    known = ((str(e.locked.version), str(e.original.reference)) for e in _entries(context))
    return _fitting(typed, known)


def complete_source(
    context: click.Context, parameter: click.Parameter, typed: str
) -> list[CompletionItem]:
    """As `complete_name`; where nothing fits, the shell completes files."""
    return complete_name(context, parameter, typed) or [CompletionItem(typed, type="file")]


def complete_platform(
    context: click.Context, _: click.Parameter, typed: str
) -> list[CompletionItem]:
    """The platforms that the lock has of the named version; else those that vLLM is built for."""
    # click stops at the option whose value is asked for, and leaves what came before it.
    names = {context.params.get("name"), *context.args}
    locked = [
        str(platform)
        for entry in _entries(context)
        for platform in entry.locked.platforms
        if str(entry.locked.version) in names
    ]
    return _fitting(typed, ((each, "") for each in locked or _USUAL))


def complete_repository(
    context: click.Context, _: click.Parameter, typed: str
) -> list[CompletionItem]:
    """The repositories of the lock's images."""
    names = (str(entry.repository) for entry in _entries(context))
    return _fitting(typed, ((name, "") for name in names))


def complete_case(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The forms of weights that `smoke` knows."""
    from patcher.smoke.cases import CASES

    return _fitting(typed, ((each.name, "") for each in CASES))


def _entries(context: click.Context) -> Iterator[Entry]:
    from patcher.lock.file import load

    with suppress(PatcherError):
        yield from load(lock_path(context.params.get("lock"))).entries


def _fitting(typed: str, known: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    # A shell reads items by lines: a title's own would be offered as further ones.
    return [
        CompletionItem(name, help=printable(text))
        for name, text in dict(known).items()
        if name.startswith(typed)
    ]
