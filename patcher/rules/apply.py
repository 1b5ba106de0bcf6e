"""Patches applied to files: each proven on its own input, one on what another made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, PatcherError, ProofFailed, Undecided
from patcher.rules.fault import as_rewritten, blaming
from patcher.rules.patch import Patch
from patcher.rules.rule import Files, Rewritten
from patcher.rules.verdict import Status, covers, found_in, judge_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


_LEAVE = (
    "What cannot be judged is not patched. Where it is one patch of several, name the others with "
    "--patch."
)


def apply_files(patch: Patch, files: Files) -> Mapping[str, Rewritten]:
    """The patched bytes of each file that changes, proven; none where the files are clean.

    Raises `RewriteRefused`, `FileAbsent`, `NotPython`, `Undecided` and `ProofFailed`; nothing is
    ever half done.
    """
    found = found_in(patch, files)
    if found.unknown is not None:
        raise Undecided(f"{patch.name} cannot judge it: {found.unknown}", next_step=_LEAVE)
    if found.absent is not None:
        raise FileAbsent(f"{patch.name} cannot judge it: {found.absent}", next_step=_LEAVE)
    if not any(place.needed for place in found.places):
        return {}
    with blaming(patch.name):
        rewritten = as_rewritten(patch.name, patch.rule.rewrite(files), files)
        patch.rule.prove(files, rewritten)
    after = {**files, **{target: each.data for target, each in rewritten.items()}}
    left = found_in(patch, after)
    if left.unknown or left.absent or any(place.needed for place in left.places):
        raise ProofFailed(
            f"after the rewrite {patch.name} is still needed",
            next_step="Nothing was written. Please report it with the file.",
        )
    return rewritten


@dataclass(frozen=True, slots=True)
class Step:
    """What one of several patches made of one file, and in how many places.

    `before` is None where there was no file.
    """

    patch: Patch
    target: str
    before: bytes | None
    after: bytes
    places: int


def series(
    patches: Iterable[Patch], files: Files, where: Callable[[str], str] | None = None
) -> tuple[Step, ...]:
    """Each patch on what those before it made, in the given order; each proven on its own input.

    With `where`, which names a target, an error begins with that of its patch. Raises as
    `apply_files`; where it would apply without an earlier patch, both are named. What a later one
    undoes of an earlier one is `ProofFailed`.
    """
    current = dict(files)
    steps: list[Step] = []
    for patch in patches:
        own = {target: current.get(target) for target in patch.targets}
        earlier = dict.fromkeys(step.patch.name for step in steps if step.target in own)
        try:
            made = apply_files(patch, own)
        except PatcherError as error:
            failed = error
            if earlier and _is_needed(patch, files):
                failed = _in_conflict(patch, earlier, error)
            raise failed.at(where(_first_there(own))) if where else failed from None
        for target, each in made.items():
            steps.append(Step(patch, target, own[target], each.data, len(each.edits)))
            current[target] = each.data
    for patch in dict.fromkeys(step.patch for step in steps):
        own = {target: current.get(target) for target in patch.targets}
        if judge_files(patch, own, "").status is not Status.CLEAN:
            after = [step.patch.name for step in steps if step.target in own]
            later = dict.fromkeys(after[after.index(patch.name) :])
            undone = ProofFailed(
                f"{' and '.join(later)} change the same code: with all of them {patch.name} is "
                "not what it was proven to be",
                next_step="Nothing was written. Name the one that you want with --patch.",
            )
            raise undone.at(where(_first_there(own))) if where else undone
    return tuple(steps)


def _first_there(files: Files) -> str:
    """The file that an error is about: the first that is there, or else the patch's first."""
    return next((target for target, data in files.items() if data is not None), next(iter(files)))


def _in_conflict(patch: Patch, earlier: Iterable[str], error: PatcherError) -> PatcherError:
    return type(error)(
        f"{patch.name} does not go with {', '.join(earlier)}, which changed the same file: "
        f"{error.problem}",
        next_step="Name the one that you want with --patch, or make one patch of both.",
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What several patches make of one file, and in how many places. `before` is as in `Step`."""

    target: str
    before: bytes | None
    after: bytes
    places: int


def apply_all(
    patches: Iterable[Patch],
    read: Callable[[str], bytes],
    where: Callable[[str], str],
    version: str | None = None,
) -> tuple[Outcome, ...]:
    """What a series of patches makes of its targets: an outcome for each that is there or comes.

    `read` gives a target's bytes, `where` its name for an error. A patch that is not for this
    `version` is passed over. Raises as `series`.
    """
    wanted = [patch for patch in patches if covers(patch, version)]
    files: dict[str, bytes | None] = {}
    for target in dict.fromkeys(target for patch in wanted for target in patch.targets):
        try:
            files[target] = read(target)
        except FileAbsent:
            files[target] = None
    try:
        steps = series(wanted, files, where)
    except (FileAbsent, Undecided) as error:
        raise without_it(error, [patch for patch in wanted if _is_needed(patch, files)]) from None
    outcomes = {
        target: Outcome(target, data, data, 0) for target, data in files.items() if data is not None
    }
    for step in steps:
        places = step.places + (outcomes[step.target].places if step.target in outcomes else 0)
        outcomes[step.target] = Outcome(step.target, files[step.target], step.after, places)
    return tuple(outcomes.values())


def _is_needed(patch: Patch, files: Files) -> bool:
    own = {target: files.get(target) for target in patch.targets}
    return judge_files(patch, own, "").status is Status.NEEDED


def without_it(error: FileAbsent | Undecided, needed: Sequence[Patch]) -> FileAbsent | Undecided:
    """The error of one patch that cannot judge, with what to type for those that are needed."""
    if not needed:
        return error
    others = " ".join(f"--patch {patch.name}" for patch in needed)
    return type(error)(error.problem, next_step=f"To apply the others that are needed: {others}")
