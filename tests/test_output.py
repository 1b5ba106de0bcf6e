"""All that is printed goes through `patcher.answer` or `patcher.talk`, and stays text."""

from __future__ import annotations

import ast
import gc
import io
import json
import signal
import sys
from pathlib import Path

import pytest

from patcher.answer import show
from patcher.jobs.demo import PLATFORM, RUN, write_base
from patcher.oci.rootfs.installed import VERSION_FILE
from patcher.talk import say
from patcher.terminal import fitted
from patcher.text import printable
from tests.commands import ONE
from tests.conftest import TARGET
from tests.installations import installed_file
from tests.program import FILES, ROOT, nodes_of
from tests.scripted import Reply, Seen, serving
from tests.test_text import is_command
from tests.wheelhouse import NEEDED, wheel

# What writes to a stream, by the name that code needs for it.
WRITERS = {"print", "pprint", "echo", "secho", "echo_via_pager", "Console", "logging", "print_exc"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}

ALLOWED = {
    ("answer.py", "print"),
    ("answer.py", "sys.stdout"),
    ("talk.py", "echo"),
    # Bars, whose words are this program's; what `talk` has made safe is printed above them.
    ("bars.py", "Console"),
    ("bars.py", "print"),
    # Errors, whose words are safe by `PatcherError`; and it puts streams that can fail in their
    # place.
    ("__main__.py", "print"),
    *(("__main__.py", f"sys.{stream}") for stream in STREAMS),
}
# They ask a stream what it takes, and write nothing.
QUESTIONS = {"width_of", "takes_colour"}


def program_nodes() -> dict[str, list[ast.AST]]:
    """Of all files but what runs beside a vLLM, and talks to this program alone."""
    return {
        name: nodes_of(path)
        for path in FILES
        if (name := path.relative_to(ROOT).as_posix()) != "smoke/probe.py"
    }


def writers_of(nodes: list[ast.AST]) -> set[str]:
    """The ways to a stream that a file names; whether a terminal reads one is only a question."""
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    named = {node.attr for node in attributes}
    named |= {node.id for node in nodes if isinstance(node, ast.Name)}
    named |= {node.name for node in nodes if isinstance(node, ast.alias)}
    asked = {id(node.value) for node in attributes if node.attr == "isatty"}
    asked |= {
        id(each)
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in QUESTIONS
        for each in node.args
    }
    streams = {
        ast.unparse(node) for node in attributes if node.attr in STREAMS and id(node) not in asked
    }
    streams |= {
        f"sys.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "sys"
        for alias in node.names
    }
    return (named & WRITERS) | (streams & {f"sys.{stream}" for stream in STREAMS})


def test_nothing_else_writes_to_a_stream() -> None:
    found = {(name, writer) for name, own in program_nodes().items() for writer in writers_of(own)}
    assert found == ALLOWED


def test_a_document_is_made_where_it_is_made_safe() -> None:
    """mypy lets no other text be handed over."""
    made = {
        name.partition("/")[0]
        for name, own in program_nodes().items()
        for node in own
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Document"
    }
    assert made == {"report"}


HOSTILE = "x\n::add-mask::y\r\x1b[2J\u202e\u2028##[error]z\x9b"


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    show([f"::{HOSTILE}"])
    for text in capsys.readouterr():
        assert text.count("\n") == 1
        assert text.removesuffix("\n").isprintable()
        assert not is_command(text)


def test_a_line_that_a_terminal_breaks_begins_no_command() -> None:
    """A runner's log can be that of a terminal: `docker run -t` in a step."""
    text = printable(f"{'x' * 30} ::add-mask::y {'x' * 30} ::stop-commands::z")
    lines = fitted(text, 40)
    assert len(lines) > 1
    assert not any(map(is_command, lines))


class Terminal(io.StringIO):
    """A stream that a terminal reads."""

    def isatty(self) -> bool:
        return True


def test_of_all_escapes_a_colour_alone_comes_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, shown in (
        (Terminal(), "\x1b[1m\x1b[31mx\x1b[0m"),
        (io.StringIO(), "\\x1b[1m\\x1b[31mx"),
    ):
        monkeypatch.setattr(sys, "stdout", stream)
        show([f"\x1b[1m\x1b[31mx\x1b[0m{HOSTILE}\x1b[8m\x1b[30;40m\x1b[48;5;0m"])
        assert stream.getvalue().startswith(shown)
        for escape in ("\x1b[2J", "\x1b[8m", "\x1b[30;40m", "\x1b[48;5;0m"):
            assert escape not in stream.getvalue()
        assert "\u202e" not in stream.getvalue()


PATCH = f"""\
from dataclasses import dataclass
from patcher.rules.patch import Patch
from patcher.rules.rule import Found, Place, Words
X = {HOSTILE!r}
@dataclass(frozen=True)
class Mine:
    words = Words(*[X] * 6)
    def find(self, files):
        if {{needed}}:
            return Found((Place({TARGET!r}, 1, 1, X, X, True),))
        return Found(unknown=X)
    def rewrite(self, files): raise ValueError(X)
    def prove(self, before, after): pass
    def explain(self): return (X,)
PATCH = Patch(name={{name!r}}, version=1, title=X, why=X, targets=({TARGET!r},), rule=Mine(),
              upstream=((1, X),), affected=(">=0.1",), smoke=(X,))
"""

ERRORS = {"errors": [{"code": HOSTILE, "message": HOSTILE, "detail": HOSTILE}]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tree, patches, a layout, a lock, reports; all that can have a name has a
    hostile one, and says hostile things.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{HOSTILE}"))
    tree = tmp_path / f"tree{HOSTILE}"
    (tree / TARGET).parent.mkdir(parents=True)
    (tree / TARGET).write_bytes(NEEDED)
    (tree / VERSION_FILE).write_text(f"__version__ = {HOSTILE!r}\n")
    for name, needed in (("one", True), ("two", False)):
        (tmp_path / f"{name}.py").write_text(PATCH.format(name=name, needed=needed))
    (tmp_path / f"{HOSTILE}.py").write_text(f"raise ValueError({HOSTILE!r})")
    (tmp_path / "lock").write_text(f"schema = 1\n[[image]]\n{json.dumps(HOSTILE)} = 1\n")
    (tmp_path / "report.json").write_text(
        json.dumps({"command": "error", "arguments": ["image", HOSTILE],
                    "error": {"kind": "x", "problem": HOSTILE, "next_step": HOSTILE}})
    )  # fmt: skip
    layout = tmp_path / f"layout{HOSTILE}"
    run = {**RUN, "Labels": {HOSTILE: HOSTILE, "org.opencontainers.image.base.name": HOSTILE}}
    files = [
        installed_file(TARGET, NEEDED),
        installed_file(VERSION_FILE, b"__version__ = '0.23.0'"),
    ]
    write_base(layout, files, PLATFORM, run, "0.23.0")
    (tmp_path / "hostile.diff").write_text(
        f"--- a/{HOSTILE}\n+++ b/vllm/{HOSTILE}.py\n@@ -1 +1 @@\n"
    )
    return tmp_path


def answer(seen: Seen) -> Reply:
    """An index, a wheel and a registry that say hostile things."""
    if seen.path.startswith("/simple"):
        page = {"meta": {"api-version": "1.1"}, "name": "vllm",
                "files": [{"filename": f"vllm-0.23.0{HOSTILE}-py3-none-any.whl", "url": HOSTILE,
                           "hashes": {}, "yanked": HOSTILE},
                          {"filename": "vllm-0.23.0-py3-none-any.whl", "url": f"/{HOSTILE}.whl",
                           "hashes": {}}]}  # fmt: skip
        kind = "application/vnd.pypi.simple.v1+json"
        return Reply(200, {"Content-Type": kind}, json.dumps(page).encode())
    if seen.path.startswith("/whole"):
        return Reply(body=wheel("0.23.0", {TARGET: NEEDED, VERSION_FILE: b"\xff\n::x"}))
    return Reply(400, {"Content-Type": "application/json"}, json.dumps(ERRORS).encode())


def calls(host: str) -> list[list[str]]:
    tree, layout = f"tree{HOSTILE}", f"oci:layout{HOSTILE}"
    own = ["--patch", "./one.py", "--patch", "./two.py"]
    formats = [["--format", each] for each in ("table", "json", "markdown", "html")]
    return [
        ["verify", tree, HOSTILE, *own, *ONE],
        ["verify", tree, "--everywhere", *ONE, "--json"],
        ["verify", layout, f"{layout}:{HOSTILE}", *ONE],
        ["verify", f"{host}/a:v1", f"{host}/a:{HOSTILE}", *ONE],
        ["verify", "--proof", f"{host}/a:v1"],
        ["verify", "--proof", layout],
        ["verify", "git:.@HEAD" + HOSTILE],
        ["diff", tree, "--patch", "./one.py"],
        ["diff", layout, *ONE, "--json"],
        ["patch", tree, "-o", f"out{HOSTILE}", *ONE],
        ["patch", tree, "-o", f"out{HOSTILE}", *own, "--json"],
        ["patches", "./one.py", "./two.py"],
        ["patches", f"./{HOSTILE}.py"],
        ["patches", HOSTILE, "--json"],
        ["image", layout, "--to", "oci:to", *ONE],
        ["image", layout, "--to", "oci:to", *own, "--dry-run"],
        ["image", HOSTILE, "--to", f"oci:{HOSTILE}"],
        ["image", "0.23.0", "--to", f"{host}/a", "--lock", "lock"],
        *(["landed", tree, HOSTILE, *own, "--check", *each] for each in formats),
        *(["landed", "--index", f"http://{host}/simple", *own, *each] for each in formats),
        ["landed", "--wheel", f"http://{host}/whole/vllm-0.23.0-py3-none-any.whl", *own],
        ["landed", "--wheel", f"http://{host}/{HOSTILE}.whl", "-o", f"{HOSTILE}.md"],
        ["landed", "--git", f"{HOSTILE}@{HOSTILE}"],
        ["lock", "list", "--lock", "lock"],
        ["lock", "add", "0.23.0", f"{host}/a:v1", "--lock", f"new{HOSTILE}"],
        ["lock", "add", HOSTILE, HOSTILE, "--offline", "--lock", f"new{HOSTILE}"],
        ["lock", "remove", HOSTILE, "--lock", "lock", "--json"],
        ["lock", "update", HOSTILE, "--lock", "lock"],
        ["summary", "report.json", f"{HOSTILE}.json"],
        ["summary", "report.json", "--format", "outputs"],
        ["alarm", "report.json", "report.json", "--state", f"{HOSTILE}/state"],
        ["new", "x", "--diff", "hostile.diff", "--from", HOSTILE],
        ["smoke", f"http://{host}"],
        ["smoke", "--python", HOSTILE],
        ["revert", tree],
        ["cache", "info"],
        ["cache", "dir"],
        ["cache", "clear", "--json"],
        [HOSTILE],
        ["verify", f"--{HOSTILE}"],
    ]  # fmt: skip


def run(arguments: list[str]) -> int:
    """As a start of the program runs them. To import it takes Ctrl-C from Python, and this process
    goes on.
    """
    before = signal.getsignal(signal.SIGINT)
    from patcher.__main__ import _run

    signal.signal(signal.SIGINT, before)
    return _run(arguments)


# The program leaves its connections to the end of the process.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_command_says_what_others_want_said(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Below all buffers: what a library prints counts too."""
    with serving(answer) as server:
        for call in calls(server.host):
            code = run(call)
            for text in capfd.readouterr():
                for line in text.split("\n"):
                    # Markdown stops mentions with a zero-width space of its own.
                    assert line.replace("\u200b", "").isprintable(), (call, line)
                    assert not is_command(line), (call, line)
                assert "unexpected" not in text, (call, text)
                assert "Traceback" not in text, (call, text)
            assert code in {0, 1, 2, 3}, call
    assert not list(here.glob("*.tmp"))
    gc.collect()  # in this test, whose mark is about it
