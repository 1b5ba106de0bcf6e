"""The next steps after an image: commands that a shell takes as they stand."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import pytest

from patcher.jobs.image import ImageReport, Report
from patcher.oci.reference import Platform
from patcher.places.place import Sent
from patcher.report.steps import image_steps
from tests.test_help import expect_known

PLATFORM = ImageReport(
    Platform("linux", "arm64"), "sha256:1", "sha256:2", "/s", "0.23.0", None, (), (), (), ()
)
REPORT = Report(
    repository="ghcr.io/you/vllm",
    base_name=None,
    base_digest="sha256:1",
    digest="sha256:2",
    platforms=(PLATFORM,),
    tags=("ghcr.io/you/vllm:0.23.0-f00", "ghcr.io/you/vllm:0.23.0-patched"),
    moved=(),
    lacking=1,
    base_lacking=0,
    sent=Sent(),
    dry_run=False,
    seconds=1.0,
    proof="sha256:3",
)
SPACED = dataclasses.replace(REPORT, tags=("oci:my demo:a", "oci:my demo:b"))


def steps(report: Report, *, in_daemon: bool = False, context: Path | None = None) -> list[str]:
    return image_steps(
        report, in_daemon=in_daemon, context=context, options=["--ca-file", "my ca.pem"]
    )


def test_an_image_in_a_registry_is_run_and_its_proof_held_against_it() -> None:
    run, verify = steps(REPORT)
    assert run.endswith(" ghcr.io/you/vllm:0.23.0-patched MODEL")
    assert shlex.split(verify)[1:4] == ["verify", "--proof", "ghcr.io/you/vllm:0.23.0-patched"]
    expect_known(verify)


def test_the_program_is_called_by_its_name_where_that_finds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = tmp_path / "vllm-patcher"
    called.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(called)])
    assert steps(REPORT)[-1].startswith(f"{called} verify ")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert steps(REPORT)[-1].startswith("vllm-patcher verify ")


def test_an_image_in_the_daemon_is_run_tried_and_pushed_where_its_name_says_to() -> None:
    local = dataclasses.replace(REPORT, repository="mine", tags=("mine:a",), proof=None)
    run, smoke = steps(local, in_daemon=True)
    assert run.startswith("docker run ")
    expect_known(smoke)
    assert steps(dataclasses.replace(REPORT, proof=None), in_daemon=True)[-1] == (
        "docker push ghcr.io/you/vllm:0.23.0-patched"
    )


def test_a_folder_with_a_blank_in_its_name_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    load, verify = steps(SPACED)
    assert load == "skopeo copy 'oci:my demo:b' docker-daemon:vllm-openai-patched:b"
    expect_known(verify)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/my docker.sock")
    assert "--dest-daemon-host 'unix:///run/my docker.sock'" in steps(SPACED)[0]


def test_what_was_written_for_a_builder_is_built_and_a_dry_run_has_no_next_step() -> None:
    [build] = steps(REPORT, context=Path("/a b"))
    assert build == (
        "docker buildx build --platform linux/arm64 --tag ghcr.io/you/vllm:0.23.0-f00 '/a b'"
    )
    assert steps(dataclasses.replace(REPORT, dry_run=True)) == []
