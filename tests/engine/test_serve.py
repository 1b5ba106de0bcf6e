"""`smoke URL` against a real `vllm serve` on loopback: healthy and dead, healthy and well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from patcher.smoke.probe import VOCABULARY, model_config
from tests.commands import run
from tests.conftest import free_port
from tests.engine.environment import environment
from tests.test_schemas import check

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.engine


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's W4A16 model, with a tokenizer to which numbers differ, and all words are one."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(model_config("w4a16")))
    words = {str(number): number for number in range(VOCABULARY)}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "7"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def serving(engine: Path, model: Path, log: Path, *before: Path) -> Iterator[str]:
    """The address of a `vllm serve` that is ready; at the end nothing of it is left."""
    port = free_port()
    command = (
        f"{engine} -m vllm.entrypoints.cli.main serve {model} --served-model-name tiny "
        "--load-format dummy --enforce-eager --max-model-len 4096 --max-num-batched-tokens 1024 "
        f"--max-num-seqs 4 --enable-chunked-prefill --host 127.0.0.1 --port {port}"
    ).split()
    told = {**os.environ, **environment(*before), "VLLM_HOST_IP": "127.0.0.1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=told, stdout=output, stderr=output, cwd=model, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, server, log)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            server_has_time(server)
    pytest.fail(f"vllm serve never came up: {log.read_text(errors='replace')[-4000:]}")


def server_has_time(server: subprocess.Popen[bytes]) -> None:
    """Half a second, or less where it ends."""
    try:
        server.wait(0.5)
    except subprocess.TimeoutExpired:
        return


def smoke(url: str, code: int) -> Any:
    done = run("smoke", url, "--timeout", "300", "--json")
    document = check(done.stdout, done.returncode, code)
    return document["server"]


def test_healthy_and_dead(engine: Path, model: Path, unguarded: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(engine, model, log, unguarded) as url:
        served = smoke(url, 1)
    assert [(step["name"], step["state"]) for step in served["steps"]] == [
        ("health", "passed"),
        ("models", "passed"),
        ("short prompt", "passed"),
        ("long prompt", "failed"),
    ]
    assert served["finding"].startswith("/health ")
    said = "'ColumnParallelLinear' object has no attribute 'weight'"
    assert said in log.read_text(errors="replace")


def test_healthy_and_well(engine: Path, model: Path, cured: Path, tmp_path: Path) -> None:
    with serving(engine, model, tmp_path / "log", cured) as url:
        served = smoke(url, 0)
    assert {step["state"] for step in served["steps"]} == {"passed"}
    assert served["vllm"] == "0.32.0"
    assert served["max_model_len"] == 4096
    assert served["speed"]["least"] > 0
