"""The seam between the program and a kind of fix.

A rule finds the places in a few files that its fix is about, rewrites them, and proves that it
did that and nothing else. The program knows no more of it than what is said here; a new kind of
fix is one file (or folder) beside this one, or in a patch file of one's own:

    @dataclass(frozen=True, slots=True)
    class MyRule:
        words: Words  # or a property
        def find(self, files: Files) -> Found
        def rewrite(self, files: Files) -> Mapping[str, Rewritten]
        def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None

`find` is the independent checker: it must share no code with `rewrite`, because it judges what
`rewrite` made. Everything that changes the outcome is a field of the dataclass: rules are
compared, hashed and kept in the verdict cache by their fields. A patch is applied to the versions
that it claims in `affected`; a rule whose answer holds in any version says so with
`any_version: ClassVar[bool] = True`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from patcher.errors import FileAbsent, ProofFailed
from patcher.syntax import compile_python

# The files of one artifact that a patch names, by path under site-packages, in the patch's order.
# None where the artifact has no such file.
Files = Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Words:
    """What a rule calls its places: "unguarded read" is the guard's word, not the program's.

    `needed` and `clean` say what a place is that needs the patch or does not; they are also
    headings (`unguarded`, `guarded`). `place` and `places` are the noun (`read`, `reads`). `why`
    ends the line about a place that needs the patch: what goes wrong there; `told` begins it where
    `unguarded read` is no pattern for it. `none` is why a file without any place is clean.
    """

    needed: str = "needed"
    clean: str = "clean"
    place: str = "place"
    places: str = "places"
    why: str = "needs the patch"
    none: str = "the file has no such place"
    told: str = ""

    def state(self, needed: bool) -> str:
        """The word for a place of that kind."""
        return self.needed if needed else self.clean

    def counts(self, needed: int, clean: int) -> str:
        """How many places of each kind: `1 unguarded, 2 guarded`."""
        return f"{needed} {self.needed}, {clean} {self.clean}"

    def number(self, count: int) -> str:
        """A number of places: `1 read`, `2 reads`."""
        return f"{count} {self.place if count == 1 else self.places}"


# For a verdict that no rule was asked about: nothing could be read.
PLAIN = Words()


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One place that a rule is about, and whether it needs the patch.

    `target` is the file's path under site-packages. `line` and `column` count from 1, `column` in
    characters. `function` is the qualified name of the function or class around it, `<module>`
    outside any, empty in a file that has no such thing. `text` is one line that shows the place.
    """

    target: str
    line: int
    column: int
    function: str
    text: str
    needed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule finds in an artifact's files.

    The patch is needed where one of the `places` needs it, and the files are clean otherwise.
    `absent` says that what the rule looks for does not exist there (no such function), `unknown`
    why it cannot tell (rewritten since; one half of a fix is in). Either overrides the places.
    """

    places: tuple[Place, ...] = ()
    absent: str | None = None
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: bytes `start` to `end` of the original (`before`) became `after`, on `line`.

    `shape` is the rule's own word for the kind of change.
    """

    start: int
    end: int
    before: bytes
    after: bytes
    line: int
    shape: str = ""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A file's new bytes, and every edit that made them, in file order."""

    data: bytes
    edits: tuple[Edit, ...]


class Rule(Protocol):
    """A kind of fix, with what it needs to know about this one: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def words(self) -> Words:
        """What its places are called."""
        ...

    def find(self, files: Files) -> Found:
        """Every place in the files, needed or clean, in file order.

        Raises `FileAbsent` for a file that it cannot do without (`present` does so), `NotPython`
        for bytes that are not source, `Unreadable` where it needs upstream's files and cannot
        have them. The program makes these the verdicts absent and unknown.
        """
        ...

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """The new bytes of each file that changes. Called where the patch is needed.

        Raises `RewriteRefused`, with the line and the reason, for a place that it must not touch.
        """
        ...

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """Return if `after` is `before` with this fix and nothing else.

        Raises `ProofFailed`, or `RewriteRefused` where the fix has to be made by hand. That `find`
        calls the result clean is checked by the program, after this.
        """
        ...


# What `load_patch` asks of a rule; `words` is read, the others are called.
METHODS = ("find", "rewrite", "prove")


class Upstream(Protocol):
    """A way to vLLM's own artifacts, handed to the rules that need them."""

    def read(self, version: str, target: str) -> bytes:
        """The file at `target`, a path under site-packages, as vLLM `version` was released.

        Raises `FileAbsent` and `Unreadable`.
        """
        ...


@runtime_checkable
class NeedsUpstream(Protocol):
    """A rule that reads upstream's artifacts, such as both sides of a fix to take back."""

    def with_upstream(self, upstream: Upstream) -> Rule:
        """The same rule, able to read them. It may keep what it read.

        `upstream` must be a field with `compare=False`: it says nothing about the fix.
        """
        ...


@runtime_checkable
class SearchesElsewhere(Protocol):
    """A rule whose places may turn up in any file of the package, not in its targets alone."""

    @property
    def mention(self) -> bytes:
        """What a file must hold to be worth a `find`: of vLLM's files, one in 300 does."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A rule that can say to a person what it does."""

    def explain(self) -> tuple[str, ...]:
        """A line for each place that it is about, and for each other fix that it knows."""
        ...


def present(files: Files) -> dict[str, bytes]:
    """The files, for a rule that needs all of them. Raises `FileAbsent` for the first without."""
    there = {}
    for target, data in files.items():
        if data is None:
            raise FileAbsent(
                f"there is no {target}", next_step="This vLLM keeps the code elsewhere."
            )
        there[target] = data
    return there


# ---- parts of a proof that every rule on source files needs


def check_bytes(before: bytes, after: Rewritten) -> None:
    """Raise `ProofFailed` unless every byte outside the edits is the original's."""
    kept, end, shift = [], 0, 0
    for edit in after.edits:
        start = edit.start + shift
        kept += [after.data[end:start], edit.before]
        end = start + len(edit.after)
        if after.data[start:end] != edit.after:
            raise proof_failed("a byte outside the edits has changed")
        shift += len(edit.after) - len(edit.before)
    if b"".join([*kept, after.data[end:]]) != before:
        raise proof_failed("a byte outside the edits has changed")


def check_compiles(data: bytes) -> None:
    """Raise `ProofFailed` unless Python compiles the bytes."""
    try:
        compile_python(data)
    except (SyntaxError, ValueError) as error:
        raise proof_failed(f"Python does not compile the result: {error}") from error


def proof_failed(problem: str) -> ProofFailed:
    """The error of a proof that does not hold."""
    return ProofFailed(
        f"the rewritten file failed its proof: {problem}",
        next_step="Nothing was written. Please report it with the file.",
    )
