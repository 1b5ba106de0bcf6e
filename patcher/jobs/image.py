"""The main job straight into a registry: every platform of a base under one patched name.

No daemon, no pull, no disk: the base is read where it lies, one layer is appended to each image,
and only what the target lacks is sent. The names move last, after the result was read back from
where it was published.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import AccessDenied, AlreadyClean, BrokenImage, Finding, ProofFailed
from patcher.jobs.base import Found, Origin, common_version, examine, images_of
from patcher.jobs.job import change_of, judge_all
from patcher.jobs.naming import BASE_LABELS, Names, annotations_of, is_fixed, names
from patcher.jobs.published import PlatformReport, Published
from patcher.lock.whole import FIRST, Standing
from patcher.oci.append import Appended, append
from patcher.oci.blobs import load_image
from patcher.oci.installation import Change, ImageFile
from patcher.oci.model import MANIFESTS
from patcher.oci.scan import Wanted, scan_layer
from patcher.oci.validate import validate
from patcher.places.plan import Plan, ReadBack, Sent, Unseen, plan, send
from patcher.progress import Say
from patcher.rules.catalogue import Patch, Status, Verdict

if TYPE_CHECKING:
    from patcher.oci.model import Descriptor
    from patcher.oci.reference import Platform
    from patcher.places.place import Target, Watch

    Watching = Callable[[], AbstractContextManager[Watch]]


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish, and where to. `repository` stands before the tags in the report.

    `platform` picks one image of an index; `tag` stands in for the moving tag, which `standing`
    else gives to the newest build of a version alone.
    """

    patches: Sequence[Patch]
    repository: str
    platform: Platform | None = None
    tag: str | None = None
    allow_clean: bool = False
    dry_run: bool = False
    standing: Standing = FIRST


@dataclass(frozen=True, slots=True)
class _Work:
    """What the base becomes. `changes` and `annotations` are empty where it stays as it is."""

    found: tuple[Found, ...]
    tags: Names
    appended: Appended
    changes: Mapping[str, Change]
    annotations: Mapping[str, str]


def publish(
    origin: Origin, order: Order, target: Target, say: Say, watching: Watching
) -> Published:
    """Patch every wanted image of the base, publish the result, prove it, and name it.

    `watching` is entered while blobs move, and gives what is told of each step.
    Raises `AlreadyClean` where no image needs a patch and `allow_clean` is not set, `Finding` for
    a base that is patched already and needs more, `WrongPlatform`, `WrongVersion`, and what
    reading, rewriting and sending raise. Then no name was moved, and a second run sends only what
    is still missing.
    """
    work = _work(origin, order, say)
    start = time.monotonic()
    todo = _plan(origin, order, target, work, say)
    if order.dry_run:
        return _report(origin, order, work, todo, start)
    say(_sending(todo))
    with watching() as watch:
        sent = send(todo, origin.source, target, watch)
    after = _check(origin, order.patches, target, work)
    say("read back from where it was published: as declared, and no unguarded read")
    target.name(todo.root, todo.names)
    return _report(origin, order, work, todo, start, sent, after)


def _plan(origin: Origin, order: Order, target: Target, work: _Work, say: Say) -> Plan:
    """What is to be sent. A dry run needs no right to look: it may be tried before one has it."""
    wanted = _wanted(order, work.tags)
    try:
        todo = plan(origin.source, target, work.appended, wanted)
    except AccessDenied as denied:
        if not order.dry_run:
            raise
        say(f"{denied.problem}: taken for empty")
        todo = plan(origin.source, Unseen(), work.appended, wanted)
    for fixed in filter(is_fixed, sorted(todo.taken)):
        raise Finding(
            f"{order.repository}:{fixed} is something else already, and never moves",
            next_step="Publish to another repository, or delete that tag if nobody relies on it.",
        )
    return todo


def _wanted(order: Order, tags: Names) -> tuple[str, ...]:
    """The tags to set, the fixed one first."""
    moving = order.tag or (tags.moving if order.standing.newest else None)
    return (tags.fixed, moving) if moving else (tags.fixed,)


def _work(origin: Origin, order: Order, say: Say) -> _Work:
    images = images_of(origin, order.platform)
    found = tuple(examine(origin, image, order.patches, say) for image in images)
    patched = [done for each in found for change in each.changes for done in change.patched]
    # All that the result hangs on but the patches: the labels name the base as it was asked for.
    named = (str(origin.name or ""), origin.pin(origin.root.digest), origin.root.media_type)
    base, suffix = " ".join(named), order.standing.suffix
    tags = names(common_version(found), list(dict.fromkeys(patched)), base, suffix)
    if not patched:
        return _unchanged(origin, order, found, tags)
    _refuse_stacking(found)
    changes = {each.digest: _change(origin, each, tags) for each in found}
    first = found[0]
    said = annotations_of(first.image.config.labels, changes[first.digest].labels)
    appended = append(origin.source, origin.root, changes, said)
    return _Work(found, tags, appended, changes, said)


def _unchanged(origin: Origin, order: Order, found: tuple[Found, ...], tags: Names) -> _Work:
    already = {each.already for each in found if each.already}
    if not order.allow_clean:
        said = f" (its labels: {', '.join(sorted(already))})" if already else ""
        raise AlreadyClean(
            f"vLLM {common_version(found)} already carries this: "
            f"{', '.join(patch.name for patch in order.patches)}{said}",
            next_step="Use the base as it is, or give --allow-clean to publish it as patched.",
        )
    # All of the base goes under the new name, or the one image of it that was asked for.
    root = found[0].image.descriptor if order.platform else origin.root
    return _Work(found, tags, Appended(root, ()), {}, {})


def _refuse_stacking(found: Sequence[Found]) -> None:
    for each in found:
        if each.already:
            said = each.image.config.labels
            name, digest = (said.get(key, "") for key in BASE_LABELS)
            raise Finding(
                f"the base is patched already, with {each.already}, and needs more",
                next_step=f"Nothing is stacked: patch what it was made from, {name}@{digest}.",
            )


def _change(origin: Origin, found: Found, tags: Names) -> Change:
    """The change to one image. Where others need a patch and this one does not, it gets the
    labels alone: one name, one statement.
    """
    base = (origin.name, origin.pin(origin.root.digest))
    inherited = found.image.config.labels
    return change_of(found.installation, found.changes, inherited, base, tags.fixed)


def _check(
    origin: Origin, patches: Sequence[Patch], target: Target, work: _Work
) -> list[tuple[Verdict, ...]]:
    """Hold what was published against what was declared, and judge its files once more.

    Raises `ProofFailed`.
    """
    try:
        return _judged(origin, patches, target, work)
    except BrokenImage as error:
        raise _unproven(error.problem) from error


def _judged(
    origin: Origin, patches: Sequence[Patch], target: Target, work: _Work
) -> list[tuple[Verdict, ...]]:
    if not work.changes:
        if plan(origin.source, target, work.appended, ()).nothing:
            return [each.before for each in work.found]
        raise _unproven("not all of the base is there")
    base = {origin.root.digest}
    base |= {digest for each in work.found for digest in (each.digest, _config(each))}
    back = ReadBack(target, origin.source, frozenset(base))
    validate(back, origin.root, work.appended.root, work.changes, work.annotations)
    after = [
        _judge_published(target, result, found, patches)
        for result, found in zip(_results(work), work.found, strict=True)
    ]
    if any(verdict.status is not Status.CLEAN for verdicts in after for verdict in verdicts):
        raise _unproven("an unguarded read remains")
    return after


def _config(found: Found) -> str:
    return found.image.manifest.config.digest


def _results(work: _Work) -> list[Descriptor]:
    """The new manifests, in the order of the base's."""
    if not work.changes:
        return [each.image.descriptor for each in work.found]
    parts = [part.descriptor for part in work.appended.parts]
    return [descriptor for descriptor in parts if descriptor.media_type in MANIFESTS]


def _judge_published(
    target: Target, result: Descriptor, found: Found, patches: Sequence[Patch]
) -> tuple[Verdict, ...]:
    """The verdicts on the files as they lie in the published image's topmost layer."""
    layer = load_image(target, result).manifest.layers[-1]
    wanted = Wanted(tuple(change.target for change in found.changes))
    traces = scan_layer(lambda: target.open(layer), layer, wanted)
    files: dict[str, ImageFile] = dict(found.installation.files)
    for change in found.changes:
        back = traces.files.get(change.before.path)
        if back != dataclasses.replace(change.before, data=change.after):
            raise _unproven(f"{change.before.path} is not what was put there")
        files[change.target] = back
    return judge_all(patches, dataclasses.replace(found.installation, files=files))


def _unproven(problem: str) -> ProofFailed:
    return ProofFailed(
        f"what was published failed its check: {problem}",
        next_step="No name was moved. Run it again: a registry may show late what it has stored. "
        "If it stays so, report it.",
    )


def _sending(todo: Plan) -> str:
    if todo.nothing:
        return "all of it is there already: nothing to send"
    own = f"{todo.part_bytes / 1e3:.1f} KB of our own"
    if not todo.borrowed:
        return f"sending {own}; the base is there"
    borrowed = f"{len(todo.borrowed)} blob(s) of the base ({todo.borrowed_bytes / 1e6:.1f} MB)"
    return f"sending {own}; bringing {borrowed}, without moving them where they can be mounted"


def _report(
    origin: Origin,
    order: Order,
    work: _Work,
    todo: Plan,
    start: float,
    sent: Sent | None = None,
    after: Sequence[tuple[Verdict, ...]] = (),
) -> Published:
    before = f"{order.repository}:"
    judged = after or [()] * len(work.found)
    return Published(
        repository=order.repository,
        base_name=str(origin.name) if origin.name else None,
        base_digest=origin.pin(origin.root.digest),
        digest=work.appended.root.digest,
        platforms=tuple(
            _image_report(found, origin.pin(found.digest), result.digest, verdicts)
            for found, result, verdicts in zip(work.found, _results(work), judged, strict=True)
        ),
        tags=tuple(f"{before}{tag}" for tag in _wanted(order, work.tags)),
        moved=tuple(f"{before}{tag}" for tag in todo.names),
        lacking=todo.part_bytes,
        base_lacking=todo.borrowed_bytes,
        sent=sent or Sent(),
        dry_run=order.dry_run,
        seconds=time.monotonic() - start,
    )


def _image_report(
    found: Found, base: str, digest: str, after: tuple[Verdict, ...]
) -> PlatformReport:
    return PlatformReport(
        platform=found.platform,
        base_digest=base,
        digest=digest,
        root=found.installation.root,
        vllm=found.installation.version,
        commit=found.installation.commit,
        before=found.before,
        after=after,
        changes=found.changes,
    )
