"""What a container would see: the names of all layers, one on top of another.

A path is what the topmost layer says of it, unless a layer in between has hidden it: by a
whiteout of it or of a directory above, by an opaque directory above, or by something that is
no directory standing where one was (OCI image-spec, layer.md).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.model import broken
from patcher.oci.rootfs.scan import Traces, hash_of
from patcher.oci.rootfs.tree import Kind

Layers = Sequence[Traces]
"""The traces of an image's layers, the topmost first."""

# An image of 21 GB has some 60,000 folders, links and names of interest.
_MOST_NODES = 1_000_000


class Mark(enum.Enum):
    """A file whose bytes were not kept."""

    NAMED = "a regular file, as far as the layer says"
    OTHER = "anything that is neither wanted nor a folder or link"


Entry = ImageFile | ImageDirectory | str | Mark | None
"""What is at a path: the text of a link for `str`, a folder that no layer states for None."""


@dataclass(slots=True, eq=False)
class _Node:
    parent: _Node | None
    name: str
    entry: Entry = None
    # Below this a layer states files though it is not a folder: runtimes differ in what that means.
    clash: bool = False
    children: dict[str, _Node] = field(default_factory=dict)

    def alive(self) -> bool:
        """Is it still part of the tree?"""
        node = self
        while node.parent is not None:
            if node.parent.children.get(node.name) is not node:
                return False
            node = node.parent
        return True

    def path(self) -> str:
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(parts))

    def is_folder(self) -> bool:
        return self.entry is None or isinstance(self.entry, ImageDirectory)


class Filesystem:
    """The merged names of an image's layers: a `Tree`, with what a thin layer must know."""

    def __init__(self, layers: Layers) -> None:
        self._root = _Node(None, "")
        self._by_hash: dict[int, _Node] = {}
        self._count = 0
        self._last = ("/", self._root)
        self.bytecode: dict[str, bytes] = {}
        self.mentions: dict[str, ImageFile] = {}
        for layer in reversed(layers):
            self._apply(layer)
        self.bytecode = {path: head for path, head in self.bytecode.items() if self.at(path)}
        self.mentions = {
            path: file for path, file in self.mentions.items() if self.read(path) == file.data
        }

    # --- As a `Tree`.

    def kind(self, path: str) -> Kind | None:
        """See `Tree`."""
        node = self._node(path)
        if node is None:
            return None
        if isinstance(node.entry, str):
            return Kind.LINK
        return Kind.FOLDER if node.is_folder() else Kind.FILE

    def link(self, path: str) -> str:
        """See `Tree`."""
        text = self.at(path)
        return text if isinstance(text, str) else ""

    def names(self, folder: str) -> list[str]:
        """See `Tree`: of these names only those that matter."""
        node = self._node(folder)
        return sorted(node.children) if node and node.is_folder() else []

    def read(self, path: str) -> bytes | None:
        """See `Tree`."""
        entry = self.at(path)
        return entry.data if isinstance(entry, ImageFile) else None

    # --- What else is asked of an image.

    def at(self, path: str) -> Entry:
        """What is at a path. None for nothing, and for a folder that no layer states."""
        node = self._node(path)
        return node.entry if node else None

    def directory(self, path: str) -> ImageDirectory:
        """The folder at a real path, as a layer that writes below it must state it again.

        Raises `BrokenImage` where it is not one, and where runtimes differ in what it is.
        """
        node = self._node(path)
        if node is not None and (node.clash or not node.is_folder()):
            raise broken(f"{path} is not a directory, and vLLM's files are below it")
        if node is None or not isinstance(node.entry, ImageDirectory):
            # No layer states it. Every runtime then makes it so.
            return ImageDirectory(path, uid=0, gid=0, mode=0o755, mtime=0)
        return node.entry

    def walk(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every folder with the names in it, also of what is below a clash."""
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            if node.children:
                yield node.path(), tuple(node.children)
                nodes.extend(node.children.values())

    # --- Building it.

    def _node(self, path: str) -> _Node | None:
        """Found from the folder that was asked for last: paths are mostly walked down."""
        above, _, name = path.rpartition("/")
        if self._last[0] == above:
            node: _Node | None = self._last[1]
            node = node.children.get(name) if node else None
        else:
            node = self._root
            for part in filter(None, path.split("/")):
                node = node.children.get(part)
                if node is None:
                    break
        if node is not None:
            self._last = (path, node)
        return node

    def _apply(self, layer: Traces) -> None:
        for folder in layer.opaque:
            node = self._node(folder)
            if node is not None:
                node.children = {}
        for path in layer.whiteouts:
            self._remove(path)
        self._last = ("/", self._root)
        for number in layer.others:
            node = self._by_hash.get(number)
            if node is not None and node.alive():
                node.entry, node.children, node.clash = Mark.OTHER, {}, False
        for path, directory in layer.directories.items():
            node = self._ensure(path)
            if not node.is_folder():
                node.children = {}
            node.entry, node.clash = directory, False
        self._apply_files(layer)

    def _apply_files(self, layer: Traces) -> None:
        files: dict[str, Entry] = {**dict.fromkeys(layer.names, Mark.NAMED), **layer.links}
        files |= dict.fromkeys(layer.bytecode, Mark.NAMED)
        files |= layer.mentions
        files |= layer.files
        # Those above first: what is below a link of the same layer is a clash.
        for path in sorted(files):
            node = self._ensure(path)
            node.entry, node.children, node.clash = files[path], {}, False
        self.bytecode |= layer.bytecode
        self.mentions |= layer.mentions

    def _ensure(self, path: str) -> _Node:
        node = self._root
        end = 0
        for part in path.split("/")[1:]:
            end += 1 + len(part)
            if not node.is_folder():
                node.clash = True
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = _Node(node, part)
                self._by_hash[hash_of(path[:end])] = child
                self._count += 1
                if self._count > _MOST_NODES:
                    raise broken(f"the image has over {_MOST_NODES} folders and links")
            node = child
        return node

    def _remove(self, path: str) -> None:
        node = self._node(path)
        if node is not None and node.parent is not None:
            node.parent.children.pop(node.name, None)
            self._last = ("/", self._root)
