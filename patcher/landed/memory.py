"""Verdicts kept by content: what a wheel with a known digest says of a patch never changes.

What was judged absent is kept, and what is unknown where the patch claims nothing; any other
unknown is not: that may be better tomorrow.
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
from patcher.rules.patch import Patch
from patcher.rules.rule import Place
from patcher.rules.verdict import Judged, Status, Verdict
from patcher.sources.everywhere import Notice

if TYPE_CHECKING:
    from patcher.cache import Cache

# Whoever changes the form of an entry raises it.
_FORM = 3


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
            tuple(Place(*each) for each in known["places"]),
            known["reason"],
            tuple(Judged(*each) for each in known["files"]),
            patch.rule.words,
            known["outside"],
        )
        return verdict, tuple(Notice(*each) for each in known["elsewhere"])

    def keep(
        self, digest: str, patch: Patch, verdict: Verdict, elsewhere: tuple[Notice, ...]
    ) -> None:
        """Remember a verdict, unless it may be another one tomorrow."""
        if verdict.status is Status.UNKNOWN and not verdict.without_claim:
            return
        known = {
            "status": verdict.status.value,
            "places": [dataclasses.astuple(place) for place in verdict.places],
            "reason": verdict.reason,
            "outside": verdict.outside,
            "files": [dataclasses.astuple(file) for file in verdict.files],
            "elsewhere": [dataclasses.astuple(notice) for notice in elsewhere],
        }
        self.cache.save(self._key(digest, patch), json.dumps(known).encode())

    def _key(self, digest: str, patch: Patch) -> bytes:
        """All that a verdict depends on. Python is in it: it parses, and places what it parsed."""
        kind = type(patch.rule)
        # The fields that make the rule what it is; its way to upstream's artifacts is not one.
        fields = [each for each in dataclasses.fields(patch.rule) if each.compare]
        said = {each.name: getattr(patch.rule, each.name) for each in fields}
        return json.dumps(
            [
                _FORM,
                digest,
                [patch.name, patch.version, patch.targets, patch.affected],
                [f"{kind.__module__}.{kind.__qualname__}", _source_of(kind), repr(said)],
                [self.everywhere, _program(), sys.version_info[:2]],
            ]
        ).encode()


@functools.cache
def _source_of(kind: type) -> str:
    """A digest of the files that a rule's class and its bases are written in."""
    digest = hashlib.sha256()
    for each in kind.__mro__:
        file = getattr(sys.modules.get(each.__module__), "__file__", None)
        if file is not None:
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()


@functools.cache
def _program() -> str:
    """Which program judged: its version, and the source of its rules."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(rules.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
