"""The floors: nothing imports upwards, and starting up stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import patcher

ROOT = Path(patcher.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Lower is nearer the ground. A module may import its own floor and those below. A file that stands
# beside the folders is named by itself.
FLOORS = {
    "patcher": 0,
    "patcher.errors": 0,
    "patcher.diff": 0,
    "patcher.files": 0,
    "patcher.threads": 0,
    "patcher.versions": 0,
    "patcher.progress": 0,
    "patcher.rules": 1,
    "patcher.oci": 1,
    "patcher.cache": 2,
    "patcher.layer_cache": 2,
    "patcher.web": 2,
    "patcher.daemon": 2,
    "patcher.registry": 3,
    "patcher.lock": 4,
    "patcher.places": 4,
    "patcher.sources": 5,
    "patcher.jobs": 6,
    "patcher.smoke": 6,
    "patcher.landed": 7,
    "patcher.report": 8,
    "patcher.commands": 9,
}
TOP = 10


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> int:
    """The floor of the longest prefix that has one; what has none is a command's."""
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        if ".".join(parts[:length]) in FLOORS:
            return FLOORS[".".join(parts[:length])]
    return FLOORS.get(module, TOP)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    modules = {module_of(file) for file in FILES}
    return {name for name in found if name in modules and name != "patcher"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_imports_upwards(path: Path) -> None:
    own = floor_of(module_of(path))
    assert {name for name in imports_of(path) if floor_of(name) > own} == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module_of(path): imports_of(path) for path in FILES}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if needs - {name} <= done} - done:
        done |= ready
    assert set(graph) - done == set()


# Two readings of "guarded" prove nothing together once they share a line of code.
GUARD = "patcher.rules.guard"
# The rule seam gives the writing one the form of an edit.
SHARED = {f"{GUARD}.chain", "patcher.rules.rule", "patcher.errors", "patcher.threads"}


@pytest.mark.parametrize("reading", ["writing", "proving"])
def test_the_two_readings_of_guarded_share_nothing_but_the_rules_data(reading: str) -> None:
    folder = f"{GUARD}.{reading}"
    files = [path for path in FILES if module_of(path).startswith(folder)]
    assert files
    for path in files:
        beyond = {name for name in imports_of(path) if not name.startswith(folder)}
        assert beyond - SHARED == set(), path.name


@pytest.mark.parametrize(
    "heavy",
    [
        "libcst",
        "docker",
        "requests",
        "jinja2",
        "rich",
        "pypi_simple",
        "pydantic",
        "packaging.version",
        "importlib.metadata",
    ],
)
def test_verifying_a_file_does_not_pay_for(tmp_path: Path, heavy: str) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    code = (
        "import sys; from patcher.__main__ import main\n"
        f"sys.argv = ['vllm-patcher', 'verify', {str(file)!r}]\n"
        "try: main()\n"
        f"except SystemExit as end: sys.exit(end.code or {heavy!r} in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
