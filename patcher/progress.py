"""Progress of long work, on stderr: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.images.daemon.calls import Progress

# In seconds.
_LONG = 3

_ON_THE_WAY = frozenset({"Downloading", "Copying"})


@contextlib.contextmanager
def moving(doing: str) -> Iterator[Callable[[Progress], None]]:
    """Show layers that come or go: one bar for all, in bytes; none where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(doing), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    layers: dict[str, tuple[int, int]] = {}
    lock = threading.Lock()  # layers come by several threads
    console = Console(stderr=True)
    # Where nobody watches, rich would still print an empty line.
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(doing, total=None, visible=False)

        def show(step: Progress) -> None:
            # Unpacking reports bytes too; only the network is what a person waits for here.
            if step.layer and step.total and step.current and step.status in _ON_THE_WAY:
                with lock:
                    layers[step.layer] = (step.current, step.total)
                    done, total = (sum(part) for part in zip(*layers.values(), strict=True))
                bars.update(task, completed=done, total=total, visible=True)

        yield show


def patiently(say: Callable[[str], None]) -> Callable[[float], None]:
    """A wait between two attempts, in seconds, that is told of where a person would wonder."""

    def wait(seconds: float) -> None:
        if seconds >= _LONG:
            say(f"waiting {seconds:.0f} s before the next attempt: the registry is busy")
        time.sleep(seconds)

    return wait


def pulling() -> contextlib.AbstractContextManager[Callable[[Progress], None]]:
    """Show a pull."""
    return moving("pulling")
