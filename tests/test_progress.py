"""What a person or a log sees of long work."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from patcher.oci.image import load_family
from patcher.oci.rootfs.layers import StoredImage
from patcher.progress import Progress, Pull, counting, each_minute, moving, summed, waiting
from patcher.talk import Volume, complain, say, set_volume
from tests.indexes import add_index
from tests.installations import TARGET
from tests.memory import Memory
from tests.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def volume() -> Iterator[None]:
    """Whatever is set, the next test has the usual one."""
    yield
    set_volume(Volume.USUAL)


def test_the_layers_are_one_sum_whoever_reports_them() -> None:
    told: list[tuple[int, int | None]] = []
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


def test_after_the_bytes_of_a_pull_its_unpacking_is_told() -> None:
    came: list[tuple[int, int | None]] = []
    unpacked: list[tuple[int, int | None]] = []
    pull = Pull(
        lambda done, total: came.append((done, total)),
        lambda done, total: unpacked.append((done, total)),
    )
    for layer in "ab":
        pull.show(Progress(layer, "Pulling fs layer", None, None))
    pull.show(Progress("a", "Downloading", 5, 5))
    pull.show(Progress("a", "Download complete", None, None))
    pull.show(Progress("a", "Extracting", 2, 5))
    assert (came, unpacked) == ([(5, 5)], [])
    pull.show(Progress("b", "Downloading", 7, 7))
    pull.show(Progress("b", "Download complete", None, None))
    pull.show(Progress("a", "Pull complete", None, None))
    pull.show(Progress("b", "Pull complete", None, None))
    assert came[-1] == (12, 12)
    assert unpacked == [(0, 2), (1, 2), (2, 2)]


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
    with moving("copying") as show, waiting("making"), counting("reading") as count:
        show(Progress("1", "Copying", 5, 5))
        count(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_base_that_is_read_shows_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Memory()
    family = load_family(blobs, blobs.descriptor(add_index(blobs)))
    with terminal(monkeypatch, "stderr") as seen:
        StoredImage(blobs, "", family.images[0]).installation([TARGET])
    assert "linux/amd64: looking for vLLM " in seen.text
    size = sum(layer.size for layer in family.images[0].manifest.layers) / 1e3
    assert re.search(rf" [\d.]+/{size:.1f} kB", seen.text), seen.text


def test_bars_inside_bars_and_talk_between_them_are_one_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        terminal(monkeypatch, "stderr") as seen,
        counting("reading images") as count,
        moving("copying") as show,
        waiting("making"),
    ):
        count(3, 47)
        show(Progress("1", "Copying", 5_000_000, 9_000_000))
        say("a line of talk")
        say("and a word that is longer than the line: " + "x" * 100)
    for text in ("reading images", "3/47", "copying", "5.0/9.0 MB", "making"):
        assert text in seen.text
    # On a line that was cleared, and the long word whole, so that it can be copied.
    assert "\x1b[2Ka line of talk\r\n" in seen.sent
    assert "x" * 100 in seen.text


@pytest.mark.parametrize("reason", ["quiet", "dumb"])
def test_no_bar_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, volume: None, reason: str
) -> None:
    with terminal(monkeypatch, "stderr") as seen:
        if reason == "quiet":
            set_volume(Volume.QUIET)
        else:
            monkeypatch.setenv("TERM", "dumb")
        with counting("reading") as count:
            count(1, 2)
        say("talk")
        complain("trouble")
    assert seen.sent == {"quiet": "trouble\r\n", "dumb": "talk\r\ntrouble\r\n"}[reason]
