"""A local clone of vLLM: its commits and files, read through git's plumbing.

All objects come out of one `git cat-file --batch`. The clone is never written to, its hooks,
aliases, signature programs, replacement objects and promised (not yet fetched) objects are not
followed, and nothing is asked over a network. What the user's own git refuses (a folder of
another owner, `safe.directory`) stays refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import BadSource, FileAbsent, Unreadable
from patcher.sources.git_objects import Objects

if TYPE_CHECKING:
    from collections.abc import Sequence

# Settings of the clone itself that would run a program or fail on a file that is not there.
_SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "diff.orderFile=/dev/null",
    "log.mailmap=false",
    "log.showSignature=false",
)

_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what it lacks
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: when it entered its branch (the committer's date, UTC), and its first line.

    `date` is None where the commit states none that a calendar has.
    """

    sha: str
    date: datetime | None
    subject: str


class Clone:
    """One clone, with one `git cat-file --batch` that answers for its objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._git = _program()
        self._objects: Objects | None = None
        self.run("rev-parse", "--git-dir")

    def run(self, *arguments: str) -> bytes:
        """What a git command prints. Raises `Unreadable` with git's own words."""
        done = subprocess.run(self._command(arguments), capture_output=True, env=_environment())
        if done.returncode:
            raise self._unreadable(done.stderr.decode(errors="replace"))
        return done.stdout

    def resolve(self, revision: str) -> str:
        """The full id of the commit that a branch, tag or id names. Raises `BadSource`."""
        if not revision.isprintable():
            raise BadSource(f"{revision!r} names no commit", next_step="Name a branch or a tag.")
        wanted = f"{revision}^{{commit}}"
        try:
            found = self.run("rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
        except Unreadable as error:
            raise BadSource(
                f"{self.path} has no commit {revision!r}",
                next_step="Name a branch, a tag or a commit that this clone has.",
            ) from error
        return found.decode().strip()

    def blob(self, sha: str) -> bytes:
        """A file's bytes by its object id. Raises `Unreadable`."""
        return self._object(sha, "blob")

    def file(self, commit: str, path: str) -> bytes:
        """A file by its path in a commit; links inside the tree are followed.

        Raises `FileAbsent`, `Unreadable`.
        """
        found = self._ask(f"{commit}:{path}")
        if found is not None and found[0] == "blob":
            return found[1]
        # A damaged or partial clone answers alike for a file that is there and lost.
        if self.run("ls-tree", "-z", "--full-tree", commit, "--", path):
            raise self._unreadable(f"{path} in commit {commit[:12]} is no file, or lost")
        raise FileAbsent(
            f"commit {commit[:12]} has no file {path}", next_step="Check the path and the commit."
        )

    def commit(self, sha: str) -> Commit:
        """A commit's date and subject. Raises `Unreadable`."""
        head, _, message = self._object(sha, "commit").partition(b"\n\n")
        fields = dict(line.partition(b" ")[::2] for line in head.split(b"\n"))
        subject = message.strip().partition(b"\n\n")[0]
        return Commit(
            sha,
            _date(fields.get(b"committer", b"")),
            " ".join(_decoded(subject, fields.get(b"encoding", b"")).split()),
        )

    def is_shallow(self) -> bool:
        """Whether the clone's history was cut off: its oldest commit then has hidden parents."""
        return self.run("rev-parse", "--is-shallow-repository").strip() == b"true"

    def close(self) -> None:
        """End git's process; a later question starts another."""
        if self._objects is not None:
            self._objects.close()
            self._objects = None

    def _command(self, arguments: Sequence[str]) -> list[str]:
        settings = [word for each in _SETTINGS for word in ("-c", each)]
        return [self._git, "--no-pager", "-C", str(self.path), *settings, *arguments]

    def _object(self, sha: str, kind: str) -> bytes:
        found = self._ask(sha)
        if found is None or found[0] != kind:
            raise self._unreadable(f"it has no {kind} {sha}")
        return found[1]

    def _ask(self, name: str) -> tuple[str, bytes] | None:
        if self._objects is None:
            self._objects = Objects(self._command(()), _environment())
        try:
            return self._objects.read(name)
        except Unreadable:
            self.close()
            raise

    def _unreadable(self, reason: str) -> Unreadable:
        return Unreadable(
            f"the clone {self.path} cannot be read: {' '.join(reason.split())}",
            next_step="Check it with git log and git fsck; a partial clone lacks files.",
        )


@dataclass(frozen=True, slots=True)
class GitSource:
    """vLLM as it lies in one commit; `label` is what a person typed for it."""

    label: str
    clone: Clone
    commit: str

    def read(self, target: str) -> bytes:
        """The bytes of `target` in the commit. Raises `FileAbsent`, `Unreadable`."""
        return self.clone.file(self.commit, target)

    def version(self) -> str | None:
        """None: vLLM takes its version from tags when it is built; no file states it."""
        return None


def open_git(spec: str) -> GitSource:
    """The source that `DIR@REF` names; REF may be left out, and is HEAD then.

    Raises `BadSource` where there is no such folder or commit, `Unreadable`.
    """
    folder, revision = split(spec)
    clone = Clone(folder)
    return GitSource(f"git:{spec}", clone, clone.resolve(revision))


def split(spec: str) -> tuple[Path, str]:
    """Where the folder of `DIR@REF` ends: at the first `@` after which it exists."""
    places = [len(spec), *(at for at, character in enumerate(spec) if character == "@")]
    for place in places:
        folder = Path(spec[:place])
        if spec[:place] and "\0" not in spec and folder.is_dir():
            return folder, spec[place + 1 :] or "HEAD"
    raise BadSource(f"there is no folder {spec}", next_step="Name a clone: git:DIR or git:DIR@REF.")


def _program() -> str:
    found = shutil.which("git")
    if found is None:
        raise Unreadable("git is not installed", next_step="Install git, then try again.")
    return found


def _environment() -> dict[str, str]:
    """The user's environment, without what would point git at another repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | _ENVIRONMENT


def _date(line: bytes) -> datetime | None:
    """The date in `NAME <MAIL> SECONDS ZONE`."""
    try:
        return datetime.fromtimestamp(int(line.rsplit(b" ", 2)[-2]), UTC)
    except (ValueError, OverflowError, OSError, IndexError):
        return None


def _decoded(text: bytes, encoding: bytes) -> str:
    try:
        return text.decode(encoding.decode("ascii") or "utf-8", errors="replace")
    except (LookupError, UnicodeDecodeError, ValueError):
        return text.decode(errors="replace")
