"""Most patches change one file: its verdict, and what becomes of it, as bytes."""

from __future__ import annotations

from patcher.rules.apply import apply_files
from patcher.rules.patch import Patch
from patcher.rules.verdict import Verdict, judge_files


def judge_bytes(patch: Patch, data: bytes, artifact: str = "") -> Verdict:
    return judge_files(patch, {patch.target: data}, artifact)


def apply(patch: Patch, data: bytes) -> bytes:
    """The patched bytes; the same ones where the file is clean."""
    made = apply_files(patch, {patch.target: data})
    return made[patch.target].data if made else data
