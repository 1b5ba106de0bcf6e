"""The commits of a clone that touch one file, along a branch's own line, through renames.

The line is that of first parents: what the branch held, commit by commit. A merge is one step of
it, compared with its first parent; what it brought in is walked only where it brought a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from patcher.sources.git import Clone

# gitformat-index: the modes of a plain and of an executable file.
_FILES = frozenset({"100644", "100755"})


@dataclass(frozen=True, slots=True)
class Touch:
    """A commit that touched the file: where the file then lay, and what it then held.

    `blob` is the content's object id, `before` that in the first parent; None where no file was.
    `is_file` is False where a link or a submodule lies there now.
    """

    commit: str
    parents: tuple[str, ...]
    path: str
    blob: str | None
    before: str | None
    is_file: bool


def touches(clone: Clone, tip: str, path: str, without: str | None = None) -> tuple[Touch, ...]:
    """The commits from `tip` back that touched the file at `path`, oldest first.

    Renames are followed backwards, as `git log --follow` finds them. `without` leaves out what
    can be reached from that commit. Raises `Unreadable`.
    """
    said = clone.run(
        "log",
        "--first-parent",
        "--diff-merges=first-parent",
        "--follow",
        "--find-renames",
        "--format=%H %P",
        "--raw",
        "-z",
        "--no-abbrev",
        "--no-color",
        "--no-ext-diff",
        "--no-notes",
        "--no-show-signature",
        "--no-textconv",
        tip,
        *([f"^{without}"] if without else []),
        "--",
        path,
    )
    return tuple(reversed(list(_parsed(said))))


def moved_to(clone: Clone, touch: Touch) -> str | None:
    """Where a commit that took the file away put it, as far as git sees a rename."""
    before = touch.parents[0]  # what is taken away was there before
    said = clone.run(
        "diff-tree", "-r", "-z", "--raw", "--find-renames", "--diff-filter=R", before, touch.commit
    )
    words = iter(said.decode(errors="surrogateescape").split("\0"))
    # One record is `:MODES IDS R<score>`, the old path, the new path.
    for _, old, new in zip(words, words, words, strict=False):
        if old == touch.path:
            return new
    return None


def _parsed(said: bytes) -> Iterator[Touch]:
    """Read `git log --raw -z`: a commit and its parents, then its changes, each ended by NUL."""
    words = iter(said.decode(errors="surrogateescape").split("\0"))
    commit, *parents = "", ""
    for word in words:
        text = word.strip("\n")
        if not text.startswith(":"):
            commit, *parents = text.split() or [""]
            continue
        try:
            _, mode, before, blob, change = text.split(" ")
            path = next(words)
            path = next(words) if change[0] in "RC" else path
        except (ValueError, StopIteration) as error:
            raise Unreadable(
                f"git log printed what cannot be read: {text!r}",
                next_step="Update git, then try again.",
            ) from error
        yield Touch(
            commit,
            tuple(parents),
            path,
            None if change == "D" else blob,
            None if change == "A" else before,
            mode in _FILES,
        )
