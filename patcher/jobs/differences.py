"""Where what a proof says differs from what the image is: two JSON documents, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What one side does not have at all; JSON's null is a value.
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """What the proof says, and what the image's content is; None where one of them has nothing."""

    where: str
    said: str | None
    found: str | None


def differences(said: object, found: object, where: str) -> Iterator[Difference]:
    """Where two JSON documents differ, by the path of the field."""
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*found, *said]):
            sides = (said.get(key, _NOTHING), found.get(key, _NOTHING))
            yield from differences(*sides, f"{where}.{key}".lstrip("."))
    elif isinstance(said, list) and isinstance(found, list):
        left, right = (_labelled(each) for each in (said, found))
        for label in dict.fromkeys([*right, *left]):
            sides = (left.get(label, _NOTHING), right.get(label, _NOTHING))
            yield from differences(*sides, f"{where}[{label}]")
    elif type(said) is not type(found) or said != found:  # JSON's true is not a number
        yield Difference(where, _shown(said), _shown(found))


def _labelled(values: list[Any]) -> dict[str, Any]:
    """A list's entries by what tells them apart: their platform, patch and path, or number."""
    labelled: dict[str, Any] = {}
    for number, value in enumerate(values):
        keys = (
            ("platform",) if isinstance(value, dict) and "platform" in value else ("patch", "path")
        )
        known = value if isinstance(value, dict) else {}
        parts = [_text(value[key]) for key in keys if key in known]
        label = " ".join(parts) or str(number)
        labelled[label if label not in labelled else f"{label} {number}"] = value
    return labelled


def _shown(value: object) -> str | None:
    if value is _NOTHING:
        return None
    return _text(value)


def _text(value: object) -> str:
    try:
        return value if isinstance(value, str) else str(value)
    except RecursionError:  # JSON may nest as deep as Python reads it
        return "something that nests too deep"
