"""vLLM as it is found in an image. Nothing here knows of patches: an image hands out files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from patcher.errors import BrokenImage

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
class Copy:
    """A vLLM in an image: where, and why it is the one that runs, or is not.

    `idle` is one that no Python of the image is seen to import; `looked_at` is whether its files
    were handed out, `problem` why they could not be. `python` is the path of an interpreter that
    imports it: the one that the image's command starts, where that does.
    """

    root: str
    why: str
    runs: bool
    looked_at: bool
    idle: bool = False
    problem: str | None = None
    python: str | None = None

    @property
    def state(self) -> str:
        """In a word or two, for people and programs."""
        if not self.looked_at:
            return "not looked at"
        return "runs" if self.runs else "idle" if self.idle else "may run"


@dataclass(frozen=True, slots=True)
class Installation:
    """vLLM as it was found in an image.

    `root` is the directory that holds the package (`.../dist-packages` or `.../site-packages`).
    `version` and `commit` are what vllm/_version.py states (commit None where it states none);
    where the version cannot be told it is empty, and `version_problem` says why.
    `files` maps each wanted target (path under `root`) to the file; a target that the image
    lacks is not in it. `bytecode` maps a target to the absolute paths of every .pyc that Python
    could run in its place. `directories` are all directories above those paths, outermost first.

    `others` are the other copies that some Python of the image could import, `copies` all there
    are. `idle` are those that none is seen to import: they are judged, and do not decide, unless
    it is not `followed` what the image's own command starts. `stale` maps a target to bytecode
    that Python runs in its place though it was compiled from another source. `mentions` are the
    Python files of installed packages that were searched for, by path. `notes` are for a person.
    """

    root: str
    version: str
    commit: str | None
    files: Mapping[str, ImageFile]
    bytecode: Mapping[str, tuple[str, ...]]
    directories: tuple[ImageDirectory, ...]
    others: tuple[Installation, ...] = ()
    idle: tuple[Installation, ...] = ()
    followed: bool = True
    copies: tuple[Copy, ...] = ()
    stale: Mapping[str, str] = field(default_factory=dict)
    version_problem: str | None = None
    mentions: Mapping[str, ImageFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def named_version(self) -> str:
        """The version, where a name is made of it. Raises `BrokenImage` where it is not told."""
        if not self.version:
            raise BrokenImage(
                self.version_problem or f"{self.root} states no version",
                next_step="Take an image whose vLLM was installed from a wheel; 'verify' judges it "
                "without a version.",
            )
        return self.version

    @property
    def all(self) -> tuple[Installation, ...]:
        """This one, and every other that may be run."""
        return (self, *self.others)


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

    def installation(
        self, targets: Sequence[str], root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """Find the vLLM that is run in the image, with the target files. See `find_installation`.

        `root` picks one copy; `mentions` the other Python files that are handed out.
        """
        ...
