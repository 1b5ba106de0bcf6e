"""A new image from an old one and a change: one layer more, and nothing else touched.

Pure: what comes out are the blobs to write, in the order in which they must be published, so
that a name never leads to something that is not all there. The same inputs give the same bytes:
`created` stays the base's, since a clock would make every run another digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.oci.layer import gzipped, thin_layer
from patcher.oci.model import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    Descriptor,
    Index,
    Json,
    Part,
    broken,
    digest_of,
    dump_json,
    part,
)

if TYPE_CHECKING:
    from patcher.oci.image import Family, Image
    from patcher.oci.layer import LayerChange

_CREATED_BY = "vllm-patcher"


@dataclass(frozen=True, slots=True)
class Appended:
    """A new image or index: its root, and its new blobs in the order to publish.

    `images` maps the digest of each changed image of the base to its new manifest.
    """

    root: Descriptor
    parts: tuple[Part, ...]
    images: Mapping[str, Descriptor]


def append(
    base: Family, changes: Mapping[str, LayerChange], annotations: Mapping[str, str]
) -> Appended:
    """Put a layer on the image, or on each wanted image of the index, that the base is.

    `changes` maps a manifest's digest to its change; an image without a change is left out of
    the index: a patched name must not lead to an unpatched image. `annotations` are set on each
    new manifest and on the index. Raises `BrokenImage`. Nothing is written.
    """
    listed = Counter(image.digest for image in base.index.images) if base.index else Counter()
    if twice := [digest for digest in changes if listed[digest] > 1]:
        raise broken(f"the index lists {twice[0]} more than once")
    made = {
        image.digest: _parts(image, changes[image.digest], annotations)
        for image in base.images
        if image.digest in changes
    }
    if not made:
        raise broken("none of the base's images is to be changed")
    manifests = {digest: manifest.descriptor for digest, (_, _, manifest) in made.items()}
    parts = tuple(part for trio in made.values() for part in trio)
    if base.index is None:
        return Appended(manifests[base.root.digest], parts, manifests)
    top = _new_index(base.index, manifests, annotations)
    return Appended(top.descriptor, (*parts, top), manifests)


def _parts(
    image: Image, change: LayerChange, annotations: Mapping[str, str]
) -> tuple[Part, Part, Part]:
    """The new layer, config and manifest."""
    tar = thin_layer(change)
    layer = part(gzipped(tar), _layer_type(image.manifest.media_type))
    config = part(_new_config(image, change, digest_of(tar)), image.manifest.config.media_type)
    manifest = part(
        _new_manifest(image, change, layer, config, annotations), image.manifest.media_type
    )
    return layer, config, manifest


def _layer_type(manifest_type: str) -> str:
    return DOCKER_LAYER_GZIP if manifest_type == DOCKER_MANIFEST else OCI_LAYER_GZIP


def _new_config(image: Image, change: LayerChange, diff_id: str) -> bytes:
    old = image.config
    run = {**(old.document.get("config") or {}), "Labels": {**old.labels, **change.labels}}
    diff_ids = [*old.diff_ids, diff_id]
    new = {
        **old.document,
        "config": run,
        "rootfs": {**old.document["rootfs"], "diff_ids": diff_ids},
    }
    if old.history:
        # A config may lack history; where it has one, it must mention each layer.
        created = {key: old.document[key] for key in ("created",) if key in old.document}
        new["history"] = [*old.history, {**created, "created_by": _CREATED_BY}]
    else:
        new.pop("history", None)
    return dump_json(new)


def _new_manifest(
    image: Image, change: LayerChange, layer: Part, config: Part, annotations: Mapping[str, str]
) -> bytes:
    old = image.manifest.document
    new: dict[str, Any] = {
        **old,
        "config": {**_plain(old["config"]), **config.descriptor.document},
        "layers": [*old["layers"], layer.descriptor.document],
    }
    # `subject` linked the base's own manifest to another artifact; the new one has no such link.
    new.pop("subject", None)
    return dump_json(_annotated(new, change.labels, annotations))


def _annotated(
    document: dict[str, Any], labels: Mapping[str, str], extra: Mapping[str, str]
) -> Json:
    """Inherited annotations, made to say what the label of the same name now says; then ours."""
    inherited = document.pop("annotations", None) or {}
    agreed = {key: labels.get(key, text) for key, text in inherited.items()}
    annotations = {**agreed, **dict(sorted(extra.items()))}
    return {**document, "annotations": annotations} if annotations else document


def _new_index(
    index: Index, manifests: Mapping[str, Descriptor], annotations: Mapping[str, str]
) -> Part:
    entries = [
        {**_plain(image.document), "digest": root.digest, "size": root.size}
        for image in index.images
        if image.digest in manifests
        for root in [manifests[image.digest]]
    ]
    new = {**index.document, "manifests": entries}
    new.pop("subject", None)
    return part(dump_json(_annotated(new, {}, annotations)), index.media_type)


def _plain(entry: Json) -> dict[str, Any]:
    """The descriptor without `data` and `urls`, which describe the old bytes."""
    return {key: value for key, value in entry.items() if key not in ("data", "urls")}
