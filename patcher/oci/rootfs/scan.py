"""One layer's tar, streamed once: what it says about the paths that matter, and nothing else.

A layer may hold 300,000 entries and 10 GB. What is kept are the wanted files, the names that say
which vLLM a Python imports, the directories and symbolic links that can be on the way to them,
whiteouts, and eight bytes for any other.
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
import re
import tarfile
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from patcher.errors import Unreadable
from patcher.oci.blobs import Verified
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import OPAQUE, WHITEOUT
from patcher.oci.model import broken
from patcher.oci.rootfs.installed import SITES
from patcher.oci.rootfs.tarball import BZ2_DAMAGE, TarStream, damage
from patcher.oci.rootfs.tree import MOST_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from patcher.oci.model import Descriptor

_IN_SITE = re.compile(r"/(?:dist|site)-packages/")
INTERPRETER = re.compile(r"(?:python|pypy)(?:\d[\d.]*t?)?")
"""What an interpreter's file is called."""

# An image of 21 GB has some 60,000 folders, links and names of interest, and 300,000 files.
_MOST_NAMES = 500_000
_MOST_ENTRIES = 5_000_000

# What is kept of one layer, names and links included: real ones come to a few MB.
_MOST_KEPT = 64 << 20

_MOST_LINKS = 8

# No text that says how Python finds a module has more; the largest real one has 14 KB.
_MOST_SETTINGS = 1 << 20

# Of a script the first line counts, and of pip's for long paths the second.
_HEAD = 1024

_ALL = -1

# A .pyc's header (PEP 552).
_PYC_HEAD = 16

# vLLM's largest Python file has under 1 MB.
_MOST_SOURCE = 2 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: `targets` are paths under the folder that holds vLLM, wherever it is.

    Of `scripts` (names in any `bin`) the first lines are kept; `paths` are absolute: files, and
    folders of bytecode. A Python file of a package that has one of `mentions` is kept too.
    `packages` are folders of other names that links call `vllm`.
    """

    targets: tuple[str, ...]
    paths: frozenset[str] = frozenset()
    scripts: frozenset[str] = frozenset()
    mentions: tuple[bytes, ...] = ()
    packages: frozenset[str] = frozenset()

    def in_package(self, folder: str) -> str:
        """The folder's path, as if a package that has its name from a link had it itself."""
        for package in self.packages:
            if f"{folder}/".startswith(f"{package}/"):
                return f"{posixpath.dirname(package)}/vllm{folder[len(package) :]}"
        return folder

    def bytes_of(self, folder: str, name: str) -> int:
        """How much of a file is kept: `_ALL` of a target, up to so many bytes of others."""
        path = f"{folder}/{name}"
        if path.endswith(_endings(self.targets)) or path in self.paths:
            return _ALL
        if name in _SETTINGS or path == "/etc/passwd":
            return _MOST_SETTINGS
        if name.endswith(".pth") or name.startswith("__editable__"):
            return _MOST_SETTINGS if folder.endswith(SITES) else 0
        if name == "direct_url.json" and posixpath.basename(folder).startswith("vllm-"):
            return _MOST_SETTINGS
        return _HEAD if name in self.scripts and folder.endswith("/bin") else 0

    def is_name_enough(self, folder: str, name: str) -> bool:
        """Is it enough to know that a file of that name is there?"""
        stem, _, ending = name.partition(".")
        if ending in ("py", "pyc", "so") or ending.endswith(".so"):
            module = folder if stem == "__init__" else f"{folder}/{stem}"
            if module.endswith(_modules(self.targets)):
                return True
        above = posixpath.basename(folder)
        return (
            (above == "bin" and INTERPRETER.fullmatch(name) is not None)
            or (stem == "os" and above.startswith("python3."))
            or (name == "METADATA" and above.startswith("vllm-"))
            or (above in ("lib", "lib64") and _ARCHIVE.fullmatch(name) is not None)
        )

    def is_bytecode(self, folder: str, name: str) -> bool:
        """Can Python run this in place of one of the files?"""
        above, cache = posixpath.split(folder)
        if not name.endswith(".pyc"):
            return False
        stem = name.partition(".")[0]
        if folder in self.paths:
            return any(target.endswith(f"/{stem}.py") for target in self.targets)
        module = f"{above}/{stem}.py" if cache == "__pycache__" else ""
        return module.endswith(_endings(self.targets))

    def is_searched(self, path: str) -> bool:
        """Can this be a file that is to be searched?"""
        return bool(self.mentions) and path.endswith(".py") and bool(_IN_SITE.search(path))

    def is_on_the_way(self, path: str) -> bool:
        """Can this folder be above a file? All outside packages can."""
        if not _IN_SITE.search(path):
            return True
        return path.endswith(_folders(self.targets)) or path in _above(self.paths)


# What Python looks into before its standard library.
_ARCHIVE = re.compile(r"python3\d+t?\.zip")

_SETTINGS = frozenset({"pyvenv.cfg", "sitecustomize.py", "usercustomize.py"})


@functools.cache
def _endings(targets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"/{target}" for target in targets)


@functools.cache
def _modules(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Each package on the way to a target, and the target itself, as a path without an ending."""
    parts = [target.removesuffix(".py").split("/") for target in targets]
    return tuple({"/" + "/".join(each[:end]) for each in parts for end in range(1, len(each) + 1)})


@functools.cache
def _folders(targets: tuple[str, ...]) -> tuple[str, ...]:
    above = [module for module in _modules(targets) if f"{module[1:]}.py" not in targets]
    caches = [f"{posixpath.dirname(f'/{target}')}/__pycache__" for target in targets]
    return (*above, *caches, *(f"/{site}" for site in SITES))


@functools.cache
def _above(paths: frozenset[str]) -> frozenset[str]:
    return frozenset(
        "/".join(parts[:end])
        for parts in (path.split("/") for path in paths)
        for end in range(2, len(parts))
    )


@dataclass(slots=True)
class Traces:
    """What one layer says. All paths are absolute; `links` maps to the text of the link.

    `names` are files of which only that matters; `bytecode` maps to the file's first bytes;
    `mentions` are files that have what was searched for. `read` maps a wanted file to how much of
    the blob had been read before its bytes were asked for, and when they were there.
    """

    files: dict[str, ImageFile] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    hard_links: dict[str, str] = field(default_factory=dict)
    directories: dict[str, ImageDirectory] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    bytecode: dict[str, bytes] = field(default_factory=dict)
    mentions: dict[str, ImageFile] = field(default_factory=dict)
    read: dict[str, tuple[int, int]] = field(default_factory=dict)
    whiteouts: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    # Every entry that is not a directory, as sorted hashes: it only matters whether one is there.
    others: array[int] = field(default_factory=lambda: array("Q"))
    # Bytes and characters that are held for this layer, what was forgotten again among them.
    kept: int = field(default=0, compare=False)

    def __len__(self) -> int:
        named = len(self.files) + len(self.links) + len(self.directories) + len(self.bytecode)
        return named + len(self.names) + len(self.whiteouts) + len(self.opaque)

    def hold(self, *sizes: int) -> None:
        """So much more is held. Raises `BrokenImage` for more than a real layer has."""
        self.kept += sum(sizes)
        if self.kept > _MOST_KEPT:
            raise broken(f"over {_MOST_KEPT >> 20} MiB of one layer would have to be kept")

    def forget(self, path: str) -> None:
        """A tar may hold a path twice; the last one counts."""
        for kept in (
            self.files,
            self.links,
            self.hard_links,
            self.directories,
            self.bytecode,
            self.mentions,
            self.read,
        ):
            kept.pop(path, None)
        self.names.discard(path)


def hash_of(path: str) -> int:
    """A path's hash, the same in every process: traces are kept between runs."""
    name = path.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def scan_layer(open_blob: Callable[[], BinaryIO], descriptor: Descriptor, wanted: Wanted) -> Traces:
    """The traces of a layer, whose digest is proven on the way.

    Raises `BrokenImage` for hostile or damaged layers, `Unreadable` for zstd without a decoder.
    """

    def once(wanted: Wanted) -> Traces:
        with open_blob() as raw:
            blob = Verified(raw, descriptor)
            traces = scan_tar(TarStream.of_layer(blob), wanted)
            blob.finish()
            return traces

    return with_hard_links(once, wanted)


def with_hard_links(scan: Callable[[Wanted], Traces], wanted: Wanted) -> Traces:
    """The traces of one tar, which `scan` reads, with the files that are hard links.

    Such a file costs another pass: its bytes are under the first name.
    """
    for _ in range(_MOST_LINKS):
        traces = scan(wanted)
        unseen = frozenset(traces.hard_links.values()) - wanted.paths - traces.files.keys()
        if not unseen:
            return _join_hard_links(traces)
        wanted = replace(wanted, paths=wanted.paths | unseen)
    raise broken("hard links lead nowhere")


def _join_hard_links(traces: Traces) -> Traces:
    for _ in range(_MOST_LINKS):
        for path, first in traces.hard_links.items():
            if first in traces.files:
                traces.files[path] = replace(traces.files[first], path=path)
    for path, first in traces.hard_links.items():
        if path not in traces.files:
            raise broken(f"{path} is a hard link to {first}, which is not a file of the same layer")
    return traces


def scan_tar(stream: TarStream, wanted: Wanted) -> Traces:
    """What a tar says, read to its end. Hard links are left open: see `with_hard_links`."""
    traces = Traces()
    try:
        for header in stream.headers():
            _note(traces, header, stream, wanted)
            if len(traces) > _MOST_NAMES:
                raise broken(f"a layer has over {_MOST_NAMES} directories, links and whiteouts")
    except damage() as error:
        raise broken(f"a layer cannot be read: {error}") from error
    except OSError as error:
        if str(error) == BZ2_DAMAGE:
            raise broken(f"a layer cannot be read: {error}") from error
        raise Unreadable(f"a layer cannot be read: {error}", next_step="Try again.") from error
    traces.others = array("Q", sorted(traces.others))
    return traces


def _note(traces: Traces, header: tarfile.TarInfo, stream: TarStream, wanted: Wanted) -> None:
    path = _absolute(header.name)
    folder, name = posixpath.split(path)
    if name == OPAQUE:
        traces.hold(len(folder))
        traces.opaque.add(folder)
    elif name.startswith(f"{WHITEOUT}{WHITEOUT}"):
        pass  # Other marks of aufs, which image-spec reserves: they hide nothing.
    elif name.startswith(WHITEOUT):
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise broken(f"a layer has a whiteout named {header.name!r}")
        traces.hold(len(path))
        traces.whiteouts.add(posixpath.join(folder, hidden))
    elif path != "/":
        traces.forget(path)
        _note_entry(traces, path, header, stream, wanted)


def _note_entry(
    traces: Traces, path: str, header: tarfile.TarInfo, stream: TarStream, wanted: Wanted
) -> None:
    folder, name = posixpath.split(path)
    folder = wanted.in_package(folder.rstrip("/"))
    if header.isdir():
        # One that is where a file is looked for hides what lower layers have there.
        file = wanted.bytes_of(folder, name) or wanted.is_name_enough(folder, name)
        if wanted.is_on_the_way(path) or file or wanted.is_bytecode(folder, name):
            traces.hold(len(path))
            traces.directories[path] = ImageDirectory(path, **_owner(header))
        return
    traces.others.append(hash_of(path))
    if len(traces.others) > _MOST_ENTRIES:
        raise broken(f"a layer has over {_MOST_ENTRIES} files")
    if header.issym():
        _check_length(header.linkname)
        traces.hold(len(path), len(header.linkname))
        traces.links[path] = header.linkname
    elif header.isreg() or header.islnk():
        _note_file(traces, path, folder, header, stream, wanted)


def _note_file(
    traces: Traces,
    path: str,
    folder: str,
    header: tarfile.TarInfo,
    stream: TarStream,
    wanted: Wanted,
) -> None:
    """Keep what is wanted of a file, or of a hard link; `folder` is as `Wanted` takes it."""
    name = posixpath.basename(path)
    if wanted.is_bytecode(folder, name):
        # What a hard link holds is not known without another pass: it counts as bytecode.
        head = stream.content(header, _PYC_HEAD) if header.isreg() else b"?"
        traces.hold(len(path), len(head))
        traces.bytecode[path] = head
        return
    most = wanted.bytes_of(folder, name)
    if most:
        _keep(traces, path, header, stream, most)
    elif wanted.is_name_enough(folder, name):
        traces.hold(len(path))
        traces.names.add(path)
    if header.isreg() and header.size <= _MOST_SOURCE and wanted.is_searched(path):
        data = traces.files[path].data if path in traces.files else stream.content(header)
        if any(text in data for text in wanted.mentions):
            traces.hold(len(path), len(data))
            traces.mentions[path] = ImageFile(path, data, **_owner(header))


def _keep(traces: Traces, path: str, header: tarfile.TarInfo, stream: TarStream, most: int) -> None:
    if header.islnk():
        traces.hold(len(path), len(header.linkname))
        traces.hard_links[path] = _absolute(header.linkname)
    elif most > _HEAD and header.size > most:
        raise broken(f"{path} has {header.size} bytes, where a few are expected")
    else:
        before = stream.packed
        data = stream.content(header, None if most == _ALL else most)
        traces.hold(len(path), len(data))
        traces.files[path] = ImageFile(path, data, **_owner(header))
        if most == _ALL and stream.packed:
            traces.read[path] = (before, stream.packed)


def _owner(header: tarfile.TarInfo) -> dict[str, int]:
    return {
        "uid": header.uid,
        "gid": header.gid,
        "mode": header.mode & 0o7777,
        "mtime": int(header.mtime),
    }


def _absolute(name: str) -> str:
    """The path that a tar's name means, as docker and containerd take it.

    Real layers write `usr/lib`, `./usr/lib`, `usr/lib/`, `/usr/lib`. What leads out is refused.
    """
    _check_length(name)
    path = posixpath.normpath(name)
    if path == ".." or path.startswith("../"):
        raise broken(f"a layer has an entry named {name!r}")
    return posixpath.normpath("/" + path.lstrip("/"))


def _check_length(name: str) -> None:
    if len(name) > MOST_PATH_BYTES:
        raise broken(
            f"a layer has a path of {len(name)} characters, and Linux takes {MOST_PATH_BYTES}: "
            f"{name[:40]!r}..."
        )
