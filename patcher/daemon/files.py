"""Reading an image in a Docker daemon, with nothing run in it.

A container is created and never started, and the daemon hands out its file system as one tar
(Docker Engine API, ContainerExport). Only a look at every name says which vLLM is run; the tar is
read as it comes, and of it no more is stored than of a registry's layer. Of a result, only the few
files that were changed are asked for (ContainerArchive).
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from patcher.daemon.client import asking, undisturbed
from patcher.errors import DaemonFailed
from patcher.oci.blobs import Counted
from patcher.oci.installation import ImageFile
from patcher.oci.model import Descriptor, broken
from patcher.oci.rootfs.running import find_installation
from patcher.oci.rootfs.scan import Traces, Wanted, scan_tar, with_hard_links
from patcher.oci.rootfs.start import read_start
from patcher.oci.rootfs.tarball import TarStream
from patcher.progress import counting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from docker import DockerClient

    from patcher.layer_cache import LayerCache
    from patcher.oci.installation import Installation
    from patcher.oci.reference import Platform
    from patcher.progress import Tell

READER_LABEL = "dev.vllm-patcher.reader"
"""Marks the containers that exist to be read from: one that outlives a kill can be recognised."""

_MOST_LINKS = 40  # as Linux follows
_MOST_BYTES = 64 << 20
_HEADERS = 1 << 20

_LOST = "Try again: another program may have removed the container ('docker container prune')."


def find(
    client: DockerClient,
    image: Mapping[str, Any],
    platform: Platform,
    cache: LayerCache,
    targets: Sequence[str],
    root: str | None,
    mentions: Sequence[bytes],
) -> Installation:
    """The vLLM that is run in an image, which is the daemon's inspection of it.

    Raises as `find_installation` does, and `DaemonFailed`.
    """
    start = read_start(image["Config"])
    # What an id names never changes; several platforms of an index may share one id.
    key = Descriptor(f"image/{platform}", f"{image['Id']}/{platform}", 0)

    def scan(wanted: Wanted) -> list[Traces]:
        known = cache.load(key, wanted)
        if known is None:
            with opened(client, image["Id"], platform) as container:
                export = partial(_export, client, container)
                known = with_hard_links(export, wanted)
            cache.save(key, wanted, known)
        return [known]

    return find_installation(scan, start, targets, root=root, mentions=mentions)


def _export(client: DockerClient, container: str, wanted: Wanted) -> Traces:
    """What all of a container's file system says, as if it were one layer."""
    from urllib3.exceptions import HTTPError

    api = client.api
    url = f"{api.base_url}/v{api.api_version}/containers/{container}/export"
    with (
        asking("the image cannot be read", next_step=_LOST),
        api.get(
            url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=api.timeout
        ) as answer,
    ):
        if not answer.ok:
            raise DaemonFailed(f"the image cannot be read: {answer.text}", next_step=_LOST)
        try:
            with counting("looking for vLLM in the daemon's image", in_bytes=True) as tell:
                came = io.BufferedReader(Counted(answer.raw, _added_up(tell)), 1 << 20)
                stream = TarStream(came)
                traces = scan_tar(stream, wanted)
        except HTTPError as error:
            raise DaemonFailed(f"the image came damaged: {error}", next_step=_LOST) from error
        if not stream.ended:
            raise DaemonFailed("the image came cut off", next_step=_LOST)
    return traces


def _added_up(tell: Tell) -> Callable[[int], None]:
    """Tell the bytes so far; no daemon says how many there will be."""
    done = 0

    def add(step: int) -> None:
        nonlocal done
        done += step
        tell(done, None)

    return add


def read_files(
    client: DockerClient, image: str, platform: Platform, paths: Sequence[str]
) -> dict[str, ImageFile]:
    """The regular files that are there of these paths, by path; a link's file is read under the
    link's name.

    Raises `BrokenImage` where one is something else, `DaemonFailed`.
    """
    with opened(client, image, platform) as container:
        found = [_file(client, container, path) for path in paths]
    return {file.path: file for file in found if file}


def _file(client: DockerClient, container: str, path: str) -> ImageFile | None:
    from docker.errors import NotFound

    real, member, data = path, None, b""
    for _ in range(_MOST_LINKS):
        try:
            with asking(f"{real} in the image cannot be read", next_step=_LOST):
                stream, stat = client.api.get_archive(container, real)
                if stat["size"] > _MOST_BYTES:
                    raise broken(f"{real} in the image has {stat['size']} bytes")
                packed = _bounded(stream, real)
        except DaemonFailed as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        try:
            member, data = _first(packed, real)
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise broken(f"{real} came out of the image damaged: {error}") from error
        if member is None or not member.issym():
            break
        real = posixpath.normpath(posixpath.join(posixpath.dirname(real), member.linkname))
    if member is None or not member.isreg():
        raise broken(f"{path} in the image is not a regular file")
    # Go's tar writer may put the file's type beside the permission bits.
    mode = member.mode & 0o7777
    return ImageFile(path, data, member.uid, member.gid, mode, int(member.mtime))


def _first(packed: bytes, path: str) -> tuple[tarfile.TarInfo | None, bytes]:
    """The one entry of an archive, and what is in it. Raises `BrokenImage` and tarfile's errors."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        member = archive.next()
        if member is None or not member.isreg():
            return member, b""
        int(member.mtime)  # a pax header's may be no number, or have no end
        if member.size > _MOST_BYTES:  # a sparse file's zeros are not in the archive
            raise broken(f"{path} in the image has {member.size} bytes")
        content = archive.extractfile(member)
        return member, content.read() if content else b""


def _bounded(stream: Iterable[bytes], path: str) -> bytes:
    """The archive, if no larger than one file's: of a folder the daemon sends all that is below."""
    packed = bytearray()
    for piece in stream:
        packed += piece
        if len(packed) > _MOST_BYTES + _HEADERS:
            raise broken(f"{path} in the image is not a regular file")
    return bytes(packed)


@contextmanager
def opened(client: DockerClient, image: str, platform: Platform) -> Iterator[str]:
    """A container of an image, by its id. Whatever happens inside, the container is removed."""
    from docker.errors import NotFound

    name = f"vllm-patcher-{uuid.uuid4().hex}"

    doing, next_step = f"image {image} cannot be read", "See what the daemon says, and try again."
    try:
        with asking(doing, next_step=next_step), undisturbed():
            client.api.create_container(
                image,
                # An image may state no command, and one is asked for; it is never run.
                command=["-"],
                name=name,
                labels={READER_LABEL: "true"},
                network_disabled=True,
                platform=str(platform),
            )
        yield name
    finally:
        with asking(doing, next_step=next_step), undisturbed(), suppress(NotFound):
            client.api.remove_container(name, v=True, force=True)
