"""Loading the thin layer alone, on base layers that the daemon has.

What is loaded is the image that `append` makes: its manifest and config name every layer, and of
these only the new one is sent. Docker's overlay store knows the others by their diff_ids,
containerd's store and podman by their digests. Two forms are in the tar: `docker save`'s, which
Docker's overlay store reads, and an OCI layout, which the others take (each was tried alone).
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from patcher.daemon.build import Built, check, remove
from patcher.daemon.client import asking, follow, inspect, undisturbed
from patcher.errors import DaemonFailed
from patcher.oci.append import append
from patcher.oci.image import Family
from patcher.oci.model import OCI_INDEX, broken, dump_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import DockerClient

    from patcher.oci.image import Image
    from patcher.oci.layer import LayerChange
    from patcher.oci.model import Part

_DOING = "the layer cannot be loaded"
_NEXT_STEP = "Nothing was tagged. See what the daemon says, and try again."


def load(
    client: DockerClient,
    base: Mapping[str, Any],
    image: Image,
    change: LayerChange,
    annotations: Mapping[str, str],
) -> Built:
    """Put `change` on an image of the daemon (its inspection), whose documents are `image`.

    Whatever goes wrong, Ctrl-C too, leaves no image behind. Raises `BrokenImage` where the
    documents are those of another image, `DaemonFailed`.
    """
    if list(image.config.diff_ids) != base["RootFS"]["Layers"]:
        raise broken("the daemon's base has other layers than the registry's")
    family = Family(image.descriptor, None, (image,))
    layer, config, manifest = append(family, {image.digest: change}, annotations).parts
    ids = (manifest.descriptor.digest, config.descriptor.digest)
    before = _inspected(client, ids)
    if before is not None:
        _check(base, before, change, config)
        return Built(before, ())
    try:
        said = _send(client, _packed(image, layer, config, manifest))
        after = _inspected(client, ids)
        if after is None:
            raise DaemonFailed(f"{_DOING}: {said or 'it is not there'}", next_step=_NEXT_STEP)
        _check(base, after, change, config)
    except BaseException:
        with undisturbed():
            remove(client, ids)
        raise
    return Built(after, (str(after["Id"]),))


def _check(
    base: Mapping[str, Any], result: Mapping[str, Any], change: LayerChange, config: Part
) -> None:
    """As `check`; of a loaded image it is known besides which layer it has on top."""
    check(base, result, change, (1, 1))
    if result["RootFS"]["Layers"] != parse_json(config.data, "config")["rootfs"]["diff_ids"]:
        raise DaemonFailed(f"{_DOING}: another one is in its place", next_step=_NEXT_STEP)


def _send(client: DockerClient, packed: bytes) -> str:
    """Load a tar; gives the daemon's last message."""
    said = ""
    with asking(_DOING, next_step=_NEXT_STEP), undisturbed():
        events = client.api.load_image(packed)  # type: ignore[no-untyped-call]
        for event in follow(events, _DOING, next_step=_NEXT_STEP):
            # Podman puts an error where Docker's stream would have `error`.
            said = str(event.get("message") or event.get("stream") or said)
    return said


def _inspected(client: DockerClient, ids: tuple[str, str]) -> Mapping[str, Any] | None:
    """The image under the manifest's digest, its id in containerd's store, or its config's."""
    from docker.errors import ImageNotFound

    for each in ids:
        try:
            doing = "the loaded image cannot be inspected"
            return inspect(client, each, doing, next_step=_NEXT_STEP)
        except DaemonFailed as error:
            if not isinstance(error.__cause__, ImageNotFound):
                raise
    return None


def _packed(image: Image, layer: Part, config: Part, manifest: Part) -> bytes:
    """The tar to load, in which every layer is named and only the new one is there."""
    names = [_name(each.digest) for each in image.manifest.layers]
    saved = {
        "Config": _name(config.descriptor.digest),
        "RepoTags": None,
        "Layers": [*names, _name(layer.descriptor.digest)],
    }
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [manifest.descriptor.document],
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": dump_json(index),
        # `docker save` writes an array, with an object for each image.
        "manifest.json": b"[" + dump_json(saved) + b"]",
    }
    files |= {_name(part.descriptor.digest): part.data for part in (layer, config, manifest)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
