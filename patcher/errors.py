"""Every error a user can meet, and the exit code of each.

The exit code of a command is decided here and nowhere else:

====  =========  ==========================================================
code  name       meaning
====  =========  ==========================================================
0     OK         as wanted
1     FINDING    an answer that wants attention: a patch is needed,
                 nothing to patch, a claim refuted, a rewrite refused
2     USAGE      the call itself is wrong: a bad name, a bad option
3     UNDECIDED  could not decide or reach: no network, no daemon,
                 not Python, a broken lock
====  =========  ==========================================================

Ctrl-C, SIGTERM and SIGHUP end a command with 130, 143 and 129, as a shell has it. Every error says
what is wrong, where, and ends with the next step.
"""

from __future__ import annotations

import enum

from patcher.text import printable


class Exit(enum.IntEnum):
    """The exit codes of every command."""

    OK = 0
    FINDING = 1
    USAGE = 2
    UNDECIDED = 3


class PatcherError(Exception):
    """Something a user can act on. `str()` is one line: the problem, then the next step."""

    exit_code = Exit.UNDECIDED

    # The image that it is about, by its reference, where that was called by another name.
    base: str | None = None

    def __init__(self, problem: str, *, next_step: str) -> None:
        self.problem = printable(problem)
        self.next_step = printable(next_step)
        super().__init__(f"{self.problem}. {self.next_step}")

    def at(self, place: str) -> PatcherError:
        """The same error, with the file that it is about named before the problem."""
        return type(self)(f"{place}: {self.problem}", next_step=self.next_step)


class UsageError(PatcherError):
    """The call is wrong: the caller can mend it without touching any artifact."""

    exit_code = Exit.USAGE


class BadReference(UsageError):
    """An image reference, digest or platform that does not parse."""


class BadSource(UsageError):
    """A SOURCE argument that names no kind of source."""


class UnknownPatch(UsageError):
    """A patch name that is not in the catalogue."""


class NotLocked(UsageError):
    """A version that images.lock does not hold, or not for that platform."""


class Finding(PatcherError):
    """An answer was reached, and it is not the one that was wanted."""

    exit_code = Exit.FINDING


class RewriteRefused(Finding):
    """A place that a rule must not touch; names the line and the reason."""


class AlreadyClean(Finding):
    """Nothing to patch: this vLLM already carries it."""


class Undecided(PatcherError):
    """No answer could be reached."""


class NotPython(Undecided):
    """Bytes that this Python cannot read as source: syntax, encoding, NUL bytes."""


class NotFollowed(Undecided):
    """A file that is Python, and whose verdict depends on a way that is not followed."""


class FileAbsent(Undecided):
    """The artifact was read, and the file is not in it."""


class Unreadable(Undecided):
    """The artifact could not be read: no network, no permission, truncated, wrong hash."""


class RegistryFailed(Unreadable):
    """A server gave no answer, or an error. What was being published is not there yet."""


class AccessDenied(RegistryFailed):
    """A registry wants other credentials, or lets these not do it."""


class NotInRegistry(RegistryFailed):
    """A registry answered, and has no such manifest, blob or repository."""


class TagRefused(RegistryFailed):
    """A registry has the image, and does not let a tag lead to it: an immutable one, often.

    `tag` is the tag, `digest` that of the image.
    """

    def __init__(self, problem: str, *, next_step: str, tag: str = "", digest: str = "") -> None:
        super().__init__(problem, next_step=next_step)
        self.tag = tag
        self.digest = digest


class Unwritable(Undecided):
    """A file could not be written: no permission, no space. The old one is whole."""


class ProofFailed(Undecided):
    """The patched file did not pass the checks that guard every write. Nothing was written."""


class BrokenCatalogue(Undecided):
    """A file in patches/ that cannot be loaded."""


class BrokenLock(Undecided):
    """images.lock does not hold what its format promises; names the line."""


class WrongVersion(Undecided):
    """The image holds another vLLM than the one that was asked for."""


class WrongPlatform(Undecided):
    """The image is not there for the platform that was asked for."""


class BrokenImage(Undecided):
    """An image whose parts contradict each other: digest, size, diff_id, tar entry."""


class NoDaemon(Undecided):
    """No Docker daemon answers."""


class DaemonFailed(Undecided):
    """The Docker daemon answered with an error: pull, build, push, missing image."""
