"""Which releases have a fix, by the history of vLLM's main and the bytes of the wheels alone.

A release branch leaves main days before its wheel is uploaded, and takes cherry-picks after that:
neither the date nor `git merge-base --is-ancestor` tells. Where a branch left main is the commit
at which most of the wheel's files are main's; what it took since is read from the files.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterable
from functools import cache

from bench.releases import release_file

# The oldest release that is looked at left main after this day.
SINCE = "2026-03-01"


class History:
    """Main's commits in order, and the blobs that each of some paths had."""

    def __init__(self, clone: str, paths: Iterable[str]) -> None:
        self._clone = clone
        self.paths = sorted(set(paths))
        self.positions: dict[str, int] = {}
        self._changes: dict[str, list[tuple[int, str]]] = {path: [] for path in self.paths}
        log = git(
            clone, "log", "--first-parent", "--reverse", f"--since={SINCE}", "--format=%x00%H",
            "--raw", "--no-abbrev", "--no-renames", "-m", "--", "vllm",
        )  # fmt: skip
        for at, entry in enumerate(log.decode().split("\0")[1:]):
            commit, *lines = entry.split("\n")
            self.positions[commit] = at
            for line in filter(None, lines):
                facts, path = line.split("\t")
                _, _, old, new, _ = facts.split(" ")
                if path in self._changes:
                    if not self._changes[path]:
                        self._changes[path].append((-1, old))
                    self._changes[path].append((at, new))
        self._commits = list(self.positions)

    @cache  # noqa: B019 - one history a run
    def left_main(self, version: str) -> int:
        """The position of the commit from which a release was cut.

        Between two changes of a path its blob stands: every span whose blob is the wheel's votes.
        """
        votes = [0] * (len(self._commits) + 1)
        for path in self.paths:
            data = release_file(version, path)
            own = blob(data) if data is not None else "0" * 40
            for (first, there), (end, _) in itertools.pairwise(
                [*self._changes[path], (len(self._commits), "")]
            ):
                if there == own:
                    votes[max(first, 0)] += 1
                    votes[end] -= 1
        counts = list(itertools.accumulate(votes[:-1]))
        return len(counts) - 1 - counts[::-1].index(max(counts))

    def has(
        self,
        version: str,
        commit: str,
        paths: Iterable[str],
        holds: Callable[[str, bytes, bytes], bool | None],
    ) -> bool | None:
        """Whether a release has main's commit; None where it cannot be told.

        `holds(path, cut, wheel)` says whether the file as it left main became the wheel's by this
        commit, among others: it is asked where the branch changed the file by itself.
        """
        if self.positions[commit] <= self.left_main(version):
            return True
        answers: set[bool | None] = set()
        for path in paths:
            data = release_file(version, path)
            cut = self._at(path, self.left_main(version))
            if data is None or cut is None or blob(data) == cut:
                answers.add(False)
            elif blob(data) == self._at(path, self.positions[commit]):
                answers.add(True)
            else:
                answers.add(holds(path, content_of(self._clone, cut), data))
        return answers.pop() if len(answers) == 1 else None

    def _at(self, path: str, position: int) -> str | None:
        """A path's blob after a commit; None where it has none."""
        there = [new for at, new in self._changes[path] if at <= position]
        return there[-1] if there and there[-1].strip("0") else None


def blob(data: bytes) -> str:
    """A file's name in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@cache
def _reader(clone: str, _process: int) -> subprocess.Popen[bytes]:
    """A git that answers with one object after the other; of this process alone."""
    return subprocess.Popen(
        ["git", "-C", clone, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def content_of(clone: str, name: str) -> bytes:
    """A blob, by what names it: `COMMIT:PATH`. To start git for each takes ten times as long."""
    reader = _reader(clone, os.getpid())
    assert reader.stdin
    assert reader.stdout
    reader.stdin.write(f"{name}\n".encode())
    reader.stdin.flush()
    header = reader.stdout.readline().split()
    data = reader.stdout.read(int(header[2]) + 1)
    return data[:-1]


def git(clone: str, *arguments: str) -> bytes:
    """What git prints in the clone."""
    return subprocess.run(["git", "-C", clone, *arguments], capture_output=True, check=True).stdout
