"""The base: its images, the vLLM in each, its verdicts, and what its files become.

Platforms of one index mostly hold the same source: a file is judged and patched once, however
many images it is in.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname
from typing import TYPE_CHECKING

from patcher.errors import BrokenImage, FileAbsent, Undecided, WrongPlatform, WrongVersion
from patcher.jobs.naming import LOCAL_BASE, PATCHES_LABEL, Patched, labels
from patcher.oci.installation import ImageFile
from patcher.oci.layer import LayerChange
from patcher.rules.apply import Step, series, without_it
from patcher.rules.patch import Patch
from patcher.rules.verdict import Status, Verdict, judge_files
from patcher.sources.everywhere import in_image, searched_for
from patcher.sources.images import about_copies, open_question
from patcher.versions import parsed, same_commit

if TYPE_CHECKING:
    from packaging.version import Version

    from patcher.oci.installation import BaseImage, Installation
    from patcher.oci.reference import Platform, Reference
    from patcher.progress import Say


@dataclass(frozen=True, slots=True)
class Base:
    """What to build on: its images, each parsed once.

    `digest` pins it as its publisher gave it: a manifest's or an index's, or a daemon's image id.
    `name` is what the pin came from, `version` what was asked for; None where unknown.
    `originals` maps the digests of converted documents to those that the publisher gave, and that
    of an image which a daemon pulled by itself to its index's. `root`
    is the folder of the vLLM that the lock means, in an image that holds several. `local` is the
    name of an image that only the daemon has.
    """

    digest: str
    images: tuple[BaseImage, ...]
    name: Reference | None = None
    version: Version | None = None
    originals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    root: str | None = None
    local: str | None = None

    def pin(self, digest: str) -> str:
        """The digest of an image of the base, as its publisher gave it."""
        return self.originals.get(digest, digest)

    def wanted(self, platform: Platform | None) -> list[BaseImage]:
        """The images for a platform; all of them for None. Raises `WrongPlatform`."""
        wanted = [image for image in self.images if platform in (None, image.platform)]
        if not wanted:
            there = ", ".join(str(image.platform) for image in self.images)
            raise WrongPlatform(
                f"{self.name or self.local or self.digest} is not there for "
                f"{platform or 'any platform'}, but for: {there}",
                next_step="Give one of these as --platform, or none for all.",
            )
        return wanted


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of the image: before and after, and the patches that made the difference.

    Where there was none, `before` is empty and has the owner and mode that the new one gets.
    """

    target: str
    before: ImageFile
    after: bytes
    patched: tuple[Patched, ...]


@dataclass(frozen=True, slots=True)
class Examined:
    """One image of the base, read and judged, and what its files become.

    `base_digest` pins it as its publisher gave it.
    """

    image: BaseImage
    base_digest: str
    installation: Installation
    before: tuple[Verdict, ...]
    changes: tuple[FileChange, ...]

    @property
    def digest(self) -> str:
        """The image's own."""
        return self.image.digest

    @property
    def already(self) -> str | None:
        """The patches that the image's labels say it carries; None for an image without any."""
        return self.image.labels.get(PATCHES_LABEL)

    @property
    def patched(self) -> tuple[Patched, ...]:
        """Every file of every patch that was applied."""
        return tuple(done for change in self.changes for done in change.patched)


def examine(
    image: BaseImage, base: Base, patches: Sequence[Patch], root: str | None, say: Say
) -> Examined:
    """Find vLLM in an image, judge it and patch its files; nothing is written.

    `root` picks one vLLM of several, where another is meant than the lock says. Where several may
    be run and none is picked, all of them are patched. Raises `WrongVersion`, and what reading and
    rewriting raise.
    """
    targets = sorted({target for patch in patches for target in patch.targets})
    installation = image.installation(targets, root or base.root, searched_for(patches))
    say(f"{image.platform}: found vLLM {installation.version} in {installation.root}")
    check_version(base, installation)
    for line in about_copies(installation):
        say(f"{image.platform}: {line}")
    for patch in patches:
        for notice in in_image(installation, patch, whole=False):
            if notice.needed:
                say(f"{notice.path}:{notice.line}: {notice.text}: not vLLM's own, not patched")
    _check_idle(patches, installation, say)
    return Examined(
        image,
        base.pin(image.digest),
        installation,
        judge_all(patches, installation),
        patch_all(patches, installation),
    )


def _check_idle(patches: Sequence[Patch], installation: Installation, say: Say) -> None:
    """Judge the copies that no Python is seen to import, which are not patched.

    Raises `Undecided` where one of them may run all the same, or cannot be judged.
    """
    needed = set()
    for each in installation.idle:
        for patch in patches:
            verdict = _verdict(patch, each)
            if verdict.outside:
                continue
            if verdict.status is Status.NEEDED:
                needed.add(each.root)
                why = "no Python is seen to import it"
                say(f"{each.root}: {patch.name}: needed, not patched: {why}")
            elif verdict.status is Status.UNKNOWN:
                raise _which(f"{each.root}: {patch.name}: {verdict.reason}", installation)
    problem = open_question(installation, needed)
    if problem is not None:
        raise _which(problem, installation)


def _which(problem: str, installation: Installation) -> Undecided:
    return Undecided(
        problem, next_step=f"Say which is run: --root {installation.root}, or the other's folder."
    )


def check_version(base: Base, installation: Installation) -> None:
    """Raise `WrongVersion` unless the image holds the build that was asked for.

    A local part is compared where both state a commit: images add to it (`+cu130`, a date).
    """
    asked, found = base.version, parsed(installation.named_version())
    if asked is None:
        return
    if found is None or found.public != asked.public or not _may_be_same_commit(asked, found):
        raise WrongVersion(
            f"the image holds vLLM {installation.version}, not {asked}",
            next_step="The pin in images.lock is wrong: drop it with `vllm-patcher lock remove "
            f"{base.name}`, and add the right one with `vllm-patcher lock add {asked} REFERENCE`.",
        )


def _may_be_same_commit(asked: Version, found: Version) -> bool:
    commits = [
        part[1:]
        for version in (asked, found)
        for part in (version.local or "").split(".")
        if part.startswith("g") and len(part) > 7
    ]
    return len(commits) < 2 or same_commit(commits[0], commits[1])


def common_version(examined: Sequence[Examined]) -> str:
    """vLLM's version, as all images state it; without the local part where only that differs.

    Raises `BrokenImage` where the images hold different builds.
    """
    stated = sorted({each.installation.version for each in examined})
    public = {version.public for version in map(parsed, stated) if version}
    if len(stated) == 1:
        return stated[0]
    if len(public) == 1:
        return public.pop()
    raise BrokenImage(
        f"the base's platforms hold different vLLMs: {', '.join(stated)}",
        next_step="Publish them one at a time, with --platform and a name for each.",
    )


def change_of(base: Base, examined: Examined, tag: str) -> LayerChange:
    """What a layer does to an image: the new files, the bytecode that must not win, the labels.

    `tag` is the fixed name of the result. An image that needs no patch itself, beside others that
    do, gets the labels alone: one name, one statement.
    """
    found, changes = examined.installation, examined.changes
    changed = {change.before.path for change in changes}
    stale = [
        path
        for each in found.all
        for target, paths in each.bytecode.items()
        if each.files[target].path in changed
        for path in paths
    ]
    folders = {folder.path: folder for each in found.all for folder in each.directories}
    said = labels(
        examined.image.labels,
        base.name,
        base.pin(base.digest),
        (found.version, found.commit),
        examined.patched,
        tag,
    )
    if base.local:
        said[LOCAL_BASE] = base.local
    files = tuple(dataclasses.replace(change.before, data=change.after) for change in changes)
    return LayerChange(files, tuple(stale), tuple(folders[path] for path in sorted(folders)), said)


def judge_all(patches: Sequence[Patch], installation: Installation) -> tuple[Verdict, ...]:
    """The verdict of each patch on each vLLM that may be run.

    Raises `FileAbsent`, `Undecided` for what cannot be judged though the patch claims to be for
    that version, `BrokenImage` where something else is run than the file that was judged.
    """
    try:
        return tuple(_judge(patch, each) for each in installation.all for patch in patches)
    except (FileAbsent, Undecided) as error:
        needed = [patch for patch in patches if _is_needed(patch, installation)]
        raise without_it(error, needed) from None


def _is_needed(patch: Patch, installation: Installation) -> bool:
    verdicts = [_verdict(patch, each) for each in installation.all]
    return any(each.status is Status.NEEDED and not each.outside for each in verdicts)


def _judge(patch: Patch, installation: Installation) -> Verdict:
    """One verdict, which names what it is on. Raises as `judge_all`."""
    verdict = _verdict(patch, installation)
    file = installation.files.get(patch.target)
    path = file.path if file and len(patch.targets) == 1 else installation.root
    if verdict.status is Status.ABSENT and not verdict.outside:
        # Of what is lacking the reason names what matters: a moved file has targets for each place.
        lacking = [each for each in patch.targets if each not in installation.files]
        missing = next((each for each in lacking if each in (verdict.reason or "")), None)
        lacks = f"it has no {missing}" if missing else verdict.reason
        raise FileAbsent(
            f"{patch.name} cannot judge vLLM {installation.version} in {installation.root}: "
            f"{lacks}",
            next_step="Leave that patch out: name those that you want with --patch.",
        )
    if verdict.status is Status.UNKNOWN and not verdict.outside:
        raise Undecided(
            f"{path}: {patch.name} cannot judge it: {verdict.reason}",
            next_step="Leave that patch out: name those that you want with --patch.",
        )
    stale = next((target for target in patch.targets if target in installation.stale), None)
    if verdict.status is Status.CLEAN and stale is not None:
        raise BrokenImage(
            f"Python runs {installation.stale[stale]}, which was not compiled from the "
            f"clean {installation.files[stale].path}",
            next_step="Take an image without that file: what it does cannot be judged.",
        )
    return dataclasses.replace(verdict, artifact=path)


def patch_all(patches: Sequence[Patch], installation: Installation) -> tuple[FileChange, ...]:
    """Apply the needed patches to each vLLM, one after the other where they share a file."""
    changes: dict[str, FileChange] = {}
    for each in installation.all:
        verdicts = {patch: _verdict(patch, each) for patch in patches}
        needed = tuple(
            patch
            for patch, verdict in verdicts.items()
            if verdict.status is Status.NEEDED and not verdict.outside
        )
        targets = dict.fromkeys(target for patch in needed for target in patch.targets)
        for step in _series(needed, _files(each, targets)):
            file = each.files.get(step.target) or _new_file(step.target, each)
            done = Patched(
                step.patch.name,
                step.patch.version,
                step.target,
                None if step.before is None else _sha256(step.before),
                _sha256(step.after),
            )
            earlier = changes[file.path].patched if file.path in changes else ()
            changes[file.path] = FileChange(step.target, file, step.after, (*earlier, done))
    return tuple(changes.values())


def _new_file(target: str, installation: Installation) -> ImageFile:
    """An empty file where there is none yet: its folder's owner, and what pip gives a data file."""
    path = f"{installation.root}/{target}"
    folder = next((each for each in installation.directories if each.path == dirname(path)), None)
    if folder is None:
        raise Undecided(
            f"{dirname(path)} is not in the image, and {target} is to go there",
            next_step="The patch is for a vLLM that has this folder.",
        )
    return ImageFile(path, b"", folder.uid, folder.gid, mode=0o644, mtime=0)


# Targets and their bytes, as a value that a cache can hold.
_Files = tuple[tuple[str, bytes | None], ...]


def _files(installation: Installation, targets: Iterable[str]) -> _Files:
    there = {target: file.data for target, file in installation.files.items()}
    return tuple((target, there.get(target)) for target in targets)


def _verdict(patch: Patch, installation: Installation) -> Verdict:
    return _judged(patch, _files(installation, patch.targets), installation.version or None)


@functools.cache
def _judged(patch: Patch, files: _Files, version: str | None) -> Verdict:
    return judge_files(patch, dict(files), "", version=version)


@functools.cache
def _series(patches: tuple[Patch, ...], files: _Files) -> tuple[Step, ...]:
    return series(patches, dict(files))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
