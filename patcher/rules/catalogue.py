"""A patch, a verdict, and the catalogue that `patches/` is.

A patch is one file in `patches/` that binds a `PATCH`; adding a patch is adding a file. The
catalogue is read from the checkout's `patches/`, or from the copy inside an installed wheel.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import (
    BrokenCatalogue,
    FileAbsent,
    NotPython,
    UnknownPatch,
    Unreadable,
)
from patcher.files import data_path
from patcher.rules.guard.proving.verify import verify
from patcher.rules.guard.rule import AttributeGuard, Read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from patcher.rules.guard.writing.rewrite import Rewritten
    from patcher.rules.source import Source


@dataclass(frozen=True, slots=True)
class Example:
    """An INVALID example of a patch: the source that needs it, and what it must become."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One source fix: what it is, where it goes, what upstream says, and its own examples.

    `target` is the file's path under site-packages. `affected` are the version specifiers
    (PEP 440) that we claim to need it: a claim, checked by content, never used as proof.
    `upstream` are issue and pull request numbers with what each is. `valid` sources are left
    alone; `invalid` ones become their `after`; both are this patch's tests.
    """

    name: str
    version: int
    title: str
    why: str
    target: str
    rule: AttributeGuard
    upstream: tuple[tuple[int, str], ...]
    affected: tuple[str, ...]
    valid: tuple[str, ...]
    invalid: tuple[Example, ...]


class Status(enum.StrEnum):
    """What a verdict says about one patch and one artifact. Unknown is never clean."""

    NEEDED = "needed"
    CLEAN = "clean"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the content of one artifact says about one patch.

    `reads` are all reads of the rule's chain, guarded and not, in file order. `reason` says why
    for ABSENT and UNKNOWN. `sha256` is the judged file's, where one was read.
    """

    patch: str
    artifact: str
    status: Status
    reads: tuple[Read, ...] = ()
    reason: str | None = None
    sha256: str | None = None

    @property
    def unguarded(self) -> tuple[Read, ...]:
        """The reads that make the patch needed."""
        return tuple(read for read in self.reads if not read.guarded)


def judge_bytes(patch: Patch, data: bytes, artifact: str) -> Verdict:
    """The verdict on a target file's bytes. Bytes that are not Python give UNKNOWN."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        reads = verify(data, patch.rule)
    except NotPython as error:
        return Verdict(patch.name, artifact, Status.UNKNOWN, reason=error.problem, sha256=sha256)
    status = Status.CLEAN if all(read.guarded for read in reads) else Status.NEEDED
    return Verdict(patch.name, artifact, status, reads, sha256=sha256)


def judge(patch: Patch, source: Source) -> Verdict:
    """The verdict on a source: absent and unknown are values with a reason, not exceptions."""
    try:
        data = source.read(patch.target)
    except FileAbsent as error:
        return Verdict(patch.name, source.label, Status.ABSENT, reason=error.problem)
    except Unreadable as error:
        return Verdict(patch.name, source.label, Status.UNKNOWN, reason=error.problem)
    return judge_bytes(patch, data, source.label)


def apply(patch: Patch, data: bytes) -> Rewritten:
    """The patched bytes of a target file, proven; no edits where the file needs none.

    Raises `RewriteRefused`, `NotPython` and `ProofFailed`; nothing is ever half done.
    """
    from patcher.rules.guard.prove import (
        prove,  # libcst takes 0.2 s to import; most commands need none
    )
    from patcher.rules.guard.writing.rewrite import Rewritten, rewrite

    if all(read.guarded for read in verify(data, patch.rule)):
        return Rewritten(data, ())
    rewritten = rewrite(data, patch.rule)
    prove(data, rewritten, patch.rule)
    return rewritten


def load_patch(path: Path) -> Patch:
    """The PATCH that a file of patches/ binds. Raises `BrokenCatalogue`."""
    spec = importlib.util.spec_from_file_location(f"patches.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BrokenCatalogue(f"{path} is no Python file", next_step="Name it *.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BrokenCatalogue(
            f"{path} cannot be loaded: {type(error).__name__}: {error}",
            next_step="Mend the file; CONTRIBUTING.md shows a patch's form.",
        ) from error
    patch = getattr(module, "PATCH", None)
    if not isinstance(patch, Patch):
        raise BrokenCatalogue(
            f"{path} binds no PATCH", next_step="Bind PATCH = Patch(...) at the file's top level."
        )
    return patch


@functools.cache
def catalogue() -> tuple[Patch, ...]:
    """Every patch in patches/, by name. Raises `BrokenCatalogue`, also for a name used twice."""
    patches = [load_patch(path) for path in sorted(data_path("patches").glob("[!_]*.py"))]
    names = [patch.name for patch in patches]
    for name in names:
        if names.count(name) > 1:
            raise BrokenCatalogue(f"two patches are named {name!r}", next_step="Rename one.")
    return tuple(sorted(patches, key=lambda patch: patch.name))


def select(names: Iterable[str]) -> tuple[Patch, ...]:
    """The named patches of the catalogue; all of them for no name. Raises `UnknownPatch`."""
    known = {patch.name: patch for patch in catalogue()}
    wanted = tuple(names) or tuple(known)
    for name in wanted:
        if name not in known:
            raise UnknownPatch(
                f"no patch is named {name!r}", next_step=f"Known: {', '.join(known)}."
            )
    return tuple(known[name] for name in dict.fromkeys(wanted))
