"""Ctrl-C and other ends held back, against real signals; the steps that a daemon tells."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.daemon.client import (
    DEFAULT,
    address,
    connect,
    inspection,
    is_podman,
    progress_of,
    undisturbed,
)
from patcher.daemon.engine import keeps_indexes, local_image, pull
from patcher.daemon.files import read_files
from patcher.daemon.load import load
from patcher.errors import BrokenImage, DaemonFailed, NoDaemon, PatcherError
from patcher.oci.append import append
from patcher.oci.image import Family, load_image
from patcher.oci.reference import Platform
from patcher.progress import Progress
from patcher.smoke.container import _wait
from tests.memory import EXTRA, OCI, Memory, add_image, change_for
from tests.scripted import Reply, Script, Seen, serving

if TYPE_CHECKING:
    from docker import DockerClient


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


def answers(body: bytes, **headers: str) -> Reply:
    return Reply(200, {"Content-Type": "application/json", **headers}, body)


WHOLE = {"Id": "sha256:1", "Os": "linux", "Architecture": "amd64"}


VERSION = answers(b'{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}')


@contextmanager
def daemon(monkeypatch: pytest.MonkeyPatch, script: Script) -> Iterator[DockerClient]:
    """A client of a daemon that answers so, after the question for the API's version."""
    asked = iter([VERSION])
    with serving(lambda seen: next(asked, None) or script(seen)) as server:
        monkeypatch.setenv("DOCKER_HOST", server.url.replace("http", "tcp"))
        client = connect()
        yield client
        client.close()


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
        (b'{"Id": ' + b"9" * 5000 + b"}", "its answer makes no sense"),
        (b"[" * 200_000, "its answer makes no sense"),
        (b"\xff", "cannot be inspected"),
        (json.dumps({**WHOLE, "Config": {"Labels": [1]}}).encode(), "no text"),
        (json.dumps({**WHOLE, "Config": {"Labels": {"a": 1}}}).encode(), "no text"),
        (json.dumps({**WHOLE, "Config": {"Env": 5}}).encode(), "no text"),
        (json.dumps({**WHOLE, "Config": {"Env": [5]}}).encode(), "no text"),
        (b" " * (8 << 20) + json.dumps(WHOLE).encode(), "has no end"),
        (json.dumps({**WHOLE, "Config": {"Labels": None, "Env": ["A=b"]}}).encode(), None),
        (json.dumps(WHOLE).encode(), None),
        (json.dumps({**WHOLE, "Config": None, "RepoDigests": None}).encode(), None),
    ],
)
def test_what_a_daemon_says_of_an_image_makes_sense_or_is_an_error(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str | None
) -> None:
    with daemon(monkeypatch, lambda _: answers(answer)) as client:
        if said is None:
            assert local_image(client, "x:1").id == "sha256:1"
            return
        with pytest.raises(DaemonFailed, match=said):
            local_image(client, "x:1")


@pytest.mark.parametrize("version", [b"[]", b"{}", b'{"ApiVersion": 1}', b'{"ApiVersion": "x"}'])
def test_a_daemon_that_does_not_say_what_it_speaks(
    monkeypatch: pytest.MonkeyPatch, version: bytes
) -> None:
    with serving(lambda _: answers(version)) as server:
        monkeypatch.setenv("DOCKER_HOST", server.url.replace("http", "tcp"))
        with pytest.raises(DaemonFailed, match="cannot be asked for its version"):
            connect()


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b"null",
        b"5",
        b'{"Components": 5, "DriverStatus": 5}',
        b'{"Components": [1], "DriverStatus": {"a": 1}}',
    ],
)
def test_a_daemon_that_does_not_say_what_it_is(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with daemon(monkeypatch, lambda _: answers(answer)) as client:
        for ask in (is_podman, keeps_indexes):
            with pytest.raises(DaemonFailed, match="its answer makes no sense"):
                ask(client)


PLATFORM = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (b"5", "its answer makes no sense"),
        (b"null", "its answer makes no sense"),
        (b'{"status": "' + b"x" * (256 << 10), "has no end"),
        (b'5\r\n{"str\r\n0\r\n\r\n', "its answer makes no sense"),
        (b'20\r\n{"stream":', "cannot be pulled"),
        (b'{"error": "' + b"x" * 100 + b'"}', "x" * 100),
    ],
)
def test_the_events_of_a_pull_make_sense_and_end(
    monkeypatch: pytest.MonkeyPatch, events: bytes, said: str
) -> None:
    def script(seen: Seen) -> Reply:
        none = Reply(404, {}, b"No such image")
        if "/images/create" not in seen.path:
            return none
        if b"\r\n" not in events:
            return answers(events)
        chunked = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        return Reply(200, {**chunked, "Content-Length": None}, events, sent=len(events))

    with (
        daemon(monkeypatch, script) as client,
        pytest.raises(DaemonFailed, match=said),
    ):
        pull(client, f"x/y@sha256:{1:064}", PLATFORM)


def archive(headers: dict[str, str], data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as packed:
        entry = tarfile.TarInfo("file")
        entry.size, entry.pax_headers = len(data), headers
        packed.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"x" * 1024, "damaged"),
        (archive({}, b"x" * 600)[:700], "damaged"),
        (archive({"mtime": "inf"}), "damaged"),
        (archive(SPARSE, b"1\n0\n0\n".ljust(512, b"\0")), "has 1099511627776"),
    ],
)
def test_a_file_that_a_daemon_hands_out(
    monkeypatch: pytest.MonkeyPatch, packed: bytes, said: str
) -> None:
    def script(seen: Seen) -> Reply:
        if seen.method == "GET":
            told = base64.b64encode(b'{"size": 1}').decode()
            return Reply(200, {"X-Docker-Container-Path-Stat": told}, packed)
        return answers(b'{"Id": "c"}')

    with daemon(monkeypatch, script) as client, pytest.raises(PatcherError, match=said) as caught:
        read_files(client, "sha256:1", PLATFORM, ["/file"])
    assert isinstance(caught.value, DaemonFailed | BrokenImage)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({}, None),
        ({"RootFS": {"Layers": ["{base}", f"sha256:{2:064}"]}}, "another one is in its place"),
        ({"RootFS": {"Layers": ["{base}"]}}, "its layers are not the base's and 1 more"),
        ({"Architecture": "arm64"}, "its Architecture is arm64"),
        ({"Config": {"Env": ["A=b"], "Labels": {}}}, "its labels are not those"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_daemon_says_that_it_loaded_is_held_against_what_was_sent(
    monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any], said: str | None, is_there: bool
) -> None:
    blobs = Memory()
    root = add_image(blobs, OCI)
    image = load_image(blobs, blobs.descriptor(root))
    change = change_for(blobs, root)
    made = append(Family(image.descriptor, None, (image,)), {image.digest: change}, EXTRA)
    config = json.loads(made.parts[1].data)
    layers = config["rootfs"]["diff_ids"]
    base = inspection({**WHOLE, "Config": image.config.document["config"]}, "x")
    base = {**base, "RootFS": {"Layers": layers[:1]}}
    attrs = {**WHOLE, "Config": config["config"], "RootFS": {"Layers": layers}, **lie}
    told = answers(json.dumps(attrs).replace("{base}", layers[0]).encode())
    sent: list[Seen] = []

    def script(seen: Seen) -> Reply:
        if "/images/load" in seen.path:
            sent.append(seen)
            return answers(b'{"stream": "Loaded"}')
        return told if sent or is_there else Reply(404, {}, b"No such image")

    with daemon(monkeypatch, script) as client:
        if said is None:
            loaded = load(client, base, image, change, EXTRA)
            assert loaded.attrs["Id"] == WHOLE["Id"]
            assert bool(sent) is not is_there
            return
        with pytest.raises(DaemonFailed, match=said):
            load(client, base, image, change, EXTRA)


def test_a_container_that_does_not_end_in_time_is_no_fault_of_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers at once that it waits, and says no more."""
    waiting = answers(b"", **{"Content-Length": "5"})
    with daemon(monkeypatch, lambda _: waiting) as client:
        assert _wait(client, "c", 0.1) is None
