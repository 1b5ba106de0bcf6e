"""`vllm-patcher cache`: what earlier runs read, kept in the user's cache folder."""

from __future__ import annotations

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Group
from patcher.commands.options import PLAIN_EPILOG, json_option
from patcher.report.document import as_json
from patcher.talk import say
from patcher.text import counted


@click.group("cache", cls=Group, epilog=PLAIN_EPILOG, examples="vllm-patcher cache info")
def cache_group() -> None:
    """What was read before, kept by content in the user's cache folder."""


@cache_group.command(
    "info",
    short_help="Say where the cache is and what it holds.",
    epilog=PLAIN_EPILOG,
    examples="vllm-patcher cache info",
)
@json_option
def cache_info(as_data: bool) -> None:
    """Say where the cache is, and how many entries and bytes it holds of each kind."""
    from patcher.cache import default_folder, kept

    found = kept()
    folder = default_folder()
    if as_data:
        hand_over(as_json("cache info", path=folder, kinds=found))
        return
    show([str(folder)])
    for kind in found:
        entries = counted(kind.entries, "entry", "entries")
        show([f"  {kind.kind}: {entries}, {kind.bytes / 1e3:,.0f} KB"])


@cache_group.command(
    "dir",
    short_help="Say where the cache is.",
    epilog=PLAIN_EPILOG,
    examples="vllm-patcher cache dir",
)
@json_option
def cache_dir(as_data: bool) -> None:
    """Print the folder alone, whether it is there or not."""
    from patcher.cache import default_folder

    folder = default_folder()
    if as_data:
        hand_over(as_json("cache dir", path=folder))
    else:
        show([str(folder)])


@cache_group.command(
    "clear",
    short_help="Forget all that was kept.",
    epilog=PLAIN_EPILOG,
    examples="vllm-patcher cache clear",
)
@json_option
def cache_clear(as_data: bool) -> None:
    """Forget every verdict and every file of an image that was kept."""
    from patcher.cache import clear

    gone = clear()
    if as_data:
        hand_over(as_json("cache clear", cleared=gone))
    say(f"{counted(gone, 'entry', 'entries')} cleared")
