"""A workflow's `run:` steps, extracted and executed in order, as a runner would.

Actions (`uses:`) are not run. What they are given is kept; what passes files between jobs
(upload-artifact, download-artifact) is done here. An expression is known, or the test fails.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from tests.installed import install

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
ONE_PATCH = "patches/kv_b_proj_dtype.py"

_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
_OUTPUT = re.compile(r"steps\.([\w-]+)\.outputs\.([\w-]+)")


def workflow(name: str) -> dict[str, Any]:
    """A workflow's document; `on` is no YAML boolean here."""
    text = (FOLDER / f"{name}.yml").read_text()
    document: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    return document


def action() -> dict[str, Any]:
    """The document of action.yml, the job that it is in other people's workflows."""
    text = (ROOT / "action.yml").read_text()
    document: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    return document


def checkout(to: Path) -> Path:
    """What a clean clone holds, and the program installed for it where `make` installs it.

    Of the catalogue it has one patch: a test means this one, and not whatever else comes to be.
    """
    to.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{_clone()}/.", to], check=True)
    programs = to / ".venv" / "bin"
    programs.mkdir(parents=True)
    install(programs / "vllm-patcher", to)
    (programs / "mkdocs").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mkdocs "$@"\n')
    (programs / "mkdocs").chmod(0o755)
    (programs / ".docs").touch()
    return to


@functools.cache
def _clone() -> Path:
    """A folder to copy: what git has but the tests, which no workflow's job looks at."""
    to = Path(mkdtemp())
    atexit.register(shutil.rmtree, to, ignore_errors=True)
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        other = Path(name).parent == Path("patches") and name != ONE_PATCH
        if (ROOT / name).is_file() and not other and not name.startswith("tests/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


@dataclass
class Job:
    """One job's run: what its steps gave, said and asked of actions. `said` is their stderr."""

    place: Path
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    actions: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    said: str = ""
    summary: str = ""


@dataclass
class Runner:
    """What a run of a workflow has for all its jobs.

    `values` are the expressions' values. `artifacts` is where they are kept between jobs, `kept`
    where a cache's files are between runs.
    """

    home: Path
    environment: Mapping[str, str]
    values: Mapping[str, str]
    prepare: Callable[[Path], None] = lambda _: None
    kept: Path = Path()

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    def run(self, job: Mapping[str, Any], name: str, **values: str) -> Job:
        """Run a job's steps in a clean checkout of its own."""
        done = Job(checkout(self.home / name))
        self.prepare(done.place)
        known = {**self.values, **values, "runner.temp": str(done.place)}
        for number, step in enumerate(job["steps"]):
            if not _wanted(step.get("if"), done, known):
                continue
            title = step.get("name", step.get("uses", "").partition("@")[0])
            if "uses" in step:
                given = {k: _rendered(v, done, known) for k, v in step.get("with", {}).items()}
                self._act(step["uses"].partition("@")[0], given, done)
            elif not self._execute(step, number, done, known) and not _may_fail(step):
                done.failed.append(title)
            done.ran.append(title)
        summary = done.place / "step-summary"
        done.summary = summary.read_text() if summary.exists() else ""
        return done

    def _execute(
        self, step: Mapping[str, Any], number: int, done: Job, known: Mapping[str, str]
    ) -> bool:
        """As `shell: bash` of a runner does it."""
        output = done.place / f"output-{number}"
        output.touch()
        given = {k: _rendered(v, done, known) for k, v in step.get("env", {}).items()}
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            capture_output=True,
            text=True,
            check=False,
            cwd=done.place,
            env={
                **os.environ,
                **self.environment,
                **given,
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(done.place / "step-summary"),
                "RUNNER_TEMP": str(done.place),
            },
        )
        done.said += ran.stderr
        if "id" in step:
            done.outputs[step["id"]] = _parsed(output.read_text())
        return ran.returncode == 0

    def _act(self, action: str, given: dict[str, str], done: Job) -> None:
        done.actions[action] = given
        if action == "actions/upload-artifact":
            kept = self.artifacts / given["name"]
            kept.mkdir(parents=True)
            for file in done.place.glob(given["path"]):
                shutil.copy(file, kept)
        elif action == "actions/download-artifact":
            found = sorted(self.artifacts.glob(given.get("name") or given["pattern"]))
            # Since v5 a pattern that fits one artifact alone has no folder for it either.
            flat = "name" in given or given.get("merge-multiple") == "true" or len(found) == 1
            for kept in found:
                to = done.place / given.get("path", "") / ("" if flat else kept.name)
                shutil.copytree(kept, to, dirs_exist_ok=True)
        elif action == "actions/cache/save":
            shutil.copy(done.place / given["path"], self.kept / given["path"])
        elif action == "actions/cache/restore" and (self.kept / given["path"]).exists():
            shutil.copy(self.kept / given["path"], done.place / given["path"])


def _may_fail(step: Mapping[str, Any]) -> bool:
    return bool(step.get("continue-on-error") == "true")


def _rendered(text: str, done: Job, known: Mapping[str, str]) -> str:
    return _EXPRESSION.sub(lambda match: _value(match[1], done, known), text)


def _value(expression: str, done: Job, known: Mapping[str, str]) -> str:
    output = _OUTPUT.fullmatch(expression)
    if output:
        return done.outputs.get(output[1], {}).get(output[2], "")
    return known[expression]


def _wanted(condition: str | None, done: Job, known: Mapping[str, str]) -> bool:
    """A step's `if`; without a status function in it, nothing may have failed before."""
    text = (condition or "success()").strip().removeprefix("${{").removesuffix("}}").strip()
    if not re.search(r"(success|failure|cancelled|always)\(\)", text):
        text = f"success() && ({text})"
    text = _OUTPUT.sub(lambda match: repr(_value(match[0], done, known)), text)
    text = re.sub(r"github\.\w+", lambda match: _literal(known[match[0]]), text)
    text = re.sub(r"!(?!=)", " not ", text).replace("&&", " and ").replace("||", " or ")
    functions = {
        "success": lambda: not done.failed,
        "cancelled": lambda: False,
        "hashFiles": lambda name: "1" if (done.place / name).exists() else "",
    }
    return bool(eval(text, {"__builtins__": {}}, functions))


def _literal(value: str) -> str:
    """As an expression compares it: GitHub takes a text for a number where one stands beside."""
    return value if value.isdecimal() else repr(value)


def _parsed(text: str) -> dict[str, str]:
    """Step outputs: `name=value`, or `name<<END`, lines, and `END`."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, sign, end = line.partition("<<")
        if sign and "=" not in name:
            found[name] = "\n".join(iter(lambda: next(lines), end))
        else:
            name, _, found[name] = line.partition("=")
    return found
