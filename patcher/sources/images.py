"""An image as a source, wherever it lies. Nothing is run in it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage, DaemonFailed, FileAbsent, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from patcher.oci.installation import BaseImage


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The files of the vLLM in an image; `label` is the name that a person typed for it."""

    label: str
    image: BaseImage

    def read(self, target: str) -> bytes:
        """The bytes of `target`. Raises `FileAbsent`, `Unreadable`."""
        with _unreadable():
            files = self.image.installation([target]).files
        if target not in files:
            raise FileAbsent(
                f"{self.label} has no {target}", next_step="This vLLM may keep the code elsewhere."
            )
        return files[target].data

    def version(self) -> str:
        """The version of its vLLM. Raises `FileAbsent` where there is no vLLM, `Unreadable`."""
        with _unreadable():
            return self.image.installation([]).version


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except (BrokenImage, DaemonFailed) as error:
        raise Unreadable(error.problem, next_step=error.next_step) from error
