"""An engine to bake in, and bases in a registry that it may pull from."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from backports import zstd

from patcher.files import data_path
from patcher.jobs.image import Order, Report
from patcher.jobs.opening import daemon_job
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.file import save
from patcher.oci.layer import write_tar
from patcher.oci.reference import parse_platform, parse_reference
from patcher.rules.catalogue import load_patch
from patcher.rules.patch import Patch
from patcher.versions import parsed
from patcher.web.http import HttpSettings
from tests.conftest import TARGET, missing
from tests.engines.unpacked import ENGINES, Engine, NotHere, started
from tests.indexes import ARCHITECTURES, attestation
from tests.installations import SITE, installed_file
from tests.memory import OCI, Memory
from tests.registries import upload

MACHINE = Engine("docker-machine", "", "docker.io")
"""The daemon that DOCKER_HOST names: in CI bookworm's Docker."""

FILE = f"{SITE}/{TARGET}"
STALE = f"{SITE}/{Path(TARGET).parent}/__pycache__/mla_attention.cpython-312.pyc"
SOURCE = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"
RUN = {
    "Entrypoint": ["vllm"],
    "Cmd": ["serve"],
    "User": "7:8",
    "WorkingDir": "/usr",
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "A=b c"],
}


def guard() -> Patch:
    """The patch that the bases need."""
    return load_patch(data_path("patches") / "kv_b_proj_dtype.py")


@dataclass(frozen=True)
class Base:
    """A base in the registry: its name without a tag, and digests by architecture and `index`."""

    name: str
    unique: str
    digests: dict[str, str]
    root: dict[str, Any]
    blobs: Memory


@dataclass(frozen=True)
class Here:
    """An engine, a registry, and a folder for a lock."""

    engine: Engine
    client: docker.DockerClient
    host: str
    folder: Path
    repository: str
    bases: list[Base] = field(default_factory=list)

    def push(
        self,
        *,
        types: tuple[str, ...] = OCI,
        packed: str = "",
        layers: int = 2,
        architectures: tuple[str, ...] = ARCHITECTURES,
    ) -> Base:
        """Put a base of two platforms with an attestation each into the registry."""
        blobs, unique = Memory(), uuid.uuid4().hex
        pack = zstd.compress if packed else bytes
        files = [
            installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n"),
            installed_file(TARGET, SOURCE, mode=0o640, owner=1234),
            installed_file(STALE.removeprefix(f"{SITE}/"), b"old"),
        ]
        entries = []
        for architecture in architectures:
            names = [f"l/{architecture}-{unique}-{number}" for number in range(layers - 1)]
            tars = [write_tar(files), *(write_tar([installed_file(n, b"")]) for n in names)]
            stored = [blobs.add(pack(each), types[3] + packed) for each in tars]
            diff_ids = [Memory().add(each, types[3])["digest"] for each in tars]
            config = {
                "created": "2026-01-02T03:04:05Z",
                "architecture": architecture,
                "os": "linux",
                "config": {**RUN, "Labels": {"kept": "yes", "unique": unique}},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": [{"created_by": "a test"}] * len(tars),
            }
            manifest = {
                "schemaVersion": 2,
                "mediaType": types[1],
                "config": blobs.add(config, types[2]),
                "layers": stored,
            }
            image = blobs.add(manifest, types[1])
            platform = {"os": "linux", "architecture": architecture}
            entries += [{**image, "platform": platform}, attestation(blobs, types, image["digest"])]
        index = {"schemaVersion": 2, "mediaType": types[0], "manifests": entries}
        root = blobs.add(index, types[0])
        upload(self.host, f"base/{unique}", blobs.data, root)
        digests = dict(zip(architectures, (each["digest"] for each in entries[::2]), strict=True))
        digests["index"] = root["digest"]
        self.bases.append(Base(f"{self.host}/base/{unique}", unique, digests, root, blobs))
        return self.bases[-1]

    def lock(self, base: Base, pin: str = "index") -> Path:
        """A lock that pins the base as 0.23.0: by its index, or by one platform's digest."""
        version, digest = parsed("0.23.0"), Pin(base.digests[pin])
        assert version is not None
        platforms = {} if pin == "index" else {parse_platform(f"linux/{pin}"): digest}
        locked = Locked(version, index=digest if pin == "index" else None, platforms=platforms)
        path = self.folder / "images.lock"
        original = Original("0.23.0", parse_reference(f"{base.name}:v0.23.0"))
        save(path, Lock((Entry(original, locked),)))
        return path

    def bake(
        self,
        base: Base,
        architecture: str = "amd64",
        pin: str = "index",
        say: Callable[[str], None] = lambda _: None,
    ) -> Report:
        """`vllm-patcher image 0.23.0`, in this process."""
        order = Order((guard(),), platform=parse_platform(f"linux/{architecture}"))
        lock = self.lock(base, pin)
        return daemon_job("0.23.0", self.repository, lock, order, HttpSettings(), say)

    def attrs(self, name: str) -> dict[str, Any]:
        """The engine's inspection of an image."""
        return dict(self.client.images.get(name).attrs or {})

    def file(
        self, image: str, path: str, architecture: str
    ) -> tuple[tarfile.TarInfo, bytes] | None:
        """A file of an image, as the engine exports it; None where it is not there."""
        container = self.client.api.create_container(
            image, command=["-"], platform=f"linux/{architecture}"
        )["Id"]
        try:
            data = b"".join(self.client.api.export(container))
        finally:
            self.client.api.remove_container(container, force=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name == path[1:] else None
                if content:
                    return member, content.read()
        return None

    def mine(self, base: Base) -> set[str]:
        """All images that the engine has of a base: itself, what was built on it and through."""
        wanted = {"label": f"unique={base.unique}"}
        return {str(each["Id"]) for each in self.client.api.images(all=True, filters=wanted)}

    @property
    def has_overlay_store(self) -> bool:
        """Docker's overlay store: it keeps what it built an image through as that image's parents,
        reads no zstd before 23, and takes 125 layers.
        """
        return not (self.engine.is_podman or self.engine.containerd)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=each.name, marks=pytest.mark.xdist_group(each.name))
        for each in (MACHINE, *ENGINES)
    ],
)
def engine(
    request: pytest.FixtureRequest, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, docker.DockerClient]]:
    """Each engine, and a client of it; DOCKER_HOST names it meanwhile."""
    wanted: Engine = request.param
    if wanted is MACHINE:
        yield wanted, request.getfixturevalue("daemon")
        return
    try:
        with started(wanted, tmp_path_factory.mktemp("e"), registry) as url:
            client = docker.DockerClient(url, timeout=120)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOCKER_HOST", url)
                yield wanted, client
            client.close()
    except NotHere as error:
        missing(f"no {wanted.name}: {error}")


@pytest.fixture
def here(
    engine: tuple[Engine, docker.DockerClient], registry: str, tmp_path: Path
) -> Iterator[Here]:
    """The engine with a repository of the test's own; what the test made in it goes."""
    found, client = engine
    world = Here(found, client, registry, tmp_path, f"{registry}/made/{uuid.uuid4().hex[:12]}")
    yield world
    # What something else was built on goes last.
    for _ in range(4):
        for image in {image for base in world.bases for image in world.mine(base)}:
            with suppress(docker.errors.APIError):
                client.api.remove_image(image, force=True, noprune=True)
