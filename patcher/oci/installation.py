"""The images floor: what a container image is, and the ways to put one thin layer on it.

The seam is `BaseImage` and `BakedImage`; `daemon.engine` and `oci.layout` implement it. The data
that cross the seam are below. Nothing here knows of patches: an image hands out files, and takes a
`Change`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A regular file in an image. `path` is absolute; `mtime` is in seconds since the epoch."""

    path: str
    data: bytes
    uid: int
    gid: int
    mode: int
    mtime: int


@dataclass(frozen=True, slots=True)
class ImageDirectory:
    """A directory in an image, as a layer that writes into it must state it again."""

    path: str
    uid: int
    gid: int
    mode: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Installation:
    """vLLM as it was found in an image.

    `root` is the directory that holds the package (`.../dist-packages` or `.../site-packages`).
    `version` and `commit` are what vllm/_version.py states (commit None where it states none).
    `files` maps each wanted target (path under `root`) to the file; a target that the image
    lacks is not in it. `bytecode` maps a target to the absolute paths of every .pyc that Python
    could run in its place. `directories` are all directories above those paths, outermost first.
    """

    root: str
    version: str
    commit: str | None
    files: Mapping[str, ImageFile]
    bytecode: Mapping[str, tuple[str, ...]]
    directories: tuple[ImageDirectory, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one thin layer does: new contents, bytecode that must not win, labels.

    `files` carry the original's owner and mode. `bytecode` are absolute paths of existing .pyc
    files. `directories` are those of the installation. `labels` are set over inherited ones.
    """

    files: tuple[ImageFile, ...]
    bytecode: tuple[str, ...]
    directories: tuple[ImageDirectory, ...]
    labels: Mapping[str, str]


class BakedImage(Protocol):
    """A new image, not yet reachable under any name."""

    @property
    def digest(self) -> str:
        """`sha256:...` of what was made: a manifest or index (layout), an image id (docker)."""
        ...

    def installation(self, targets: Sequence[str]) -> Installation:
        """vLLM as it lies in the new image, read back from where it was written."""
        ...

    def tag(self, names: Sequence[str]) -> None:
        """Make the image reachable under these names, in this order; the last step of a build."""
        ...

    def discard(self) -> None:
        """Leave nothing behind: for a result that did not pass its checks."""
        ...


class BaseImage(Protocol):
    """An image for one platform that a layer can be put upon."""

    @property
    def digest(self) -> str:
        """`sha256:...` that pins the base."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the image's config, which a derived image inherits."""
        ...

    def installation(self, targets: Sequence[str]) -> Installation:
        """Find vLLM in the image, with the target files.

        Raises `FileAbsent` where no vLLM is found, `BrokenImage` where two are.
        """
        ...

    def bake(self, change: Change) -> BakedImage:
        """Put one layer with this change upon the image. The base is never altered."""
        ...

    def unchanged(self) -> BakedImage:
        """The base itself, to be tagged where it needs no change. Its `discard` does nothing."""
        ...
