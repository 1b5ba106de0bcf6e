"""Reading files of an image in a Docker daemon, with nothing run in the image.

A container is created and never started; the daemon then answers for single paths of its file
system (Docker Engine API, ContainerArchive and ContainerArchiveInfo). Whether a path is there
costs 2 ms: candidate places are walked from the top, each directory is asked for once, and vLLM is
found with about 30 questions in 60 ms. What a path holds costs 50 ms, at any size of a directory
whose first entry is all that is read: the daemon starts a process for each answer.
"""

from __future__ import annotations

import tarfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from posixpath import dirname, join, normpath
from posixpath import split as split_path
from typing import TYPE_CHECKING

from patcher.daemon.client import asking, undisturbed
from patcher.errors import BrokenImage, DaemonFailed, FileAbsent
from patcher.oci.installation import ImageDirectory, ImageFile, Installation
from patcher.oci.installed import VERSION_FILE, bytecode_names, parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from docker import DockerClient

    from patcher.oci.reference import Platform

READER_LABEL = "dev.vllm-patcher.reader"
"""Marks the containers that exist to be read from: one that outlives a kill can be recognised."""

_MINORS = range(9, 20)
_USUAL_PREFIXES = ("/usr/local", "/usr", "/opt/venv", "/opt/conda")

# The largest source file of vLLM has under 1 MB; a hostile image must not fill the memory.
_MOST_BYTES = 32 * 1024 * 1024

# Bits of Go's fs.FileMode, in which the daemon states a mode.
_GO_DIRECTORY = 1 << 31
_GO_SYMLINK = 1 << 27

_LOST = "Try again: another program may have removed the container ('docker container prune')."


@dataclass(frozen=True, slots=True)
class _Stat:
    """What the daemon says of a path, the last part not followed; `link` is where it leads."""

    mode: int
    link: str


@dataclass(frozen=True, slots=True)
class Files:
    """The file system of one image, open for reading."""

    client: DockerClient
    container: str
    _seen: dict[str, _Stat | None] = field(default_factory=dict)

    def real(self, path: str) -> str | None:
        """The path with every symbolic link resolved; None where nothing is there."""
        if path == "/":
            return path
        parent, name = split_path(normpath(path))
        above = self.real(parent)
        if above is None or not self._is_directory(above):
            return None
        here = join(above, name)
        stat = self._stat(here)
        if stat is None:
            return None
        if not stat.mode & _GO_SYMLINK:
            return here
        return stat.link if self._stat(stat.link) else None

    def file(self, path: str) -> ImageFile | None:
        """The file at a path, links resolved. Raises `BrokenImage` where it is no regular file."""
        real = self.real(path)
        if real is None:
            return None
        with self._archive(real) as archive:
            member = _first(archive, real)
            if not member.isreg() or member.size > _MOST_BYTES:
                raise BrokenImage(
                    f"{real} in the image is no file of a source's size",
                    next_step="Take an image whose vLLM was installed from a wheel.",
                )
            content = archive.extractfile(member)
            data = content.read() if content else b""
        return ImageFile(real, data, member.uid, member.gid, _mode(member), int(member.mtime))

    def directory(self, path: str) -> ImageDirectory:
        """The directory at a real path."""
        with self._archive(path) as archive:
            member = _first(archive, path)
        return ImageDirectory(path, member.uid, member.gid, _mode(member), int(member.mtime))

    def filled(self, path: str) -> list[str]:
        """The names of what is not empty in the directory at a real path."""
        with self._archive(path) as archive:
            parts = [member.name.rstrip("/").split("/") for member in archive if member.size]
        return [part[1] for part in parts if len(part) == 2]

    def _is_directory(self, path: str) -> bool:
        stat = self._stat(path)
        return stat is not None and bool(stat.mode & _GO_DIRECTORY)

    def _stat(self, path: str) -> _Stat | None:
        if path not in self._seen:
            self._seen[path] = self._ask(path)
        return self._seen[path]

    def _ask(self, path: str) -> _Stat | None:
        """The daemon's answer: 404 for what is not there, 500 for a link that leads to itself."""
        from docker.utils import decode_json_header

        with asking(f"{path} in the image cannot be looked at", next_step=_LOST):
            answer = self.client.api.head(
                self._url, params={"path": path}, timeout=self.client.api.timeout
            )
        if answer.status_code != 200:
            return None
        told = decode_json_header(answer.headers["X-Docker-Container-Path-Stat"])
        return _Stat(told["mode"], told["linkTarget"])

    def check_alive(self) -> None:
        """Raise `DaemonFailed` where the container is gone: then "not there" means nothing."""
        if self._ask("/") is None:
            raise DaemonFailed("the daemon lost the container that was read", next_step=_LOST)

    @contextmanager
    def _archive(self, path: str) -> Iterator[tarfile.TarFile]:
        """The daemon's tar of a path, read as it comes: what is not wanted is never sent."""
        api = self.client.api
        with (
            asking(f"{path} in the image cannot be read", next_step=_LOST),
            api.get(
                self._url,
                params={"path": path},
                headers={"Accept-Encoding": "identity"},
                stream=True,
                timeout=api.timeout,
            ) as answer,
        ):
            if not answer.ok:
                raise DaemonFailed(f"{path} cannot be read: {answer.text}", next_step=_LOST)
            try:
                with tarfile.open(fileobj=answer.raw, mode="r|") as archive:
                    yield archive
            except tarfile.TarError as error:
                raise DaemonFailed(f"{path} came damaged: {error}", next_step=_LOST) from error

    @property
    def _url(self) -> str:
        api = self.client.api
        return f"{api.base_url}/v{api.api_version}/containers/{self.container}/archive"


def _first(archive: tarfile.TarFile, path: str) -> tarfile.TarInfo:
    member = archive.next()
    if member is None:
        raise DaemonFailed(f"the daemon sent nothing for {path}", next_step=_LOST)
    return member


def _mode(member: tarfile.TarInfo) -> int:
    """The permission bits: Go's tar writer may put the file's type beside them."""
    return member.mode & 0o7777


@contextmanager
def opened(client: DockerClient, image: str, platform: Platform) -> Iterator[Files]:
    """The files of an image, by its id. Whatever happens inside, the container is removed."""
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
        yield Files(client, name)
    finally:
        with asking(doing, next_step=next_step), undisturbed(), suppress(NotFound):
            client.api.remove_container(name, v=True, force=True)


def find_installation(
    files: Files, environment: Mapping[str, str], targets: Sequence[str]
) -> Installation:
    """Find vLLM in the image, with the targets that it has.

    `environment` is the image's. Raises `FileAbsent` where there is no vLLM, `BrokenImage` where
    there are two or where it states no version.
    """
    root = find_root(files, environment)
    stated = files.file(join(root, VERSION_FILE))
    version, commit = parse_version(stated.data if stated else b"")
    found = {target: files.file(join(root, target)) for target in targets}
    present = {target: file for target, file in found.items() if file is not None}
    bytecode = {target: _bytecode(files, join(root, target)) for target in present}
    paths = [file.path for file in present.values()] + [*chain.from_iterable(bytecode.values())]
    directories = tuple(files.directory(path) for path in _above([join(root, "vllm"), *paths]))
    return Installation(root, version, commit, present, bytecode, directories)


def find_root(files: Files, environment: Mapping[str, str]) -> str:
    """The real path of the directory that holds the package `vllm`.

    Raises `FileAbsent` where none is found, `BrokenImage` where two packages are.
    """
    roots: dict[str, str] = {}
    for place in candidates(environment):
        package, root = files.real(join(place, "vllm")), files.real(place)
        if package and root and files.real(join(place, VERSION_FILE)):
            roots.setdefault(package, root)
    if len(roots) > 1:
        raise BrokenImage(
            f"the image holds more than one vLLM: {', '.join(sorted(roots))}",
            next_step="Take an image with one vLLM: which of them is run cannot be told.",
        )
    if not roots:
        files.check_alive()
        raise FileAbsent(
            "the image holds no vLLM where a Python of its PATH would look",
            next_step="Ask it where vLLM lies (python3 -c 'import vllm; print(vllm.__file__)') and "
            "take an image whose PATH, VIRTUAL_ENV or PYTHONPATH leads there.",
        )
    return next(iter(roots.values()))


def candidates(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Each directory that a Python of the image could import from, the likeliest first.

    Debian's Python installs into dist-packages, every other into site-packages (the schemes of
    `sysconfig`); PATH tells the prefixes, PYTHONPATH directories beside them.
    """
    search = [normpath(entry) for entry in environment.get("PATH", "").split(":")]
    prefixes = [environment.get("VIRTUAL_ENV", ""), environment.get("CONDA_PREFIX", "")]
    prefixes += [dirname(entry) for entry in search if entry.endswith("/bin")]
    schemes = [
        f"{prefix.rstrip('/')}/{lib}/python3.{minor}/{packages}"
        for prefix in dict.fromkeys((*prefixes, *_USUAL_PREFIXES))
        for lib in ("lib", "lib64")
        for minor in _MINORS
        for packages in ("site-packages", "dist-packages")
    ]
    python_path = environment.get("PYTHONPATH", "").split(":")
    places = (*python_path, *schemes, "/usr/lib/python3/dist-packages")
    return tuple(dict.fromkeys(place for place in places if place.startswith("/")))


def _bytecode(files: Files, path: str) -> tuple[str, ...]:
    """The absolute, real paths of the .pyc that Python could run in a file's place.

    An empty one is none: Python reads the source then, which is how `bake` covers bytecode.
    """
    cache = files.real(join(dirname(path), "__pycache__"))
    if cache is None:
        return ()
    return tuple(join(cache, name) for name in bytecode_names(path, files.filled(cache)))


def _above(paths: Sequence[str]) -> list[str]:
    """Every directory above the paths but the root, outermost first."""
    found: set[str] = set()
    for path in paths:
        parent = dirname(path)
        while parent != "/":
            found.add(parent)
            parent = dirname(parent)
    return sorted(found)
