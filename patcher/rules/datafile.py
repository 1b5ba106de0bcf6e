"""DataFile: a whole file that is not Python, such as a tuned MoE configuration or a template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patcher.errors import RewriteRefused
from patcher.rules.rule import Edit, Found, Place, Rewritten, Words, proof_failed

if TYPE_CHECKING:
    from patcher.rules.rule import Files


@dataclass(frozen=True, slots=True)
class DataFile:
    """The rule: the file at `path` holds `data`.

    `replaces` are the SHA-256 of what it may take the place of; with none, the file must not be
    there. Any other content is not ours to overwrite.
    """

    path: str
    data: bytes = field(repr=False)
    replaces: tuple[str, ...] = ()

    words = Words(
        needed="to be put",
        clean="there",
        place="file",
        places="files",
        why="is not there, or is the one to be replaced",
        none="the file is another",
        told="file of",
    )

    def __post_init__(self) -> None:
        """Python is patched by function, and compiled code not at all."""
        if self.path.endswith((".py", ".so", ".pyc")):
            raise ValueError(f"{self.path} is code: a DataFile is not")

    def find(self, files: Files) -> Found:
        """The file: needed where it is to come or to be replaced."""
        there = files.get(self.path)
        if there == self.data:
            return Found((self._place(False),))
        if there is None:
            if self.replaces:
                return Found(absent=f"there is no {self.path}")
            return Found((self._place(True),))
        if hashlib.sha256(there).hexdigest() in self.replaces:
            return Found((self._place(True),))
        return Found(unknown=f"{self.path} has another content than the patch knows")

    def _place(self, needed: bool) -> Place:
        return Place(self.path, 1, 1, "", f"{len(self.data)} bytes", needed)

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """The file's new bytes. Raises `RewriteRefused` for a content that is not known."""
        found = self.find(files)
        if found.unknown or found.absent:
            raise RewriteRefused(
                found.unknown or found.absent or "", next_step="Compare the file by hand."
            )
        there = files.get(self.path) or b""
        edit = Edit(0, len(there), there, self.data, 1)
        return {self.path: Rewritten(self.data, (edit,) if there != self.data else ())}

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """The bytes are the patch's, and of no other file. Raises `ProofFailed`."""
        if self.find(before).unknown or {path: one.data for path, one in after.items()} != {
            self.path: self.data
        }:
            raise proof_failed(f"{self.path} is not what the patch states")

    def explain(self) -> tuple[str, ...]:
        """The file, and what it may take the place of."""
        known = len(self.replaces)
        contents = "a known content" if known == 1 else f"one of {known} known contents"
        over = f"in place of {contents}" if known else "where there is none"
        return (f"{self.path}: {len(self.data)} bytes, {over}",)
