"""Work in parallel whose results come in order, and that an interrupt ends at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

# One thread parses at a time. All share the depth that ast.parse counts, and two of them can trip
# over it (a SystemError: 20 of 25 runs over eight images on 3.11.7); they share warnings' filters.
PARSING = threading.Lock()

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Once(Generic[_Item, _Result]):
    """Answers by key, each made once: who asks meanwhile waits for it. An error is not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[_Item, threading.Lock] = {}
        self._made: dict[_Item, _Result] = {}

    def get(self, key: _Item, make: Callable[[], _Result]) -> _Result:
        """The answer to `key`, made where it is not known."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]


@dataclass(frozen=True, slots=True)
class _Done(Generic[_Result]):
    """The outcome of the item at a place: its result, or its exception."""

    place: int
    result: _Result | None = None
    error: BaseException | None = None


def in_order(
    work: Callable[[_Item], _Result], items: Sequence[_Item], threads: int
) -> Iterator[_Result]:
    """`work(item)` for each item, in the order of the items, by so many threads.

    What `work` raises is raised as soon as it is known: an item before it may take an hour. Then,
    and when the caller stops, nothing more is begun.
    The threads are daemons, and not concurrent.futures': those are waited for at the program's
    end, and one that waits for a silent server holds up a Ctrl-C for half a minute.
    """
    todo: SimpleQueue[tuple[int, _Item] | None] = SimpleQueue()
    done: SimpleQueue[_Done[_Result]] = SimpleQueue()
    for task in enumerate(items):
        todo.put(task)
    count = min(threads, len(items))
    for _ in range(count):
        threading.Thread(target=_run, args=(work, todo, done), daemon=True).start()
    try:
        yield from _sorted(done, len(items))
    finally:
        _end(todo, count)


def _run(
    work: Callable[[_Item], _Result],
    todo: SimpleQueue[tuple[int, _Item] | None],
    done: SimpleQueue[_Done[_Result]],
) -> None:
    while (task := todo.get()) is not None:
        place, item = task
        try:
            done.put(_Done(place, work(item)))
        except BaseException as error:  # raised where the results are read
            done.put(_Done(place, error=error))


def _sorted(done: SimpleQueue[_Done[_Result]], count: int) -> Iterator[_Result]:
    early: dict[int, _Done[_Result]] = {}
    for place in range(count):
        while place not in early:
            came = done.get()
            if came.error is not None:
                raise came.error
            early[came.place] = came
        turn = early.pop(place)
        yield turn.result  # type: ignore[misc]  # without an error there is a result


def _end(todo: SimpleQueue[tuple[int, _Item] | None], count: int) -> None:
    """Take back what was not begun, and let each thread go."""
    while True:
        try:
            todo.get_nowait()
        except Empty:
            break
    for _ in range(count):
        todo.put(None)
