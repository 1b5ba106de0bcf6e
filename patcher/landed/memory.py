"""Verdicts kept by content: what a wheel with a known digest says of a patch never changes.

What was judged absent is kept, what is unknown is not: that may be better tomorrow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher import __version__, rules
from patcher.landed import Notice
from patcher.rules.catalogue import Patch, Status, Verdict
from patcher.rules.guard.rule import Read

if TYPE_CHECKING:
    from patcher.cache import Cache

# Whoever changes the form of an entry raises it.
_FORM = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """The verdicts of one survey's kind: with the notices from other files, or without."""

    cache: Cache
    everywhere: bool

    def recall(
        self, digest: str, patch: Patch, artifact: str
    ) -> tuple[Verdict, tuple[Notice, ...]] | None:
        """What is known of a wheel by its sha256; None for nothing."""
        data = self.cache.load(self._key(digest, patch))
        if data is None:
            return None
        known: dict[str, Any] = json.loads(data)
        verdict = Verdict(
            patch.name,
            artifact,
            Status(known["status"]),
            tuple(Read(*each) for each in known["reads"]),
            sha256=known["sha256"],
        )
        return verdict, tuple(Notice(*each) for each in known["elsewhere"])

    def keep(
        self, digest: str, patch: Patch, verdict: Verdict, elsewhere: tuple[Notice, ...]
    ) -> None:
        """Remember a verdict, unless it is unknown."""
        if verdict.status is Status.UNKNOWN:
            return
        known = {
            "status": verdict.status.value,
            "reads": [dataclasses.astuple(read) for read in verdict.reads],
            "sha256": verdict.sha256,
            "elsewhere": [dataclasses.astuple(notice) for notice in elsewhere],
        }
        self.cache.save(self._key(digest, patch), json.dumps(known).encode())

    def _key(self, digest: str, patch: Patch) -> bytes:
        """All that a verdict depends on. Python is in it: it parses, and places what it parsed."""
        return json.dumps(
            [
                _FORM,
                digest,
                [patch.name, patch.version, patch.target, dataclasses.astuple(patch.rule)],
                [self.everywhere, _verifier(), sys.version_info[:2]],
            ]
        ).encode()


@functools.cache
def _verifier() -> str:
    """Which verifier judged: the program's version, and the rules' own source."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(rules.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
