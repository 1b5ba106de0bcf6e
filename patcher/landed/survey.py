"""Read the artifacts of a scope and judge each: releases, wheels, images, and other sources.

Whatever goes wrong with one of them is that one's verdict; the rest is still judged.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.version import Version

from patcher.cache import Cache, default_folder
from patcher.errors import DaemonFailed, NoDaemon, PatcherError, Unreadable, UsageError
from patcher.files import data_path
from patcher.jobs.naming import PATCHES_LABEL
from patcher.landed import Finding, Scope
from patcher.landed.memory import Memory
from patcher.progress import counting
from patcher.rules.patch import Patch
from patcher.rules.verdict import Status, Verdict, found_in, judge
from patcher.sources.everywhere import FOLDERS, Notice, everywhere, notices
from patcher.sources.images import ImageSource
from patcher.sources.index import releases
from patcher.sources.path import TreeSource
from patcher.sources.spec import open_source
from patcher.sources.wheel import WheelSource, open_listed, open_wheel
from patcher.text import counted, printable
from patcher.threads import Once, in_order
from patcher.versions import parsed, placed
from patcher.web.http import Http
from patcher.web.trust import shown

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from patcher.landed.timeline import Timeline
    from patcher.lock.entries import Entry
    from patcher.progress import Say, Tell
    from patcher.rules.rule import Files, Found
    from patcher.rules.source import Source
    from patcher.rules.verdict import Find
    from patcher.web.http import HttpSettings

# What waits is the network. On two cores and a fast one 4 do as well; 16 take half as long again,
# and 30 MB more.
_THREADS = 8

# How many releases before the one with the bug a new patch is tried on.
_BEFORE = 6


@dataclass(frozen=True, slots=True)
class _Job:
    """One artifact to read. `digest` is the sha256 that its index states for the wheel."""

    label: str
    open: Callable[[], Source]
    version: Version | None = None
    digest: str | None = None
    uploaded: datetime | None = None


# What one artifact says of each patch, in their order, and whether it was read just now.
_Said = list[tuple[Finding, bool]]


def survey(patches: Sequence[Patch], scope: Scope, say: Say, watch: Tell) -> tuple[Finding, ...]:
    """What each artifact of the scope says of each patch.

    In version order, those without a version last, in the order they were named. Raises
    `Unreadable` where the index cannot be read, `BrokenLock`, and a `UsageError` for a source that
    names nothing.
    """
    memory = None
    if scope.cached:
        memory = Memory(Cache(default_folder() / "verdicts", say), scope.everywhere)
    findings: list[Finding] = []
    known = 0
    http = Http(scope.settings, say=say)
    jobs = _jobs(scope, http, say)
    received: list[int] = []
    read = functools.partial(_read, patches, scope.everywhere, memory, _once(), received)
    watch(0, len(jobs))
    for done, (job, said) in enumerate(zip(jobs, in_order(read, jobs, _THREADS), strict=True)):
        # Here, not where it was read: an interrupt then leaves no half-written entry.
        _keep(memory, job, patches, said)
        findings += [finding for finding, _ in said]
        known += not any(fresh for _, fresh in said)
        watch(done + 1, len(jobs))
    say(_told(len(jobs), known, received))
    findings.sort(key=lambda each: (each.version is None, each.version or Version("0")))
    return tuple(_with_newest(finding, findings, patches) for finding in findings)


def _told(artifacts: int, known: int, received: Sequence[int]) -> str:
    """What the answer cost: `received` are the bytes of each wheel that was read."""
    said = counted(artifacts, "artifact")
    said += f", {known} of them known from before" if known else ""
    return said + (f"; {sum(received) / 1e6:.1f} MB of wheels read" if received else "")


def survey_around(patch: Patch, version: str, settings: HttpSettings, say: Say) -> Timeline:
    """The timeline of a patch from some releases before a version on. Raises as `survey`."""
    from patcher.landed.timeline import timeline

    asked = parsed(version)
    if asked is None:
        raise UsageError(f"{version!r} is not a version", next_step="Write it as 0.26.0.")
    older = [each for each in known_releases(settings) if each < asked]
    since = older[-_BEFORE] if len(older) >= _BEFORE else asked
    with counting("reading releases") as watch:
        found = survey([patch], Scope(since=since, cached=False, settings=settings), say, watch)
    return timeline(patch, found)


def known_releases(settings: HttpSettings) -> list[Version]:
    """The releases on PyPI that have a wheel, in their order. Raises `Unreadable`."""
    return [
        each.version
        for each in releases(None, Http(settings))
        if not each.version.is_prerelease and each.problem is None
    ]


def _jobs(scope: Scope, http: Http, say: Say) -> list[_Job]:
    """All artifacts of a scope, none of them opened."""
    jobs = [*_releases(scope, http, say)] if scope.releases else []
    for url in scope.wheels:
        opened = functools.partial(open_wheel, url, http=http)
        jobs.append(_Job(printable(shown(url)), opened))
    lock = scope.lock or data_path("images.lock")
    if scope.images:
        jobs += _images_in_bounds(lock, scope, http)
    named = functools.partial(open_source, lock=lock, settings=lambda: scope.settings)
    jobs += [_Job(spec, functools.partial(named, spec)) for spec in scope.sources]
    if scope.everywhere:
        say(f"also reading {' and '.join(FOLDERS)}: 1 to 4 MB more for each wheel")
    return jobs


def _releases(scope: Scope, http: Http, say: Say) -> Iterator[_Job]:
    """The index's releases within the bounds."""
    known = releases(scope.index, http)
    within = [each for each in known if _within(each.version, scope)]
    wanted = [each for each in within if scope.pre or not each.version.is_prerelease]
    if len(wanted) < len(within):
        left_out = len(within) - len(wanted)
        what = counted(left_out, "pre-release or nightly", "pre-releases and nightlies")
        say(f"{what} left out (--pre)")
    if known and not within:
        newest = max(each.version for each in known)
        raise UsageError(
            f"{'the index' if scope.index else 'PyPI'} has no release of vLLM {_bounds(scope)}",
            next_step=f"The newest is {newest}.",
        )
    for each in wanted:
        opened = functools.partial(open_listed, each, http)
        yield _Job(each.label, opened, each.version, each.sha256, each.uploaded)


def _bounds(scope: Scope) -> str:
    bounds = (("from", scope.since), ("to", scope.until))
    return " ".join(f"{word} {version}" for word, version in bounds if version)


def _within(version: Version, scope: Scope) -> bool:
    """Both bounds are inclusive; `0.23.0+cu129` is not after 0.23.0."""
    public = Version(version.public)
    since, until = scope.since, scope.until
    return (since is None or version >= since) and (
        until is None or version <= until or public == until
    )


def _images_in_bounds(lock: Path, scope: Scope, http: Http) -> list[_Job]:
    images = list(_images(lock, http))
    wanted = [each for each in images if each.version is None or _within(each.version, scope)]
    if images and not wanted:
        raise UsageError(
            f"{lock} has no image of a vLLM {_bounds(scope)}", next_step="Widen the bounds."
        )
    return wanted


def _images(lock: Path, http: Http) -> Iterator[_Job]:
    """Every build in the lock, by its digest."""
    from patcher.lock.file import load

    for entry in load(lock).entries:
        label = printable(str(entry.original.reference))
        yield _Job(label, functools.partial(_open_image, entry, http), entry.locked.version)


def _refuse_ours(source: Source) -> None:
    """Raise `Unreadable` for an image that this program has patched."""
    if isinstance(source, ImageSource) and PATCHES_LABEL in source.image.labels:
        raise Unreadable(
            f"{source.label} was patched by vllm-patcher, and says nothing of upstream",
            next_step="Name the image that it was made from.",
        )


def _open_image(entry: Entry, http: Http) -> Source:
    """From the local daemon, where it costs nothing, or else from its registry.

    One session serves all of them: it remembers a registry that does not answer.
    """
    from patcher.layer_cache import LayerCache
    from patcher.registry.image import open_remote

    _, pin = next(entry.locked.pins())
    platform = None if entry.locked.index else next(iter(entry.locked.platforms), None)
    name = entry.original.reference.pinned(pin.digest)
    try:
        return open_source(f"docker:{name}", data_path("images.lock"), platform)
    except (NoDaemon, DaemonFailed):
        return ImageSource(f"registry:{name}", open_remote(name, platform, http, LayerCache()))


def _once() -> Find:
    """What a rule finds in files: of 28 releases two in five have the same, and are asked once."""
    known: Once[tuple[str | None, ...], Found] = Once()

    def find(patch: Patch, files: Files) -> Found:
        digests = (
            None if data is None else hashlib.sha256(data).hexdigest() for data in files.values()
        )
        return known.get((patch.name, *digests), lambda: found_in(patch, files))

    return find


def _read(
    patches: Sequence[Patch],
    wide: bool,
    memory: Memory | None,
    find: Find,
    received: list[int],
    job: _Job,
) -> _Said:
    """What one artifact says, of each patch. Raises `UsageError`: somebody named it wrongly."""
    known = {}
    if memory and job.digest:
        known = {patch.name: memory.recall(job.digest, patch, job.label) for patch in patches}
    if known and all(known.values()):
        return [(_finding(job, *each), False) for each in known.values() if each]
    try:
        source = job.open()
        _refuse_ours(source)
        if isinstance(source, ImageSource):
            source = source.read_for(patches)
        version = placed(source.version()) or job.version
        job = replace(job, label=source.label, version=version)
        said = [(_judged(job, patch, source, wide, find), True) for patch in patches]
        if isinstance(source, WheelSource):
            received.append(source.bytes_read)
    except UsageError:
        raise
    except PatcherError as error:
        return [(_unknown(job, patch, error), True) for patch in patches]
    else:
        return said


def _judged(job: _Job, patch: Patch, source: Source, wide: bool, find: Find) -> Finding:
    verdict = judge(patch, source, find)
    return _finding(job, verdict, _elsewhere(patch, source) if wide else ())


def _elsewhere(patch: Patch, source: Source) -> tuple[Notice, ...]:
    """The rule's places in other files: of a tree all, of a wheel those among the models."""
    match source:
        case TreeSource():
            return everywhere(source.root, patch)
        case WheelSource():
            files = itertools.chain.from_iterable(map(source.read_folder, FOLDERS))
            return notices(files, patch)
        case _:
            return ()


def _finding(job: _Job, verdict: Verdict, elsewhere: tuple[Notice, ...] = ()) -> Finding:
    return Finding(verdict.artifact, job.version, verdict, elsewhere, job.uploaded)


def _unknown(job: _Job, patch: Patch, error: PatcherError) -> Finding:
    verdict = Verdict(patch.name, job.label, Status.UNKNOWN, reason=error.problem)
    return _finding(job, verdict)


def _keep(memory: Memory | None, job: _Job, patches: Sequence[Patch], said: _Said) -> None:
    if memory is None or job.digest is None:
        return
    for patch, (finding, fresh) in zip(patches, said, strict=True):
        if fresh:
            memory.keep(job.digest, patch, finding.verdict, finding.elsewhere)


def _with_newest(
    finding: Finding, findings: Sequence[Finding], patches: Sequence[Patch]
) -> Finding:
    """An absent file's reason says where it was seen last: it may only have moved."""
    verdict = finding.verdict
    if verdict.status is not Status.ABSENT:
        return finding
    patch = next(patch for patch in patches if patch.name == verdict.patch)
    there = {file.target for file in verdict.files}
    missing = next((target for target in patch.targets if target not in there), None)
    if missing is None or missing not in (verdict.reason or ""):
        return finding  # the files are there, and the rule says what is not in them
    seen = [
        each.artifact
        for each in findings
        if each.verdict.patch == verdict.patch
        and any(file.target == missing for file in each.verdict.files)
    ]
    newest = f"the newest that has it is {seen[-1]}" if seen else "nothing that was read has it"
    reason = f"{finding.artifact} has no {missing}; {newest}"
    return replace(finding, verdict=replace(verdict, reason=printable(reason)))
