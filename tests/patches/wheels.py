"""The catalogue's patches on files out of real wheels, and functions of theirs made to run."""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from patcher.errors import FileAbsent
from patcher.rules.apply import apply_files
from patcher.rules.catalogue import select
from patcher.rules.patch import Patch

ReleaseFile = Callable[..., bytes]


@dataclass(frozen=True)
class Upstream:
    """vLLM's releases as the tests' fixture has them."""

    release_file: ReleaseFile

    def read(self, version: str, target: str) -> bytes:
        return self.release_file(version, target)


def patch_named(name: str, release_file: ReleaseFile) -> Patch:
    return select([name], Upstream(release_file))[0]


def files_of(patch: Patch, version: str, release_file: ReleaseFile) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for target in patch.targets:
        try:
            found[target] = release_file(version, target)
        except FileAbsent:
            found[target] = None
    return found


def patched(patch: Patch, files: dict[str, bytes | None]) -> dict[str, bytes]:
    return dict(_patched(patch, tuple(files.items())))


@functools.cache
def _patched(patch: Patch, files: tuple[tuple[str, bytes | None], ...]) -> dict[str, bytes]:
    done = apply_files(patch, dict(files))
    return {
        target: done[target].data if target in done else data
        for target, data in files
        if data is not None
    }


@functools.lru_cache(maxsize=2)
def _tree(data: bytes) -> ast.Module:
    """A file's syntax tree; several functions of one file are taken in turn."""
    return ast.parse(data)


@functools.cache
def source_of(data: bytes, name: str) -> str:
    """A function's source, out of its class, without decorators."""
    node: Any = _tree(data)
    for part in name.split("."):
        node = next(each for each in node.body if getattr(each, "name", "") == part)
    lines = data.decode().splitlines(keepends=True)
    return textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))


@functools.cache
def _code(data: bytes, name: str) -> CodeType:
    code = "from __future__ import annotations\n" + source_of(data, name)
    return compile(code, name, "exec")


def run(data: bytes, name: str, **world: object) -> Any:
    """A function out of a file, its module's names given by `world`."""
    exec(_code(data, name), world)
    return world[name.rpartition(".")[2]]
