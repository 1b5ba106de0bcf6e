"""Places that a patch's rule is about, in files that the patch does not name.

What is absent from a target may be elsewhere in vLLM: its code is copied into new models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patcher.errors import NotPython
from patcher.files import unreadable
from patcher.oci.rootfs.installed import PACKAGE, is_about_vllm
from patcher.rules.rule import SearchesElsewhere
from patcher.rules.source import MOST_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.installation import Installation
    from patcher.rules.patch import Patch

# Where copies of the target's code turned up so far. In a wheel, where every byte crosses the
# network, only these folders are read, each in one request: 1.2 MB of vLLM 0.15.0, 4.1 MB of
# 0.33.0. All Python files would be 4 to 12 MB, in a hundred places.
FOLDERS = ("vllm/model_executor/models", "vllm/models")


@dataclass(frozen=True, slots=True)
class Notice:
    """A place that a patch's rule is about, in a file that is not one of the patch's targets.

    `path` is under site-packages, `line` counts from 1, `text` shows the place; for a file that
    is worth a look and cannot be judged, the reason.
    """

    path: str
    line: int
    text: str
    needed: bool


def notices(files: Iterable[tuple[str, bytes]], patch: Patch) -> tuple[Notice, ...]:
    """What the files (path and bytes) other than the targets hold, in their order.

    Nothing for a rule that has no business in other files.
    """
    rule = patch.rule
    if not isinstance(rule, SearchesElsewhere):
        return ()
    return tuple(
        notice
        for path, data in files
        if path not in patch.targets and rule.mention in data
        for notice in _of_file(path, data, patch)
    )


def searched_for(patches: Iterable[Patch]) -> list[bytes]:
    """What an image's layers are searched for, so that `in_image` finds what there is to judge."""
    rules = (patch.rule for patch in patches)
    return sorted({rule.mention for rule in rules if isinstance(rule, SearchesElsewhere)})


def in_image(found: Installation, patch: Patch, *, whole: bool) -> tuple[Notice, ...]:
    """What else in an image has the rule's places: plugins that carry their own copy of vLLM's
    code, and with `whole` the other files of vLLM itself. `found` must have been asked for what
    is `searched_for`. Of what has nothing to do with vLLM, nothing.
    """
    judged = {file.path for each in found.all for file in each.files.values()}
    own = tuple(f"{copy.root}/{PACKAGE}/" for copy in found.copies)
    files = (
        (path, file.data)
        for path, file in found.mentions.items()
        if path not in judged and (whole or not path.startswith(own))
    )
    return notices((file for file in files if is_about_vllm(*file)), patch)


def everywhere(root: Path, patch: Patch) -> tuple[Notice, ...]:
    """What vLLM below `root`, the folder that holds `vllm/`, has elsewhere, and the packages
    beside it that are plugins of vLLM.

    Links to folders are not followed. Raises `Unreadable`.
    """
    return notices((file for file in _tree(root) if is_about_vllm(*file)), patch)


def _of_file(path: str, data: bytes, patch: Patch) -> Iterator[Notice]:
    try:
        found = patch.rule.find({path: data})
    except NotPython as error:
        # It is worth a look: to pass over it would be to call it clean.
        yield Notice(path, 1, error.problem, needed=True)
        return
    for place in found.places:
        yield Notice(path, place.line, place.text, place.needed)


def _tree(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every Python file of the package and of those beside it, by path."""
    try:
        # Since rglob follows no links to folders from 3.13 on, and does so in 3.11 with `**`, the
        # real folder of each file tells.
        for path in sorted(root.rglob("*.py")):
            if path.is_file() and path.parent.resolve().is_relative_to(root.resolve()):
                if path.stat().st_size > MOST_BYTES:
                    raise unreadable(path, f"it has more than {MOST_BYTES >> 20} MiB")
                yield path.relative_to(root).as_posix(), path.read_bytes()
    except OSError as error:
        raise unreadable(root, error) from error
