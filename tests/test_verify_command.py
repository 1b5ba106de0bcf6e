"""What a person can name to `verify` and `diff`, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from patcher.cli import cli
from patcher.errors import BadSource, PatcherError, UsageError
from patcher.report.diff import shown_diff
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.test_schemas import check
from tests.wheelhouse import CLEAN, NEEDED, Site, name_of, serving, wheel


def call(*arguments: str | Path, given: bytes = b"") -> Result:
    """The command in this process, with bytes on its standard input."""
    return CliRunner().invoke(cli, [*map(str, arguments), *ONE], input=given)


def error_of(result: Result) -> PatcherError:
    """The error that ended a command."""
    assert isinstance(result.exception, PatcherError)
    return result.exception


def test_wheels_and_standard_input_are_judged(tmp_path: Path) -> None:
    file = tmp_path / name_of("0.23.0")
    file.write_bytes(wheel("0.23.0", {TARGET: NEEDED}))
    site = Site()
    site.put_wheel("0.28.0", CLEAN)
    with serving(site) as url:
        address = f"{url}/files/{name_of('0.28.0')}"
        typed = address.replace("://", "://me:hunter2@")
        stdin = ("-", "--stdin-filename", TARGET)
        lost = typed.replace(name_of("0.28.0"), "no.whl")
        found = call("verify", "--json", file, typed, lost, *stdin, given=NEEDED)
    document = check(found.stdout, found.exit_code, 1)
    said = [(each["artifact"], each["status"]) for each in document["verdicts"]]
    assert said[0] == (str(file), "needed")
    assert said[1][1] == "clean"
    shown = f"{url}/files/no.whl".replace("://", "://***@")
    assert said[2] == (shown, "unknown")
    [unread] = document["unread"]
    assert (unread["source"], bool(unread["next_step"])) == (shown, True)
    assert said[3] == (TARGET, "needed")
    assert "hunter2" not in found.output


def test_a_place_in_what_was_given_is_told_by_the_name_that_was_said() -> None:
    stdin = ("-", "--stdin-filename", TARGET)
    assert f"{TARGET}:2:12: unguarded read" in call("verify", *stdin, given=NEEDED).stdout
    shown = call("diff", *stdin, given=NEEDED)
    assert shown.stdout.startswith(f"--- a/{TARGET}\n+++ b/{TARGET}\n")
    assert shown.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "-"], "has no name"),
        (["verify", "-", "-", "--stdin-filename", "a.py"], "the one SOURCE that is -"),
        (["diff", "a.py", "--stdin-filename", "a.py"], "the one SOURCE that is -"),
        (["verify", "-", "--stdin-filename", "a.txt"], "not the name of a Python file"),
        (["verify", "-", "--stdin-filename", "a.py", "--proof"], "--proof is about all"),
        (["verify", "https://hub.docker.com/r/vllm/x"], "is not the address of a wheel"),
        (["verify", "no.whl"], "there is no no.whl"),
    ],
)
def test_what_cannot_be_meant_is_a_wrong_call(arguments: list[str], said: str) -> None:
    patch = ONE if "--proof" not in arguments else ()
    result = CliRunner().invoke(cli, [*arguments, *patch], input=NEEDED)
    assert isinstance(result.exception, BadSource | UsageError)
    assert said in result.exception.problem


@pytest.mark.parametrize(
    ("command", "typed", "step"),
    [
        ("verify", "docker://ghcr.io/a/b:c", "Write it as ghcr.io/a/b:c."),
        ("verify", "docker-daemon:a/b:c", "Write it as docker:a/b:c."),
        ("diff", "containers-storage:b:c", "Write it as docker:b:c."),
        ("verify", "oci-archive:there", "`skopeo copy oci-archive:there oci:DIR:NAME`"),
        ("verify", "vllm==0.23.0", "Write it as pypi:0.23.0."),
        ("verify", "pypi:vllm==0.23.0", "Write it as pypi:0.23.0."),
        ("verify", "pypi", "Write it as pypi:0.23.0."),
        ("verify", "there", "name an image in it, as oci:there:NAME."),
        ("patch --in-place", "pypi:0.23.0", "`vllm-patcher image` patches an image."),
        ("patch --in-place", "0.23.0", "`vllm-patcher image` patches an image."),
        ("verify --plain-http http://foo:5000/x", "pypi:0.23.0", "Write it as foo:5000."),
        ("patch --in-place", "nope", "Check the path."),
        ("image --to oci:x", "docker://a/b:c", "Write it as a/b:c."),
        ("image 0.23.0 --to", "docker://a/b:c", "Write it as a/b:c."),
        ("image 0.23.0 --to", "./out", "Write a folder as oci:./out."),
        ("lock add 0.23.0", "docker://a/b:c", "Write it as a/b:c."),
    ],
)
def test_what_another_program_would_call_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, typed: str, step: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "oci-layout").touch()
    error = error_of(CliRunner().invoke(cli, [*command.split(), typed]))
    assert step in error.next_step


def test_no_diff_is_no_line_on_a_terminal() -> None:
    assert shown_diff("") == []


def test_too_much_on_standard_input_is_not_read() -> None:
    given = b"#" * ((16 << 20) + 2)
    error = error_of(call("verify", "-", "--stdin-filename", "a.py", given=given))
    assert error.problem == "a.py cannot be read: it has more than 16 MiB"


def test_a_name_that_is_nothing_is_not_taken_for_an_image_alone(tmp_path: Path) -> None:
    nothing = "is no path here and no name in images.lock, and no Docker daemon answers at"
    for typed, step in (
        ("venv", "Start Docker"),
        ("pipy:0.23.0", "Did you mean pypi:0.23.0?"),
        ("0.231.0", "`vllm-patcher lock list` shows what is there; a release is pypi:0.231.0."),
    ):
        ran = run("verify", typed, *ONE, cwd=tmp_path, DOCKER_HOST="unix:///none.sock")
        assert ran.returncode == 3
        assert f"error: {typed!r} {nothing} unix:///none.sock\n next: {step}" in ran.stderr
