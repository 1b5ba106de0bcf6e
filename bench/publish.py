"""Four ways to get one patched file into a registry's image of 1.5 GB: time, bytes, disk, memory.

Every way talks to the same real registry through the same counting relay. The base is made for
it: two platforms, layers that do not compress, and vLLM's real file in the topmost.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from bench.files import PATCH, fetched, patched
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.file import save
from patcher.oci.model import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Part,
    dump_json,
    part,
)
from patcher.oci.reference import parse_reference
from patcher.versions import parsed
from tests.conftest import real_registry

VERSION = "0.23.0"
SITE = "usr/local/lib/python3.12/dist-packages"
LAYER = 150_000_000
SIZES = (10, 150, 450, 1500)  # MB
_SILENCE = 600


@dataclass
class Relay:
    """A port in front of a registry, and the bytes that went through it, headers included."""

    address: str = ""
    sent: int = 0
    received: int = 0


@contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """Count what goes to and comes from a registry."""
    counted = Relay()
    host, _, port = upstream.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    counted.address = f"127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for name, one, other in (("sent", client, server), ("received", server, client)):
                    pump = threading.Thread(target=_pump, args=(counted, name, one, other))
                    pump.daemon = True
                    pump.start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield counted
    finally:
        listener.close()


def _pump(counted: Relay, name: str, one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 18):
            other.sendall(data)
            setattr(counted, name, getattr(counted, name) + len(data))
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def tar_gz(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A layer whose gzip only wraps, and its diff_id: what is random does not compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in sorted(
            {str(above) for name in files for above in Path(name).parents} - {"."}
        ):
            header = tarfile.TarInfo(folder)
            header.type, header.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(header)
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    tar = buffer.getvalue()
    return gzip.compress(tar, 0, mtime=0), f"sha256:{hashlib.sha256(tar).hexdigest()}"


@dataclass
class Maker:
    """Puts blobs and manifests into a repository of the registry."""

    host: str
    repository: str

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        made = part(data, media_type).descriptor
        url = f"http://{self.host}/v2/{self.repository}/blobs/uploads/"
        place = requests.post(url, timeout=_SILENCE).headers["Location"]
        done = requests.put(place, params={"digest": made.digest}, data=data, timeout=_SILENCE)
        done.raise_for_status()
        return dict(made.document)

    def manifest(self, document: dict[str, Any]) -> dict[str, Any]:
        made: Part = part(dump_json(document), document["mediaType"])
        url = f"http://{self.host}/v2/{self.repository}/manifests/{made.descriptor.digest}"
        kind = {"Content-Type": document["mediaType"]}
        requests.put(url, data=made.data, headers=kind, timeout=_SILENCE).raise_for_status()
        return dict(made.descriptor.document)

    def image(self, architecture: str, layers: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["vllm", "serve"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        }
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": self.blob(dump_json(config), DOCKER_CONFIG),
            "layers": [entry for entry, _ in layers],
        }
        platform = {"os": "linux", "architecture": architecture}
        return {**self.manifest(document), "platform": platform}

    def bases(self) -> dict[int, str]:
        """The digest of an index for each of SIZES, each holding the layers of the one before."""
        source, _ = fetched(VERSION)
        stated = f"__version__ = version = '{VERSION}'\n".encode()
        files = {f"{SITE}/vllm/_version.py": stated, f"{SITE}/{PATCH.target}": source}
        top = self._layer({**files, "weight": os.urandom(9_000_000)})
        layers: list[tuple[dict[str, Any], str]] = []
        digests = {}
        for size in SIZES:
            while len(layers) * LAYER < (size - 10) * 1_000_000:
                layers.append(self._layer({f"layer-{len(layers)}": os.urandom(LAYER)}))
            images = [self.image("amd64", [*layers, top]), self.image("arm64", [top])]
            index = {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": images}
            digests[size] = self.manifest(index)["digest"]
        return digests

    def _layer(self, files: dict[str, bytes]) -> tuple[dict[str, Any], str]:
        data, diff_id = tar_gz(files)
        return self.blob(data, f"{DOCKER_LAYER}.gzip"), diff_id


@dataclass(frozen=True)
class Cost:
    """What a way took: seconds, bytes each way, bytes of disk, and MB of the largest process."""

    seconds: float
    sent: int
    received: int
    disk: int
    memory: float
    said: str

    def __str__(self) -> str:
        return (
            f"{self.seconds:8.2f} s  {self.sent / 1e3:12,.1f} KB up  "
            f"{self.received / 1e3:12,.1f} KB down  {self.disk / 1e6:8,.0f} MB disk  "
            f"{self.memory:6.0f} MB memory"
        )


# A process of its own, and a small one: at its start a child counts its parent's memory as its own.
_MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[2:], stdout=sys.stdout, stderr=subprocess.STDOUT)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(sys.argv[1], "w").write(f"{seconds} {peak}")
sys.exit(done.returncode)
"""


def cost(counted: Relay, commands: list[list[str]], *folders: Path, daemon: bool = False) -> Cost:
    """Run commands one after the other, and say what they took."""
    before, (sent, received) = _disk(folders), (counted.sent, counted.received)
    _daemon_peak(forget=True)
    times, peaks, said = [], [], ""
    for command in commands:
        with tempfile.NamedTemporaryFile() as noted:
            measured = [sys.executable, "-S", "-c", _MEASURE, noted.name, *command]
            done = subprocess.run(measured, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{command} failed: {done.stdout[-2000:]}{done.stderr}")
            seconds, peak = Path(noted.name).read_text().split()
        times.append(float(seconds))
        peaks.append(int(peak))
        said = done.stdout
    time.sleep(0.2)  # the relay's threads may still be counting
    return Cost(
        sum(times),
        counted.sent - sent,
        counted.received - received,
        _disk(folders) - before,
        (_daemon_peak() if daemon else max(peaks)) / 1e3,
        said,
    )


def _disk(folders: tuple[Path, ...]) -> int:
    there = [str(folder) for folder in folders if folder.exists()]
    said = subprocess.run(["du", "-scB1", *there], capture_output=True, text=True, check=False)
    return int(said.stdout.splitlines()[-1].split()[0]) if there else 0


def _daemon_peak(*, forget: bool = False) -> int:
    """KB that the daemons' largest process has held since it was last told to forget."""
    peak = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            said = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if said["Name"].strip() in ("dockerd", "containerd"):
                peak = max(peak, int(said["VmHWM"].split()[0]))
                if forget:
                    (status.parent / "clear_refs").write_text("5")
    return peak


def ours(lock: Path, name: str, to: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "patcher",
        "image",
        name,
        "--patch",
        PATCH.name,
        "--lock",
        str(lock),
        "--to",
        to,
        "--json",
    ]


def write_lock(path: Path, host: str, digest: str) -> Path:
    version = parsed(VERSION)
    assert version is not None
    reference = parse_reference(f"{host}/base:v{VERSION}")
    save(path, Lock((Entry(Original(VERSION, reference), Locked(version, index=Pin(digest))),)))
    return path


def by_docker(counted: Relay, base: str, work: Path) -> Cost:
    """Pull, build, push: one platform."""
    info = subprocess.run(
        ["docker", "info", "-f", "{{.DockerRootDir}}"], capture_output=True, text=True, check=True
    )
    tag = f"{counted.address}/by-docker:patched"
    dockerfile = f"FROM {base}\nCOPY mla_attention.py /{SITE}/{PATCH.target}\n"
    (work / "Dockerfile").write_text(dockerfile)
    commands = [
        ["docker", "pull", base],
        ["docker", "build", "-t", tag, str(work)],
        ["docker", "push", tag],
    ]
    try:
        return cost(counted, commands, Path(info.stdout.strip()), daemon=True)
    finally:
        subprocess.run(["docker", "rmi", "-f", tag, base], capture_output=True, check=False)


def by_skopeo(counted: Relay, base: str, work: Path) -> Cost:
    """Copy out, append in the layout, copy back."""
    layout, to = f"{work}/layout", f"docker://{counted.address}/by-skopeo:patched"
    copy = ["skopeo", "copy", "--quiet"]
    platform = ["--override-os", "linux", "--override-arch", "amd64"]
    patch = [sys.executable, "-m", "patcher", "image", f"oci:{layout}:base", "--patch", PATCH.name]
    commands = [
        [
            "skopeo",
            "copy",
            *platform,
            "--src-tls-verify=false",
            f"docker://{base}",
            f"oci:{layout}:base",
        ],
        patch,
        [*copy, "--dest-tls-verify=false", f"oci:{layout}:{VERSION}-patched", to],
    ]
    try:
        return cost(counted, commands, work / "layout")
    finally:
        shutil.rmtree(layout, ignore_errors=True)


def by_buildah(counted: Relay, base: str, work: Path) -> Cost:
    """From, copy, commit, push: one platform."""
    root = work / "buildah"
    buildah = ["buildah", "--root", f"{root}/root", "--runroot", f"{root}/run"]
    buildah += ["--storage-driver", "overlay"]
    to, tls = f"{counted.address}/by-buildah:patched", "--tls-verify=false"
    commands = [
        [*buildah, "from", "--name", "work", tls, base],
        [*buildah, "copy", "work", f"{work}/mla_attention.py", f"/{SITE}/{PATCH.target}"],
        [*buildah, "commit", "work", "patched"],
        [*buildah, "push", tls, "patched", f"docker://{to}"],
    ]
    try:
        return cost(counted, commands, root)
    finally:
        subprocess.run([*buildah, "rm", "-a"], capture_output=True, check=False)
        subprocess.run([*buildah, "rmi", "-af"], capture_output=True, check=False)
        shutil.rmtree(root, ignore_errors=True)


def report() -> None:
    """Print all of it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        real_registry(Path(folder) / "registry") as host,
        relay(host) as counted,
    ):
        work = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        (work / "mla_attention.py").write_bytes(patched(fetched(VERSION)[0]))
        digests = Maker(host, "base").bases()
        print(f"bases of {', '.join(map(str, SIZES))} MB, two platforms, in a local registry")
        _grow(counted, work, digests)
        base = f"{counted.address}/base@{digests[SIZES[-1]]}"
        for name, way in (("docker", by_docker), ("skopeo", by_skopeo), ("buildah", by_buildah)):
            if shutil.which(name):
                print(f"{name:>30} {way(counted, base, work)}", flush=True)


def _grow(counted: Relay, work: Path, digests: dict[int, str]) -> None:
    for size, digest in digests.items():
        lock = write_lock(work / "images.lock", counted.address, digest)
        for state in ("cold", "warm", "again"):
            if state == "cold":
                shutil.rmtree(work / "cache", ignore_errors=True)
            to = f"{counted.address}/ours-{size}-{'cold' if state == 'cold' else 'warm'}"
            said = cost(counted, [ours(lock, VERSION, to)], work / "cache")
            print(f"{f'append to {size} MB, {state}':>30} {said}", flush=True)
            done = json.loads(said.said[said.said.index("{") :])
            print(
                f"{'publishing alone':>30} {done['seconds']:8.2f} s  "
                f"{done['sent']['parts'] / 1e3:12,.1f} KB of payload",
                flush=True,
            )


if __name__ == "__main__":
    print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count()}))
    report()
