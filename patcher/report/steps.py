"""What to do next with a result, as commands that can be pasted into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from patcher.errors import NoDaemon
from patcher.places.layout import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from patcher.jobs.demo import Demo
    from patcher.jobs.image import Report


def image_steps(
    report: Report, *, in_daemon: bool, context: Path | None, options: Sequence[str] = ()
) -> list[str]:
    """How to run the result, check it, or hand it on; `options` are those of the call that say
    how to reach registries and where its own patches are. Nothing for a dry run.
    """
    tag = report.tags[-1]
    if report.dry_run:
        return []
    if context is not None:
        platform = str(report.platforms[0].platform)
        build = ["docker", "buildx", "build", "--platform", platform, "--tag", report.tags[0]]
        return [shlex.join([*build, str(context)])]
    serve = ["docker", "run", "--rm", "--gpus", "all", "-p", "8000:8000", tag, "MODEL"]
    if in_daemon:
        pushed = [["docker", "push", tag]] if "/" in report.repository else []
        steps = [serve, [_program(), "smoke", tag], *pushed]
    elif tag.startswith(PREFIX):
        steps = [_loaded(tag, "vllm-openai-patched")]
    else:
        steps = [serve]
    if report.proof:
        steps.append([_program(), "verify", "--proof", tag, *options])
    return [shlex.join(step) for step in steps]


def demo_steps(demo: Demo) -> list[str]:
    """How to load the demo's image into Docker, and to judge it again."""
    fixed, moving = demo.report.tags
    judge = [_program(), "verify", fixed, "--patch", demo.patch]
    return [shlex.join(step) for step in (_loaded(moving, "vllm-demo"), judge)]


def _loaded(tag: str, repository: str) -> list[str]:
    target = f"docker-daemon:{repository}:{tag.rpartition(':')[2]}"
    return ["skopeo", "copy", *_to_daemon(), tag, target]


def _to_daemon() -> list[str]:
    """skopeo's option for the daemon that docker would ask: it looks at no variable itself."""
    from patcher.daemon.client import DEFAULT, address

    try:
        place = address()
    except NoDaemon:
        return []
    return [] if place == DEFAULT else ["--dest-daemon-host", place]


def _program() -> str:
    """By its name where that finds it; else as it was called, if that names it."""
    called = sys.argv[0]
    if not called.endswith("vllm-patcher") or shutil.which("vllm-patcher") == called:
        return "vllm-patcher"
    return called
