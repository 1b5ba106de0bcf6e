"""Two-platform bases as builders make them: two layers an image, and an attestation for each."""

from __future__ import annotations

import gzip
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from patcher.oci.image import load_image, load_index
from patcher.oci.installation import ImageFile
from patcher.oci.layer import write_tar
from patcher.oci.model import digest_of
from patcher.oci.rootfs.running import find_installation
from patcher.oci.rootfs.scan import scan_layer
from patcher.oci.rootfs.start import Start
from tests.installations import TARGET, change_of, vllm_files
from tests.memory import OCI, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from patcher.oci.installation import Installation
    from patcher.oci.layer import LayerChange
    from patcher.oci.model import Descriptor

ARCHITECTURES = ("amd64", "arm64")


def add_index(
    blobs: Memory,
    types: tuple[str, ...] = OCI,
    files: Sequence[ImageFile] | None = None,
    run: Mapping[str, object] | None = None,
    filler: int = 10_000,
    *,
    gzipped: bool = False,
) -> dict[str, Any]:
    """The descriptor of an index of two images that share the layer with vLLM.

    `filler` is the size of the layer that each has to itself: bytes that do not compress. Layers
    are plain tars unless they are `gzipped`, for which `types` must be OCI's.
    """
    shared = write_tar(vllm_files() if files is None else files)
    entries = []
    for architecture in ARCHITECTURES:
        noise = hashlib.shake_128(architecture.encode()).digest(filler)
        own = write_tar([ImageFile(f"/lib-{architecture}", noise, 0, 0, 0o644, 0)])
        image = _add_image(blobs, types, architecture, [own, shared], run or {}, gzipped)
        platform = {"os": "linux", "architecture": architecture}
        entries.append({**image, "platform": platform})
        entries.append(attestation(blobs, types, image["digest"]))
    index = {"schemaVersion": 2, "mediaType": types[0], "manifests": entries}
    return blobs.add(index, types[0])


def _add_image(
    blobs: Memory,
    types: tuple[str, ...],
    architecture: str,
    layers: list[bytes],
    run: Mapping[str, object],
    gzipped: bool,
) -> dict[str, Any]:
    pack, suffix = (gzip.compress, "+gzip") if gzipped else (bytes, "")
    stored = [blobs.add(pack(layer), types[3] + suffix) for layer in layers]
    config = {
        "created": "2026-01-02T03:04:05Z",
        "architecture": architecture,
        "os": "linux",
        "config": dict(run),
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
    }
    document = {
        "schemaVersion": 2,
        "mediaType": types[1],
        "config": blobs.add(config, types[2]),
        "layers": stored,
    }
    return blobs.add(document, types[1])


def attestation(blobs: Memory, types: tuple[str, ...], digest: str) -> dict[str, Any]:
    """As buildx puts one beside an image: a manifest whose layer is no layer."""
    statement = blobs.add({"subject": digest}, "application/vnd.in-toto+json")
    empty = {"architecture": "unknown", "os": "unknown", "rootfs": {"diff_ids": []}}
    document = {
        "schemaVersion": 2,
        "mediaType": types[1],
        "config": blobs.add(empty, types[2]),
        "layers": [{**statement, "mediaType": "application/vnd.in-toto+json"}],
    }
    return {
        **blobs.add(document, types[1]),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest,
        },
    }


def find_in(blobs: Memory, image: Descriptor, targets: Sequence[str]) -> Installation:
    """vLLM in an image that lies in memory."""
    layers = load_image(blobs, image).manifest.layers[::-1]
    return find_installation(
        lambda wanted: [scan_layer(partial(blobs.open, layer), layer, wanted) for layer in layers],
        Start({}),
        targets,
    )


def changes_for(blobs: Memory, root: Descriptor) -> dict[str, LayerChange]:
    """New contents for TARGET in every image of an index."""
    images = load_index(blobs, root).images
    return {image.digest: change_of(find_in(blobs, image, [TARGET])) for image in images}
