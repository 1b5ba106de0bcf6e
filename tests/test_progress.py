"""What a person or a log sees of long work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from patcher.progress import Progress, each_minute, moving, summed


def test_the_layers_are_one_sum_whoever_reports_them() -> None:
    told: list[tuple[int, int]] = []
    show = summed(lambda done, total: told.append((done, total)))

    def copy(layer: int) -> None:
        for done in range(1, 101):
            show(Progress(str(layer), "Copying", done, 100))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(copy, range(6)))
    assert len(told) == 600
    assert told[-1] == (600, 600)
    for step in (Progress(None, "Copying", 1, 2), Progress("7", "Extracting", 1, 2)):
        show(step)
    assert len(told) == 600


def test_a_log_has_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    tell = each_minute("copying", clock=lambda: now[0])
    for now[0] in (1.0, 59.0, 60.0, 61.0, 119.0, 121.0):
        tell(int(now[0] * 1e8), 18_000_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["copying: 6.0 of 18.0 GB", "copying: 12.1 of 18.0 GB"]


def test_where_nobody_watches_nothing_is_printed_for_short_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with moving("copying") as show:
        show(Progress("1", "Copying", 5, 5))
    assert capsys.readouterr() == ("", "")
