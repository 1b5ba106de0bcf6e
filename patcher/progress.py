"""Progress of long work, on stderr: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.images.docker_calls import Progress


@contextlib.contextmanager
def pulling() -> Iterator[Callable[[Progress], None]]:
    """Show a pull: one bar for all layers, in bytes; rich leaves it out where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("pulling"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    layers: dict[str, tuple[int, int]] = {}
    console = Console(stderr=True)
    # Where nobody watches, rich would still print an empty line.
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("pulling", total=None, visible=False)

        def show(step: Progress) -> None:
            # Unpacking reports bytes too; only the download is what a person waits for here.
            if step.layer and step.total and step.current and step.status == "Downloading":
                layers[step.layer] = (step.current, step.total)
                done, total = (sum(part) for part in zip(*layers.values(), strict=True))
                bars.update(task, completed=done, total=total, visible=True)

        yield show
