"""The catalogue: every patch in `patches/`, and those that a user brings.

Adding a patch is adding a file that binds a `PATCH`. The catalogue is read from the checkout's
`patches/`, or from the copy inside an installed wheel, and from folders and files of the user's
own. Loading a patch runs its file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import BrokenCatalogue, UnknownPatch
from patcher.files import data_path, is_folder, is_there, read_file
from patcher.rules.fault import MODULES, NAME, SEAM, cannot_load, fault
from patcher.rules.patch import Patch
from patcher.rules.rule import NeedsUpstream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from patcher.rules.rule import Upstream

# Folders with patches of one's own, beside the program's; several are separated as in PATH.
PATCHES_VARIABLE = "VLLM_PATCHER_PATCHES"

# The catalogue's largest has 5 KB; a draft may hold a diff.
_MOST_PATCH = 4 << 20


def load_patch(path: Path) -> Patch:
    """The PATCH that a file binds. Runs the file. Raises `BrokenCatalogue`."""
    try:
        data = read_file(path, _MOST_PATCH)
    except OSError as error:
        raise BrokenCatalogue(
            f"{path} cannot be read: {error.strerror}",
            next_step="Name the file of a patch; a folder of them goes with --patches.",
        ) from error
    # Two files of one name, in two folders, are two modules.
    unlike = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:12]
    name = f"{MODULES}{path.stem}_{unlike}"
    if path.suffix != ".py":
        raise BrokenCatalogue(f"{path} is not a Python file", next_step="Name it *.py.")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # a dataclass looks its own module up
    try:
        # These bytes, and no __pycache__: it takes a file that is saved again within a second, in
        # the same size, for the old one. Eight patches compile in 5 ms.
        exec(compile(data, path, "exec", dont_inherit=True), vars(module))  # noqa: S102  # nosec B102
        patch = getattr(module, "PATCH", None)
        wrong = fault(patch) if isinstance(patch, Patch) else None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it may well call sys.exit
        raise cannot_load(path, error) from error
    if not isinstance(patch, Patch):
        raise BrokenCatalogue(
            f"{path} binds no PATCH", next_step="Bind PATCH = Patch(...) at the file's top level."
        )
    if wrong:
        raise BrokenCatalogue(f"{path}: {wrong}", next_step=SEAM)
    if path.parent != data_path("patches"):  # those have tests, and what reads a claim comes slowly
        _check_claim(path, patch)
    return dataclasses.replace(patch, sha256=hashlib.sha256(data).hexdigest())


def _check_claim(path: Path, patch: Patch) -> None:
    from patcher.rules.affected import specifiers

    try:
        specifiers(patch)
    except BrokenCatalogue as error:
        raise error.at(str(path)) from error


def catalogue(folders: Iterable[Path] = ()) -> tuple[Patch, ...]:
    """Every patch in patches/, in the folders that the environment names, and in these, by name.

    Raises `BrokenCatalogue`, also for a name that is used twice.
    """
    own = os.environ.get(PATCHES_VARIABLE, "")
    named = (Path(each) for each in own.split(os.pathsep) if each)
    return _load((data_path("patches"), *dict.fromkeys([*named, *folders])))


@functools.cache
def _load(folders: tuple[Path, ...]) -> tuple[Patch, ...]:
    known: dict[str, tuple[Path, Patch]] = {}
    for folder in folders:
        for path in _files(folder):
            _add(known, path)
    return tuple(known[name][1] for name in sorted(known))


def _files(folder: Path) -> list[Path]:
    """The patches' files in a folder, sorted."""
    next_step = f"Check --patches and {PATCHES_VARIABLE}."
    if not is_folder(folder):
        raise BrokenCatalogue(f"{folder} is not a folder", next_step=next_step)
    try:  # glob finds nothing where it may not look
        found = sorted(folder.iterdir())
    except OSError as error:
        raise BrokenCatalogue(
            f"{folder} cannot be read: {error.strerror}", next_step=next_step
        ) from error
    return [path for path in found if path.suffix == ".py" and not path.name.startswith("_")]


def _add(known: dict[str, tuple[Path, Patch]], path: Path) -> Patch:
    patch = load_patch(path)
    if patch.name in known:
        raise BrokenCatalogue(
            f"{path} and {known[patch.name][0]} both name their patch {patch.name!r}",
            next_step="Rename one.",
        )
    known[patch.name] = path, patch
    return patch


def _near(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = " or ".join(get_close_matches(name, sorted(known)))
    return f"Did you mean {near}? " if near else ""


def select(
    names: Iterable[str], upstream: Upstream | None = None, folders: Iterable[Path] = ()
) -> tuple[Patch, ...]:
    """The named patches, in the catalogue's order: by name; all of them where none is named.

    A name is that of a patch in the catalogue or in one of the `folders`, or the path of a patch's
    file. `upstream` is handed to the rules that read vLLM's own artifacts. Raises `UnknownPatch`,
    `BrokenCatalogue`.
    """
    wanted = tuple(dict.fromkeys(names))
    known = {patch.name: patch for patch in catalogue(folders)}
    chosen = {} if wanted else dict(known)
    for name in wanted:
        patch = _load_file(name) if is_file(name) else known.get(name)
        if patch is None:
            raise UnknownPatch(
                f"no patch is named {name!r}",
                next_step=f"{_near(name, known)}Known: {', '.join(sorted(known))}; or name a file: "
                "./mine.py.",
            )
        if is_file(name) and patch.name in {*known, *chosen}:
            raise BrokenCatalogue(
                f"{name} names its patch {patch.name!r}, as another does", next_step="Rename one."
            )
        chosen[patch.name] = patch
    return tuple(_with(chosen[name], upstream) for name in sorted(chosen))


def is_file(name: str) -> bool:
    """Whether what a person typed for a patch is the path of its file."""
    return NAME.fullmatch(name) is None


def _load_file(name: str) -> Patch:
    path = Path(name)
    if not is_there(path):
        raise UnknownPatch(f"there is no file {path}", next_step="Check the path.")
    return load_patch(path)


def _with(patch: Patch, upstream: Upstream | None) -> Patch:
    if upstream is not None and isinstance(patch.rule, NeedsUpstream):
        return dataclasses.replace(patch, rule=patch.rule.with_upstream(upstream))
    return patch
