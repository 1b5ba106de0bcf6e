"""What --help says of every command: its examples are calls that it knows, and nothing wraps."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from patcher.cli import cli
from patcher.commands.command import Command, Group

if TYPE_CHECKING:
    from collections.abc import Iterator


WIDE = {"COLUMNS": "80"}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that lead to every command."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


def named(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a call means, and the rest of the call."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


def expect_known(line: str) -> None:
    """Fail unless a shell line is a call of a command with options and arguments that it has."""
    program, *words = shlex.split(line.partition(" > ")[0], comments=True)
    assert program.endswith("vllm-patcher"), line
    meant, rest = named(words)
    assert not isinstance(meant, click.Group), line
    context = click.Context(meant, help_option_names=["-h", "--help"])
    values, _, _ = meant.make_parser(context).parse_args(rest)
    needed = [each.name for each in meant.params if each.required]
    assert all(values.get(name) for name in needed), line


@pytest.fixture(params=list(commands(cli)), ids=lambda path: " ".join(path) or "all")
def path(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def test_every_help_teaches_and_fits_80_columns(path: list[str]) -> None:
    ran = CliRunner().invoke(cli, [*path, "--help"], prog_name="vllm-patcher", env=WIDE)
    assert ran.exit_code == 0
    assert ran.output.startswith(f"Usage: {' '.join(['vllm-patcher', *path])} [")
    assert "Exit codes: 0 " in ran.output
    if path[:1] in (["cache"], ["lock"]):
        assert "a finding" not in ran.output, "they judge nothing"
    for option in ("-q, --quiet", "-v, --verbose", "-h, --help"):
        assert option in ran.output
    assert max(map(len, ran.output.splitlines())) <= 80
    assert "..." not in ran.output.partition("Commands:")[2].partition("Examples:")[0]


def test_every_command_has_examples_of_itself_that_it_can_parse(path: list[str]) -> None:
    command, _ = named(path)
    assert isinstance(command, Command | Group)
    lines = command.examples.replace("\\\n", " ").strip().splitlines()
    assert any(line.split()[1 : len(path) + 1] == path for line in lines)
    for line in lines:
        expect_known(line)
