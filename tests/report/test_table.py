"""Tables at 40, 80 and 120 columns: nothing is lost but to a mark, and nothing is wider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from patcher.files import data_path
from patcher.lock.file import load
from patcher.report.lock import lock_table
from patcher.report.patches import catalogue_table, explained
from patcher.report.table import table
from patcher.rules.catalogue import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: dict[str, Callable[[int | None], list[str]]] = {
    "patches": lambda width: catalogue_table(list(catalogue()), width),
    "lock list": lambda width: lock_table(load(data_path("images.lock")).entries, width),
}
ROWS = [("VERSION", "PIN", "WHAT IT IS"), ("0.23.1rc1.dev672", "index", "one two three " * 3)]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_a_real_table_fits(name: str, width: int) -> None:
    lines = TABLES[name](width)
    assert max(map(len, lines)) <= width
    words = " ".join(TABLES[name](None)).split()
    # A version or a name is there whole: only references and links may be cut.
    shown = " ".join(lines).split()
    for word in words[:40]:
        assert word in shown or word.isupper() or len(word) > 24, word


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_patch_is_explained_between_words(width: int) -> None:
    for patch in catalogue():
        lines = explained(patch, width)
        # A link is one word, and stays one.
        assert all(len(line) <= width or " " not in line[13:] for line in lines)
        assert " ".join(" ".join(lines).split()) == " ".join(" ".join(explained(patch)).split())


def test_the_last_column_is_broken_between_words_or_cut() -> None:
    assert table(ROWS, 50, wraps=True) == [
        "VERSION           PIN    WHAT IT IS",
        "0.23.1rc1.dev672  index  one two three one two",
        "                         three one two three",
    ]
    assert table(ROWS, 50)[1] == "0.23.1rc1.dev672  index  one two three one two th…"
    assert (
        table(ROWS, 80)[1] == "0.23.1rc1.dev672  index  one two three one two three one two three"
    )


def test_without_room_for_it_each_row_is_a_block() -> None:
    assert table(ROWS, 40, wraps=True) == [
        "0.23.1rc1.dev672",
        "  pin         index",
        "  what it is  one two three one two",
        "              three one two three",
    ]


def test_a_cell_cannot_speak_to_the_terminal() -> None:
    assert "\x1b" not in "".join(table([("A", "B"), ("\x1b[31m", "\x1b[2J\n")], 40))
