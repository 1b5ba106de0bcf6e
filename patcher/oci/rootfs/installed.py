"""What an installed vLLM says of itself, and which bytecode can run in a file's place.

Pure functions over bytes and names: both engines ask them, each with its own way of reading.
"""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from patcher.errors import BrokenImage
from patcher.syntax import parse_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = "vllm"

# The names of a folder of installed packages; the second is Debian's.
SITES = ("site-packages", "dist-packages")

VERSION_FILE = "vllm/_version.py"
"""Where setuptools-scm writes vLLM's version, under site-packages."""

# The real one has under 1 KB. A hostile one must not reach the parser at any size.
_MOST_BYTES = 64 * 1024

# PyPI takes no longer one.
_MOST_VERSION = 128

_COMMIT = re.compile(r"g?([0-9a-f]{7,64})")


def module_parts(target: str) -> list[str]:
    """The names of a Python file under the package, the last without its suffix."""
    return target.removeprefix(f"{PACKAGE}/").removesuffix(".py").split("/")


def parse_version(data: bytes) -> tuple[str, str | None]:
    """Read vLLM's version (PEP 440, as written) and git commit (hex, no `g`) from VERSION_FILE.

    The commit is `commit_id`, or else the `g...` part of the version's local segment; None where
    neither is there. Raises `BrokenImage` where the file states no version.
    """
    from packaging.version import InvalidVersion, Version

    stated = dict(_strings(data))
    version = stated.get("__version__", stated.get("version"))
    if version is None:
        _refuse("it assigns no version")
    try:
        # Python refuses to convert a number of thousands of digits.
        local = (Version(version).local or "") if len(version) <= _MOST_VERSION else None
    except InvalidVersion:
        local = None
    if local is None:
        _refuse(f"{version[:_MOST_VERSION]!r} is not a version")
    commit = stated.get("__commit_id__", stated.get("commit_id"))
    candidates = [commit] if commit else [part for part in local.split(".") if part[:1] == "g"]
    matches = (_COMMIT.fullmatch(candidate) for candidate in candidates)
    return version, next((match[1] for match in matches if match), None)


def bytecode_names(target: str, listing: Iterable[str]) -> tuple[str, ...]:
    """The names in `listing` that Python could run in place of `target` (PEP 3147, PEP 488).

    `listing` are the names in the `__pycache__` directory beside the target. Every cache tag and
    optimisation level counts: which Python the image starts is not known here.
    """
    stem = PurePosixPath(target).stem
    return tuple(
        sorted(name for name in listing if name.startswith(f"{stem}.") and name.endswith(".pyc"))
    )


def is_about_vllm(path: str, data: bytes) -> bool:
    """Whether a Python file may be a plugin's: other packages have models of the same names."""
    return b"vllm" in data or "vllm" in path


def _strings(data: bytes) -> Iterator[tuple[str, str]]:
    """Each name that the file's top level binds to a string literal, with the string."""
    if len(data) > _MOST_BYTES:
        _refuse(f"it has {len(data)} bytes")
    try:
        tree = parse_python(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _refuse(f"it is not Python: {error}")
    for node in tree.body:
        match node:
            case ast.Assign(targets=targets, value=ast.Constant(value=str(value))):
                yield from ((name.id, value) for name in targets if isinstance(name, ast.Name))


def _refuse(reason: str) -> NoReturn:
    raise BrokenImage(
        f"{VERSION_FILE} cannot tell vLLM's version: {reason}",
        next_step="Take an image whose vLLM was installed from a wheel.",
    )
