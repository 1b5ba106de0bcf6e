"""A patch, the verdict on it, and the catalogue that `patches/` is.

A patch is one file in `patches/` that binds a `PATCH`; adding a patch is adding a file. The
catalogue is read from the checkout's `patches/`, or from the copy inside an installed wheel, and
from folders and files of the user's own. Loading a patch runs its file.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.errors import (
    BrokenCatalogue,
    FileAbsent,
    NotPython,
    PatcherError,
    ProofFailed,
    Undecided,
    UnknownPatch,
    Unreadable,
)
from patcher.files import data_path
from patcher.rules.rule import METHODS, PLAIN, Found, NeedsUpstream, Place, Rewritten, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from patcher.rules.rule import Files, Rule, Upstream
    from patcher.rules.source import Source

# Folders with patches of one's own, beside the program's; several are separated as in PATH.
PATCHES_VARIABLE = "VLLM_PATCHER_PATCHES"

# It is in labels, whose parts dots and commas separate, and is told from a file by its form.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Example:
    """An INVALID example of a patch: the source that needs it, and what it must become."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One source fix: what it is, where it goes, what upstream says, and its own examples.

    `targets` are the files' paths under site-packages; the verdict is on all of them together.
    `affected` are the version specifiers (PEP 440) that we claim to need it: a claim, checked by
    content, never used as proof. `upstream` are issue and pull request numbers with what each is.
    `valid` sources are left alone; `invalid` ones become their `after`; both are this patch's
    tests, as the content of its first target. `smoke` are the cases of `vllm-patcher smoke` that
    it claims to cure. `sha256` is that of the file that it was loaded from, empty for none.
    """

    name: str
    version: int
    title: str
    why: str
    targets: tuple[str, ...]
    rule: Rule
    upstream: tuple[tuple[int, str], ...]
    affected: tuple[str, ...]
    valid: tuple[str, ...] = ()
    invalid: tuple[Example, ...] = ()
    smoke: tuple[str, ...] = ()
    sha256: str = dataclasses.field(default="", compare=False)

    @property
    def target(self) -> str:
        """The first target: all there is for most patches."""
        return self.targets[0]


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


def covers(patch: Patch, version: str | None) -> bool:
    """Whether a patch may be applied to a vLLM of this version; None is one that states none.

    `affected` bounds that: what merges cleanly into another release can be wrong there (vLLM's PR
    48375 merges into 0.28.0, and gives NaN). A rule that holds in any version is not bounded.
    """
    if not version or getattr(patch.rule, "any_version", False):
        return True
    from patcher.rules.affected import may_need, specifiers
    from patcher.versions import parsed

    found = parsed(version)
    return found is None or may_need(specifiers(patch), found)


def judge(patch: Patch, source: Source) -> Verdict:
    """The verdict on a source: absent and unknown are values with a reason, not exceptions."""
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
    return judge_files(patch, files, source.label, missing, version)


def judge_files(
    patch: Patch,
    files: Files,
    artifact: str,
    missing: str | None = None,
    version: str | None = None,
) -> Verdict:
    """The verdict on the bytes of a patch's targets, None for one that is not there.

    `missing` is the reason to give for an absent file, where the artifact's reader has one;
    `version` is vLLM's, where the artifact states it.
    """
    outside = not covers(patch, version)
    try:
        found = _find(patch, files, missing)
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


def _find(patch: Patch, files: Files, missing: str | None) -> Found:
    try:
        return _found(patch, files)
    except FileAbsent as error:
        return Found(absent=missing or error.problem)
    except NotPython as error:
        return Found(unknown=error.problem)


# vLLM's largest Python file has under 1 MB. Parsed, a byte can become 300.
_MOST_SOURCE = 2 << 20


def _found(patch: Patch, files: Files) -> Found:
    for target, data in files.items():
        if data is not None and len(data) > _MOST_SOURCE and target.endswith(".py"):
            return Found(unknown=f"{target} has {len(data)} bytes, which no file of vLLM has")
    return patch.rule.find(files)


def judge_bytes(patch: Patch, data: bytes, artifact: str) -> Verdict:
    """The verdict on the bytes of a patch's one target. Not Python gives UNKNOWN."""
    return judge_files(patch, {patch.target: data}, artifact)


def apply_files(patch: Patch, files: Files) -> Mapping[str, Rewritten]:
    """The patched bytes of each file that changes, proven; none where the files are clean.

    Raises `RewriteRefused`, `FileAbsent`, `NotPython`, `Undecided` and `ProofFailed`; nothing is
    ever half done.
    """
    found = _found(patch, files)
    if found.unknown is not None:
        raise Undecided(found.unknown, next_step="What cannot be judged is not patched.")
    if found.absent is not None:
        raise FileAbsent(found.absent, next_step="This vLLM keeps the code elsewhere.")
    if not any(place.needed for place in found.places):
        return {}
    rewritten = patch.rule.rewrite(files)
    patch.rule.prove(files, rewritten)
    after = {**files, **{target: each.data for target, each in rewritten.items()}}
    left = patch.rule.find(after)
    if left.unknown or left.absent or any(place.needed for place in left.places):
        raise ProofFailed(
            f"after the rewrite {patch.name} is still needed",
            next_step="Nothing was written. Please report it with the file.",
        )
    return rewritten


def apply(patch: Patch, data: bytes) -> Rewritten:
    """The patched bytes of a patch's one target; no edits where it is clean. See `apply_files`."""
    done = apply_files(patch, {patch.target: data})
    return done.get(patch.target, Rewritten(data, ()))


@dataclass(frozen=True, slots=True)
class Step:
    """What one of several patches made of one file, in so many places; None where none was."""

    patch: Patch
    target: str
    before: bytes | None
    after: bytes
    places: int


def series(patches: Iterable[Patch], files: Files) -> tuple[Step, ...]:
    """Each patch on what those before it made, in the given order; each proven on its own input.

    Raises as `apply_files`; where an earlier patch had changed the same file, both are named. What
    a later one undoes of an earlier one is `ProofFailed`.
    """
    current = dict(files)
    steps: list[Step] = []
    for patch in patches:
        own = {target: current.get(target) for target in patch.targets}
        earlier = dict.fromkeys(step.patch.name for step in steps if step.target in own)
        try:
            made = apply_files(patch, own)
        except PatcherError as error:
            raise _in_conflict(patch, earlier, error) if earlier else error from None
        for target, each in made.items():
            steps.append(Step(patch, target, own[target], each.data, len(each.edits)))
            current[target] = each.data
    for patch in dict.fromkeys(step.patch for step in steps):
        own = {target: current.get(target) for target in patch.targets}
        if judge_files(patch, own, "").status is not Status.CLEAN:
            after = [step.patch.name for step in steps if step.target in own]
            later = dict.fromkeys(after[after.index(patch.name) :])
            raise ProofFailed(
                f"{' and '.join(later)} change the same code: with all of them {patch.name} is "
                "not what it was proven to be",
                next_step="Nothing was written. Name the one that you want with --patch.",
            )
    return tuple(steps)


def _in_conflict(patch: Patch, earlier: Iterable[str], error: PatcherError) -> PatcherError:
    return type(error)(
        f"{patch.name} does not go with {', '.join(earlier)}, which changed the same file: "
        f"{error.problem}",
        next_step="Name the one that you want with --patch, or make one patch of both.",
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What several patches make of one file, and in how many places; None where there was none."""

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
        steps = series(wanted, files)
    except PatcherError as error:
        raise error.at(where(wanted[0].target)) from error
    outcomes = {
        target: Outcome(target, data, data, 0) for target, data in files.items() if data is not None
    }
    for step in steps:
        places = step.places + (outcomes[step.target].places if step.target in outcomes else 0)
        outcomes[step.target] = Outcome(step.target, files[step.target], step.after, places)
    return tuple(outcomes.values())


def load_patch(path: Path) -> Patch:
    """The PATCH that a file binds. Runs the file. Raises `BrokenCatalogue`."""
    # Two files of one name, in two folders, are two modules.
    unlike = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:12]
    name = f"patches.{path.stem}_{unlike}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BrokenCatalogue(f"{path} is not a Python file", next_step="Name it *.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its own module up
    try:
        spec.loader.exec_module(module)
        patch = getattr(module, "PATCH", None)
        fault = _fault(patch)
    except Exception as error:
        raise BrokenCatalogue(
            f"{path} cannot be loaded: {type(error).__name__}: {error}",
            next_step="Mend the file; docs/writing-a-patch.md shows how one is made.",
        ) from error
    if not isinstance(patch, Patch):
        raise BrokenCatalogue(
            f"{path} binds no PATCH", next_step="Bind PATCH = Patch(...) at the file's top level."
        )
    if fault:
        raise BrokenCatalogue(
            f"{path}: {fault}", next_step="patcher/rules/rule.py says what a rule offers."
        )
    return dataclasses.replace(patch, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _fault(patch: object) -> str | None:
    """What is wrong with a patch's fields, which may be anything; None for nothing."""
    if not isinstance(patch, Patch):
        return None
    rule: Any = patch.rule
    targets: Any = patch.targets
    if not _NAME.fullmatch(patch.name):
        return f"the name {patch.name!r} is not of letters, digits, - and _"
    if not (isinstance(targets, tuple) and targets):
        return f"the targets of {patch.name} are not a tuple of paths"
    if outside := next((each for each in targets if not _is_below(each)), None):
        return f"{outside!r}, a target of {patch.name}, is not a path under site-packages"
    affected: Any = patch.affected
    if not (isinstance(affected, tuple) and all(isinstance(each, str) for each in affected)):
        return f'affected of {patch.name} is not a tuple of texts, as (">=0.25.0,<0.27.0",)'
    kind = type(rule).__qualname__
    if isinstance(rule, type):
        return f"the rule of {patch.name} is a class, {rule.__qualname__}, and not one made of it"
    lacking = [name for name in METHODS if not callable(getattr(rule, name, None))]
    lacking += [] if isinstance(getattr(rule, "words", None), Words) else ["words"]
    if lacking:
        return f"the rule of {patch.name}, {kind}, is not a rule: it lacks {', '.join(lacking)}"
    if not dataclasses.is_dataclass(rule) or not _hashes(rule):
        return f"the rule of {patch.name}, {kind}, is not a frozen dataclass"
    return None


def _is_below(target: str) -> bool:
    parts = target.split("/")
    return len(parts) > 1 and not {"", ".", ".."} & set(parts)


def _hashes(rule: object) -> bool:
    try:
        hash(rule)
    except TypeError:
        return False
    return True


def catalogue(folders: Iterable[Path] = ()) -> tuple[Patch, ...]:
    """Every patch in patches/, in the folders that the environment names, and in these, by name.

    Raises `BrokenCatalogue`, also for a name that is used twice.
    """
    own = os.environ.get(PATCHES_VARIABLE, "")
    named = (Path(each) for each in own.split(os.pathsep) if each)
    return _load((data_path("patches"), *dict.fromkeys([*named, *folders])))


@functools.cache
def _load(folders: tuple[Path, ...]) -> tuple[Patch, ...]:
    known: dict[str, tuple[Path, Patch]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BrokenCatalogue(
                f"{folder} is not a folder", next_step=f"Check --patches and {PATCHES_VARIABLE}."
            )
        for path in sorted(folder.glob("[!_]*.py")):
            _add(known, path)
    return tuple(known[name][1] for name in sorted(known))


def _add(known: dict[str, tuple[Path, Patch]], path: Path) -> Patch:
    patch = load_patch(path)
    if patch.name in known:
        raise BrokenCatalogue(
            f"{path} and {known[patch.name][0]} both name their patch {patch.name!r}",
            next_step="Rename one.",
        )
    known[patch.name] = path, patch
    return patch


def _near(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = " or ".join(get_close_matches(name, sorted(known)))
    return f"Did you mean {near}? " if near else ""


def select(
    names: Iterable[str], upstream: Upstream | None = None, folders: Iterable[Path] = ()
) -> tuple[Patch, ...]:
    """The named patches, in the catalogue's order: by name; all of them where none is named.

    A name is that of a patch in the catalogue or in one of the `folders`, or the path of a patch's
    file. `upstream` is handed to the rules that read vLLM's own artifacts. Raises `UnknownPatch`,
    `BrokenCatalogue`.
    """
    wanted = tuple(dict.fromkeys(names))
    known = {patch.name: patch for patch in catalogue(folders)}
    chosen = {} if wanted else dict(known)
    for name in wanted:
        patch = _load_file(name) if is_file(name) else known.get(name)
        if patch is None:
            raise UnknownPatch(
                f"no patch is named {name!r}",
                next_step=f"{_near(name, known)}Known: {', '.join(sorted(known))}; or name a file: "
                "./mine.py.",
            )
        if is_file(name) and patch.name in {*known, *chosen}:
            raise BrokenCatalogue(
                f"{name} names its patch {patch.name!r}, as another does", next_step="Rename one."
            )
        chosen[patch.name] = patch
    return tuple(_with(chosen[name], upstream) for name in sorted(chosen))


def is_file(name: str) -> bool:
    """Whether what a person typed for a patch is the path of its file."""
    return _NAME.fullmatch(name) is None


def _load_file(name: str) -> Patch:
    path = Path(name)
    if not path.is_file():
        raise UnknownPatch(f"there is no file {path}", next_step="Check the path.")
    return load_patch(path)


def _with(patch: Patch, upstream: Upstream | None) -> Patch:
    if upstream is not None and isinstance(patch.rule, NeedsUpstream):
        return dataclasses.replace(patch, rule=patch.rule.with_upstream(upstream))
    return patch
