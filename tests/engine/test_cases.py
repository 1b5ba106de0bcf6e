"""`smoke --python` on a real engine: what packed weights generate, with the guard and without.

No affected release runs MLA on a CPU, so the guard is taken out of a copy of a fixed one; stock
releases on a GPU are in docs/evidence.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.engine.environment import environment
from tests.test_schemas import check

pytestmark = pytest.mark.engine


def smoke(engine: Path, case: str, code: int, *before: Path, hook: bool = True) -> Any:
    called = ("smoke", "--python", engine, "--case", case, "--timeout", "500", "--json")
    done = run(*called, cwd=None, **environment(*before, hook=hook))
    document = check(done.stdout, done.returncode, code)
    [found] = document["cases"]
    return found


@pytest.fixture(scope="session")
def packed(engine: Path) -> Any:
    """W4A16 on the release as it is."""
    return smoke(engine, "w4a16", 0)


def test_the_control_generates(engine: Path) -> None:
    found = smoke(engine, "bf16", 0)
    assert (found["state"], found["weight"], found["device"]) == ("passed", "bfloat16", "CPU")
    assert found["reads"] >= 1


def test_packed_weights_generate_where_the_guard_is(packed: Any) -> None:
    assert (packed["state"], packed["weight"]) == ("passed", "absent")
    assert (len(packed["short"]), len(packed["long"])) == (8, 8)


def test_without_the_guard_the_long_prompt_dies_and_the_short_one_passes(
    engine: Path, unguarded: Path, packed: Any
) -> None:
    found = smoke(engine, "w4a16", 1, unguarded)
    assert found["error"] == (
        "AttributeError: 'ColumnParallelLinear' object has no attribute 'weight'"
    )
    assert "_compute_prefill_context" in found["traceback"]
    assert (found["short"], found["long"]) == (packed["short"], [])


def test_the_patched_copy_gives_the_same_tokens_again(
    engine: Path, cured: Path, packed: Any
) -> None:
    found = smoke(engine, "w4a16", 0, cured)
    assert (found["short"], found["long"]) == (packed["short"], packed["long"])
    assert found["reads"] == packed["reads"]


def test_an_engine_that_reads_the_prompt_in_one_piece_has_not_passed(engine: Path) -> None:
    """As the release is, its CPU platform switches chunks off; with AMX it does not."""
    if "amx_tile" in Path("/proc/cpuinfo").read_text():
        pytest.skip("with AMX this release reads in chunks by itself")
    found = smoke(engine, "bf16", 3, hook=False)
    assert (found["state"], found["reads"]) == ("not reached", 0)
    assert len(found["long"]) == 8
