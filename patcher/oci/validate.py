"""Is a baked image what was declared? Read back from where it was written, and held against
the base and the change, in production, for every image.

It shares the reading of JSON with `append` and nothing of the building: a layer is judged by its
entries, a config by what differs from the base's.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from patcher.oci.blobs import Blobs, read_blob
from patcher.oci.image import Family, Image, load_family
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.model import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    broken,
    digest_of,
)

if TYPE_CHECKING:
    from patcher.oci.layer import LayerChange
    from patcher.oci.model import Descriptor, Json

# zlib's name for a gzip file, and more than any layer that changes a few source files.
_GZIP = 31
_MOST_BYTES = 64 * 1024 * 1024

Facts = tuple[str, int, int, int, float, bytes]
"""An entry's kind, owner, group, mode, time and content."""


def validate(
    blobs: Blobs,
    base: Family,
    new: Descriptor,
    changes: Mapping[str, LayerChange],
    annotations: Mapping[str, str],
) -> dict[str, tuple[ImageFile, ...]]:
    """The added files, read back out of `new`, by the digest of the base's image.

    Raises `BrokenImage`, naming what is wrong, unless `new`, read out of `blobs`, is `base` with
    these changes. The arguments are those of `append`, and its result's root. Every blob that
    `new` leads to is checked to be there with its digest and size.
    """
    _expect(new.media_type == base.root.media_type, f"its media type is {new.media_type}")
    there = load_family(blobs, new)
    wanted = [image for image in base.images if image.digest in changes]
    if base.index is not None and there.index is not None:
        document = there.index.document
        _check_annotations(document, base.index.document, {}, annotations)
        for entries in (document["manifests"], there.images):
            _expect(len(entries) == len(wanted), f"its index has {len(entries)} images")
        for old_image, image in zip(wanted, there.images, strict=True):
            _check_entry(old_image.descriptor, image.descriptor)
    return {
        old.digest: _check_image(old, blobs, image, changes[old.digest], annotations)
        for old, image in zip(wanted, there.images, strict=True)
    }


def _check_image(
    base: Image, blobs: Blobs, new: Image, change: LayerChange, annotations: Mapping[str, str]
) -> tuple[ImageFile, ...]:
    _check_manifest(base, new)
    _check_annotations(new.manifest.document, base.manifest.document, change.labels, annotations)
    _check_config(base, new, change)
    blobs.check((new.descriptor, new.manifest.config, *new.manifest.layers))
    return check_layer(blobs, new, change)


def check_layer(blobs: Blobs, new: Image, change: LayerChange) -> tuple[ImageFile, ...]:
    """The files of an image's uppermost layer, which must hold the change and nothing else.

    Raises `BrokenImage`, `Unreadable`.
    """
    tar = _unpacked(read_blob(blobs, new.manifest.layers[-1]))
    _expect(new.config.diff_ids[-1] == digest_of(tar), "the last diff_id is not the added layer's")
    entries = _entries(tar)
    _check_entries(entries, change)
    added = {file.path for file in change.files}
    return tuple(
        ImageFile(path, data, uid, gid, mode, int(mtime))
        for path, (_, uid, gid, mode, mtime, data) in entries
        if path in added
    )


_NOT_BELOW = "its layers do not begin with the base's"


def _check_entry(old: Descriptor, new: Descriptor) -> None:
    _expect(
        (new.media_type, new.platform, new.annotations)
        == (old.media_type, old.platform, old.annotations),
        f"its index describes {new.platform} otherwise than the base's",
    )


def _check_manifest(base: Image, new: Image) -> None:
    old, manifest = base.manifest, new.manifest
    _expect(_rest(manifest.document) == _rest(old.document), "its manifest has other fields")
    _expect(manifest.layers[:-1] == old.layers, _NOT_BELOW)
    _expect(manifest.config.media_type == old.config.media_type, "its config's media type changed")
    packed = DOCKER_LAYER_GZIP if manifest.media_type == DOCKER_MANIFEST else OCI_LAYER_GZIP
    added = manifest.layers[-1].media_type
    _expect(added == packed, f"the added layer's media type is {added}")


def _rest(document: Json) -> dict[str, object]:
    """What of a manifest is neither replaced nor the base's alone."""
    replaced = ("config", "layers", "annotations", "subject")
    return {key: value for key, value in document.items() if key not in replaced}


def _check_annotations(
    new: Json, old: Json, labels: Mapping[str, str], extra: Mapping[str, str]
) -> None:
    inherited = {key: labels.get(key, text) for key, text in (old.get("annotations") or {}).items()}
    wanted = {**inherited, **extra}
    _expect((new.get("annotations") or {}) == wanted, "its annotations are not those declared")


def check_base(base: Image, new: Image) -> None:
    """Raise `BrokenImage` unless an image is its base with one layer more: all layers below are the
    base's, and so is what it runs with. Labels and annotations are not looked at.
    """
    layers, below = base.manifest.layers, new.manifest.layers[:-1]
    _expect([each.digest for each in below] == [each.digest for each in layers], _NOT_BELOW)
    old, config = base.config, new.config
    _expect(config.diff_ids[:-1] == old.diff_ids, _NOT_BELOW)
    _expect(_settings(config.document) == _settings(old.document), "its config's settings changed")


def _check_config(base: Image, new: Image, change: LayerChange) -> None:
    old, config = base.config, new.config
    _expect(config.diff_ids[:-1] == old.diff_ids, "its diff_ids do not begin with the base's")
    steps = len(old.history) + 1 if old.history else 0
    told = config.document.get("history") or []
    _expect(len(told) == steps, f"its history has {len(told)} steps")
    _expect(tuple(told[: len(old.history)]) == old.history, "the base's history was changed")
    _expect(config.labels == {**old.labels, **change.labels}, "its labels are not those declared")
    _expect(_settings(config.document) == _settings(old.document), "its config's settings changed")


def _settings(document: Json) -> dict[str, object]:
    """All of a config that a new layer may not touch: entrypoint, environment, user, platform."""
    run = {key: value for key, value in (document.get("config") or {}).items() if key != "Labels"}
    rest = {key: value for key, value in document.items() if key not in ("history", "rootfs")}
    return {**rest, "config": run}


def _unpacked(layer: bytes) -> bytes:
    """The tar, unpacked by other code than packed it; nothing may follow it."""
    inflater = zlib.decompressobj(_GZIP)
    try:
        tar = inflater.decompress(layer, _MOST_BYTES)
    except zlib.error as error:
        raise broken(f"the added layer is not gzip: {error}") from error
    _expect(inflater.eof and not inflater.unused_data, "the added layer is not one gzip file")
    return tar


def _entries(tar: bytes) -> list[tuple[str, Facts]]:
    """The paths of a tar, with what a layer sets at each."""
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            return [(f"/{header.name}", _read(archive, header)) for header in archive]
    except tarfile.TarError as error:
        raise broken(f"the added layer is not a tar: {error}") from error


def _read(archive: tarfile.TarFile, header: tarfile.TarInfo) -> Facts:
    _expect(not header.uname and not header.gname, f"/{header.name} has an owner's name")
    kind = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "directory"}.get(header.type, "odd")
    content = archive.extractfile(header) if kind == "file" else None
    data = content.read() if content else b""
    return (kind, header.uid, header.gid, header.mode, header.mtime, data)


def _check_entries(entries: list[tuple[str, Facts]], change: LayerChange) -> None:
    wanted = {file.path: _facts(file) for file in change.files}
    wanted |= {_whiteout(path): ("file", 0, 0, 0, 0, b"") for path in change.bytecode}
    stated = {directory.path: _facts(directory) for directory in change.directories}
    wanted |= {path: facts for path, facts in stated.items() if _above(path, wanted)}
    found = dict(entries)
    for path, _ in entries:
        _expect(path in wanted, f"the added layer holds {path}, which was not declared")
    _expect(len(found) == len(entries), "the added layer holds a path twice")
    for path, facts in wanted.items():
        _expect(path in found, f"the added layer lacks {path}")
        _expect(found[path] == facts, f"{path} has not the declared content, owner, mode or time")


def _facts(entry: ImageFile | ImageDirectory) -> Facts:
    kind, data = ("file", entry.data) if isinstance(entry, ImageFile) else ("directory", b"")
    return (kind, entry.uid, entry.gid, entry.mode, entry.mtime, data)


def _whiteout(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.wh.{name}"


def _above(directory: str, paths: Mapping[str, object]) -> bool:
    return any(path.startswith(f"{directory}/") for path in paths)


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise broken(f"the baked image is not as declared: {problem}")
