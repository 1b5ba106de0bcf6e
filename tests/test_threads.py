"""Answers that are made once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from patcher.threads import Once


def test_an_answer_is_made_once_however_many_ask() -> None:
    once: Once[str, int] = Once()
    made: list[int] = []
    asking = Barrier(8)

    def make() -> int:
        made.append(1)
        return len(made)

    def ask(_: int) -> int:
        asking.wait()
        return once.get("a", make)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {1}
    assert made == [1]


def test_an_error_is_no_answer() -> None:
    once: Once[str, float] = Once()
    with pytest.raises(ZeroDivisionError):
        once.get("a", lambda: 1 / 0)
    assert once.get("a", lambda: 2.0) == 2.0
