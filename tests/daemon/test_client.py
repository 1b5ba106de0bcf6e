"""Ctrl-C and other ends held back, against real signals; the steps that a daemon tells."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from patcher.daemon.client import DEFAULT, address, connect, progress_of, undisturbed
from patcher.daemon.engine import local_image
from patcher.errors import DaemonFailed, NoDaemon
from patcher.progress import Progress
from tests.scripted import Reply, Seen, serving


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def call(presses: int, done: list[str], ending: signal.Signals = signal.SIGINT) -> None:
    with undisturbed():
        for _ in range(presses):
            os.kill(os.getpid(), ending)
        done.append("call")


def test_ctrl_c_comes_after_the_call() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        call(1, done)
    assert done == ["call"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_is_obeyed_at_once() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        call(2, done)
    assert done == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_another_end_comes_after_the_call_too(ending: signal.Signals) -> None:
    done: list[str] = []
    before = signal.signal(ending, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            call(2, done, ending)
    finally:
        signal.signal(ending, before)
    assert done == ["call"]


def test_ctrl_c_is_not_lost_behind_an_error_of_the_call() -> None:
    def fail() -> None:
        with undisturbed():
            press()
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        fail()
    assert isinstance(caught.value.__context__, ValueError)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with undisturbed():
            press()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_than_the_main_one_is_left_alone() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with undisturbed():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


@pytest.mark.parametrize(
    ("event", "step"),
    [
        (
            {"status": "Pulling from vllm", "id": "sha256:ab"},
            Progress(None, "Pulling from vllm", None, None),
        ),
        (
            {"status": "Downloading", "id": "ab", "progressDetail": {"current": 1, "total": 2}},
            Progress("ab", "Downloading", 1, 2),
        ),
        (
            {"status": "Pull complete", "id": "ab", "progressDetail": {}},
            Progress("ab", "Pull complete", None, None),
        ),
        ({"status": "x", "id": ["ab"], "progressDetail": "no"}, Progress(None, "x", None, None)),
        (
            {"status": "x", "id": "a", "progressDetail": {"current": -1}},
            Progress("a", "x", None, None),
        ),
        ({"status": "x", "progressDetail": {"total": 2**63}}, Progress(None, "x", None, None)),
        ({"status": "x", "progressDetail": {"total": "1"}}, Progress(None, "x", None, None)),
        ({"status": "x", "progressDetail": {"total": True}}, Progress(None, "x", None, None)),
        (
            {"status": "x", "progressDetail": {"total": 2**63 - 1}},
            Progress(None, "x", None, 2**63 - 1),
        ),
        ({"status": "Digest: sha256:ab"}, Progress(None, "Digest: sha256:ab", None, None)),
        ({"aux": {"Digest": "sha256:ab"}}, None),
    ],
)
def test_an_event_of_the_daemon_becomes_a_step(
    event: dict[str, object], step: Progress | None
) -> None:
    assert progress_of(event) == step


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration with one context, `lab`; returns its description."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"lab").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    there = {"docker": {"Host": "unix:///lab.sock", "SkipTLSVerify": False}}
    meta.write_text(json.dumps({"Name": "lab", "Metadata": {}, "Endpoints": there}))
    return meta


def test_the_daemon_is_where_docker_itself_would_look(
    contexts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address() == DEFAULT
    (contexts.parents[3] / "config.json").write_text('{"currentContext": "lab"}')
    assert address() == "unix:///lab.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert address() == DEFAULT
    monkeypatch.setenv("DOCKER_HOST", "unix:///named.sock")
    assert address() == "unix:///named.sock"


def test_the_context_s_daemon_is_the_one_that_is_asked(
    contexts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why docker-py has to be 7.2: an older one asks the default socket."""
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    with serving(lambda _: Reply(body=b'{"ApiVersion": "1.45"}')) as lab:
        contexts.write_text(contexts.read_text().replace("unix:///lab.sock", f"tcp://{lab.host}"))
        client = connect()
        client.close()
    assert [seen.path for seen in lab.seen] == ["/version"]


def test_a_context_that_is_not_there_is_not_another_daemon(
    contexts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nope")
    with pytest.raises(NoDaemon, match="there is no Docker context 'nope'"):
        connect()
    contexts.write_text("{")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    with pytest.raises(NoDaemon, match="the Docker context 'lab' cannot be read"):
        connect()


WHOLE = {"Id": "sha256:1", "Os": "linux", "Architecture": "amd64"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"[]", "no Id"),
        (b"null", "no Id"),
        (b"{}", "no Id"),
        (json.dumps({**WHOLE, "Id": 1}).encode(), "no Id"),
        (json.dumps({**WHOLE, "Os": 1}).encode(), "no Os"),
        (json.dumps({**WHOLE, "Config": [1]}).encode(), "no Config"),
        (json.dumps({**WHOLE, "RootFS": "x"}).encode(), "no RootFS"),
        (json.dumps({**WHOLE, "RepoDigests": [1]}).encode(), "no text"),
        (json.dumps({**WHOLE, "Variant": 1}).encode(), "no text"),
        (json.dumps({**WHOLE, "RootFS": {"Layers": "x"}}).encode(), "no text"),
        (b'{"Id": ' + b"9" * 5000 + b"}", "its answer is no JSON"),
        (b"[" * 200_000, "its answer is no JSON"),
        (b"\xff", "cannot be inspected"),
        (json.dumps(WHOLE).encode(), None),
    ],
)
def test_what_a_daemon_says_of_an_image_makes_sense_or_is_an_error(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str | None
) -> None:
    version = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}

    def script(seen: Seen) -> Reply:
        asked = json.dumps(version).encode() if seen.path.endswith("/version") else answer
        return Reply(200, {"Content-Type": "application/json"}, asked)

    with serving(script) as server:
        monkeypatch.setenv("DOCKER_HOST", server.url.replace("http", "tcp"))
        client = connect()
        if said is None:
            assert local_image(client, "x:1").id == "sha256:1"
            return
        with pytest.raises(DaemonFailed, match=said):
            local_image(client, "x:1")
