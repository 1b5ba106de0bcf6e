"""Several patches of one series: each on what those before it made, each proven."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from patcher.errors import FileAbsent, NotPython, ProofFailed, Undecided
from patcher.rules.apply import Outcome, apply_all, series
from patcher.rules.datafile import DataFile
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO, CONFIG = "vllm/one.py", "vllm/two.py", "vllm/configs/E=8,device_name=GB10.json"
SOURCE = b"def limit():\n    return 1\n\n\ndef name():\n    return 'a'\n"


def patch_of(name: str, old: str, new: str, affected: str = ">=0.20") -> Patch:
    function = "name" if "'" in old else "limit"
    rule = Replace((Change(ONE, function, old, new),))
    return Patch(name, 1, "t", "w", (ONE,), rule, (), (affected,))


FIRST = patch_of("first", "return 1", "return 2")
NAME = patch_of("name", "return 'a'", "return 'b'")
TUNED = Patch("tuned", 1, "t", "w", (CONFIG,), DataFile(CONFIG, b"{}"), (), (">=0.20",))
LATE = patch_of("late", "return 2", "return 3", ">=0.24")


def test_a_conflict_names_both_patches() -> None:
    files = {ONE: SOURCE}
    with pytest.raises(Undecided, match="second does not go with first, which changed the same"):
        series([FIRST, patch_of("second", "return 1", "return 4")], files)
    with pytest.raises(ProofFailed, match="first and undo change the same code"):
        series([FIRST, patch_of("undo", "return 2", "return 9")], files)
    # What does not apply without the first either is no conflict with it.
    with pytest.raises(
        Undecided, match=r"^second cannot judge it: vllm/one\.py: limit has neither what"
    ):
        series([FIRST, patch_of("second", "return 7", "return 8")], files)
    done = series([FIRST], files)
    assert [(step.patch.name, step.places) for step in done] == [("first", 1)]


def reader(files: dict[str, bytes]) -> Callable[[str], bytes]:
    def read(target: str) -> bytes:
        try:
            return files[target]
        except KeyError:
            raise FileAbsent(f"there is no {target}", next_step="-") from None

    return read


def test_a_file_that_is_patched_twice_has_one_outcome() -> None:
    done = apply_all([FIRST, NAME, TUNED, LATE], reader({ONE: SOURCE}), "it:{}".format, "0.23.0")
    after = SOURCE.replace(b"1", b"2").replace(b"'a'", b"'b'")
    assert done == (Outcome(ONE, SOURCE, after, 2), Outcome(CONFIG, None, b"{}", 1))


def test_where_nothing_is_to_be_done_the_file_is_told_as_it_is() -> None:
    [done] = apply_all([LATE], reader({ONE: SOURCE.replace(b"1", b"3")}), str, "0.24.0")
    assert (done.places, done.before) == (0, done.after)


def test_an_error_names_the_file_as_it_is_known_to_the_caller() -> None:
    with pytest.raises(NotPython, match=r"^it:vllm/one\.py: "):
        apply_all([FIRST], reader({ONE: b"def f(:"}), "it:{}".format)


def test_an_error_names_the_patch_that_cannot_judge_and_its_own_file() -> None:
    lost = dataclasses.replace(
        FIRST,
        name="lost",
        targets=(TWO,),
        rule=Replace((Change(TWO, "f", "return 1", "return 2"),)),
    )
    said = rf"^it:{TWO}: lost cannot judge it: there is no {TWO}\. "
    others = f"To apply the others that are needed: --patch {FIRST.name}$"
    with pytest.raises(FileAbsent, match=said + others):
        apply_all([FIRST, lost], reader({ONE: SOURCE}), "it:{}".format)
    with pytest.raises(FileAbsent, match=f"{said}.*name the others with --patch"):
        apply_all([lost], reader({ONE: SOURCE}), "it:{}".format)
