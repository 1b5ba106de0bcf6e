"""What a container would see: layers laid one upon another, asked from the top down.

A path is what the topmost layer says of it, unless a layer in between has hidden it: by a
whiteout of it or of a directory above, by an opaque directory above, or by something that is
no directory standing where one was (OCI image-spec, layer.md).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from patcher.errors import FileAbsent
from patcher.oci.installation import ImageDirectory, ImageFile, Installation
from patcher.oci.installed import VERSION_FILE, bytecode_names, parse_version
from patcher.oci.layer import parents
from patcher.oci.model import broken
from patcher.oci.scan import Traces, Wanted

Layers = Sequence[Traces]
"""The traces of an image's layers, the topmost first."""

_ROOT = re.compile(rf"(/.*/(?:dist|site)-packages)/{re.escape(VERSION_FILE)}")

# As many as Linux follows (path_resolution(7)).
_MOST_LINKS = 40


OTHER = object()
"""What stands at a path and is no directory, link or wanted file."""


def find_installation(scan: Callable[[Wanted], Layers], targets: Sequence[str]) -> Installation:
    """Where vLLM lies in an image, with the target files, their bytecode and directories.

    `scan` gives the layers' traces of what is wanted. It is called again only where a file is a
    symbolic link to somewhere else. Raises `FileAbsent` where no vLLM is, `BrokenImage` where
    two are, or where a link or another hostile entry stands in the way.
    """
    wanted = Wanted((VERSION_FILE, *targets))
    while True:
        layers = scan(wanted)
        root = _find_root(layers)
        paths = {target: _locate(layers, f"{root}/{target}") for target in wanted.targets}
        literal = {f"{root}/{target}" for target in wanted.targets}
        unseen = frozenset(paths.values()) - literal - wanted.paths
        if not unseen:
            return _installation(layers, root, paths, targets)
        wanted = replace(wanted, paths=wanted.paths | unseen)


def enough(layers: Iterable[Traces], wanted: Wanted) -> list[Traces]:
    """The topmost layers that settle what `find_installation` asks for; no more are taken.

    Settled is what a layer states or hides: the one installation, each target, and every
    directory above, since a lower layer could have a link or another owner there. What lies below
    is then hidden, but for two things that only the remaining layers could tell: a second
    installation in another folder, and bytecode of a file that a higher layer holds in a newer
    version. The layer that vLLM was installed by holds its bytecode, and is always taken, as it
    alone states the version. A target that the image lacks takes all layers.
    """
    taken: list[Traces] = []
    for layer in layers:
        taken.append(layer)
        if _is_settled(taken, wanted):
            break
    return taken


def _is_settled(layers: Layers, wanted: Wanted) -> bool:
    roots = _roots(layers)
    if len(roots) != 1:
        return len(roots) > 1
    paths = [*(f"{roots[0]}/{target}" for target in wanted.targets), *wanted.paths]
    stale = [path for layer in layers for path in layer.bytecode]
    return all(_settles(layers, path) for path in [*paths, *parents([*paths, *stale])])


def _settles(layers: Layers, path: str) -> bool:
    """Do these layers say all there is to say of a path?"""
    return any(_stated(layer, path) is not None or _hides(layer, path) for layer in layers)


def _find_root(layers: Layers) -> str:
    roots = _roots(layers)
    if not roots:
        raise FileAbsent(
            f"no vLLM is installed in the image: no {VERSION_FILE} in any site-packages",
            next_step="Take an image that vLLM was installed into from a wheel.",
        )
    if len(roots) > 1:
        raise broken(f"vLLM is installed twice: in {' and in '.join(roots)}")
    return roots[0]


def _roots(layers: Layers) -> list[str]:
    candidates = {path for layer in layers for path in (*layer.files, *layer.links)}
    matches = (_ROOT.fullmatch(path) for path in candidates)
    return sorted(match[1] for match in matches if match and at(layers, match[0]) is not None)


def _locate(layers: Layers, path: str) -> str:
    """Where the bytes of a file lie. A layer that states a file below a link means another place
    in every runtime.
    """
    if at(layers, path) is not None:
        for folder in parents([path]):
            _directory(layers, folder)
    return follow(layers, path)


def _installation(
    layers: Layers, root: str, paths: dict[str, str], targets: Sequence[str]
) -> Installation:
    stated = _file(layers, paths[VERSION_FILE])
    if stated is None:
        raise broken(f"{root}/{VERSION_FILE} is a link to nothing")
    version, commit = parse_version(stated.data)
    found = {target: _file(layers, paths[target]) for target in targets}
    files = {
        target: replace(file, path=f"{root}/{target}") for target, file in found.items() if file
    }
    bytecode = {target: _bytecode(layers, f"{root}/{target}") for target in files}
    stale = [path for paths in bytecode.values() for path in paths]
    above = parents([*(file.path for file in files.values()), *stale])
    directories = tuple(_directory(layers, path) for path in above)
    return Installation(root, version, commit, files, bytecode, directories)


def _file(layers: Layers, path: str) -> ImageFile | None:
    entry = at(layers, path)
    if entry is not None and not isinstance(entry, ImageFile):
        raise broken(f"{path} is no regular file")
    return entry


def _bytecode(layers: Layers, path: str) -> tuple[str, ...]:
    cache = posixpath.join(posixpath.dirname(path), "__pycache__")
    named = {
        name for layer in layers for name in layer.bytecode if posixpath.dirname(name) == cache
    }
    seen = [posixpath.basename(name) for name in named if at(layers, name) is not None]
    return tuple(f"{cache}/{name}" for name in bytecode_names(path, seen))


def _directory(layers: Layers, path: str) -> ImageDirectory:
    entry = at(layers, path)
    if entry is None:
        # No layer states it. Every runtime then makes it so.
        return ImageDirectory(path, uid=0, gid=0, mode=0o755, mtime=0)
    if not isinstance(entry, ImageDirectory):
        raise broken(f"{path} is no directory, and vLLM's files lie below it")
    return entry


def follow(layers: Layers, path: str, links: int = 0) -> str:
    """The path with every symbolic link on it followed, the last part's too."""
    real = "/"
    parts = path.split("/")
    for number, part in enumerate(parts):
        real = posixpath.normpath(posixpath.join(real, part))
        link = at(layers, real)
        if isinstance(link, str):
            if links == _MOST_LINKS:
                raise broken(f"{path}: symbolic links lead in a circle")
            there = posixpath.join(posixpath.dirname(real), link, *parts[number + 1 :])
            return follow(layers, there, links + 1)
    return real


def at(layers: Layers, path: str) -> object:
    """What a container would see at an absolute path: an `ImageFile`, an `ImageDirectory`, the
    text of a symbolic link, or `OTHER`.

    None for nothing, and for a directory that no layer states. Of the files and directories, only
    those that were wanted are told from others.
    """
    for layer in layers:
        entry = _stated(layer, path)
        if entry is not None:
            return entry
        if _hides(layer, path):
            return None
    return None


def _stated(layer: Traces, path: str) -> object:
    for kept in (layer.files, layer.links, layer.directories):
        if path in kept:
            return kept[path]
    return OTHER if layer.occupied(path) else None


def _hides(layer: Traces, path: str) -> bool:
    above = parents([path])
    return (
        path in layer.whiteouts
        or any(folder in layer.whiteouts or folder in layer.opaque for folder in ["/", *above])
        or any(layer.occupied(folder) and folder not in layer.directories for folder in above)
    )
