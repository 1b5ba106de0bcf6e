"""Patching files in place: all of them, with their stale bytecode gone, or none at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patcher.errors import PatcherError, Unwritable, UsageError
from patcher.files import (
    is_folder,
    locked,
    make_directory,
    no_folder_left,
    unwritable,
    write_atomically,
)
from patcher.jobs.backups import clear_backups, content, keeping
from patcher.rules.apply import Outcome, apply_all
from patcher.rules.patch import Patch
from patcher.sources.bytecode import ASIDE, left_aside, stale_bytecode
from patcher.sources.path import (
    FileSource,
    PathSource,
    as_typed,
    concerned,
    named,
    open_path,
)
from patcher.text import counted


@dataclass(frozen=True, slots=True)
class Edit:
    """A file's bytes as they were read and judged, and what they become; None for no file."""

    before: bytes | None
    after: bytes | None


def replace_sources(edits: Mapping[Path, Edit]) -> tuple[Path, ...]:
    """Write each file's new bytes and remove the bytecode that could run in its place.

    Returns the removed bytecode. Whatever fails, Ctrl-C too, every byte is again as it was: each
    step is entered for undoing before it is taken, since an interrupt can come right after it.
    Killed between the two, the old source is there without its bytecode, which Python makes anew.
    Raises `Unreadable`, and `Unwritable`, also for a file that was changed since it was read.
    """
    refused: set[Path] = set()
    with contextlib.ExitStack() as undo:
        aside = [_set_aside(stale, undo) for path in edits for stale in stale_bytecode(path)]
        for path, edit in edits.items():
            if edit.after is None:
                aside.append(_remove(path, edit, undo))
                continue
            undo.callback(_put_back, path, edit, refused)
            try:
                write_atomically(path, edit.after, expected=edit.before)
            except Unwritable:
                refused.add(path)
                raise
        undo.pop_all()
    for moved, _ in aside:
        with contextlib.suppress(OSError):
            moved.unlink()  # under a name that Python never runs
    return tuple(stale for _, stale in aside if stale not in edits)


def _put_back(path: Path, edit: Edit, refused: Iterable[Path]) -> None:
    """Take our own bytes back; what another program has written since stays, even if equal."""
    if edit.before is None:
        with contextlib.suppress(FileNotFoundError):
            if path not in refused and content(path) == edit.after:
                path.unlink()
    elif path not in refused and content(path) == edit.after:
        write_atomically(path, edit.before, expected=edit.after)


@contextlib.contextmanager
def one_run_at_a_time(paths: Iterable[Path]) -> Iterator[None]:
    """Lock the folders: a run that fails would put back the bytecode of what another has patched.

    What a killed run has set aside, its own file under a name that Python never runs, goes.
    """
    there = list(paths)
    with contextlib.ExitStack() as held:
        for folder in sorted({path.parent.resolve() for path in there}):
            with contextlib.suppress(OSError):  # reading it will say what is wrong
                held.enter_context(locked(folder))
        for path in there:
            for left in left_aside(path):
                with contextlib.suppress(OSError):
                    left.unlink()
        yield


def _remove(path: Path, edit: Edit, undo: contextlib.ExitStack) -> tuple[Path, Path]:
    if content(path) != edit.before:
        raise unwritable(path, OSError("it was changed meanwhile"))
    return _set_aside(path, undo)


def _set_aside(stale: Path, undo: contextlib.ExitStack) -> tuple[Path, Path]:
    moved = stale.with_name(f"{stale.name}.{os.getpid()}{ASIDE}")
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
    """One file that `patch` dealt with: where the result is, how many places were rewritten. Paths
    begin as the person typed them.
    """

    path: Path
    edits: int
    removed_bytecode: tuple[Path, ...]

    @property
    def lines(self) -> list[str]:
        """What to tell a person about it."""
        if not self.edits:
            return [f"{self.path}: nothing to patch"]
        said = [f"{self.path}: patched {counted(self.edits, 'place')}, proven"]
        return said + [f"removed stale bytecode {path}" for path in self.removed_bytecode]


def patch_path(
    path: Path, patches: Sequence[Patch], output: Path | None, *, backup: bool = False
) -> tuple[Done, ...]:
    """Patch a file or a tree; in place for no `output`, which is a file for a file, else a folder.

    With `backup` the originals are kept for `revert_path`.
    Raises what reading and rewriting raise, and `Unwritable`; then nothing was written.
    """
    source = open_path(path)
    if output is not None:
        return _write_to(output, source, _outcomes(source, patches))
    clear_backups(source)
    with one_run_at_a_time(_located(source, patches)):
        return _replace(source, _outcomes(source, patches), backup=backup)


def _outcomes(source: PathSource, patches: Sequence[Patch]) -> tuple[Outcome, ...]:
    own, wanted = concerned(source, patches)
    return apply_all(wanted, own.read, lambda target: str(named(source, target)), own.version())


def _located(source: PathSource, patches: Sequence[Patch]) -> Iterator[Path]:
    """The files that are to be patched, as far as they can be named."""
    for target in dict.fromkeys(target for patch in patches for target in patch.targets):
        with contextlib.suppress(PatcherError):  # reading it says so
            yield source.locate(target)


def _write_to(output: Path, source: PathSource, outcomes: Sequence[Outcome]) -> tuple[Done, ...]:
    is_file = isinstance(source, FileSource)
    if is_file and is_folder(output):
        raise UsageError(
            f"{output} is a folder", next_step=f"Name a file: -o {output / source.path.name}"
        )
    done = [Done(output if is_file else output / each.target, each.places, ()) for each in outcomes]
    for each, result in zip(outcomes, done, strict=True):
        if result.path.resolve() == named(source, each.target).resolve():
            raise UsageError(
                f"{result.path} is the file that is to be patched",
                next_step="Give --in-place, which removes its stale bytecode, too.",
            )
    with contextlib.ExitStack() as folders, contextlib.ExitStack() as undo:
        for each, result in zip(outcomes, done, strict=True):
            within = result.path.parent if is_file else output
            folders.enter_context(no_folder_left(result.path.parent))
            make_directory(within)
            edit = Edit(content(result.path), each.after)
            undo.callback(_put_back, result.path, edit, ())
            write_atomically(result.path, each.after, within=within)
        undo.pop_all()
    return tuple(done)


def _replace(source: PathSource, outcomes: Sequence[Outcome], *, backup: bool) -> tuple[Done, ...]:
    changed = {
        source.locate(each.target): (each.before, each.after) for each in outcomes if each.places
    }
    with keeping(changed, wanted=backup):
        removed = replace_sources({path: Edit(*edit) for path, edit in changed.items()})
    gone = tuple(as_typed(stale, source.path) for stale in removed)
    return tuple(
        Done(named(source, each.target), each.places, gone if each.places else ())
        for each in outcomes
    )
