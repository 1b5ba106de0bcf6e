"""An image as a source, wherever it is kept. Nothing is run in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage, DaemonFailed, FileAbsent, Unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from patcher.errors import PatcherError
    from patcher.oci.installation import BaseImage, Installation
    from patcher.rules.patch import Patch


@dataclass(frozen=True, slots=True)
class CopySource:
    """The files of one vLLM in an image that may hold several."""

    label: str
    installation: Installation

    def read(self, target: str) -> bytes:
        """The bytes of `target`. Raises `FileAbsent`, `Unreadable`."""
        if target in self.installation.stale:
            raise Unreadable(
                f"{self.label}: Python runs {self.installation.stale[target]}, which was not "
                f"compiled from {target}",
                next_step="Patch it: the bytecode goes with it; or take another image.",
            )
        if target not in self.installation.files:
            raise FileAbsent(
                f"{self.label} has no {target}", next_step="This vLLM may keep the code elsewhere."
            )
        return self.installation.files[target].data

    def version(self) -> str | None:
        """The version of this vLLM; None where it cannot be told."""
        return self.installation.version or None


@dataclass(frozen=True, slots=True)
class ReadCopies:
    """The vLLMs of an image as one source of the files that were asked for when it was read."""

    label: str
    copies: Sequence[CopySource]

    def read(self, target: str) -> bytes:
        """The bytes of `target`, where one vLLM alone can be meant.

        Raises `FileAbsent`, `Unreadable`.
        """
        there = [copy.installation.files.get(target) for copy in self.copies]
        if len({file and file.data for file in there}) > 1:
            roots = [copy.installation.root for copy in self.copies]
            raise Unreadable(
                f"{self.label} holds more than one vLLM: {', '.join(roots)}",
                next_step=f"Say which, with --root {roots[0]}, or 'verify' it: that judges each.",
            )
        return self.copies[0].read(target)

    def version(self) -> str | None:
        """The version of the vLLM that runs first; None where it cannot be told."""
        return self.copies[0].version()


@dataclass(frozen=True, slots=True)
class NoCopy:
    """An image out of which no vLLM could be read, and why: it is not read a second time."""

    label: str
    error: PatcherError

    def read(self, target: str) -> bytes:
        """Raises what was wrong."""
        del target
        raise self.error

    def version(self) -> str | None:
        """None."""
        return None


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The files of the vLLM in an image; `label` is the name that a person typed for it.

    `root` picks one where an image holds several.
    """

    label: str
    image: BaseImage
    root: str | None = None

    def copies(self, targets: Sequence[str], mentions: Sequence[bytes] = ()) -> list[CopySource]:
        """Every vLLM that some Python of the image could import, the one that runs first.

        Raises `FileAbsent` where there is no vLLM, `Unreadable`.
        """
        try:
            found = self.image.installation(targets, self.root, mentions)
        except (BrokenImage, DaemonFailed) as error:
            raise Unreadable(error.problem, next_step=error.next_step) from error
        if not found.others:
            return [CopySource(self.label, found)]
        return [CopySource(f"{self.label} {each.root}", each) for each in found.all]

    def idle(self, found: Installation) -> list[CopySource]:
        """The copies that no Python of the image is seen to import."""
        return [CopySource(f"{self.label} {each.root}", each) for each in found.idle]

    def read_for(self, patches: Sequence[Patch]) -> ReadCopies:
        """Its vLLMs as one source of the patches' files: every layer is read once for all of them.

        Raises as `copies`.
        """
        targets = sorted({target for patch in patches for target in patch.targets})
        return ReadCopies(self.label, self.copies(targets))

    def read(self, target: str) -> bytes:
        """The bytes of `target`, where one vLLM alone can be meant; each call reads the image.

        Raises `FileAbsent`, `Unreadable`.
        """
        return ReadCopies(self.label, self.copies([target])).read(target)

    def version(self) -> str | None:
        """The version of its vLLM. Raises `FileAbsent` where there is no vLLM, `Unreadable`."""
        return self.copies([])[0].version()


def about_copies(found: Installation) -> list[str]:
    """Which vLLM of an image is which, where there is more than one, and what else to know."""
    lines = list(found.notes)
    if len(found.copies) > 1:
        lines += [
            f"vLLM in {copy.root}: {copy.state}: {copy.problem or copy.why}"
            for copy in found.copies
        ]
    return lines


def open_question(found: Installation, needed: Collection[str]) -> str | None:
    """Why it cannot be said that what was judged is what runs; None where it can.

    `needed` are the roots of idle copies that need a patch.
    """
    for copy in found.copies:
        if copy.idle and copy.problem:
            return f"the vLLM in {copy.root} cannot be judged: {copy.problem}"
        if copy.idle and copy.root in needed and not found.followed:
            return (
                f"the vLLM in {copy.root} needs a patch, and what the image's command starts is "
                "not followed"
            )
    return None
