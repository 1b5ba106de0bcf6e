"""Progress of long work, on stderr: bars on a terminal, in a log a line a minute of bytes.

The bars themselves are in `patcher.bars`, which loads rich.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from patcher.talk import Volume, say, volume
from patcher.terminal import is_dumb

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


Tell = Callable[[int, int | None], None]
"""Called with how much is done, and how much there is in all; None where that is not known."""

_MINUTE = 60.0

# What the network or a disk brings. A daemon's `Extracting` is another wait: see `Pull`.
_ON_THE_WAY = frozenset({"Downloading", "Copying", "Reading"})


def is_watched() -> bool:
    """Is stderr a terminal that can show bars, and are they wanted?"""
    return sys.stderr.isatty() and not is_dumb() and volume() is not Volume.QUIET


@contextlib.contextmanager
def moving(doing: str, total: int | None = None) -> Iterator[Callable[[Progress], None]]:
    """Show layers that come or go, all in one, in bytes; `total` where it is known beforehand."""
    with counting(doing, in_bytes=True) as tell:
        yield summed(tell, total)


@contextlib.contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Show that something is under way; how far it is, is not known."""
    with counting(doing) as tell:
        tell(0, None)
        yield


@contextlib.contextmanager
def counting(doing: str, *, in_bytes: bool = False) -> Iterator[Tell]:
    """Show how many things or bytes are done, from the first that is told on.

    A log has lines about bytes alone: they take the longest.
    """
    if is_watched():
        from patcher.bars import bar

        with bar(doing, in_bytes=in_bytes) as tell:
            yield tell
    else:
        yield each_minute(doing) if in_bytes else _nobody


def _nobody(done: int, total: int | None) -> None:
    del done, total


def each_minute(doing: str, clock: Callable[[], float] = time.monotonic) -> Tell:
    """For a log: a line at most each minute, none for what takes less. `clock` gives seconds."""
    last = clock()

    def tell(done: int, total: int | None) -> None:
        nonlocal last
        if clock() - last >= _MINUTE:
            last = clock()
            whole = f" of {total / 1e9:.1f}" if total else ""
            say(f"{doing}: {done / 1e9:.1f}{whole} GB")

    return tell


def summed(tell: Tell, total: int | None = None) -> Callable[[Progress], None]:
    """Add up the steps of all layers, which come from several threads."""
    layers: dict[str, tuple[int, int]] = {}
    lock = threading.Lock()

    def show(step: Progress) -> None:
        if step.layer and step.total and step.current and step.status in _ON_THE_WAY:
            with lock:
                layers[step.layer] = (step.current, step.total)
                done, known = (sum(part) for part in zip(*layers.values(), strict=True))
                tell(done, total or known)

    return show


@dataclass(slots=True)
class Pull:
    """A pull as the daemon tells it: bytes come first, and are unpacked a layer at a time.

    Of the unpacking Docker's stores tell bytes, seconds or nothing: layers are counted.
    """

    bytes_come: Tell
    unpacked: Tell
    layers: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    add: Callable[[Progress], None] = field(init=False)

    def __post_init__(self) -> None:
        self.add = summed(self.bytes_come)

    def show(self, step: Progress) -> None:
        """Take one step of it in."""
        self.add(step)
        if step.layer is None:
            return
        if step.status in ("Pulling fs layer", "Waiting", "Downloading"):
            self.layers.add(step.layer)
        elif step.status in ("Download complete", "Extracting", "Pull complete"):
            self.layers.add(step.layer)
            self.there.add(step.layer)
        if step.status == "Pull complete":
            self.whole.add(step.layer)
        if self.layers and self.there == self.layers:
            self.unpacked(len(self.whole), len(self.layers))


@contextlib.contextmanager
def pulling() -> Iterator[Callable[[Progress], None]]:
    """Show a pull, and the unpacking after it."""
    with counting("pulling", in_bytes=True) as come, counting("unpacking layers") as unpacked:
        yield Pull(come, unpacked).show
