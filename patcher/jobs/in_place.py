"""Patching files in place: all of them, with their stale bytecode gone, or none at all."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patcher.errors import PatcherError, Unwritable
from patcher.files import make_directory, write_atomically
from patcher.rules.catalogue import Patch, apply
from patcher.sources.path import FileSource, PathSource, open_path, stale_bytecode


@dataclass(frozen=True, slots=True)
class Edit:
    """A file's bytes as they were read and judged, and what they become."""

    before: bytes
    after: bytes


def replace_sources(edits: Mapping[Path, Edit]) -> tuple[Path, ...]:
    """Write each file's new bytes and remove the bytecode that could run in its place.

    Returns the removed bytecode. Whatever fails, Ctrl-C too, every byte is again as it was: each
    step is entered for undoing before it is taken, since an interrupt can come right after it.
    Killed between the two, the old source is there without its bytecode, which Python makes anew.
    Raises `Unreadable`, and `Unwritable`, also for a file that was changed since it was read.
    """
    with contextlib.ExitStack() as undo:
        aside = [_set_aside(stale, undo) for path in edits for stale in stale_bytecode(path)]
        for path, edit in edits.items():
            undo.callback(_put_back, path, edit)
            write_atomically(path, edit.after, expected=edit.before)
        undo.pop_all()
    for moved, _ in aside:
        with contextlib.suppress(OSError):
            moved.unlink()  # under a name that Python never runs
    return tuple(stale for _, stale in aside)


def _put_back(path: Path, edit: Edit) -> None:
    """Take our own bytes back; an edit that somebody else has made since is theirs."""
    if path.read_bytes() == edit.after:
        write_atomically(path, edit.before, expected=edit.after)


def _set_aside(stale: Path, undo: contextlib.ExitStack) -> tuple[Path, Path]:
    moved = stale.with_name(f"{stale.name}.{os.getpid()}.removed")
    undo.callback(_rename_back, moved, stale)
    try:
        stale.rename(moved)
    except OSError as error:
        raise Unwritable(
            f"{stale} cannot be removed: {error.strerror}",
            next_step="Check the folder's permissions; nothing was changed.",
        ) from error
    return moved, stale


def _rename_back(moved: Path, stale: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        moved.rename(stale)


@dataclass(frozen=True, slots=True)
class Done:
    """One file that `patch` dealt with: where the result is, how many places were rewritten."""

    path: Path
    edits: int
    removed_bytecode: tuple[Path, ...]

    @property
    def lines(self) -> list[str]:
        """What to tell a person about it."""
        if not self.edits:
            return [f"{self.path}: nothing to patch"]
        said = [f"{self.path}: patched {self.edits} place(s), proven"]
        return said + [f"removed stale bytecode {path}" for path in self.removed_bytecode]


def patch_path(path: Path, patches: Sequence[Patch], output: Path | None) -> tuple[Done, ...]:
    """Patch a file or a tree; in place for no `output`, which is a file for a file, else a folder.

    Raises what reading and rewriting raise, and `Unwritable`; then nothing was written.
    """
    source = open_path(path)
    originals: dict[str, bytes] = {}
    contents: dict[str, bytes] = {}
    edits: Counter[str] = Counter()
    for patch in patches:
        if patch.target not in originals:
            originals[patch.target] = source.read(patch.target)
        before = contents.get(patch.target, originals[patch.target])
        try:
            rewritten = apply(patch, before)
        except PatcherError as error:
            raise error.at(str(source.locate(patch.target))) from error
        contents[patch.target] = rewritten.data
        edits[patch.target] += len(rewritten.edits)
    if output is not None:
        places = {target: _place(source, output, target) for target in contents}
        for target, data in contents.items():
            make_directory(places[target].parent)
            write_atomically(places[target], data)
        return tuple(Done(places[target], edits[target], ()) for target in contents)
    changed = {
        source.locate(target): Edit(originals[target], data)
        for target, data in contents.items()
        if edits[target]
    }
    removed = replace_sources(changed)
    return tuple(
        Done(source.locate(target), edits[target], removed if edits[target] else ())
        for target in contents
    )


def _place(source: PathSource, output: Path, target: str) -> Path:
    return output if isinstance(source, FileSource) else output / target
