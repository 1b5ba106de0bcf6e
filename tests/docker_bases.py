"""Small base images for the tests of the docker engine: of one layer, from entries of a tar."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import ImageNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import docker

ROOT = "/usr/local/lib/python3.12/dist-packages"
TARGET = "vllm/attention/mla.py"
SOURCE = b"GUARDED = False\n"
VERSION = b"__version__ = version = '0.23.0'\n__commit_id__ = commit_id = 'g0fc695fc6'\n"


@dataclass(frozen=True)
class Entry:
    """A file, or a link where `link` is set, or a directory where there are no data."""

    path: str
    data: bytes | None = None
    link: str | None = None
    uid: int = 0
    gid: int = 0
    mode: int = 0o644


def installed(root: str = ROOT) -> list[Entry]:
    """The entries of an installed vLLM; the target is not root's."""
    return [
        Entry(f"{root}/vllm/_version.py", VERSION),
        Entry(f"{root}/{TARGET}", SOURCE, uid=1000, gid=1001, mode=0o640),
    ]


def tar(entries: Iterable[Entry], mtime: int = 1_700_000_000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path.lstrip("/"))
            info.uid, info.gid, info.mode, info.mtime = entry.uid, entry.gid, entry.mode, mtime
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
            elif entry.data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.data)
            archive.addfile(info, io.BytesIO(entry.data or b""))
    return buffer.getvalue()


def load_base(
    client: docker.DockerClient,
    entries: Iterable[Entry],
    config: Mapping[str, object] | None = None,
    architecture: str = "amd64",
) -> str:
    """The id of a new, untagged image of one layer; no two calls give the same.

    It is loaded as `docker save` writes it, which leaves every field of the config to the test.
    """
    layer = tar([*entries, Entry("/unique", uuid.uuid4().bytes)])
    description = {
        "architecture": architecture,
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "a test"}],
    }
    encoded = json.dumps(description).encode()
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    saved = [
        Entry("manifest.json", json.dumps(manifest).encode()),
        Entry("config.json", encoded),
        Entry("layer.tar", layer),
    ]
    client.images.load(tar(saved))
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"


def files_of(client: docker.DockerClient, image: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Every regular file of an image, by its absolute path, as the daemon hands them out."""
    container = client.api.create_container(image, command=["-"])["Id"]
    try:
        data = b"".join(client.api.export(container))
    finally:
        client.api.remove_container(container, force=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            f"/{member.name}": (member, archive.extractfile(member).read())  # type: ignore[union-attr]
            for member in archive
            if member.isreg()
        }


def remove_all(client: docker.DockerClient, base: str) -> None:
    """Remove an image and all that was built upon it, where they still are."""
    for image in (*descendants(client, base), base):
        with suppress(ImageNotFound):
            client.api.remove_image(image, force=True, noprune=True)


def descendants(client: docker.DockerClient, base: str) -> list[str]:
    """The ids of all images that were built upon one, intermediate ones too; children first."""
    parents = {image["Id"]: image["ParentId"] for image in client.api.images(all=True)}
    generations = [{base}]
    while generations[-1]:
        above = generations[-1]
        generations.append({image for image, parent in parents.items() if parent in above})
    return [image for generation in generations[:0:-1] for image in generation]


def containers(client: docker.DockerClient, base: str) -> list[Any]:
    """All containers of an image and of those built upon it."""
    return client.api.containers(all=True, filters={"ancestor": base})  # type: ignore[no-any-return]


def push_index(
    client: docker.DockerClient, repository: str, images: Mapping[str, str]
) -> dict[str, str]:
    """Push images (architecture -> id) under one index; digests by architecture, and `index`."""
    host, _, path = repository.partition("/")
    url = f"http://{host}/v2/{path}/manifests"
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    digests, manifests = {}, []
    for architecture, image in images.items():
        client.api.tag(image, repository, architecture)
        client.api.push(repository, tag=architecture)
        client.api.remove_image(f"{repository}:{architecture}", noprune=True)
        answer = requests.get(f"{url}/{architecture}", headers={"Accept": kind}, timeout=30)
        answer.raise_for_status()
        digests[architecture] = answer.headers["Docker-Content-Digest"]
        manifests.append(
            {
                "mediaType": kind,
                "digest": digests[architecture],
                "size": len(answer.content),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    list_kind = "application/vnd.docker.distribution.manifest.list.v2+json"
    index = {"schemaVersion": 2, "mediaType": list_kind, "manifests": manifests}
    answer = requests.put(
        f"{url}/index", json=index, headers={"Content-Type": list_kind}, timeout=30
    )
    answer.raise_for_status()
    return digests | {"index": answer.headers["Docker-Content-Digest"]}
