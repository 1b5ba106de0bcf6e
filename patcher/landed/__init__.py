"""Is upstream's fix in: judged from the content of each artifact.

    survey (reads artifacts) -> Finding -> timeline -> claims -> patcher.report
    history (reads a clone)  -> Step    ----------------------------^

The data that cross from reading to answering are below. A survey raises only where nothing at all
can be read (the index itself: `Unreadable`; a wrong SOURCE: `BadSource`). Whatever goes wrong with
one artifact is a Finding whose verdict is UNKNOWN, with the reason; a yanked release is one of
these. The findings come in version order (PEP 440), those without a version last, in the order
they were named; for one artifact, in the order of the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from packaging.version import Version

    from patcher.rules.verdict import Verdict
    from patcher.sources.everywhere import Notice
    from patcher.web.http import HttpSettings


@dataclass(frozen=True, slots=True)
class Finding:
    """What one artifact says about one patch (`verdict.patch` names it).

    `artifact` is what a person would type to name it (`pypi:0.23.0`, an address, a path) and may
    hold any third-party text. `version` is None where the artifact states none. `elsewhere` is
    empty where it was not looked for. `uploaded` is the index's upload time (PEP 700), in UTC.
    """

    artifact: str
    version: Version | None
    verdict: Verdict
    elsewhere: tuple[Notice, ...] = ()
    uploaded: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Which artifacts a survey reads.

    `releases`: read an index; `index` is its address (PEP 503, PEP 691), None for PyPI. `since`
    and `until` are inclusive and bound the index's versions only; `pre` lets its pre-releases and
    nightlies in. `wheels` are addresses. `images`: every entry of the lock that can be reached.
    `sources` are what `verify` takes. `lock` is the lock file. `cached`: use the verdict cache.
    `everywhere`: look for notices too, in all of a tree, and in one folder of a wheel.
    `settings` are how to reach servers.
    """

    releases: bool = True
    index: str | None = None
    since: Version | None = None
    until: Version | None = None
    pre: bool = False
    wheels: tuple[str, ...] = ()
    images: bool = False
    sources: tuple[str, ...] = ()
    lock: Path | None = None
    cached: bool = True
    everywhere: bool = False
    settings: HttpSettings | None = None
