"""The main job: from a base image to a proven, patched and tagged one.

`bake` reads as the job goes: read, patch, verify, bake, check, tag, report. It knows no engine:
a base is anything that `patcher.oci.installation.BaseImage` describes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import Version

from patcher.errors import AlreadyClean, ProofFailed
from patcher.jobs.job import FileChange, change_of, check_version, judge_all, patch_all
from patcher.jobs.naming import Names, Patched, names
from patcher.oci.installation import BakedImage, BaseImage, Installation
from patcher.oci.reference import Platform, Reference
from patcher.progress import Say
from patcher.rules.catalogue import Patch, Status, Verdict


@dataclass(frozen=True, slots=True)
class Base:
    """What to build upon. `name` is what the pin came from; `version` is what was asked for."""

    image: BaseImage
    name: Reference | None
    version: Version | None


@dataclass(frozen=True, slots=True)
class Order:
    """What to make. `repository` is where the tags go; empty where an engine needs none.

    `suffix` is the platform that tells this image's tags from those of other platforms.
    """

    patches: Sequence[Patch]
    repository: str
    suffix: Platform | None = None
    allow_clean: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was done. `digest` is the new image's, the base's where nothing was to be patched."""

    base_name: str | None
    base_digest: str
    root: str
    vllm: str
    commit: str | None
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]
    changes: tuple[FileChange, ...]
    digest: str
    tags: tuple[str, ...]


def bake(base: Base, order: Order, say: Say) -> Report:
    """Patch a base image and tag the result.

    `say` is told each step. Raises `AlreadyClean` where no patch is needed and `allow_clean` is
    not set, `WrongVersion`, `FileAbsent`, and what reading, rewriting and the engine raise; then
    nothing was tagged and nothing is left behind.
    """
    targets = sorted({patch.target for patch in order.patches})
    installation = base.image.installation(targets)
    say(f"found vLLM {installation.version} in {installation.root}")
    check_version(base.version, installation)

    before = judge_all(order.patches, installation)
    changes = patch_all(order.patches, before, installation)
    named = f"{base.name} {base.image.digest}" if base.name else base.image.digest
    tags = names(installation.version, _patched(changes), named, order.suffix)
    if not changes:
        return _clean(base, order, installation, before, tags)
    say(f"patched {len(changes)} file(s), proven: {', '.join(p.patch for p in _patched(changes))}")

    origin = (base.name, base.image.digest)
    change = change_of(installation, changes, base.image.labels, origin, tags.fixed)
    baked = base.image.bake(change)
    try:
        say(f"baked {baked.digest}")
        after = _check(baked, installation, order.patches, changes)
        say("read back from the new image: the same bytes, and no unguarded read")
        tagged = _tag(baked, order, tags)
    except BaseException:
        baked.discard()
        raise
    return _report(base, installation, (before, after), changes, (baked.digest, tagged))


def _check(
    baked: BakedImage,
    installation: Installation,
    patches: Sequence[Patch],
    changes: Sequence[FileChange],
) -> tuple[Verdict, ...]:
    """Read the files back from where they were written, compare and judge them once more."""
    back = baked.installation(sorted(installation.files))
    for change in changes:
        wanted = dataclasses.replace(change.before, data=change.after)
        found = back.files.get(change.target)
        if found is None or dataclasses.replace(found, mtime=wanted.mtime) != wanted:
            raise _unproven(f"{wanted.path} is not what was put there")
        if back.bytecode.get(change.target):
            raise _unproven(f"stale bytecode would win over {wanted.path}")
    if (back.root, back.version) != (installation.root, installation.version):
        raise _unproven(f"vLLM {back.version} was found in {back.root}")
    after = judge_all(patches, back)
    if any(verdict.status is not Status.CLEAN for verdict in after):
        raise _unproven("an unguarded read remains")
    return after


def _unproven(problem: str) -> ProofFailed:
    return ProofFailed(
        f"the new image failed its check: {problem}", next_step="Nothing was tagged. Report it."
    )


def _clean(
    base: Base,
    order: Order,
    installation: Installation,
    verdicts: tuple[Verdict, ...],
    tags: Names,
) -> Report:
    """Nothing is built. Only where it is allowed, the base goes under the patched names."""
    if not order.allow_clean:
        raise AlreadyClean(
            f"vLLM {installation.version} already carries this: "
            + ", ".join(patch.name for patch in order.patches),
            next_step="Use the base as it is, or give --allow-clean to tag it as patched.",
        )
    unchanged = base.image.unchanged()
    tagged = _tag(unchanged, order, tags)
    return _report(base, installation, (verdicts, verdicts), (), (unchanged.digest, tagged))


def _tag(baked: BakedImage, order: Order, tags: Names) -> tuple[str, ...]:
    """The fixed name first: whoever sees the moving one finds both."""
    before = f"{order.repository}:" if order.repository else ""
    tagged = tuple(f"{before}{tag}" for tag in (tags.fixed, tags.moving))
    baked.tag(tagged)
    return tagged


def _report(
    base: Base,
    installation: Installation,
    verdicts: tuple[tuple[Verdict, ...], tuple[Verdict, ...]],
    changes: tuple[FileChange, ...],
    result: tuple[str, tuple[str, ...]],
) -> Report:
    return Report(
        base_name=str(base.name) if base.name else None,
        base_digest=base.image.digest,
        root=installation.root,
        vllm=installation.version,
        commit=installation.commit,
        before=verdicts[0],
        after=verdicts[1],
        changes=changes,
        digest=result[0],
        tags=result[1],
    )


def _patched(changes: Sequence[FileChange]) -> tuple[Patched, ...]:
    return tuple(patched for change in changes for patched in change.patched)
