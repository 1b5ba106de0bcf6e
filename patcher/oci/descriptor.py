"""Descriptors, and JSON that others wrote read with care.

A descriptor (OCI image-spec, descriptor.md) names a blob by media type, digest and size. All
JSON here comes from a registry or a disk: whatever is wrong with it is one `BrokenImage`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from patcher.errors import BadReference, BrokenImage
from patcher.oci.reference import Platform, parse_digest

Json = Mapping[str, Any]
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob's media type, digest and size in bytes.

    `document` is the JSON object as it was written, with what has no field here.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Json = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """A blob that is ready to be written."""

    descriptor: Descriptor
    data: bytes


def broken(problem: str) -> BrokenImage:
    """The error of this floor, with the one thing that a user can do about it."""
    return BrokenImage(
        problem, next_step="Fetch the image again; if it stays, only its publisher can mend it."
    )


def digest_of(data: bytes) -> str:
    """The digest that a descriptor gives for these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def part(data: bytes, media_type: str) -> Part:
    """A blob of ours with its descriptor."""
    digest = digest_of(data)
    document = {"mediaType": media_type, "digest": digest, "size": len(data)}
    return Part(Descriptor(media_type, digest, len(data), document=document), data)


def read_descriptor(value: object, what: str) -> Descriptor:
    """The descriptor that a JSON value is. Raises `BrokenImage`, naming `what`."""
    document = expect(value, dict, what)
    digest = expect(document.get("digest"), str, f"{what}: digest")
    try:
        parse_digest(digest)
    except BadReference as error:
        raise broken(f"{what}: {error.problem}") from error
    size = expect(document.get("size"), int, f"{what}: size")
    if not 0 <= size < 2**63:
        raise broken(f"{what}: {size} bytes")
    return Descriptor(
        media_type=expect(document.get("mediaType"), str, f"{what}: mediaType"),
        digest=digest,
        size=size,
        platform=_platform(document.get("platform"), what),
        annotations=texts(document.get("annotations"), f"{what}: annotations"),
        document=document,
    )


def _platform(value: object, what: str) -> Platform | None:
    return None if value is None else read_platform(expect(value, dict, f"{what}: platform"), what)


def read_platform(document: Json, what: str) -> Platform:
    """The platform that an index's entry or an image's config states."""
    variant = document.get("variant")
    return Platform(
        expect(document.get("os"), str, f"{what}: os"),
        expect(document.get("architecture"), str, f"{what}: architecture"),
        None if variant is None else expect(variant, str, f"{what}: variant"),
    )


def expect(value: object, kind: type[_Kind], what: str) -> _Kind:
    """The value, which must be exactly of this type: JSON's true is no number."""
    if type(value) is not kind:
        raise broken(f"{what} is {_NAMES.get(type(value), 'odd')}, not {_NAMES[kind]}")
    return value


_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    type(None): "missing",
}


def texts(value: object, what: str) -> dict[str, str]:
    """A JSON object of texts: labels or annotations; none of them for null."""
    if value is None:
        return {}
    pairs = expect(value, dict, what).items()
    return {key: expect(text, str, f"{what}: {key}") for key, text in pairs}


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Keys given twice are refused: readers differ in which one they take."""
    try:
        value = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_refuse_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"{what} is not JSON: {error}") from error
    return expect(value, dict, what)


def dump_json(document: Json) -> bytes:
    """One form for one document, whatever the locale: compact, in the given order, ASCII."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is given twice")
    return document


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_number(text)
    return number
