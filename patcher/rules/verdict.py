"""What the content of an artifact says about a patch: needed, clean, absent or unknown."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, NotPython, PatcherError, Unreadable
from patcher.rules.fault import as_found, blaming
from patcher.rules.patch import Patch
from patcher.rules.rule import PLAIN, Files, Found, Place, Words

if TYPE_CHECKING:
    from patcher.rules.source import Source


class Status(enum.StrEnum):
    """What a verdict says about one patch and one artifact. Unknown is never clean."""

    NEEDED = "needed"
    CLEAN = "clean"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judged:
    """A file that a verdict was reached on: its path under site-packages, and its SHA-256."""

    target: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the content of one artifact says about one patch.

    `places` are all that the rule found, needed and clean, in file order. `reason` says why for
    ABSENT and UNKNOWN. `files` are the targets that were judged; none where something that the
    verdict needs could not be read. `words` are the rule's. `outside`: the artifact's version is
    none that `affected` names, so the patch is not applied there, whatever the status.
    """

    patch: str
    artifact: str
    status: Status
    places: tuple[Place, ...] = ()
    reason: str | None = None
    files: tuple[Judged, ...] = ()
    words: Words = PLAIN
    outside: bool = False

    @property
    def by_content(self) -> bool:
        """Whether the files say it: what could not be read may say another thing tomorrow."""
        return self.status is not Status.UNKNOWN or bool(self.files)

    @property
    def without_claim(self) -> bool:
        """Whether the files were read and say nothing, where the patch claims nothing either."""
        return self.status is Status.UNKNOWN and self.outside and self.by_content

    @property
    def needed(self) -> int:
        """How many places need the patch."""
        return sum(place.needed for place in self.places)

    @property
    def clean(self) -> int:
        """How many places do not."""
        return len(self.places) - self.needed

    @property
    def counts(self) -> str:
        """Both, in the rule's words: `1 unguarded, 2 guarded`."""
        return self.words.counts(self.needed, self.clean)


# Asks a patch's rule. Raises what that raises.
Find = Callable[[Patch, "Files"], Found]


def judge(patch: Patch, source: Source, find: Find | None = None) -> Verdict:
    """The verdict on a source: absent and unknown are values with a reason, not exceptions.

    `find` is `found_in`, or remembers what that found.
    """
    files: dict[str, bytes | None] = {}
    missing = None
    for target in patch.targets:
        try:
            files[target] = source.read(target)
        except FileAbsent as error:
            files[target] = None
            missing = missing or error.problem
        except Unreadable as error:
            return Verdict(patch.name, source.label, Status.UNKNOWN, reason=error.problem)
    try:
        version = source.version()
    except PatcherError:
        version = None
    return judge_files(patch, files, source.label, missing, version, find)


def judge_files(
    patch: Patch,
    files: Files,
    artifact: str,
    missing: str | None = None,
    version: str | None = None,
    find: Find | None = None,
) -> Verdict:
    """The verdict on the bytes of a patch's targets, None for one that is not there.

    `missing` is the reason to give for an absent file, where the artifact's reader has one;
    `version` is vLLM's, where the artifact states it.
    """
    outside = not covers(patch, version)
    try:
        found = _find(patch, files, missing, find or found_in)
    except Unreadable as error:
        reason = error.problem
        return Verdict(patch.name, artifact, Status.UNKNOWN, reason=reason, outside=outside)
    if found.unknown is not None:
        status = Status.UNKNOWN
    elif found.absent is not None:
        status = Status.ABSENT
    else:
        needed = any(place.needed for place in found.places)
        status = Status.NEEDED if needed else Status.CLEAN
    return Verdict(
        patch.name,
        artifact,
        status,
        found.places,
        found.unknown if found.unknown is not None else found.absent,
        tuple(
            Judged(target, hashlib.sha256(data).hexdigest())
            for target, data in files.items()
            if data is not None
        ),
        patch.rule.words,
        outside,
    )


def covers(patch: Patch, version: str | None) -> bool:
    """Whether a patch may be applied to a vLLM of this version.

    `affected` says so: what merges cleanly into another release can be wrong there (vLLM's PR
    48375 merges into 0.28.0, and gives NaN). It does not bound a rule that holds in any version.
    Where vLLM states no version (None), or one that has no place among the releases (0.1.dev1),
    the content alone decides.
    """
    if not version or getattr(patch.rule, "any_version", False):
        return True
    from patcher.rules.affected import may_need, specifiers
    from patcher.versions import placed

    found = placed(version)
    return found is None or may_need(specifiers(patch), found)


def _find(patch: Patch, files: Files, missing: str | None, find: Find) -> Found:
    try:
        return find(patch, files)
    except FileAbsent as error:
        return Found(absent=missing or error.problem)
    except NotPython as error:
        return Found(unknown=error.problem)


# vLLM's largest Python file has 0.4 MB. Parsed, a byte can become 900 (`x`, line by line).
_MOST_SOURCE = 1 << 20


def found_in(patch: Patch, files: Files) -> Found:
    """What the patch's rule finds in its targets, none of them larger than vLLM's own."""
    for target, data in files.items():
        if data is not None and len(data) > _MOST_SOURCE and target.endswith(".py"):
            return Found(unknown=f"{target} has {len(data)} bytes, which no file of vLLM has")
    with blaming(patch.name):
        return as_found(patch.name, patch.rule.find(files), files)
