"""What a vLLM in an image needs, and what its files become: the same for every way to bake.

Platforms of one index mostly hold the same source: a file is judged and patched once, however
many images it lies in.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from patcher.errors import FileAbsent, NotPython, WrongVersion
from patcher.jobs.naming import Patched, labels
from patcher.oci.installation import Change, ImageFile, Installation
from patcher.oci.reference import Reference
from patcher.rules.catalogue import Patch, Status, Verdict, apply, judge_bytes
from patcher.versions import parsed, same_commit


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of the image: before and after, and the patches that made the difference."""

    target: str
    before: ImageFile
    after: bytes
    patched: tuple[Patched, ...]


def check_version(asked: Version | None, installation: Installation) -> None:
    """Raise `WrongVersion` unless the image holds the build that was asked for.

    A local part is compared where both state a commit: images add to it (`+cu130`, a date).
    """
    found = parsed(installation.version)
    if asked is None:
        return
    if found is None or found.public != asked.public or not _may_be_same_commit(asked, found):
        raise WrongVersion(
            f"the image holds vLLM {installation.version}, not {asked}",
            next_step="The pin in images.lock is wrong: mend it with `vllm-patcher lock add`.",
        )


def _may_be_same_commit(asked: Version, found: Version) -> bool:
    commits = [
        part[1:]
        for version in (asked, found)
        for part in (version.local or "").split(".")
        if part.startswith("g") and len(part) > 7
    ]
    return len(commits) < 2 or same_commit(commits[0], commits[1])


def change_of(
    installation: Installation,
    changes: Sequence[FileChange],
    inherited: Mapping[str, str],
    base: tuple[Reference | None, str],
    tag: str,
) -> Change:
    """What a layer does to an image: the new files, the bytecode that must not win, the labels.

    `inherited` are the base's labels, `base` its name and digest, `tag` the fixed name.
    """
    stale = [path for change in changes for path in installation.bytecode.get(change.target, ())]
    patched = [done for change in changes for done in change.patched]
    vllm = (installation.version, installation.commit)
    said = labels(inherited, *base, vllm, patched, tag)
    files = tuple(dataclasses.replace(change.before, data=change.after) for change in changes)
    return Change(files, tuple(stale), installation.directories, said)


def judge_all(patches: Sequence[Patch], installation: Installation) -> tuple[Verdict, ...]:
    """The verdict of each patch. Raises `FileAbsent`, and `NotPython` for what cannot be judged."""
    return tuple(_judge(patch, installation) for patch in patches)


def _judge(patch: Patch, installation: Installation) -> Verdict:
    file = installation.files.get(patch.target)
    if file is None:
        raise FileAbsent(
            f"vLLM {installation.version} in the image has no {patch.target}",
            next_step=f"This vLLM keeps the code elsewhere; {patch.name} cannot judge it.",
        )
    verdict = dataclasses.replace(_judged(patch, file.data), artifact=file.path)
    if verdict.status is Status.UNKNOWN:
        raise NotPython(f"{file.path}: {verdict.reason}", next_step="Try a newer Python.")
    return verdict


def patch_all(
    patches: Sequence[Patch], verdicts: Sequence[Verdict], installation: Installation
) -> tuple[FileChange, ...]:
    """Apply the needed patches, one after the other where they share a file."""
    changes: dict[str, FileChange] = {}
    for patch, verdict in zip(patches, verdicts, strict=True):
        if verdict.status is not Status.NEEDED:
            continue
        file = installation.files[patch.target]
        known = changes.get(patch.target, FileChange(patch.target, file, file.data, ()))
        after = _applied(patch, known.after)
        done = Patched(
            patch.name, patch.version, patch.target, _sha256(known.after), _sha256(after)
        )
        changes[patch.target] = FileChange(patch.target, file, after, (*known.patched, done))
    return tuple(changes.values())


@functools.cache
def _judged(patch: Patch, data: bytes) -> Verdict:
    return judge_bytes(patch, data, "")


@functools.cache
def _applied(patch: Patch, data: bytes) -> bytes:
    return apply(patch, data).data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
