"""A vLLM whose version has no place among the releases is judged by its content, and told so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from patcher.cli import cli
from tests.installations import TARGET

if TYPE_CHECKING:
    from pathlib import Path

MINE = f"""
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace

PATCH = Patch(
    name="mine", version=1, title="t", why="w", targets=({TARGET!r},),
    rule=Replace((Change({TARGET!r}, "f", "return 1", "return 2"),)),
    upstream=(), affected=(">=0.25.0,<0.27.0",),
)
"""


@pytest.mark.parametrize(
    ("version", "returned", "code"),
    [
        ("0.1.dev1+g93d8f834d", 1, 1),
        ("0.1.dev1+g93d8f834d", 2, 0),
        ("0.1.dev1+g93d8f834d", 3, 3),
        ("0.0.0", 1, 1),
        ("0.28.0", 1, 0),
        ("0.26.0", 1, 1),
    ],
)
def test_it_is_never_needless_by_its_version_alone(
    tmp_path: Path, version: str, returned: int, code: int
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    tree = tmp_path / "tree"
    source = tree / TARGET
    source.parent.mkdir(parents=True)
    (tree / "vllm" / "__init__.py").touch()
    (tree / "vllm" / "_version.py").write_text(f"__version__ = version = {version!r}\n")
    source.write_text(f"def f():\n    return {returned}\n")
    words = [str(tree), "--patch", str(tmp_path / "mine.py")]
    done = CliRunner().invoke(cli, ["verify", *words])
    assert done.exit_code == code, done.output
    is_told = f"it states the version {version}, of no release" in done.output
    assert is_told is (version not in ("0.28.0", "0.26.0"))
    if returned == 1 and version != "0.28.0":
        assert (
            f"{TARGET}:2:1: to be replaced: return 1 in f: this is what fails [mine]" in done.output
        )
        changed = CliRunner().invoke(cli, ["diff", *words])
        assert changed.exit_code == 0
        assert "+    return 2" in changed.output
