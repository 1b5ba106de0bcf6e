"""Clones for the tests: built on the fly, from the files of real releases."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.conftest import TARGET

if TYPE_CHECKING:
    from pathlib import Path

# Where the code lived before 0.15.0.
OLD_HOME = "vllm/v1/attention/backends/mla/common.py"


@dataclass
class Workshop:
    """A repository in the making; each commit is a day after the one before it."""

    path: Path
    day: int = 0

    def git(self, *arguments: str, data: bytes | None = None) -> str:
        stamp = f"2026-01-{self.day + 1:02}T12:00:00+0000"
        settings = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            # Since 2.47 it goes on in the background when `git commit` has ended, and has a lock.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "maintenance.auto",
            "GIT_CONFIG_VALUE_0": "false",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "C",
            "GIT_COMMITTER_EMAIL": "c@example.org",
            "GIT_AUTHOR_DATE": stamp,
            "GIT_COMMITTER_DATE": stamp,
        }
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            input=data,
            capture_output=True,
            env=os.environ | settings,
            check=True,
        )
        return done.stdout.decode().strip()

    def write(self, data: bytes, path: str = TARGET) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def commit(self, subject: str, data: bytes | None = None, path: str = TARGET) -> str:
        """Commit all that lies there, with `data` written first; the new commit's id."""
        if data is not None:
            self.write(data, path)
        self.day += 1
        self.git("add", "-A")
        self.git("commit", "--allow-empty", "-qm", subject)
        return self.git("rev-parse", "HEAD")

    def merge(self, branch: str, subject: str) -> str:
        self.day += 1
        self.git("merge", "-q", "--no-ff", "-m", subject, branch)
        return self.git("rev-parse", "HEAD")


def workshop(path: Path) -> Workshop:
    """An empty repository whose branch is `main`."""
    path.mkdir(parents=True, exist_ok=True)
    made = Workshop(path)
    made.git("init", "-q", "-b", "main")
    return made
