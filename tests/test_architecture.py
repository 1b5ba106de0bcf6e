"""The floors: nothing imports upwards, and starting up stays cheap."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ONE
from tests.program import FILES, ROOT, nodes_of

# A line a floor, from the ground up: a folder may import its own files and the floors below. Files
# that stand beside the folders are on the floor of the first folder that needs them.
FLOORS = [
    {
        "errors",
        "text",
        "files",
        "threads",
        "syntax",
        "versions",
        "terminal",
        "answer",
        "talk",
        "progress",
        "bars",
        "diff",
        "__init__",
    },
    {"rules", "oci"},
    {"cache", "layer_cache", "web", "daemon"},
    {"registry"},
    {"lock", "places"},
    {"sources"},
    {"jobs", "smoke"},
    {"landed"},
    {"report"},
    {"commands"},
    {"cli", "__main__"},
]
FLOOR_OF = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The folder that a module is in, or the module itself where it stands beside the folders."""
    return [*module.split("."), "__init__"][1]


MODULES = {module_of(file) for file in FILES}


@functools.cache
def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != "patcher"}


def test_nothing_imports_upwards() -> None:
    upwards = {
        (module_of(path), name)
        for path in FILES
        for name in imports_of(path)
        if FLOOR_OF[room_of(name)] > FLOOR_OF[room_of(module_of(path))]
    }
    assert upwards == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    assert in_circles({module_of(path): imports_of(path) for path in FILES}) == set()


def test_no_folder_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(room_of(module_of(path)), set()).update(map(room_of, imports_of(path)))
    assert in_circles(graph) == set()


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """What is left when all that needs nothing, or only what has gone, is taken away."""
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if needs - {name} <= done} - done:
        done |= ready
    return set(graph) - done


# Each asks within a `try` that takes what the system says.
MAY_ASK = {"files", "cache", "places", "sources.everywhere", "smoke"}


def test_no_path_is_asked_for_in_a_way_that_raises_what_the_system_says() -> None:
    """`Path.exists` does where a folder may not be looked into: `patcher.files` has its own."""
    asking = {
        module_of(path).partition(".")[2]
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"exists", "is_dir", "is_file"}
    }
    assert {name for name in asking if not {name, room_of(f"x.{name}")} & MAY_ASK} == set()


# What runs a file instead: a patch, which is a module, and not a source to be judged.
RUNS = {"rules.catalogue"}


def test_python_is_parsed_in_one_place() -> None:
    """In two threads at once ast.parse can fail for no fault of the file."""
    parsing = {
        module_of(path).partition(".")[2]
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"ast.parse", "compile"}
    }
    assert parsing - RUNS == {"syntax"}


def test_contributing_shows_the_folders_as_they_are() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    tree = text.partition("## The tree")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([\w/]+)/` \|", tree, re.MULTILINE)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {each.partition("/")[2] for each in listed if each.startswith("patcher/")} == packages
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT.parent}", "ls-files"],
        cwd=ROOT.parent, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    folders = {name.partition("/")[0] for name in tracked if "/" in name}
    shown = {each for each in listed if "/" not in each}
    assert shown == {name for name in folders if not name.startswith(".")} - {"patcher"}
    heights = [FLOOR_OF[each.partition("/")[2]] for each in listed if each.startswith("patcher/")]
    assert heights == sorted(heights, reverse=True)


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:patcher|tests|docs|patches)/[\w./]+)`", text):
        assert (ROOT.parent / name).exists() or name == "patches/your_name.py", name


# Two readings prove nothing together once they share a line of code about what they read.
SHARED = {
    # The rule seam gives the writing one the form of an edit.
    "guard": {"rules.guard.chain", "rules.rule", "errors", "syntax", "threads"},
    "backport": {"rules.backport.scope", "diff", "errors", "syntax"},
}


@pytest.mark.parametrize(
    ("rule", "reading"),
    [("guard", "writing"), ("guard", "proving"), ("backport", "merging"), ("backport", "proving")],
)
def test_the_two_readings_of_a_rule_share_nothing_but_its_data(rule: str, reading: str) -> None:
    folder = f"patcher.rules.{rule}.{reading}"
    files = [path for path in FILES if module_of(path).startswith(folder)]
    assert files
    for path in files:
        beyond = {name for name in imports_of(path) if not name.startswith(folder)}
        assert beyond - {f"patcher.{name}" for name in SHARED[rule]} == set(), path.name


def test_verifying_a_file_pays_for_nothing_heavy(tmp_path: Path) -> None:
    heavy = {
        "libcst",
        "docker",
        "requests",
        "jinja2",
        "rich",
        "pypi_simple",
        "pydantic",
        "packaging.version",
        "importlib.metadata",
    }
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    code = (
        "import sys; from patcher.__main__ import main\n"
        f"sys.argv = ['vllm-patcher', 'verify', {str(file)!r}, *{ONE}]\n"
        "try: main()\n"
        "except SystemExit as end:\n"
        f"    sys.exit(end.code or ', '.join({heavy} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
