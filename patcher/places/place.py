"""The seam between the job and where its result goes: a registry, a layout, a daemon, a folder.

A place is opened for one base. The job asks it for a plan, which writes nothing; lets the plan
make the result, which has no name yet; has the result read back and judged; and names it last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from patcher.oci.blobs import Watch
    from patcher.oci.installation import ImageFile, Installation
    from patcher.oci.layer import LayerChange
    from patcher.oci.referrer import File


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a base is to become.

    `images` are the digests of the wanted images of the base, `changes` what a layer does to each
    of them; without changes the base itself is named. `annotations` repeat labels on the manifest
    or index, where registries show them. `tags` will lead to the result, the fixed one first.
    """

    images: tuple[str, ...]
    changes: Mapping[str, LayerChange]
    annotations: Mapping[str, str]
    tags: tuple[str, ...]


# The ways of making a result whose bytes nobody counts: what goes through a daemon's socket, and a
# folder, which is sent nowhere.
UNCOUNTED = frozenset({"dockerfile", "load", "context"})


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes of payload that went to the place: new parts, and blobs of the base."""

    parts: int = 0
    streamed: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """What a plan amounts to.

    `digest` is the result's, `images` maps each image of the base to that of the result; both are
    empty where only making it will tell. `lacking` and `base_lacking` are the bytes of our own
    parts and of the base's blobs that the place does not have yet, `blobs` the number of the
    latter. `moving` are the tags that do not lead to the result yet; those of them in `taken`
    lead to something else.
    """

    digest: str = ""
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lacking: int = 0
    base_lacking: int = 0
    blobs: int = 0
    moving: tuple[str, ...] = ()
    taken: frozenset[str] = frozenset()


def changed(before: Installation, files: Sequence[ImageFile], gone: Sequence[str]) -> Installation:
    """An installation with the files that were read back, and without the bytecode taken away.

    A file that the base did not have is there now, under the installation's root.
    """
    back = {file.path: file for file in files}
    root = f"{before.root}/"
    known = {file.path for file in before.files.values()}
    new = {
        path.removeprefix(root): file
        for path, file in back.items()
        if path.startswith(root) and path not in known
    }
    return dataclasses.replace(
        before,
        files=new | {target: back.get(file.path, file) for target, file in before.files.items()},
        bytecode={
            target: tuple(path for path in paths if path not in gone)
            for target, paths in before.bytecode.items()
        },
        stale={target: path for target, path in before.stale.items() if path not in gone},
        others=tuple(changed(other, files, gone) for other in before.others),
    )


class Made(Protocol):
    """A result that is at its place, and that no new tag leads to yet."""

    @property
    def digest(self) -> str:
        """`sha256:...`: of a manifest or index, or a daemon's image id."""
        ...

    @property
    def images(self) -> Mapping[str, str]:
        """The digest of each new image, by that of the base's."""
        ...

    @property
    def sent(self) -> Sent:
        """What making it has moved."""
        ...

    @property
    def way(self) -> str | None:
        """How it was made: `append`, in a daemon `dockerfile` or `load`, or only written down:
        `context`; None for an image that was there already.
        """
        ...

    def read_back(self, before: Mapping[str, Installation]) -> Mapping[str, Installation]:
        """vLLM in each image, read from where it was written; by the base's digest, as `before`.

        Raises `BrokenImage` where the result is not the base with the declared changes.
        """
        ...

    def attach(self, kind: str, files: Sequence[File]) -> str | None:
        """Store documents of this artifact type beside the result, which is their subject; gives
        the artifact's digest, None where the place keeps no such thing. Called once the result
        was read back, and before it is named.
        """
        ...

    def name(self) -> Mapping[str, str]:
        """Let the plan's tags lead to it, in their order; gives those that the place refused, with
        its reason. The fixed tag is never among them: without it nothing is published.
        """
        ...

    def discard(self) -> None:
        """Take away what nothing can use: for a result that did not pass, or an interrupt."""
        ...


class Plan(Protocol):
    """What is to be done; nothing of it has happened."""

    @property
    def outline(self) -> Outline:
        """What it amounts to."""
        ...

    def make(self, watch: Watch) -> Made:
        """Make the result. What was sent before an error, the next run need not send."""
        ...


class Place(Protocol):
    """Where a result goes, opened for one base."""

    @property
    def repository(self) -> str:
        """The name of a result without its `:TAG`."""
        ...

    def plan(self, recipe: Recipe, *, blind: bool = False) -> Plan:
        """Ask what is there already. Nothing is written.

        `blind`: the place may not be looked into, and is treated as empty.
        """
        ...
