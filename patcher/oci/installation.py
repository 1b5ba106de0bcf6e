"""vLLM as it is found in an image, and the change that one thin layer makes to it.

Nothing here knows of patches: an image hands out files, and a place takes a `Change`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from patcher.oci.reference import Platform


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


class BaseImage(Protocol):
    """An image for one platform: vLLM is found in it, and a layer can be put on it."""

    @property
    def digest(self) -> str:
        """`sha256:...` that pins it."""
        ...

    @property
    def platform(self) -> Platform:
        """What it is for."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its config, which a derived image inherits."""
        ...

    def installation(self, targets: Sequence[str]) -> Installation:
        """Find vLLM in the image, with the target files.

        Raises `FileAbsent` where no vLLM is found, `BrokenImage` where two are.
        """
        ...
