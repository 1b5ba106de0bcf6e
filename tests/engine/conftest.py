"""The engine lane's fixtures: the environment, and a copy of it with the guard taken out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.conftest import missing
from tests.engine.environment import (
    TARGET,
    NotInstalled,
    copied,
    installed,
    set_up,
    take_guard_out,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def engine() -> Iterator[Path]:
    """The interpreter of a real vLLM for CPUs, which is left as it was found."""
    try:
        python = set_up()
    except NotInstalled as error:
        missing(f"no engine: {error}")
    target = installed(python) / TARGET
    before = hashlib.sha256(target.read_bytes()).digest()
    yield python
    assert hashlib.sha256(target.read_bytes()).digest() == before


@pytest.fixture(scope="session")
def unguarded(engine: Path) -> Iterator[Path]:
    """A copy with the guard taken out of a fixed release: no affected one runs MLA on a CPU."""
    with copied(engine) as folder:
        take_guard_out(folder)
        yield folder


@pytest.fixture(scope="session")
def cured(engine: Path) -> Iterator[Path]:
    """Another such copy, then patched by `vllm-patcher patch --in-place`."""
    from tests.commands import run

    with copied(engine) as folder:
        take_guard_out(folder)
        done = run("patch", folder, "--in-place", "--patch", "kv-b-proj-dtype")
        assert done.returncode == 0, done.stderr
        yield folder
