"""A local clone of vLLM: its commits and files, read through git's plumbing.

All objects come out of one `git cat-file --batch`. The clone is never written to, no network is
asked, and no hook, alias or signature program runs. Replacement objects and objects that a partial
clone has not fetched are not followed. What the user's own git refuses (a folder of another owner,
`safe.directory`) stays refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from patcher.errors import BadSource, FileAbsent, Unreadable
from patcher.files import is_folder
from patcher.rules.source import MOST_BYTES
from patcher.sources.names import NameTree, runs_instead

if TYPE_CHECKING:
    from collections.abc import Iterator

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

# Modes of what is in a tree.
_LINK, _SUBMODULE = b"120000", b"160000"

# What `cat-file --follow-symlinks` answers, besides objects, for a path that leads to no file.
_NO_FILE = frozenset({b"dangling", b"loop", b"notdir", b"symlink"})


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: when it entered its branch (the committer's date, UTC), and its first line.

    `date` is None where the commit states none that a calendar has.
    """

    sha: str
    date: datetime | None
    subject: str


class Clone:
    """One clone. Raises `Unreadable` where git is missing or refuses the folder."""

    def __init__(self, path: Path) -> None:
        program = shutil.which("git")
        if program is None:
            raise Unreadable("git is not installed", next_step="Install git, then try again.")
        self.path = path
        settings = [word for each in _SETTINGS for word in ("-c", each)]
        self._command = [program, "--no-pager", "-C", str(path), *settings]
        # The user's environment, without what would point git at another repository.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._environment = kept | _ENVIRONMENT
        self._batch: _Batch | None = None
        self.run("rev-parse", "--git-dir")

    def run(self, *arguments: str) -> bytes:
        """What a git command prints. Raises `Unreadable` with git's own words."""
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, env=self._environment
        )
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
        # A damaged or partial clone gives the same answer for a file that is there and lost.
        if self.run("ls-tree", "-z", "--full-tree", commit, "--", path):
            raise self._unreadable(f"{path} in commit {commit[:12]} is not a file, or is lost")
        raise FileAbsent(
            f"commit {commit[:12]} has no file {path}", next_step="Check the path and the commit."
        )

    def around(self, commit: str, path: str) -> NameTree:
        """What a commit has on the way to a Python file, and in folders of its name and for
        its bytecode. Raises `Unreadable`.
        """
        *above, _ = path.split("/")
        folders = ["/".join(above[:count]) for count in range(len(above) + 1)]
        folders += [path.removesuffix(".py"), "/".join([*above, "__pycache__"])]
        return NameTree(
            [
                f"{folder}/{name}".lstrip("/")
                for folder in folders
                for name in self._names(commit, folder)
            ]
        )

    def _names(self, commit: str, folder: str) -> Iterator[str]:
        """The names in a folder of a commit: `MODE NAME`, NUL and an id, one after the other.

        A submodule, and a link that leads out of the commit, may be a package: none of their names
        is known.
        """
        found = self._ask(f"{commit}:{folder}")
        data = found[1] if found is not None and found[0] == "tree" else b""
        at = 0
        while (end := data.find(b"\0", at)) >= 0:
            mode, _, name = data[at:end].partition(b" ")
            path = os.fsdecode(name)
            leads_out = mode == _LINK and self._ask(f"{commit}:{folder}/{path}".lstrip("/")) is None
            yield f"{path}/__init__.py" if mode == _SUBMODULE or leads_out else path
            at = end + 1 + len(commit) // 2

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
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def _object(self, sha: str, kind: str) -> bytes:
        found = self._ask(sha)
        if found is None or found[0] != kind:
            raise self._unreadable(f"it has no {kind} {sha}")
        return found[1]

    def _ask(self, name: str) -> tuple[str, bytes] | None:
        if self._batch is None:
            self._batch = _Batch(self._command, self._environment)
        try:
            return self._batch.read(name)
        except Unreadable:
            self.close()
            raise

    def _unreadable(self, reason: str) -> Unreadable:
        return Unreadable(
            f"the clone {self.path} cannot be read: {' '.join(reason.split())}",
            next_step="Check it with git log and git fsck; a partial clone lacks files.",
        )


class _Batch:
    """A running `git cat-file --batch`. Once it has raised, it must be closed."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        # Not a pipe: that would have to be emptied while the objects are read.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        process = subprocess.Popen(
            [*command, "cat-file", "--batch", "--follow-symlinks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._process = process
        self._asked, self._answer = cast(
            "tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout)
        )
        streams = (self._asked, self._answer, self._errors)
        self.close = weakref.finalize(self, _end, process, streams)

    def read(self, name: str) -> tuple[str, bytes] | None:
        """The kind and bytes of an object by its id or `COMMIT:PATH`; None where it has none.

        Raises `Unreadable` where git ends, or the object has more bytes than any file of vLLM.
        """
        if "\n" in name or "\0" in name:
            return None
        header = b""
        with suppress(OSError):
            self._asked.write(os.fsencode(name) + b"\n")
            self._asked.flush()
            header = self._answer.readline()
        if not header.endswith(b"\n"):
            raise self._ended()
        # `ID KIND SIZE`, or the name, which may hold blanks, and why it has no such object.
        *_, kind, size = [b"", *header.rstrip(b"\n").split(b" ")]
        if not size.isdigit():
            return None
        if int(size) > MOST_BYTES:
            raise Unreadable(
                f"an object of the clone claims {int(size)} bytes", next_step="Name another commit."
            )
        data = self._answer.read(int(size) + 1)
        if len(data) != int(size) + 1:
            raise self._ended()
        return None if kind in _NO_FILE else (kind.decode(), data[:-1])

    def _ended(self) -> Unreadable:
        """The error for a git that ended before its answer did, in git's own words."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = " ".join(self._errors.read(2000).decode(errors="replace").split())
        return Unreadable(
            f"git cannot read an object of the clone: {said or 'it ended'}",
            next_step="Check it with git fsck; a partial clone lacks files: fetch them first.",
        )


def _end(process: subprocess.Popen[bytes], streams: tuple[IO[bytes], ...]) -> None:
    process.kill()
    process.wait()
    for stream in streams:
        with suppress(OSError):  # bytes that a git which is gone never took
            stream.close()


@dataclass(frozen=True, slots=True)
class GitSource:
    """vLLM as one commit has it; `label` is what a person typed for it."""

    label: str
    clone: Clone
    commit: str

    def read(self, target: str) -> bytes:
        """The bytes of `target` in the commit. Raises `FileAbsent`, `Unreadable`."""
        data = self.clone.file(self.commit, target)
        if instead := runs_instead(self.clone.around(self.commit, target), target):
            raise Unreadable(
                f"{self.label}: Python runs its {instead}, and not {target}",
                next_step="Only a source file can be judged: name another commit.",
            )
        return data

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
        if spec[:place] and "\0" not in spec and is_folder(folder):
            return folder, spec[place + 1 :] or "HEAD"
    raise BadSource(
        f"there is no folder {spec}",
        next_step="Name the folder of a clone; a branch or commit of it comes after an @.",
    )


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
