"""What a fix imports, and whether a vLLM has it."""

from __future__ import annotations

import pytest

from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.imports import missing, modules

PATH = "vllm/models/a.py"
BEFORE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("from vllm.helpers import wide", ("vllm/helpers.py", "vllm/helpers/__init__.py")),
        ("from .helpers import wide", ("vllm/models/helpers.py",)),
        ("import vllm.helpers", ("vllm/helpers.py", "vllm/helpers/__init__.py")),
        ("import os", ()),
        # What must not be there: it may fail, or nobody reads it when the code runs.
        ("try:\n        from vllm.helpers import wide\n    except ImportError:\n        pass", ()),
        ("if TYPE_CHECKING:\n        from vllm.helpers import wide", ()),
    ],
)
def test_what_a_function_imports_is_looked_for_in_vllm(line: str, files: tuple[str, ...]) -> None:
    """vLLM's PR 38973 takes two names from a module that 0.21.0 has, and not with these names."""
    after = BEFORE.replace("    return", f"    {line}\n    return")
    sides = changed_scopes(PATH, BEFORE.encode(), after.encode())
    assert set(files) <= set(modules(sides))
    assert bool(files) == bool(modules(sides))
    if not files:
        return
    lacking: dict[str, bytes | None] = dict.fromkeys(modules(sides))
    assert "this vLLM has none" in (missing(lacking, sides) or "")
    assert missing({**lacking, files[0]: b"def wide(): ...\n"}, sides) is None
    # What is not Python here is not judged here.
    assert missing({**lacking, files[0]: b"def (\n"}, sides) is None
    if "import vllm" not in line:
        assert missing({**lacking, files[0]: b"def narrow(): ...\n"}, sides) is not None
