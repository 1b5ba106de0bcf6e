"""README and docs/: their commands run, what they show is what is printed, their tables hold.

A fenced block marked `console` is run, the blocks of a page one after another in one folder. A line
after `$` is a call of the program, which exits 0 or as a comment at its end says (`# exits 1`); the
lines below are its whole output, both streams, in which `...` stands for anything. Other commands
need a daemon, a registry or a login: they are parsed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from patcher.cli import cli
from patcher.rules.catalogue import catalogue
from patcher.rules.patch import Patch
from tests.commands import start
from tests.conftest import missing

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

Shown = tuple[str, int, str]


def shown(text: str) -> list[Shown]:
    """The commands of the blocks that are run: each with its exit code and output."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found: list[Shown] = []
    for each in "".join(blocks).removeprefix("$ ").split("\n$ ") if blocks else []:
        command, _, output = each.partition("\n")
        code = re.search(r"# exits (\d)", command)
        found.append((command, int(code[1]) if code else 0, output.strip("\n")))
    return found


def fits(output: str, wanted: str) -> bool:
    """Whether an output is the wanted one, in which `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
    return re.fullmatch(pattern, output, re.DOTALL) is not None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if shown(page.read_text())], ids=lambda page: page.name
)
def test_a_page_shows_what_its_commands_print(
    page: Path, tmp_path: Path, release_file: Callable[[str], bytes]
) -> None:
    release_file("0.23.0")  # PyPI is there, or the test is skipped
    for command, code, wanted in shown(page.read_text()):
        program, *words = shlex.split(command, comments=True)
        assert program == "vllm-patcher", command
        terminal = {"COLUMNS": "200", "NO_COLOR": "1"}
        ran = start(*words, cwd=tmp_path, environment=terminal, as_one=True).wait()
        assert ran.returncode == code, f"{command}\n{ran.stdout}"
        assert not wanted or fits(ran.stdout.strip("\n"), wanted), f"{command}\n{ran.stdout}"


def commands_of(text: str) -> Iterator[str]:
    """Each call of the program in a page: in a block, or between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .+$", text, re.MULTILINE)
    for line in "\n".join([*blocks, *indented]).replace("\\\n", " ").splitlines():
        if call := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?vllm-patcher (.+)", line):
            yield call[1]
    yield from re.findall(r"`(?:\.venv/bin/)?vllm-patcher ([^`]+)`", text)


@by_name
def test_every_command_of_a_page_is_one_that_the_program_knows(page: Path) -> None:
    for call in commands_of(page.read_text()):
        words = shlex.split(re.split(r" [|>] ?", call)[0].replace(" ...", ""), comments=True)
        if words[:1] in (["--version"], []):
            continue
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            assert found is not None, call
            command, words = found, words[1:]
        # A text may name an option without its value.
        with contextlib.suppress(click.BadOptionUsage):
            context = click.Context(command, **command.context_settings)
            command.make_parser(context).parse_args(words)


@by_name
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_site_s_menu_and_on_its_first_page() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    menu = re.findall(r"^  - .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert set(menu) == pages
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "index.md").read_text())
    assert {*linked, "index.md"} == pages


def row(patch: Patch) -> str:
    """A patch's line in the README's catalogue."""
    claimed = " or ".join(f"`{each}`" for each in patch.affected)
    numbers = ", ".join(
        f"[{number}](https://github.com/vllm-project/vllm/issues/{number})"
        for number, _ in patch.upstream
    )
    return f"| `{patch.name}` | {patch.title} | {claimed} | {numbers} |"


def test_the_readme_lists_the_catalogue() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition("<!-- catalogue:")[2].partition("<!-- end of the catalogue -->")[0]
    wanted = [row(patch) for patch in catalogue()]
    assert wanted
    assert table.strip().splitlines()[4:] == wanted, "\n".join(["it should be", *wanted])


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if find_spec("material") is None:
        missing("mkdocs-material is not installed (pip install '.[docs]')")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert (tmp_path / "site" / "verifying" / "index.html").is_file()
