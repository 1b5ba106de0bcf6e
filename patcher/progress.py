"""Progress of long work, on stderr: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str], None]
"""Called with each step of a job, a line at a time."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a pull or push, as the daemon reports it.

    `layer` is the layer's short id, None for what concerns the whole image. `current` and
    `total` are bytes, None where the daemon states none.
    """

    layer: str | None
    status: str
    current: int | None
    total: int | None


Tell = Callable[[int, int], None]
"""Called with the bytes moved so far and the total known so far."""

_MINUTE = 60.0

_ON_THE_WAY = frozenset({"Downloading", "Copying"})


@contextlib.contextmanager
def moving(doing: str) -> Iterator[Callable[[Progress], None]]:
    """Show layers that come or go, all in one, in bytes."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(doing, console) as tell:
            yield summed(tell)
    else:
        # rich would print an empty line at the end, also of bars that are disabled.
        yield summed(each_minute(doing))


@contextlib.contextmanager
def _bar(doing: str, console: Console) -> Iterator[Tell]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(doing), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(doing, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


@contextlib.contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of several things are done, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def each_minute(doing: str, clock: Callable[[], float] = time.monotonic) -> Tell:
    """For a log: a line at most each minute, none for what takes less. `clock` gives seconds."""
    last = clock()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= _MINUTE:
            last = clock()
            click.echo(f"{doing}: {done / 1e9:.1f} of {total / 1e9:.1f} GB", err=True)

    return tell


def summed(tell: Tell) -> Callable[[Progress], None]:
    """Steps of layers, which come by several threads, as the sum of all of them."""
    layers: dict[str, tuple[int, int]] = {}
    lock = threading.Lock()

    def show(step: Progress) -> None:
        # Unpacking reports bytes too; only the network is what a person waits for here.
        if step.layer and step.total and step.current and step.status in _ON_THE_WAY:
            with lock:
                layers[step.layer] = (step.current, step.total)
                done, total = (sum(part) for part in zip(*layers.values(), strict=True))
                tell(done, total)

    return show


def pulling() -> contextlib.AbstractContextManager[Callable[[Progress], None]]:
    """Show a pull."""
    return moving("pulling")
