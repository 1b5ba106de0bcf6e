"""A folder as a place: the rendered Dockerfile with its files, for those who build themselves.

buildx, kaniko and bake take it as it is. Nothing is built here, so nothing is tagged: what is
proven is the files that the Dockerfile copies.
"""

from __future__ import annotations

import dataclasses
import io
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.daemon import dockerfile
from patcher.errors import Unwritable
from patcher.files import read_file, unwritable
from patcher.oci.model import broken, digest_of
from patcher.places.place import Outline, Sent, changed

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.blobs import Watch
    from patcher.oci.installation import Installation
    from patcher.oci.layer import LayerChange
    from patcher.oci.reference import Platform
    from patcher.oci.referrer import File
    from patcher.places.place import Recipe

# A target is source code: the largest file of vLLM 0.33.0 is under 1 MiB.
_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class ContextPlace:
    """The folder `path` for a base of one platform (see `Place`).

    `repository` is what the result is to be called when it is built. `base` is `NAME@sha256:...`,
    `scratch` a folder beside `path` where it is written before it gets that name.
    """

    repository: str
    path: Path
    scratch: Path
    base: str
    platform: Platform

    def plan(self, recipe: Recipe, *, blind: bool = False) -> ContextPlan:
        """See `Place`. Whether the folder is free was asked before the base was read."""
        del blind
        return ContextPlan(self, recipe)


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """A context to be written (see `Plan`). Its digest and tags come with the build."""

    place: ContextPlace
    recipe: Recipe
    outline: Outline = field(default_factory=Outline)

    def make(self, watch: Watch) -> ContextResult:
        """See `Plan`. Raises `BadReference` for what no Dockerfile can hold, `Unwritable`."""
        del watch
        [base] = self.recipe.images
        change = self.recipe.changes[base]
        text = dockerfile.render(self.place.base, self.place.platform, change)
        packed = dockerfile.context(text, change)
        folder = self.place.scratch / "context"
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
            for at, file in enumerate(change.files):
                # COPY takes the mode from here. The filter and the umask had their own idea of it.
                (folder / dockerfile.source(at)).chmod(file.mode)
        except OSError as error:
            raise unwritable(self.place.path, error) from error
        digest = digest_of(packed)
        return ContextResult(self.place, change, folder, digest, {base: digest})


@dataclass(frozen=True, slots=True)
class ContextResult:
    """A context that is written (see `Made`).

    `digest` is that of the context as a tar: the same base and patches give the same.
    """

    place: ContextPlace
    change: LayerChange
    folder: Path
    digest: str
    images: Mapping[str, str]
    sent: Sent = field(default_factory=Sent)
    way: str | None = "context"

    def read_back(self, before: Mapping[str, Installation]) -> Mapping[str, Installation]:
        """See `Made`: the files that the Dockerfile copies, as they are on disk."""
        try:
            files = []
            for at, file in enumerate(self.change.files):
                there = self.folder / dockerfile.source(at)
                mode = stat.S_IMODE(there.stat().st_mode)
                files.append(dataclasses.replace(file, data=read_file(there, _MOST), mode=mode))
        except OSError as error:
            raise broken(f"a file of the context cannot be read: {error.strerror}") from error
        return {
            digest: changed(found, files, self.change.bytecode) for digest, found in before.items()
        }

    def attach(self, kind: str, files: Sequence[File]) -> None:
        """See `Made`: a folder is no registry."""

    def name(self) -> Mapping[str, str]:
        """See `Made`: the folder gets its name, in one step. Raises `Unwritable`."""
        try:
            self.folder.rename(self.place.path)
        except OSError as error:
            raise unwritable(self.place.path, error) from error
        return {}

    def discard(self) -> None:
        """See `Made`: the job that made the scratch folder removes it."""


def expect_free(path: Path) -> None:
    """Raise `Unwritable` for a name that is not free, nor an empty folder's."""
    try:
        free = not path.is_symlink() and (
            not path.exists() or (path.is_dir() and not any(path.iterdir()))
        )
    except OSError as error:
        raise unwritable(path, error) from error
    if not free:
        raise Unwritable(f"{path} is there already", next_step="Name a new folder, or remove it.")
