"""`landed --git`: the exact commits with which a fix came and went, in a local clone.

Every content that the targets had along the branch is judged, and the turns between them are
named: with the commit that made them, also where a merge brought that commit in. The branch's own
line is that of first parents, through renames: a merge is one step of it, compared with its first
parent, and what it brought in is walked only where it brought a turn.

A bisection asks about few of them. It looks back from the newest commit in doubling steps until
the verdict differs, and halves what is in between. The turn it names is real: two neighbouring
commits were read. It is the newest one only where no fix and its loss, or a loss and its fix, both
are between two commits that it read: vLLM's history has such, so the whole walk is the default.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import Unreadable
from patcher.landed import Finding
from patcher.landed.timeline import Transition, Turn, transitions
from patcher.rules.verdict import Status, Verdict, judge_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from patcher.progress import Tell
    from patcher.rules.patch import Patch
    from patcher.sources.git import Clone, Commit


# gitformat-index: the modes of a plain and of an executable file.
_FILES = frozenset({"100644", "100755"})


@dataclass(frozen=True, slots=True)
class Touch:
    """A commit that touched the file: where the file then was, and what it then held.

    `blob` is the content's object id, `before` that in the first parent; None where no file was.
    `is_file` is False where a link or a submodule is there now.
    """

    commit: str
    parents: tuple[str, ...]
    path: str
    blob: str | None
    before: str | None
    is_file: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A commit that touched a patch's files, and what each of them then was.

    `files` are for each target the newest touch up to this commit; None where there was none.
    """

    commit: str
    parents: tuple[str, ...]
    files: tuple[Touch | None, ...]

    @property
    def own(self) -> Touch:
        """The first file that the commit itself touched; one that it took away before others."""
        own = [each for each in self.files if each is not None and each.commit == self.commit]
        return next((each for each in own if each.blob is None), own[0])

    @property
    def before(self) -> Point:
        """The files as the commit found them."""
        files = (
            dataclasses.replace(each, blob=each.before, is_file=True)
            if each is not None and each.commit == self.commit
            else each
            for each in self.files
        )
        return dataclasses.replace(self, files=tuple(files))


@dataclass(frozen=True, slots=True)
class Step:
    """A turn in a clone's history.

    `commit` made it; where that happened on another line, `merge` brought it to this one. `path`
    is where the code then was; for MOVED where it went, None where git sees no rename.
    """

    transition: Transition
    commit: Commit
    merge: Commit | None
    path: str | None


@dataclass(frozen=True, slots=True)
class History:
    """One patch over the commits of a clone.

    `tip` is the commit that was walked from, `head` what its content says. `touching` commits
    touched the file; `read` contents were judged. `bisected`: only the newest turn was looked
    for. `shallow`: the clone's history is cut off, so the oldest step may be before it.
    """

    patch: Patch
    clone: str
    tip: Commit
    head: Finding
    steps: tuple[Step, ...]
    touching: int
    read: int
    bisected: bool
    shallow: bool


def history(patch: Patch, clone: Clone, tip: str, watch: Tell, *, bisect: bool = False) -> History:
    """Walk a clone from the commit `tip` back. Raises `Unreadable` where git cannot walk it."""
    line = points(clone, tip, patch.targets)
    contents = _Contents(patch, clone)
    if bisect:
        found = newest_transition(len(line), lambda place: contents.judge(line[place]))
    else:
        findings = []
        for done, point in enumerate(line, 1):
            findings.append(contents.judge(point))
            watch(done, len(line))
        found = transitions(findings)
    places = {point.commit: point for point in line}
    return History(
        patch,
        str(clone.path),
        clone.commit(tip),
        contents.judge(line[-1]) if line else _never(patch, tip),
        tuple(_step(contents, each, places[each.finding.artifact]) for each in found),
        len(line),
        contents.read,
        bisect,
        clone.is_shallow(),
    )


def newest_transition(count: int, judged: Callable[[int], Finding]) -> tuple[Transition, ...]:
    """The newest turn among `count` contents, oldest first, in O(log count) questions; or none.

    A content that cannot be judged costs one question more.
    """
    unread: set[int] = set()

    def status(place: int) -> Status:
        found = judged(place).verdict.status
        if found is Status.UNKNOWN:
            unread.add(place)
        return found

    newest = next((at for at in reversed(range(count)) if status(at) is not Status.UNKNOWN), None)
    if newest is None:
        return ()
    now = status(newest)
    other, same = _gallop(newest, status, now)
    if other is None:
        return transitions([judged(same)])
    between = list(range(other + 1, same))
    while between:
        middle = between[len(between) // 2]
        found = status(middle)
        if found is Status.UNKNOWN:
            between.remove(middle)
        elif found is now:
            same, between = middle, [place for place in between if place < middle]
        else:
            other, between = middle, [place for place in between if place > middle]
    hidden = [judged(place) for place in sorted(unread) if other < place < same]
    # The older of the two begins a run of its own here, which is not a turn.
    return transitions([judged(other), *hidden, judged(same)])[-1:]


def _gallop(newest: int, status: Callable[[int], Status], now: Status) -> tuple[int | None, int]:
    """A place whose status differs from `now`, and the oldest seen after it that does not."""
    same, place, stride = newest, newest - 1, 2
    while place >= 0:
        found = status(place)
        if found is Status.UNKNOWN and place > 0:
            place -= 1
            continue
        if found is not Status.UNKNOWN and found is not now:
            return place, same
        same = place if found is now else same
        # The oldest is always asked: without it a turn before the last stride would be missed.
        place = max(place - stride, 0) if place > 0 else -1
        stride *= 2
    return None, same


class _Contents:
    """The verdicts on a clone's blobs; each set is judged once, however often it comes back."""

    def __init__(self, patch: Patch, clone: Clone) -> None:
        self.patch = patch
        self.clone = clone
        self._known: dict[tuple[str | None, ...], Verdict] = {}

    @property
    def read(self) -> int:
        """How many contents were judged."""
        return len(self._known)

    def judge(self, point: Point) -> Finding:
        """What the files' content says after a commit."""
        return Finding(point.commit, None, self._verdict(point))

    def _verdict(self, point: Point) -> Verdict:
        """What a commit's files say. Raises nothing: what cannot be read is unknown."""
        name, commit = self.patch.name, point.commit
        there = [each for each in point.files if each is not None and each.blob is not None]
        if not there:
            gone = next((each for each in point.files if each is not None), None)
            reason = f"the commit took {gone.path} away" if gone else "no such file yet"
            return Verdict(name, commit, Status.ABSENT, reason=reason)
        odd = next((each for each in there if not each.is_file), None)
        if odd is not None:
            reason = f"{odd.path} is a link or a submodule"
            return Verdict(name, commit, Status.UNKNOWN, reason=reason)
        blobs = tuple(
            # A file was followed to its older home, where the patch looks for it by itself.
            None if each is None or each.path in {*self.patch.targets} - {target} else each.blob
            for each, target in zip(point.files, self.patch.targets, strict=True)
        )
        if blobs not in self._known:
            self._known[blobs] = self._judge(blobs, commit)
        return dataclasses.replace(self._known[blobs], artifact=commit)

    def _judge(self, blobs: tuple[str | None, ...], commit: str) -> Verdict:
        try:
            files = {
                target: None if blob is None else self.clone.blob(blob)
                for target, blob in zip(self.patch.targets, blobs, strict=True)
            }
        except Unreadable as error:
            return Verdict(self.patch.name, commit, Status.UNKNOWN, reason=error.problem)
        return judge_files(self.patch, files, commit)


def _step(contents: _Contents, transition: Transition, point: Point) -> Step:
    clone = contents.clone
    origin = _origin(contents, point, transition.finding.verdict.status)
    moved = transition.turn is Turn.MOVED
    return Step(
        transition,
        clone.commit(origin.commit),
        clone.commit(point.commit) if origin is not point else None,
        moved_to(clone, origin.own) if moved else origin.own.path,
    )


def _origin(contents: _Contents, point: Point, status: Status) -> Point:
    """The commit on a merged line that made the turn; the commit itself where none did.

    A merge that no merged line explains made the turn itself, in how it resolved a conflict.
    """
    paths = tuple(
        each.path if each is not None else target
        for each, target in zip(point.files, contents.patch.targets, strict=True)
    )
    for parent in point.parents[1:]:
        line = points(contents.clone, parent, paths, point.parents[0], point.before.files)
        for each in reversed(line):
            if contents.judge(each).verdict.status is not status:
                break
            if contents.judge(each.before).verdict.status is not status:
                return _origin(contents, each, status)
    return point


def points(
    clone: Clone,
    tip: str,
    paths: Sequence[str],
    without: str | None = None,
    start: Sequence[Touch | None] = (),
) -> tuple[Point, ...]:
    """The commits from `tip` back that touched any of the files, oldest first. See `touches`.

    `start` are the files where the line begins.
    """
    lines = [touches(clone, tip, path, without) for path in paths]
    commits = {touch.commit: touch.parents for line in lines for touch in line}
    if len(paths) > 1:
        outside = [f"^{without}"] if without else []
        said = clone.run("rev-list", "--first-parent", "--reverse", tip, *outside).decode()
        commits = {each: commits[each] for each in said.split() if each in commits}
    files = list(start) or [None] * len(paths)
    own = [{touch.commit: touch for touch in line} for line in lines]
    found = []
    for commit, parents in commits.items():
        files = [each.get(commit, file) for each, file in zip(own, files, strict=True)]
        found.append(Point(commit, parents, tuple(files)))
    return tuple(found)


def _never(patch: Patch, tip: str) -> Finding:
    reason = f"no commit touched {' or '.join(patch.targets)}"
    return Finding(tip, None, Verdict(patch.name, tip, Status.ABSENT, reason=reason))


def touches(clone: Clone, tip: str, path: str, without: str | None = None) -> tuple[Touch, ...]:
    """The commits from `tip` back that touched the file at `path`, oldest first.

    Renames are followed backwards, as `git log --follow` finds them. `without` leaves out what
    can be reached from that commit. Raises `Unreadable`.
    """
    said = clone.run(
        "log",
        "--first-parent",
        "--diff-merges=first-parent",
        "--follow",
        "--find-renames",
        "--format=%H %P",
        "--raw",
        "-z",
        "--no-abbrev",
        "--no-color",
        "--no-ext-diff",
        "--no-notes",
        "--no-show-signature",
        "--no-textconv",
        tip,
        *([f"^{without}"] if without else []),
        "--",
        path,
    )
    return tuple(reversed(list(_parsed(said))))


def moved_to(clone: Clone, touch: Touch) -> str | None:
    """Where a commit that took the file away put it, as far as git sees a rename."""
    before = touch.parents[0]  # what is taken away was there before
    said = clone.run(
        "diff-tree", "-r", "-z", "--raw", "--find-renames", "--diff-filter=R", before, touch.commit
    )
    words = iter(said.decode(errors="surrogateescape").split("\0"))
    # One record is `:MODES IDS R<score>`, the old path, the new path.
    for _, old, new in zip(words, words, words, strict=False):
        if old == touch.path:
            return new
    return None


def _parsed(said: bytes) -> Iterator[Touch]:
    """Read `git log --raw -z`: a commit and its parents, then its changes, each ended by NUL."""
    words = iter(said.decode(errors="surrogateescape").split("\0"))
    commit, *parents = "", ""
    for word in words:
        text = word.strip("\n")
        if not text.startswith(":"):
            commit, *parents = text.split() or [""]
            continue
        try:
            _, mode, before, blob, change = text.split(" ")
            path = next(words)
            path = next(words) if change[0] in "RC" else path
        except (ValueError, StopIteration) as error:
            raise Unreadable(
                f"git log printed what cannot be read: {text!r}",
                next_step="Update git, then try again.",
            ) from error
        yield Touch(
            commit,
            tuple(parents),
            path,
            None if change == "D" else blob,
            None if change == "A" else before,
            mode in _FILES,
        )
