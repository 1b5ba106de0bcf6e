"""Ctrl-C held back, against real signals; the steps that a daemon tells."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from patcher.daemon.client import progress_of, undisturbed
from patcher.progress import Progress


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def call(presses: int, done: list[str]) -> None:
    with undisturbed():
        for _ in range(presses):
            press()
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
        ({"status": "Digest: sha256:ab"}, Progress(None, "Digest: sha256:ab", None, None)),
        ({"aux": {"Digest": "sha256:ab"}}, None),
    ],
)
def test_an_event_of_the_daemon_becomes_a_step(
    event: dict[str, object], step: Progress | None
) -> None:
    assert progress_of(event) == step
