"""`git cat-file --batch`: one process that answers for any number of a clone's objects."""

from __future__ import annotations

import os
import subprocess
import tempfile
import weakref
from typing import IO, TYPE_CHECKING

from patcher.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# vLLM's largest Python file has under 1 MB.
_LIMIT = 16 << 20

# What is answered, besides objects, for a path that leads to no file of the tree.
_NO_FILE = frozenset({b"dangling", b"loop", b"notdir", b"symlink"})


class Objects:
    """A running batch. Use it until something is raised; then it has ended."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        # A pipe for the errors would have to be emptied while the objects are read.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [*command, "cat-file", "--batch", "--follow-symlinks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self.close = weakref.finalize(self, _end, self._process, self._errors)

    def read(self, name: str) -> tuple[str, bytes] | None:
        """The kind and bytes of an object by its id or `COMMIT:PATH`; None where there is none.

        Raises `Unreadable` where git ends, or the object has more bytes than any file of vLLM.
        """
        if "\n" in name or "\0" in name:
            return None
        header = self._ask(os.fsencode(name) + b"\n")
        # `ID KIND SIZE`, or why not; the name, which may hold blanks, is repeated in front of that.
        *_, kind, size = [b"", *header.rstrip(b"\n").split(b" ")]
        if not size.isdigit():
            return None
        data = self._body(int(size))
        return None if kind in _NO_FILE else (kind.decode(), data)

    def _ask(self, line: bytes) -> bytes:
        try:
            self._pipe(self._process.stdin).write(line)
            self._pipe(self._process.stdin).flush()
            header = self._pipe(self._process.stdout).readline()
        except OSError:
            header = b""
        if not header.endswith(b"\n"):
            raise self._ended()
        return header

    def _body(self, size: int) -> bytes:
        if size > _LIMIT:
            self.close()  # what was announced need not be read
            raise Unreadable(
                f"an object of the clone claims {size} bytes", next_step="Name another commit."
            )
        data = self._pipe(self._process.stdout).read(size + 1)
        if len(data) != size + 1:
            raise self._ended()
        return data[:-1]

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise ValueError("the process was started without this pipe")
        return stream

    def _ended(self) -> Unreadable:
        """The error for a git that ended before its answer did, in git's own words."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = " ".join(self._errors.read(2000).decode(errors="replace").split())
        self.close()
        return Unreadable(
            f"git cannot read an object of the clone: {said or 'it ended'}",
            next_step="Check it with git fsck; a partial clone lacks files: fetch them first.",
        )


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # bytes that a git which is gone never took
                continue
