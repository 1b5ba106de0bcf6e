"""Findings for the tests: from real files, and made up where a shape is what matters."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from packaging.version import Version

from patcher.landed import Finding
from patcher.rules.catalogue import select
from patcher.rules.rule import Place
from patcher.rules.verdict import Judged, Status, Verdict
from patcher.sources.everywhere import Notice
from tests.one_file import judge_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATCH = select(["kv-b-proj-dtype"])[0]

# The design's table: releases, unguarded and guarded reads.
TABLE = (
    (("0.15.0", "0.15.1", "0.16.0"), 1, 0),
    (("0.17.0", "0.17.1"), 3, 0),
    (("0.18.0", "0.18.1", "0.19.0", "0.19.1"), 0, 2),
    (("0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.0", "0.22.1", "0.23.0", "0.24.0"), 1, 2),
    (("0.25.0", "0.25.1", "0.26.0", "0.27.0", "0.27.1"), 1, 3),
    (("0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"), 0, 1),
)

# They share the verdicts on all releases, which take seconds.
all_releases = pytest.mark.xdist_group("releases")


@functools.cache
def real(release_file: Callable[..., bytes]) -> tuple[Finding, ...]:
    """A finding for each of the 28 releases, from its real file."""
    return tuple(
        Finding(name, Version(version), judge_bytes(PATCH, release_file(version), name))
        for versions, _, _ in TABLE
        for version in versions
        for name in [f"pypi:{version}"]
    )


def made(
    version: str | None,
    status: Status,
    *,
    places: Sequence[Place] | None = None,
    artifact: str | None = None,
    reason: str | None = None,
    elsewhere: tuple[Notice, ...] = (),
) -> Finding:
    """A finding with as many places as its status needs at least."""
    needed = {Status.NEEDED: (True,), Status.CLEAN: (False,)}.get(status, ())
    if places is None:
        places = [
            Place(PATCH.target, 7, 1, "f", "x.kv_b_proj.weight.dtype", each) for each in needed
        ]
    name = artifact or f"pypi:{version}"
    files = (Judged(PATCH.target, "0" * 64),) if needed else ()
    words = PATCH.rule.words
    verdict = Verdict(PATCH.name, name, status, tuple(places), reason, files, words)
    return Finding(name, Version(version) if version else None, verdict, elsewhere)


def story(text: str) -> list[Finding]:
    """Findings 0.1.0, 0.2.0, ... by letter: n needed, c clean, a absent, u unknown."""
    letters = {status.value[0]: status for status in Status}
    return [made(f"0.{at}.0", letters[letter]) for at, letter in enumerate(text, 1)]
