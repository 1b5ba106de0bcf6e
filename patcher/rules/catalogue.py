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
    ABSENT and UNKNOWN. `files` are the targets that were read. `words` are the rule's.
    """

    patch: str
    artifact: str
    status: Status
    places: tuple[Place, ...] = ()
    reason: str | None = None
    files: tuple[Judged, ...] = ()
    words: Words = PLAIN

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
    return judge_files(patch, files, source.label, missing)


def judge_files(patch: Patch, files: Files, artifact: str, missing: str | None = None) -> Verdict:
    """The verdict on the bytes of a patch's targets, None for one that is not there.

    `missing` is the reason to give for an absent file, where the artifact's reader has one.
    """
    found = _find(patch, files, missing)
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
    )


def _find(patch: Patch, files: Files, missing: str | None) -> Found:
    try:
        return _found(patch, files)
    except FileAbsent as error:
        return Found(absent=missing or error.problem)
    except (NotPython, Unreadable) as error:
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
class Outcome:
    """What several patches make of one file, and in how many places."""

    target: str
    before: bytes
    after: bytes
    places: int


def apply_all(
    patches: Iterable[Patch], read: Callable[[str], bytes], where: Callable[[str], str]
) -> tuple[Outcome, ...]:
    """Each patch on what the one before it made: an outcome for every target, changed or not.

    `read` gives a target's bytes, `where` its name for an error. Raises as `apply_files`.
    """
    outcomes: dict[str, Outcome] = {}
    for patch in patches:
        for target in patch.targets:
            if target not in outcomes:
                data = read(target)
                outcomes[target] = Outcome(target, data, data, 0)
        try:
            done = apply_files(patch, {target: outcomes[target].after for target in patch.targets})
        except PatcherError as error:
            raise error.at(where(patch.target)) from error
        for target, each in done.items():
            places = outcomes[target].places + len(each.edits)
            outcomes[target] = dataclasses.replace(outcomes[target], after=each.data, places=places)
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
            next_step="Mend the file; CONTRIBUTING.md shows a patch's form.",
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


def named_only() -> tuple[Patch, ...]:
    """The patches of patches/named/, which are used only where a person names them.

    An image is refused where a wanted patch cannot judge it, and most of these know a few releases
    only: were they wanted without being named, every other image would be refused.
    """
    return _load((data_path("patches") / "named",))


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
    if any(name not in known and not is_file(name) for name in wanted):
        known = {patch.name: patch for patch in (*named_only(), *known.values())}
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
