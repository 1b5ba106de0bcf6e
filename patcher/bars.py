"""The progress bars: one display for the whole run, shared by its steps and threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial

from rich.console import Console
from rich.filesize import decimal, pick_unit_and_suffix
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from patcher.talk import through


class _Said(ProgressColumn):
    """How much is done, in bytes or things, and how fast; the seconds so far for an open end."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn`."""
        if task.fields["in_bytes"]:
            speed = f" {decimal(int(task.speed))}/s" if task.speed and not task.finished else ""
            return Text(f"{_bytes(task)}{speed}")
        if task.total:
            return Text(f"{task.completed:.0f}/{task.total:.0f}")
        return Text(f"{task.elapsed or 0:.0f} s")


def _bytes(task: Task) -> str:
    """As `5.0/9.0 MB`: both in the unit of the larger one."""
    if not task.total:
        return decimal(int(task.completed))
    unit, suffix = pick_unit_and_suffix(int(task.total), ["bytes", "kB", "MB", "GB", "TB"], 1000)
    digits = 0 if unit == 1 else 1
    return f"{task.completed / unit:,.{digits}f}/{task.total / unit:,.{digits}f} {suffix}"


_turn = threading.Lock()
_shown: Progress | None = None
_bars = 0


@contextlib.contextmanager
def bar(doing: str, *, in_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """One bar, shown from its first step on. Gives a `patcher.progress.Tell`."""
    bars = _enter()
    task = bars.add_task(doing, total=None, visible=False, in_bytes=in_bytes)

    is_first = True

    def tell(done: int, total: int | None) -> None:
        nonlocal is_first
        bars.update(task, completed=done, total=total, visible=True, refresh=is_first)
        is_first = False

    try:
        yield tell
    finally:
        bars.remove_task(task)
        _leave(bars)


def _enter() -> Progress:
    global _shown, _bars
    with _turn:
        if _shown is None:
            said = _Said(table_column=Column(no_wrap=True))
            columns = (TextColumn("{task.description}", markup=False), BarColumn(16), said)
            console = Console(stderr=True)
            # Data is printed on stdout as it is, whatever moves on stderr.
            _shown = Progress(*columns, console=console, transient=True, redirect_stdout=False)
            _shown.start()
            through(partial(console.print, soft_wrap=True, markup=False, highlight=False))
        _bars += 1
        return _shown


def _leave(bars: Progress) -> None:
    global _shown, _bars
    with _turn:
        _bars -= 1
        if not _bars:
            through(None)
            bars.stop()
            _shown = None
