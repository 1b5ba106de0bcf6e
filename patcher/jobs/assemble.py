"""A small image out of files, as an OCI layout: the base that `make demo` puts a patch upon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import parents, write_tar
from patcher.oci.layout import create_layout
from patcher.oci.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, dump_json, part

if TYPE_CHECKING:
    from pathlib import Path

    from patcher.oci.reference import Platform

# No clock: the same files give the same digest.
_CREATED = "1970-01-01T00:00:00Z"


def write_base(
    path: Path,
    files: Sequence[ImageFile],
    platform: Platform,
    run: Mapping[str, object],
    name: str,
) -> str:
    """Write an image of one layer into the layout at `path`; gives the manifest's digest.

    `run` is the config's part for running it (OCI image-spec, config.md): `Entrypoint`, `Env`,
    `User`, `WorkingDir`, `Labels`. Directories belong to root, mode 755. The same arguments give
    the same bytes. Raises `Unwritable`, `BrokenImage` for paths that a layer cannot hold.
    """
    layout = create_layout(path)
    above = parents(file.path for file in files)
    directories = [ImageDirectory(folder, uid=0, gid=0, mode=0o755, mtime=0) for folder in above]
    layer = part(write_tar([*directories, *files]), OCI_LAYER)
    config = part(dump_json(_config(platform, run, layer.descriptor.digest)), OCI_CONFIG)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor.document,
        "layers": [layer.descriptor.document],
    }
    manifest = part(dump_json(document), OCI_MANIFEST)
    for blob in (layer, config, manifest):
        layout.put(blob.descriptor, blob.data)
    layout.name(manifest.descriptor, [name])
    return manifest.descriptor.digest


def _config(platform: Platform, run: Mapping[str, object], diff_id: str) -> dict[str, object]:
    variant = {"variant": platform.variant} if platform.variant else {}
    return {
        "created": _CREATED,
        "architecture": platform.architecture,
        "os": platform.os,
        **variant,
        "config": dict(run),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": _CREATED, "created_by": "vllm-patcher: files of a wheel"}],
    }
