"""A command's whole answer as one JSON document, of one schema version for all commands."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.errors import PatcherError
from patcher.rules.verdict import Verdict
from patcher.text import printable

if TYPE_CHECKING:
    from patcher.oci.installation import Copy

SCHEMA = 2


def as_json(command: str, **content: Any) -> Document:
    """A command's whole output as one JSON document."""
    document = {"schema": SCHEMA, "command": command, **content}
    text = json.dumps(document, default=_plain, indent=2, ensure_ascii=True)
    # The same text to a JSON parser, and no command to a CI runner: see `printable`.
    return Document(text.replace("##", r"#\u0023"))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Verdict):
        return verdict_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data, with its places counted."""
    return {
        "patch": verdict.patch,
        "artifact": verdict.artifact,
        **judged_json(verdict),
        "outside": verdict.outside,
    }


def judged_json(verdict: Verdict) -> dict[str, Any]:
    """What was found, and where, as plain data; not of which patch and artifact."""
    return {
        "status": verdict.status,
        "needed": verdict.needed,
        "clean": verdict.clean,
        "places": verdict.places,
        "reason": verdict.reason,
        "files": verdict.files,
    }


def copy_json(source: str, copy: Copy) -> dict[str, Any]:
    """A vLLM of an image as plain data: which it is, and why."""
    why = copy.problem or copy.why
    return {"source": source, "root": copy.root, "state": copy.state, "why": why}


def error_json(error: PatcherError, arguments: Sequence[str]) -> Document:
    """An error as a JSON document, for a caller that asked for JSON; and what was called."""
    said = {
        "kind": type(error).__name__,
        "problem": error.problem,
        "next_step": error.next_step,
        "base": error.base,
    }
    called = [printable(each) for each in arguments]
    return as_json("error", error=said, arguments=called, exit=int(error.exit_code))
