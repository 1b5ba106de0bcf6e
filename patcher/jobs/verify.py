"""One source judged: a verdict on each vLLM of it that may be run, and what else it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, PatcherError, Unreadable, UsageError
from patcher.rules.verdict import Status, Verdict, judge
from patcher.sources.everywhere import everywhere, in_image, searched_for
from patcher.sources.images import CopySource, ImageSource, NoCopy, about_copies, open_question
from patcher.sources.path import PathSource, TreeSource, as_typed, concerned, named
from patcher.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.installation import Copy, Installation
    from patcher.rules.patch import Patch
    from patcher.rules.rule import Words
    from patcher.rules.source import Source
    from patcher.sources.everywhere import Notice

_LONGEST = 5000


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A place in another file than the targets; of which source, and by which patch's rule.

    `copy` is the vLLM of an image that the file is of, or is installed beside.
    """

    source: str
    patch: str
    words: Words
    notice: Notice
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one source comes to.

    `source` is None where it could not be read: `error` says why, and all verdicts are unknown.
    `judged` are the vLLMs of it that the verdicts are on. Of an image, `copies` are all its vLLMs,
    `idle` the verdicts on those that no Python of it is seen to import, `question` is why it is
    open whether what was judged is what runs. `elsewhere` are the rules' places in other files
    than the targets; they do not decide. `notes` are for a person.
    """

    label: str
    verdicts: tuple[Verdict, ...]
    source: Source | None = None
    judged: tuple[Source, ...] = ()
    copies: tuple[Copy, ...] = ()
    idle: tuple[Verdict, ...] = ()
    question: str | None = None
    elsewhere: tuple[Elsewhere, ...] = ()
    notes: tuple[str, ...] = ()
    error: PatcherError | None = None

    @property
    def locate(self) -> Callable[[str], Path] | None:
        """Where a target is, where the source's files are on this machine."""
        return partial(named, self.source) if isinstance(self.source, PathSource) else None

    @property
    def root(self) -> Path | None:
        """The folder that an installed tree has its packages in; None for anything else."""
        tree = self.source
        return as_typed(tree.root, tree.path) if isinstance(tree, TreeSource) else None


def verify_source(source: Source, patches: Sequence[Patch], *, elsewhere: bool) -> SourceReport:
    """Judge a source by each patch that can be about it. Raises what reading it raises.

    `elsewhere`: look for the rules' places in all files of an installed tree or an image. Raises
    `UsageError` for a source of which only the targets can be read.
    """
    if isinstance(source, ImageSource):
        return _of_image(source, patches, elsewhere=elsewhere)
    source, own = concerned(source, patches)
    found = _in_tree(source, own) if elsewhere else ()
    verdicts = tuple(judge(patch, source) for patch in own)
    notes = source.notes() if isinstance(source, TreeSource) else ()
    return SourceReport(source.label, verdicts, source, (source,), elsewhere=found, notes=notes)


def unread(name: str, patches: Sequence[Patch], error: PatcherError) -> SourceReport:
    """The report on a source that cannot be read: it is unknown, and the others are judged."""
    label = printable(name, _LONGEST)
    verdicts = tuple(
        Verdict(patch.name, label, Status.UNKNOWN, reason=error.problem) for patch in patches
    )
    return SourceReport(name, verdicts, error=error)


def _in_tree(source: Source, patches: Sequence[Patch]) -> tuple[Elsewhere, ...]:
    if not isinstance(source, TreeSource):
        raise UsageError(
            f"{source.label} is neither an installed tree nor an image",
            next_step="Leave --everywhere out for it.",
        )
    return tuple(
        Elsewhere(source.label, patch.name, patch.rule.words, notice)
        for patch in patches
        for notice in everywhere(source.root, patch)
    )


def _of_image(image: ImageSource, patches: Sequence[Patch], *, elsewhere: bool) -> SourceReport:
    """The report on an image: each vLLM of it that may be run is judged."""
    targets = sorted({target for patch in patches for target in patch.targets})
    try:
        copies = image.copies(targets, searched_for(patches))
    except (FileAbsent, Unreadable) as error:
        # It is told as a verdict, with its reason.
        none = NoCopy(image.label, error)
        verdicts = tuple(judge(patch, none) for patch in patches)
        return SourceReport(image.label, verdicts, image, (none,))
    found = copies[0].installation
    idle = {each.installation.root: _judged([each], patches) for each in image.idle(found)}
    return SourceReport(
        image.label,
        _judged(copies, patches),
        image,
        judged=tuple(copies),
        copies=found.copies,
        idle=tuple(verdict for verdicts in idle.values() for verdict in verdicts),
        question=_question(found, idle),
        elsewhere=tuple(
            Elsewhere(image.label, patch.name, patch.rule.words, notice, _copy_of(notice, found))
            for patch in patches
            for notice in in_image(found, patch, whole=elsewhere)
        ),
        notes=tuple(f"{image.label}: {line}" for line in about_copies(found)),
    )


def _copy_of(notice: Notice, found: Installation) -> Copy | None:
    """The innermost one: an installed vLLM may hold a build folder."""
    around = [copy for copy in found.copies if notice.path.startswith(f"{copy.root}/")]
    return max(around, key=lambda copy: len(copy.root), default=None)


def _judged(copies: Sequence[CopySource], patches: Sequence[Patch]) -> tuple[Verdict, ...]:
    return tuple(judge(patch, copy) for copy in copies for patch in patches)


def _question(found: Installation, idle: Mapping[str, Sequence[Verdict]]) -> str | None:
    """Why it is open whether what was judged is what runs; None where it is not."""
    statuses = {
        root: {verdict.status for verdict in verdicts if not verdict.outside}
        for root, verdicts in idle.items()
    }
    needed = [root for root, each in statuses.items() if Status.NEEDED in each]
    unknown = [root for root, each in statuses.items() if Status.UNKNOWN in each]
    problem = open_question(found, needed)
    if problem is None and unknown:
        problem = f"the vLLM in {unknown[0]} cannot be judged"
    return problem and f"undecided: {problem}. Say which is run: --root {found.root}"
