"""The whole job on a real release, with nothing but Python and PyPI: `vllm-patcher demo`.

The base is a small image made of the wheel's own files: no Python is in it, so it cannot run,
but it is read, patched, verified and tagged exactly as a real one is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patcher.diff import unified_diff
from patcher.errors import AlreadyClean, Unwritable
from patcher.files import is_there, locked, scratch_folder, write_atomically
from patcher.jobs.base import Base
from patcher.jobs.image import Order, Report, make_image
from patcher.oci.image import load_family
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import parents, write_tar
from patcher.oci.layout import create_layout, existing_layout
from patcher.oci.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, dump_json, part
from patcher.oci.reference import Platform
from patcher.oci.rootfs.installed import VERSION_FILE
from patcher.oci.rootfs.layers import StoredImage
from patcher.places.layout import PREFIX
from patcher.places.stored import Stored, StoredPlace
from patcher.progress import Say
from patcher.rules.catalogue import select
from patcher.sources.wheel import open_release
from patcher.web.http import Http, HttpSettings

# An empty file by which a demo's folder is known.
_MARK = ".vllm-patcher-demo"

# What is shown; the release that is fetched needs it.
_PATCH = "kv-b-proj-dtype"

PACKAGES = "/usr/local/lib/python3.12/dist-packages"
PLATFORM = Platform("linux", "amd64", None)  # fixed: the same digest on every machine
# As in vLLM's own images (docker inspect of 0.18.0 to 0.28.0).
RUN = {
    "Entrypoint": ["vllm", "serve"],
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
    "WorkingDir": "/vllm-workspace",
}


# No clock: the same files give the same digest.
_CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo did. `bytes_read` came over the network; `wheel_size` would have."""

    report: Report
    diff: str
    layout: Path
    bytes_read: int
    wheel_size: int
    patch: str = _PATCH


def run(version: str, output: Path, settings: HttpSettings, say: Say) -> Demo:
    """Fetch, assemble, patch, verify, append, tag and read back. Writes only below `output`.

    Until all is done it is another folder beside it. Raises `Unwritable` for a folder that is not
    an earlier demo, and what reading and patching raise; then everything is as it was.
    """
    _expect_demo(output)
    wheel = open_release(version, http=Http(settings, say=say))
    targets = select([_PATCH])[0].targets
    files = {target: wheel.read(target) for target in (VERSION_FILE, *targets)}
    say(
        f"took {len(files)} files of vLLM {version} out of its wheel: "
        f"{wheel.bytes_read / 1e6:.2f} of {wheel.size / 1e6:.0f} MB"
    )
    with scratch_folder(output) as scratch:
        report = _bake(version, files, scratch / "demo", output, say)
        _take_place(scratch / "demo", output)
    diffs = [unified_diff(c.before.data, c.after, c.target) for c in report.platforms[0].changes]
    return Demo(report, "".join(diffs), output, wheel.bytes_read, wheel.size)


def _bake(version: str, files: Mapping[str, bytes], folder: Path, output: Path, say: Say) -> Report:
    """Make the base of a release's files, and patch it."""
    entries = [
        ImageFile(f"{PACKAGES}/{target}", data, uid=0, gid=0, mode=0o644, mtime=0)
        for target, data in files.items()
    ]
    root = write_base(folder, entries, PLATFORM, RUN, version)
    say(f"made a base image of them: {root.digest}")
    layout = existing_layout(folder)
    family = load_family(layout, root)
    images = [StoredImage(layout, each.digest, each) for each in family.images]
    place = StoredPlace(f"{PREFIX}{output}", layout, Stored(layout, family))
    base = Base(root.digest, tuple(images))
    try:
        report = make_image(base, Order(select([_PATCH])), place, say)
    except AlreadyClean as error:
        raise AlreadyClean(
            error.problem,
            next_step="Name a release that needs it: `vllm-patcher landed` lists them.",
        ) from error
    write_atomically(folder / _MARK, b"")
    return report


def _expect_demo(output: Path) -> None:
    """Only an earlier demo is replaced: a layout may hold images that cannot be made again."""
    if is_there(output) and not is_there(output / _MARK):
        raise Unwritable(
            f"{output} is there already and is not an earlier demo",
            next_step="Name another folder with -o.",
        )


def _take_place(made: Path, output: Path) -> None:
    """Give the new folder the name, in one step where the system can exchange two."""
    try:
        with locked(output.parent):
            _expect_demo(output)
            if not is_there(output):
                made.rename(output)
            elif not _exchanged(made, output):
                output.rename(made.with_name("before"))
                made.rename(output)
    except OSError as error:
        raise Unwritable(
            f"{output} cannot be replaced: {error.strerror}",
            next_step="Check its permissions.",
        ) from error


# renameat2(2), since Linux 3.15; glibc has it since 2.28.
_FROM_HERE, _EXCHANGE = -100, 2


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders exchange their names; False where the system or its files cannot."""
    with contextlib.suppress(AttributeError, OSError):
        paths = [os.fsencode(path) for path in (one, other)]
        rename = ctypes.CDLL(None).renameat2
        return bool(rename(_FROM_HERE, paths[0], _FROM_HERE, paths[1], _EXCHANGE) == 0)
    return False


def write_base(
    path: Path,
    files: Sequence[ImageFile],
    platform: Platform,
    run: Mapping[str, object],
    name: str,
) -> Descriptor:
    """Write an image of one layer into the layout at `path`; gives the manifest's descriptor.

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
    layout.name(manifest, [name])
    return manifest.descriptor


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
