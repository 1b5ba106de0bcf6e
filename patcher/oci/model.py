"""Descriptors, manifests, indexes and configs: OCI's (image-spec 1.0, 1.1) and docker's (schema 2).

They are read into types, and what was written stays beside them: what has no field here
(a base's annotations, its health check) must survive in the image that is built on it. All JSON
here comes from a registry or a disk: whatever is wrong with it is one `BrokenImage`.
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

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_LAYERS = frozenset(
    {OCI_LAYER, OCI_LAYER_GZIP, f"{OCI_LAYER}+zstd"}
    | {DOCKER_LAYER, DOCKER_LAYER_GZIP, f"{DOCKER_LAYER}.zstd"}
)

# Docker runs no image of more than 127 layers. An index has one manifest for each platform, that of
# a layout one for each name.
_MOST_LAYERS = 1000
_MOST_MANIFESTS = 10_000

REF_NAME = "org.opencontainers.image.ref.name"

# buildx marks what vouches for another manifest of the index with this annotation.
_REFERENCE_TYPE = "vnd.docker.reference.type"


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
    """The error for an image that is not in order, with the one thing that a user can do."""
    return BrokenImage(
        problem, next_step="Fetch the image again; if it stays, only its publisher can mend it."
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: a config, and layers from the bottom up."""

    document: Json
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several images under one name. `images` leaves attestations out: they vouch for digests
    that an image built on these no longer has.
    """

    document: Json
    media_type: str
    images: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What an image runs with. `diff_ids` are the digests of its layers' tars, uncompressed.

    `history` fits the layers, or is empty: see `_history`.
    """

    document: Json
    platform: Platform
    labels: dict[str, str]
    diff_ids: tuple[str, ...]
    history: tuple[Json, ...]


def parse_manifest(data: bytes, media_type: str) -> Manifest:
    """A manifest of this media type. Raises `BrokenImage`, also for foreign layers."""
    document = _parse(data, media_type, "manifest", MANIFESTS, alien="manifests")
    config = read_descriptor(document.get("config"), "manifest: config")
    if config.media_type not in _CONFIGS:
        raise broken(f"manifest: {config.media_type!r} is not a container image's config")
    entries = expect(document.get("layers"), list, "manifest: layers")
    if len(entries) > _MOST_LAYERS:
        raise broken(f"manifest: {len(entries)} layers")
    layers = tuple(
        read_descriptor(entry, f"manifest: layer {number}") for number, entry in enumerate(entries)
    )
    for number, layer in enumerate(layers):
        if layer.media_type not in _LAYERS or layer.document.get("urls"):
            # Foreign layers are kept at some other address and may not be passed on.
            raise broken(f"manifest: layer {number} is foreign or unknown: {layer.media_type!r}")
    return Manifest(document, media_type, config, layers)


def parse_index(data: bytes, media_type: str) -> Index:
    """An index of this media type. Raises `BrokenImage`."""
    document = _parse(data, media_type, "index", INDEXES, alien="layers")
    entries = expect(document.get("manifests"), list, "index: manifests")
    if len(entries) > _MOST_MANIFESTS:
        raise broken(f"index: {len(entries)} manifests")
    every = [
        read_descriptor(entry, f"index: manifest {number}") for number, entry in enumerate(entries)
    ]
    return Index(document, media_type, tuple(entry for entry in every if _is_image(entry)))


def _is_image(entry: Descriptor) -> bool:
    attests = _REFERENCE_TYPE in entry.annotations or "artifactType" in entry.document
    unknown = entry.platform is not None and entry.platform.os == "unknown"
    return not attests and not unknown


def _parse(
    data: bytes, media_type: str, what: str, known: frozenset[str], alien: str
) -> dict[str, object]:
    """The document, which must be what its descriptor says it is, and nothing else besides.

    A document that is both a manifest and an index is two images for two readers
    (CVE-2021-41190).
    """
    document = parse_json(data, what)
    if media_type not in known:
        raise broken(f"{media_type!r} is not the media type of a {what}")
    if document.get("mediaType", media_type) != media_type:
        raise broken(f"{what}: {document['mediaType']!r} inside, {media_type!r} outside")
    if expect(document.get("schemaVersion"), int, f"{what}: schemaVersion") != 2:
        raise broken(f"{what}: schemaVersion {document['schemaVersion']}, not 2")
    if alien in document:
        raise broken(f"{what}: it has {alien} as well")
    texts(document.get("annotations"), f"{what}: annotations")
    return document


def parse_config(data: bytes) -> Config:
    """An image's config. Raises `BrokenImage`."""
    document = parse_json(data, "config")
    rootfs = expect(document.get("rootfs"), dict, "config: rootfs")
    diff_ids = tuple(
        _digest(value) for value in expect(rootfs.get("diff_ids"), list, "config: diff_ids")
    )
    run = expect(document.get("config") or {}, dict, "config: config")
    return Config(
        document,
        read_platform(document, "config"),
        texts(run.get("Labels"), "config: Labels"),
        diff_ids,
        _history(document.get("history"), len(diff_ids)),
    )


def _history(value: object, layers: int) -> tuple[Json, ...]:
    """The steps that fit the layers: missing ones are added; none where there are too many.

    It is for people, and runtimes run an image whatever it says; but what is built here has one
    that fits, or none: docker refuses to load another.
    """
    steps = value if isinstance(value, list) else []
    if not all(isinstance(step, dict) for step in steps):
        return ()
    lacking = layers - sum(not step.get("empty_layer", False) for step in steps)
    if not steps or lacking < 0:
        return ()
    return (*steps, *[{"created_by": "not told by the base"}] * lacking)


def _digest(value: object) -> str:
    try:
        return parse_digest(expect(value, str, "config: diff_id"))
    except BadReference as error:
        raise broken(f"config: diff_ids: {error.problem}") from error


def digest_of(data: bytes) -> str:
    """The digest that a descriptor gives for these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def part(data: bytes, media_type: str) -> Part:
    """A new blob with its descriptor."""
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
    """The value, which must be exactly of this type: JSON's true is not a number."""
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
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_number(text)
    return number
