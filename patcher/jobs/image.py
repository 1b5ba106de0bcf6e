"""The job: from a base image to a proven, patched and tagged one, at any place.

`make_image` reads as the job goes. It knows no registry and no daemon: a base is a set of images
that vLLM can be found in, and a place is what `patcher.places.place` describes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import (
    AccessDenied,
    AlreadyClean,
    BrokenImage,
    Finding,
    ProofFailed,
    RegistryFailed,
)
from patcher.jobs.base import (
    Base,
    Examined,
    FileChange,
    change_of,
    common_version,
    examine,
    judge_all,
)
from patcher.jobs.naming import Names, Patched, annotations_of, base_of, is_fixed, names
from patcher.jobs.proof import KIND, content_of, proof_files
from patcher.lock.picking import FIRST, Standing
from patcher.places.place import Outline, Place, Plan, Recipe, Sent
from patcher.progress import moving
from patcher.rules.patch import Patch
from patcher.rules.verdict import Status, Verdict
from patcher.text import counted

if TYPE_CHECKING:
    from patcher.oci.installation import Copy, Installation
    from patcher.oci.reference import Platform
    from patcher.places.place import Made
    from patcher.progress import Say


@dataclass(frozen=True, slots=True)
class Order:
    """What to make of a base.

    `platform` picks one image of an index, `root` one vLLM of an image that holds several, where
    the lock does not. `tag` replaces the moving tag, which `standing` otherwise gives to the
    newest build of a version alone.
    """

    patches: Sequence[Patch]
    platform: Platform | None = None
    tag: str | None = None
    allow_clean: bool = False
    dry_run: bool = False
    root: str | None = None
    standing: Standing = FIRST


@dataclass(frozen=True, slots=True)
class ImageReport:
    """One image of the result. `after` was judged on what was read back; empty in a dry run.
    `copies` are all the vLLMs that the base holds.
    """

    platform: Platform
    base_digest: str
    digest: str
    root: str
    vllm: str
    commit: str | None
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]
    copies: tuple[Copy, ...]
    changes: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was made, or in a dry run would be.

    `tags` are all names that lead to it, `moved` those that did not before, `refused` maps those
    that the place would not move to its reason. Bytes are of payload:
    `lacking` of our own parts, `base_lacking` of the base's blobs that the place did not have;
    `sent` is what was moved, and less where blobs were mounted; `received` is what was read of
    registries, the base's layers too. `proof` is the digest of the proof beside the result, whose
    few KB are not counted; None where there is none. A daemon moves and lacks none of these.
    `seconds` are those after the base was read: asking what is there, making, reading back, naming.
    `way` is how it was made (see `Made`); None where all was there, and in a dry run.
    """

    repository: str
    base_name: str | None
    base_digest: str
    digest: str
    platforms: tuple[ImageReport, ...]
    tags: tuple[str, ...]
    moved: tuple[str, ...]
    lacking: int
    base_lacking: int
    sent: Sent
    dry_run: bool
    seconds: float
    received: int = 0
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    proof: str | None = None
    way: str | None = None


def make_image(base: Base, order: Order, place: Place, say: Say) -> Report:
    """Patch every wanted image of the base, prove the result at its place, and tag it.

    `say` is called with each step. Raises `AlreadyClean` where no image needs a patch and
    `allow_clean` is not set, `Finding` for a base that is patched already and needs more and for
    a fixed tag that leads to something else, `WrongPlatform`, `WrongVersion`, and what reading,
    rewriting and the place raise. Then no tag was moved.
    """
    images = base.wanted(order.platform)
    examined = [examine(image, base, order.patches, order.root, say) for image in images]
    recipe = _recipe(base, order, examined, say)
    start = time.monotonic()
    plan = _plan(place, recipe, order, say)
    planned = _planned(base, order, place.repository, recipe, plan.outline, examined)
    if order.dry_run:
        return dataclasses.replace(planned, seconds=time.monotonic() - start)
    say(_announced(plan.outline, recipe))
    with moving("copying") as watch:
        made = plan.make(watch)
    try:
        after = _check(made, examined, order.patches)
        say("read back from where it was written: as declared, and clean")
        proof = _attach_proof(made, base, order, recipe, examined, after, say)
        refused = made.name()
    except BaseException:
        made.discard()
        raise
    report = dataclasses.replace(
        planned,
        digest=made.digest,
        platforms=_image_reports(examined, made.images, after),
        sent=made.sent,
        seconds=time.monotonic() - start,
        proof=proof,
        way=made.way,
    )
    return _without(report, refused, say) if refused else report


def _attach_proof(
    made: Made,
    base: Base,
    order: Order,
    recipe: Recipe,
    examined: Sequence[Examined],
    after: Sequence[tuple[Verdict, ...]],
    say: Say,
) -> str | None:
    """Put the proof beside the result, before any name leads there; gives the proof's digest.

    None where the place keeps no such thing, and for a base that was not changed. A registry that
    refuses it, as older ones do, still gets the image.
    """
    if not recipe.changes:
        return None
    contents = [
        content_of(each, recipe.changes[each.digest].bytecode, made.images[each.digest], verdicts)
        for each, verdicts in zip(examined, after, strict=True)
    ]
    try:
        digest = made.attach(KIND, proof_files(made.digest, base, order.patches, contents))
    except (RegistryFailed, BrokenImage) as error:
        say(f"the proof is not stored beside the image, the next run tries again: {error.problem}")
        return None
    if digest:
        say(f"the proof is beside it: {digest}")
    return digest


def _recipe(base: Base, order: Order, examined: Sequence[Examined], say: Say) -> Recipe:
    """What the base becomes, and under which tags."""
    patched = tuple(dict.fromkeys(done for each in examined for done in each.patched))
    version = common_version(examined)
    tags = _tags(base, order, version, patched, examined, say)
    digests = tuple(each.digest for each in examined)
    if not patched:
        _expect_allowed(order, version, examined)
        return Recipe(digests, {}, {}, tags)
    _refuse_stacking(examined)
    say(f"patched, proven: {', '.join(dict.fromkeys(done.patch for done in patched))}")
    changes = {each.digest: change_of(base, each, tags[0]) for each in examined}
    first = examined[0]
    annotations = annotations_of(first.image.labels, changes[first.digest].labels)
    return Recipe(digests, changes, annotations, tags)


def _tags(
    base: Base,
    order: Order,
    version: str,
    patched: Sequence[Patched],
    examined: Sequence[Examined],
    say: Say,
) -> tuple[str, ...]:
    """The tags of the result, the fixed one first; says why there is no moving one."""
    # What the result depends on: the labels name the base as it was asked for.
    identity = f"{base.name or ''} {base.pin(base.digest)}"
    for each in examined:
        if len(each.installation.copies) > 1:
            # Not all copies need be meant: --root picks one.
            identity += f" {' '.join(one.root for one in each.installation.all)}"
    tags = names(version, patched, identity, order.standing.suffix)
    moving = order.tag or (tags.moving if order.standing.newest else None)
    if moving is None:
        say(_held_back(tags, order.standing))
        return (tags.fixed,)
    return tags.fixed, moving


def _held_back(tags: Names, standing: Standing) -> str:
    """Why a result gets no moving tag, and what to do about it."""
    holder = standing.holder
    belongs = "no single build in images.lock"
    if holder is not None:
        belongs = f"{holder.locked.version} ({holder.original.reference}), the newer in images.lock"
    return (
        f"{tags.moving} is not set: it belongs to {belongs}. A tag of your own: --to REPOSITORY:TAG"
    )


def _expect_allowed(order: Order, version: str, examined: Sequence[Examined]) -> None:
    if order.allow_clean:
        return
    already = sorted({each.already for each in examined if each.already})
    said = f" (its labels: {', '.join(already)})" if already else ""
    verdicts = [verdict for each in examined for verdict in each.before]
    clean = dict.fromkeys(each.patch for each in verdicts if not each.outside)
    others = dict.fromkeys(each.patch for each in verdicts if each.outside)
    vllm = f"vLLM {version}"
    parts = [f"{vllm} already carries this: {', '.join(clean)}{said}"] if clean else []
    parts += [f"not claimed for {vllm}: {', '.join(others)}"] if others else []
    next_step = "Use the base as it is, or give --allow-clean to tag it as patched."
    if others:
        next_step += " What each patch is for: `vllm-patcher patches`."
    raise AlreadyClean("; ".join(parts), next_step=next_step)


def _refuse_stacking(examined: Sequence[Examined]) -> None:
    """A second layer would leave labels and tags that name half of what an image carries."""
    for each in examined:
        if each.already:
            name, digest = base_of(each.image.labels)
            origin = f"{name}@{digest}" if name else f"the image of digest {digest}"
            raise Finding(
                f"the base is patched already, with {each.already}, and needs more",
                next_step=f"Nothing is stacked: patch what it was made from, {origin}, "
                "with all patches at once.",
            )


def _plan(place: Place, recipe: Recipe, order: Order, say: Say) -> Plan:
    """What is to be done there. A dry run may be tried before one has the right to look."""
    try:
        plan = place.plan(recipe)
    except AccessDenied as denied:
        if not order.dry_run:
            raise
        say(f"{denied.problem}: treating the destination as empty")
        plan = place.plan(recipe, blind=True)
    for fixed in filter(is_fixed, sorted(plan.outline.taken)):
        raise Finding(
            f"{place.repository}:{fixed} is something else already, and never moves",
            next_step="Name another repository, or delete that tag if nobody relies on it.",
        )
    return plan


def _announced(outline: Outline, recipe: Recipe) -> str:
    if outline.digest and not (outline.lacking or outline.base_lacking):
        said = "all of it is there already"
        return f"{said}: only the tags move" if outline.moving else f"{said}: nothing to do"
    if not outline.digest:
        return f"making it for {counted(len(recipe.images), 'platform')}"
    own = f"adding {outline.lacking / 1e3:.1f} KB"
    if not outline.blobs:
        return f"{own}; the base is there"
    base = f"{counted(outline.blobs, 'blob')} of the base ({outline.base_lacking / 1e6:.1f} MB)"
    return f"{own}; {base} to mount, or to copy where the registry cannot mount"


def _check(
    made: Made, examined: Sequence[Examined], patches: Sequence[Patch]
) -> list[tuple[Verdict, ...]]:
    """Read vLLM back from where it was written, compare, and judge it once more.

    Raises `ProofFailed`.
    """
    try:
        back = made.read_back({each.digest: each.installation for each in examined})
    except BrokenImage as error:
        raise _unproven(error.problem) from error
    return [_check_image(each, back[each.digest], patches) for each in examined]


def _check_image(
    examined: Examined, back: Installation, patches: Sequence[Patch]
) -> tuple[Verdict, ...]:
    was = examined.installation
    if [(e.root, e.version) for e in back.all] != [(e.root, e.version) for e in was.all]:
        raise _unproven(f"vLLM {back.version} was found in {back.root}")
    there = {file.path: (file, each) for each in back.all for file in each.files.values()}
    for change in examined.changes:
        # A daemon's build sets the time of its own clock.
        wanted = dataclasses.replace(change.before, data=change.after)
        found, copy = there.get(wanted.path, (None, back))
        if found is None or dataclasses.replace(found, mtime=wanted.mtime) != wanted:
            raise _unproven(f"{wanted.path} is not what was put there")
        if copy.bytecode.get(change.target):
            raise _unproven(f"stale bytecode would win over {wanted.path}")
    after = judge_all(patches, back)
    for verdict in after:
        if verdict.status is not Status.CLEAN and not verdict.outside:
            raise _unproven(f"{verdict.artifact} is {verdict.status.value} for {verdict.patch}")
    return after


def _unproven(problem: str) -> ProofFailed:
    return ProofFailed(
        f"the new image failed its check: {problem}",
        next_step="No tag was moved. Run it again: a registry may show late what it has stored. "
        "If it stays so, report it.",
    )


def _planned(
    base: Base,
    order: Order,
    repository: str,
    recipe: Recipe,
    outline: Outline,
    examined: Sequence[Examined],
) -> Report:
    """What is to be made, before anything of it is: a dry run's report."""
    return Report(
        repository=repository,
        base_name=str(base.name) if base.name else base.local,
        base_digest=base.pin(base.digest),
        digest=outline.digest,
        platforms=_image_reports(examined, outline.images, [()] * len(examined)),
        tags=tuple(f"{repository}:{tag}" for tag in recipe.tags),
        moved=tuple(f"{repository}:{tag}" for tag in outline.moving),
        lacking=outline.lacking,
        base_lacking=outline.base_lacking,
        sent=Sent(),
        dry_run=order.dry_run,
        seconds=0.0,
    )


def _without(report: Report, refused: Mapping[str, str], say: Say) -> Report:
    """The report of a result that the place let have its fixed tag, and not the moving one.

    That is not a failure: where tags are immutable, images are used by their fixed names.
    """
    full = {f"{report.repository}:{tag}": reason for tag, reason in refused.items()}
    for name, reason in full.items():
        say(f"{name} stays as it is: {reason}. {report.tags[0]} is published")
    return dataclasses.replace(
        report,
        tags=tuple(tag for tag in report.tags if tag not in full),
        moved=tuple(tag for tag in report.moved if tag not in full),
        refused=full,
    )


def _image_reports(
    examined: Sequence[Examined], images: Mapping[str, str], after: Sequence[tuple[Verdict, ...]]
) -> tuple[ImageReport, ...]:
    return tuple(
        ImageReport(
            platform=each.image.platform,
            base_digest=each.base_digest,
            digest=images.get(each.digest, ""),
            root=each.installation.root,
            vllm=each.installation.version,
            commit=each.installation.commit,
            before=each.before,
            after=verdicts,
            copies=each.installation.copies,
            changes=each.changes,
        )
        for each, verdicts in zip(examined, after, strict=True)
    )
