"""A tree of which the paths alone are known, as a wheel lists them: what Python would run of it."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from patcher.oci.rootfs.installed import PACKAGE, bytecode_names, module_parts
from patcher.oci.rootfs.python import Loader, Place, find_package, module_file
from patcher.oci.rootfs.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence


class NameTree:
    """Files by their paths, relative to the tree's root, as a `Tree`. It has no links.

    A folder is looked for when it is asked for: of a hostile list, all folders above all paths
    would be more than memory holds.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = sorted(paths)
        self._known: dict[str, dict[str, Kind]] = {}

    def kind(self, path: str) -> Kind | None:
        """See `Tree`."""
        folder, _, name = path.rpartition("/")
        return self._in(folder).get(name)

    def link(self, path: str) -> str:
        """See `Tree`."""
        raise NotADirectoryError(path)

    def names(self, folder: str) -> list[str]:
        """See `Tree`."""
        return sorted(self._in(folder))

    def read(self, path: str) -> bytes | None:  # noqa: ARG002
        """See `Tree`: only names are known."""
        return None

    def _in(self, folder: str) -> dict[str, Kind]:
        """What is in a folder, by name."""
        start = f"{folder}/".lstrip("/")
        if start not in self._known:
            found: dict[str, Kind] = {}
            at = bisect_left(self._paths, start)
            while at < len(self._paths) and (path := self._paths[at]).startswith(start):
                name, slash, _ = path[len(start) :].partition("/")
                if name or slash:
                    found[name] = Kind.FOLDER if slash or name in found else Kind.FILE
                # "0" is what comes after "/": of a folder within it, one path is enough.
                at = bisect_left(self._paths, f"{start}{name}0", at) if slash else at + 1
            self._known[start] = found
        return self._known[start]


def runs_instead(tree: NameTree, target: str) -> str | None:
    """The file that Python runs in place of a target of the package; None where it is the target.

    A package of its name and an extension module come first, and so may bytecode that lies ready:
    with an unchecked hash (PEP 552), Python does not look at the source.
    """
    path = f"/{target}"
    package = find_package(tree, [Place("/", "")], None)
    if package is not None and package.module is not None:
        return package.module.lstrip("/")
    found = module_file(tree, (f"/{PACKAGE}",), module_parts(target), None)
    if found is not None and found != (Loader.SOURCE, path):
        return found[1].lstrip("/")
    folder, _, name = path.rpartition("/")
    ready = bytecode_names(name, tree.names(f"{folder}/__pycache__"))
    return f"{folder}/__pycache__/{ready[0]}".lstrip("/") if ready else None
