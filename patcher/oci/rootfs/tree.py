"""A file tree as whoever looks for vLLM in it sees it: the layers of an image, or this machine's
disk.

Whatever says which vLLM is run goes through these few questions, so that every way to reach a
tree gets the same answer.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

# As many as Linux follows (path_resolution(7)).
_MOST_LINKS = 40

# PATH_MAX of Linux, without the closing NUL.
MOST_PATH_BYTES = 4095


class Kind(enum.Enum):
    """What is at a path."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


class Tree(Protocol):
    """Names and bytes of a file tree.

    Paths are absolute, and no link on the way is followed: see `real`. A tree may know less than
    it holds: an image's knows the names that matter to Python and to vLLM.
    """

    def kind(self, path: str) -> Kind | None:
        """What is at the path; None for nothing."""
        ...

    def link(self, path: str) -> str:
        """Where the link at the path leads, as it is written there."""
        ...

    def names(self, folder: str) -> Iterable[str]:
        """The names in a folder, sorted; none where there is no folder."""
        ...

    def read(self, path: str) -> bytes | None:
        """The bytes of the file at the path; None for anything but a file of interest."""
        ...


def resolve(tree: Tree, path: str) -> tuple[str, Kind | None]:
    """The path with every link on it followed, and what is there; None for nothing.

    A part that is not there counts as a folder: of an image only what matters is known, and
    every link. Links without end lead to None.
    """
    todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
    here, links = "", 0
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.rpartition("/")[0]
            continue
        place = f"{here}/{part}"
        kind = tree.kind(place)
        if kind is Kind.LINK:
            links += 1
            text = tree.link(place)
            if links > _MOST_LINKS or len(text) > MOST_PATH_BYTES:
                return place, None
            here = "" if text.startswith("/") else here
            todo += [part for part in text.split("/") if part not in ("", ".")][::-1]
        elif kind is Kind.FILE and todo:
            return place, None
        else:
            here = place
    return here or "/", tree.kind(here) if here else Kind.FOLDER


def real(tree: Tree, path: str) -> str | None:
    """The path with every link on it followed; None where nothing is there."""
    there, kind = resolve(tree, path)
    return None if kind is None else there


def real_folder(tree: Tree, path: str) -> str | None:
    """The folder that a path leads to, links followed; None where there is none."""
    there, kind = resolve(tree, path)
    return there if kind is Kind.FOLDER else None


def read(tree: Tree, path: str) -> bytes | None:
    """The bytes of the file that a path leads to, links followed. See `Tree.read`."""
    there, kind = resolve(tree, path)
    return tree.read(there) if kind is Kind.FILE else None
