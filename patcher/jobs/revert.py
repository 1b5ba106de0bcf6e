"""Taking a patch in place back: every file as it was, or none touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patcher.errors import Finding
from patcher.jobs.backups import Backup, backups_in, clear_backups, content
from patcher.jobs.in_place import Edit, one_run_at_a_time, replace_sources
from patcher.sources.path import as_typed, open_path


@dataclass(frozen=True, slots=True)
class Reverted:
    """One file whose original was kept; `changed` is false where it was the original already.
    Paths begin as the person typed them.
    """

    path: Path
    changed: bool
    removed_bytecode: tuple[Path, ...]

    @property
    def lines(self) -> list[str]:
        """What to tell a person about it."""
        if not self.changed:
            return [f"{self.path}: it is the original already"]
        return [
            f"{self.path}: reverted to the original",
            *(f"removed stale bytecode {path}" for path in self.removed_bytecode),
        ]


def revert_path(path: Path) -> tuple[Reverted, ...]:
    """Put back every original that `patch --in-place --backup` kept of a file or a tree.

    Raises `Finding` where none is kept, or where a file was changed since it was patched;
    `Unreadable`, `Unwritable`. Then nothing was written.
    """
    source = open_path(path)
    clear_backups(source)
    with one_run_at_a_time({each.path for each in backups_in(source)}):
        kept = backups_in(source)
        if not kept:
            raise Finding(
                f"no original is kept of {path}",
                next_step="Only `patch --in-place --backup` keeps one. `pip install "
                "--force-reinstall --no-deps vllm==VERSION` brings back what was published.",
            )
        edits, spent = _edits(kept, path)
        removed = replace_sources({file: edit for file, edit in edits.items() if edit is not None})
        for each in spent:
            each.drop()
    gone = tuple(as_typed(stale, path) for stale in removed)
    return tuple(
        Reverted(as_typed(file, path), edit is not None, gone if edit is not None else ())
        for file, edit in edits.items()
    )


def _edits(kept: Sequence[Backup], typed: Path) -> tuple[Mapping[Path, Edit | None], list[Backup]]:
    """What is to be done to each file, None for nothing; and the backups that are spent then."""
    edits: dict[Path, Edit | None] = {}
    spent = []
    for path in dict.fromkeys(each.path for each in kept):
        own, now = [each for each in kept if each.path == path], content(path)
        done = [each for each in own if each.original == now]
        live = [each for each in own if each.fits(now)]
        if not (done or live):
            raise Finding(
                f"{as_typed(path, typed)} was changed since it was patched, and nothing was "
                "reverted",
                next_step=f"The original is {as_typed(own[-1].kept, typed)}: copy it back "
                "yourself, or remove it where another vLLM was installed since.",
            )
        original = now if done else live[0].original
        edits[path] = None if done else Edit(now, original)
        spent += [each for each in own if each.original == original]
    return edits, spent
