"""What is wrong with a patch that somebody wrote: fields may hold anything, a rule do anything.

A patch file is run, so this protects nobody from it. It is for its author: one error that names the
file and the line, where Python would go on with a wrong value or end in a traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.errors import BrokenCatalogue, PatcherError
from patcher.rules.rule import METHODS, Found, Place, Rewritten, Words

if TYPE_CHECKING:
    from patcher.rules.rule import Files

SEAM = "patcher/rules/rule.py says what a rule offers."

# It is in labels, whose parts dots and commas separate, and is told from a file by its form.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

# The catalogue's patches have one file or two; Linux has no longer path.
_MOST_TARGETS = 100
_MOST_PATH = 4096


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_references(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and _is_number(each[0]) and _is_text(each[1])
        for each in value
    )


def _are_examples(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        _is_text(getattr(each, side, None)) for each in value for side in ("before", "after")
    )


_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("version", _is_number, "a number from 1 on"),
    ("title", _is_text, "a text"),
    ("why", _is_text, "a text"),
    ("targets", lambda value: _are_texts(value) and len(value) > 0, "a tuple of paths"),
    ("upstream", _are_references, 'a tuple of pairs, as ((43888, "issue: what it says"),)'),
    ("affected", _are_texts, 'a tuple of texts, as (">=0.25.0,<0.27.0",)'),
    ("valid", _are_texts, "a tuple of sources"),
    ("invalid", _are_examples, "a tuple of Examples"),
    ("smoke", _are_texts, "a tuple of names"),
)


def fault(patch: Any) -> str | None:
    """What is wrong with a patch's fields, in words; None for nothing."""
    if not (_is_text(patch.name) and NAME.fullmatch(patch.name)):
        return f"the name {patch.name!r} is not of letters, digits, - and _"
    for field, is_right, what in _FIELDS:
        if not is_right(getattr(patch, field)):
            return f"{field} of {patch.name} is not {what}"
    return _in_targets(patch.name, patch.targets) or _in_rule(patch.name, patch.rule)


def _in_targets(name: str, targets: tuple[str, ...]) -> str | None:
    if outside := next((each for each in targets if not _is_below(each)), None):
        return f"{outside!r}, a target of {name}, is not a path under site-packages"
    if len(set(targets)) < len(targets):
        return f"a target of {name} is named twice"
    return f"{name} has {len(targets)} targets" if len(targets) > _MOST_TARGETS else None


def _is_below(target: str) -> bool:
    parts = target.split("/")
    is_path = target.isprintable() and "\\" not in target and len(target) <= _MOST_PATH
    return is_path and len(parts) > 1 and not {"", ".", ".."} & set(parts)


def _in_rule(name: str, rule: Any) -> str | None:
    """What is wrong with a patch's rule, in words; None for nothing."""
    kind = type(rule).__qualname__
    if isinstance(rule, type):
        return f"the rule of {name} is a class, {rule.__qualname__}, and not one made of it"
    lacking = [each for each in METHODS if not callable(getattr(rule, each, None))]
    words: Any = getattr(rule, "words", None)
    lacking += [] if isinstance(words, Words) else ["words"]
    if lacking:
        return f"the rule of {name}, {kind}, is not a rule: it lacks {', '.join(lacking)}"
    if not _are_texts(dataclasses.astuple(words)):
        return f"the words of {name}'s rule, {kind}, are not all texts"
    if not dataclasses.is_dataclass(rule) or not _hashes(rule):
        return f"the rule of {name}, {kind}, is not a frozen dataclass"
    return None


def _hashes(rule: object) -> bool:
    try:
        hash(rule)
    except TypeError:
        return False
    return True


# `load_patch` names the modules of patch files so.
MODULES = "patches."


def cannot_load(path: Path, error: BaseException) -> BrokenCatalogue:
    """The error for a patch file that raised this while it was run."""
    place = _where(error)
    line = error.lineno if isinstance(error, SyntaxError) and not place else place and place[1]
    return BrokenCatalogue(
        f"{path}{f':{line}' if line else ''}: cannot be loaded: {_message(error)}",
        next_step="Mend the file; docs/writing-a-patch.md shows how one is made.",
    )


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Say of a patch what a rule in its file raises and no rule may.

    Raises `BrokenCatalogue`. What the seam allows (`PatcherError`), an interrupt and an error of
    the program's own rules go through.
    """
    try:
        yield
    except (PatcherError, KeyboardInterrupt):
        raise
    except BaseException as error:
        place = _where(error)
        if place is None:
            raise
        raise BrokenCatalogue(
            f"{place[0]}:{place[1]}: the rule of {name} failed: {_message(error)}",
            next_step="Mend the file.",
        ) from error


def _where(error: BaseException) -> tuple[str, int] | None:
    """The patch file and line that an error came from; None where it came from none."""
    place = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(MODULES):
            place = (frame.f_code.co_filename, number)
    return place


def _message(error: BaseException) -> str:
    # Its text is the file's too, and may fail.
    try:
        return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    except Exception:
        return type(error).__name__


def as_found(name: str, found: object, files: Files) -> Found:
    """What a rule's `find` gave, if it is what a rule gives. Raises `BrokenCatalogue`."""
    if isinstance(found, Found) and all(
        isinstance(each, Place) and each.target in files for each in found.places
    ):
        return found
    raise _not_given(name, "find", "Found, whose places are in the targets")


def as_rewritten(name: str, made: object, files: Files) -> Mapping[str, Rewritten]:
    """What a rule's `rewrite` gave, if it is that. Raises `BrokenCatalogue`."""
    if isinstance(made, Mapping) and all(
        target in files and isinstance(each, Rewritten) and isinstance(each.data, bytes)
        for target, each in made.items()
    ):
        return made
    raise _not_given(name, "rewrite", "Rewritten for targets")


def _not_given(name: str, method: str, what: str) -> BrokenCatalogue:
    return BrokenCatalogue(f"{method} of the rule of {name} does not give {what}", next_step=SEAM)
