"""Docker and podman of Debian's suites, unpacked into folders of their own and started there.

The packages of an engine and all that they need are fetched by apt, which checks their signatures,
into an apt root of its own; nothing is installed on this machine, and no script of a package is
run. They are kept between runs, outside the tree: in VLLM_PATCHER_ENGINES, or in
~/.cache/vllm-patcher-engines (some 260 MB an engine). An engine runs in a mount namespace, with
this folder as its root: when it ends, no mount is left.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker
from docker.errors import DockerException
from requests import RequestException

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MIRROR = "http://deb.debian.org/debian"
# Seconds. An engine has some 65 MB of packages, and answers in one or two.
_FETCH, _ANSWER = 600, 60

# What a package's scripts would have made.
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FOLDERS = ("data", "dev", "proc", "root", "run", "sys", "tmp", "var/lib", "var/tmp")

# `$1` is the root, `$2` the folder that the engine writes to.
_ENTER = """set -e
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
for each in dev proc sys; do mount --rbind "/$each" "$root/$each"; done
mount -t tmpfs tmpfs "$root/run"
mount --bind "$data" "$root/data"
exec chroot "$root" "$@"
"""


class NotHere(Exception):
    """The engine cannot be set up on this machine; says why."""


@dataclass(frozen=True)
class Engine:
    """A package of one of Debian's suites; `containerd` is Docker with containerd's image store."""

    name: str
    suite: str
    package: str
    containerd: bool = False

    @property
    def is_podman(self) -> bool:
        """Podman behind its Docker socket, or Docker itself."""
        return self.package == "podman"


ENGINES = (
    Engine("docker-trixie", "trixie", "docker.io"),
    Engine("docker-trixie-containerd", "trixie", "docker.io", containerd=True),
    Engine("docker-sid", "sid", "docker.io"),
    Engine("docker-sid-containerd", "sid", "docker.io", containerd=True),
    Engine("podman-bookworm", "bookworm", "podman"),
    Engine("podman-trixie", "trixie", "podman"),
    Engine("podman-sid", "sid", "podman"),
)
"""Seen in November 2026: Docker 26.1 in trixie, 28.5 in sid; podman 4.3, 5.4 and 5.8."""


def home() -> Path:
    """Where engines are kept."""
    named = os.environ.get("VLLM_PATCHER_ENGINES")
    return Path(named) if named else Path.home() / ".cache" / "vllm-patcher-engines"


def unpacked(suite: str, package: str) -> Path:
    """A root with a package and all that it needs; fetched at the first call. Raises `NotHere`."""
    for program in ("apt-get", "dpkg", "dpkg-deb", "unshare", "chroot", "tar"):
        if shutil.which(program) is None:
            raise NotHere(f"{program} is not here: it takes Debian or Ubuntu")
    if os.geteuid() != 0:
        raise NotHere("an engine with a root of its own takes a user who is root")
    if not _KEYS.exists():
        raise NotHere(f"{_KEYS} is not here (apt-get install debian-archive-keyring)")
    folder = home() / f"{suite}-{package}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "root").exists():
            _fetch(suite, package, folder / "apt")
            _unpack(folder / "apt", folder / "unfinished")
            shutil.rmtree(folder / "apt")
            (folder / "unfinished").rename(folder / "root")
    return folder / "root"


def _fetch(suite: str, package: str, apt: Path) -> None:
    """The package and all that it needs, as if nothing at all were installed."""
    shutil.rmtree(apt, ignore_errors=True)
    for part in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    source = f"deb [signed-by={_KEYS}] {_MIRROR} {suite} main\n"
    (apt / "sources.list").write_text(source)
    options = {
        "Dir::Etc": apt / "etc",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
    }
    given = [f"--option={key}={value}" for key, value in options.items()]
    _run("apt-get", *given, "--quiet=2", "--error-on=any", "update")
    _run("apt-get", *given, "--quiet=2", "install", "--yes", "--download-only", package)


def _unpack(apt: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(apt.glob("archives/*.deb")):
        # dpkg-deb itself would put a folder where the older packages' /lib is a link.
        into = ("tar", "--extract", "--keep-directory-symlink", f"--directory={root}")
        packed = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        with packed:
            subprocess.run(into, stdin=packed.stdout, check=True)
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split()[-60:])
        raise NotHere(f"{command[0]} {command[-1]}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise NotHere(f"{command[0]} {command[-1]} took over {_FETCH} seconds") from error


@contextmanager
def started(engine: Engine, data: Path, registry: str) -> Iterator[str]:
    """The URL of the engine's socket; it keeps all that it writes in `data`.

    `registry` is one that it may speak to without TLS. Raises `NotHere`.
    """
    root, socket = unpacked(engine.suite, engine.package), data / "engine.sock"
    data.mkdir(parents=True, exist_ok=True)
    (data / "tmp").mkdir(exist_ok=True)
    command = _podman(data, registry) if engine.is_podman else _docker(engine, data)
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    variables = {
        "PATH": "/usr/sbin:/usr/bin",
        "TMPDIR": "/data/tmp",
        "CONTAINERS_REGISTRIES_CONF": "/data/registries.conf",
    }
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, root, data, *command], stdout=log, stderr=log, env=variables
        )
    try:
        _wait(process, socket, data / "log")
        yield f"unix://{socket}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _docker(engine: Engine, data: Path) -> list[str]:
    features = {"containerd-snapshotter": engine.containerd}
    (data / "daemon.json").write_text(json.dumps({"features": features}))
    return [
        "dockerd", "--host=unix:///data/engine.sock", "--data-root=/data/docker",
        "--exec-root=/data/exec", "--pidfile=/data/pid", "--config-file=/data/daemon.json",
        "--bridge=none", "--iptables=false", "--ip6tables=false",
    ]  # fmt: skip


def _podman(data: Path, registry: str) -> list[str]:
    known = f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
    (data / "registries.conf").write_text(known)
    return [
        "podman", "--root=/data/storage", "--runroot=/data/run", "--tmpdir=/data/tmp",
        "--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=file",
        "system", "service", "--time=0", "unix:///data/engine.sock",
    ]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Return when the engine answers. Raises `NotHere` with what it said where it does not."""
    deadline = time.monotonic() + _ANSWER
    while time.monotonic() < deadline and process.poll() is None:
        if socket.exists():
            try:
                client = docker.DockerClient(f"unix://{socket}", timeout=5)
            except (DockerException, RequestException):
                pass
            else:
                client.close()
                return
        time.sleep(0.1)
    said = " ".join(log.read_text(errors="replace").split()[-60:])
    raise NotHere(f"it does not answer: {said}")
