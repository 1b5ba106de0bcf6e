"""Which vLLMs an image holds, and which of its Pythons import each.

Every copy on the path of some Python of the image may be imported. Where the path of none is known,
as in an image whose interpreter is not recognised, each folder of installed packages counts as one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from posixpath import basename, dirname, join, normpath

from patcher.errors import BrokenImage
from patcher.oci.layer import parents
from patcher.oci.model import broken
from patcher.oci.rootfs.filesystem import Filesystem
from patcher.oci.rootfs.installed import PACKAGE, SITES, VERSION_FILE
from patcher.oci.rootfs.python import (
    Imported,
    Interpreter,
    Place,
    find_package,
    interpreters_at,
    redirections,
    site_places,
)
from patcher.oci.rootfs.scan import INTERPRETER, Wanted
from patcher.oci.rootfs.start import Start, Started, started
from patcher.oci.rootfs.tree import Kind, real, real_folder, resolve

# A real image has one to three; each costs a verdict.
_MOST_COPIES = 64
_MOST_INTERPRETERS = 256


class Unseen(Exception):
    """Something is asked for that was not kept: the layers must be read for more."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        super().__init__()


@dataclass(slots=True)
class FoundCopy:
    """A vLLM: its real package folders, who has it on its path, who imports it.

    `runs` is why it is the one that the image's command starts, empty where it is not. `sites` are
    the folders on a path that lead to it, `library` the version of a Python that has it there.
    """

    folders: tuple[str, ...]
    library: str | None = None
    on_path_of: list[str] = field(default_factory=list)
    imported_by: list[str] = field(default_factory=list)
    runs: str = ""
    sites: list[str] = field(default_factory=list)

    @property
    def root(self) -> str:
        """The folder that holds the package."""
        return dirname(self.folders[0])

    @property
    def is_idle(self) -> bool:
        """Whether no Python of the image is seen to import it, nor could an unseen one."""
        return self._rank == _IDLE

    @property
    def order(self) -> tuple[int, tuple[str, ...]]:
        """What is most likely to run comes first."""
        return self._rank, self.folders

    @property
    def _rank(self) -> int:
        if self.runs:
            return 0
        if self.imported_by:
            return 1
        if self.on_path_of:
            return 2
        return 3 if self._is_in_site else _IDLE

    @property
    def _is_in_site(self) -> bool:
        return basename(self.root) in SITES

    @property
    def why(self) -> str:
        """Why it is run, or may be, or is not."""
        if self.runs:
            return self.runs
        if self.imported_by:
            return f"{_some(self.imported_by)} would import it"
        if self.on_path_of:
            return f"on the path of {_some(self.on_path_of)}, behind another"
        if self._is_in_site:
            return "in a folder of installed packages whose Python is not seen"
        return "on no Python's path"


_IDLE = 4


def _some(names: Iterable[str]) -> str:
    one, *more = dict.fromkeys(names)
    return f"{one} and {len(more)} more" if more else one


def find_copies(
    files: Filesystem, start: Start, targets: Sequence[str], wanted: Wanted
) -> tuple[list[FoundCopy], list[str]]:
    """Every vLLM in an image, what runs first, then what else some Python has on its path; and what
    a person should know. `wanted` is what the layers were read for.

    Raises `Unseen`, and `BrokenImage` where a Python imports something else by the name.
    """
    search = _Search(files, start, targets, wanted)
    copies = search.copies()
    return copies, search.notes


@dataclass(frozen=True, slots=True)
class _Search:
    """One search of an image. `found` are the copies so far, by their folders."""

    files: Filesystem
    start: Start
    targets: Sequence[str]
    wanted: Wanted
    found: dict[tuple[str, ...], FoundCopy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sites: dict[str, list[Place]] = field(default_factory=dict)

    def copies(self) -> list[FoundCopy]:
        """All of them, in their order."""
        pythons, packages = self._names()
        self._note_interpreters(pythons)
        self._note_any_python()
        whole = {folder for folders in self.found if len(folders) > 1 for folder in folders}
        for folder in whole:
            self.found.pop((folder,), None)
        for package in packages:
            if not any(package in copy.folders for copy in self.found.values()):
                self.found[(package,)] = FoundCopy((package,))
        if len(self.found) > _MOST_COPIES:
            raise broken(f"the image holds {len(self.found)} copies of vLLM")
        return sorted(self.found.values(), key=lambda copy: copy.order)

    # --- Which names there are.

    def _names(self) -> tuple[list[str], list[str]]:
        """Every interpreter, and every folder that vLLM's own files are in."""
        pythons, packages = [], []
        for folder, names in self.files.walk():
            if basename(folder) == "bin":
                pythons += [f"{folder}/{name}" for name in names if INTERPRETER.fullmatch(name)]
            if basename(folder) == PACKAGE and self._is_vllm(folder):
                there = real_folder(self.files, folder)
                if there != folder:
                    # Below a link that another layer put there: runtimes differ in what it is.
                    for above in parents([f"{folder}/any"]):
                        self.files.directory(above)
                packages.append(folder)
            if PACKAGE in names and basename(folder) != "bin":
                self._expect_known(f"{folder}/{PACKAGE}")
            if basename(folder).startswith(f"{PACKAGE}-") and "direct_url.json" in names:
                self._note_editable(f"{folder}/direct_url.json")
        if len(pythons) > _MOST_INTERPRETERS:
            raise broken(f"the image holds {len(pythons)} interpreters")
        return sorted(pythons), sorted(set(packages))

    def _is_vllm(self, folder: str) -> bool:
        """A package of that name alone may be anybody's: transformers has one."""
        own = [VERSION_FILE, *self.targets]
        inner = [target.removeprefix(f"{PACKAGE}/") for target in own]
        return any(self.files.kind(f"{folder}/{path}") is not None for path in inner) or any(
            real(self.files, f"{folder}/{path}") is not None for path in inner
        )

    def _expect_known(self, path: str) -> None:
        """Where a link gives the package its name, the folder it leads to is read as vLLM's."""
        there, kind = resolve(self.files, path)
        if there == path or basename(there) == PACKAGE or kind is Kind.FILE:
            return
        if there not in self.wanted.packages:
            raise Unseen(replace(self.wanted, packages=self.wanted.packages | {there}))

    def _note_editable(self, path: str) -> None:
        """An install that leads to a folder (PEP 610), which may be mounted when it runs."""
        try:
            stated = json.loads(self.files.read(path) or b"{}")
            folder = str(stated["url"]).removeprefix("file://") if stated["dir_info"] else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if folder.startswith("/") and real_folder(self.files, folder) is None:
            self.notes.append(
                f"{dirname(path)}: vLLM is an editable install of {folder}, which the image lacks"
            )

    # --- Who imports them.

    def _note_interpreters(self, pythons: Sequence[str]) -> None:
        """What each interpreter imports, that of the image's command first."""
        running = started(self.files, self.start)
        seen = set()
        for python in dict.fromkeys([*([running.python] if running else []), *pythons]):
            for each in interpreters_at(self.files, python):
                if (each.prefix, each.library) not in seen:
                    seen.add((each.prefix, each.library))
                    runs = running if running and running.python == python else None
                    self._note_imports(each, runs)

    def _note_imports(self, python: Interpreter, runs: Started | None) -> None:
        """What one interpreter imports and has on its path: as its command has it, and from the
        working directory, as `-m` and `-c` do.
        """
        ways = [Started(python.path, self.start.folder), Started(python.path, None)]
        for way in [*([runs] if runs else []), *ways]:
            places = self._sys_path(python, way)
            self.notes.extend(redirections(self.files, places))
            taken = find_package(self.files, places, python.library)
            for place in places:
                self._note_place(place, python.library, python.path)
            if taken is None:
                continue
            if taken.module is not None:
                raise BrokenImage(
                    f"{python.path} imports {taken.module} for vllm, by {_by(taken)}",
                    next_step="Take an image in which `import vllm` is vLLM.",
                )
            is_vllm = any(map(self._is_vllm, taken.folders))
            if not is_vllm and (way is not runs or taken.is_namespace):
                continue
            copy = self.found.setdefault(taken.folders, FoundCopy(taken.folders))
            copy.library = copy.library or python.library
            if way is runs and not copy.runs:
                copy.runs = f"{python.path} imports it, by {_by(taken)}"
            copy.imported_by.append(python.path)

    def _note_any_python(self) -> None:
        """What is on the path of whatever Python is started."""
        places = [Place(self.start.folder, "the working directory"), *self._python_path()]
        first = find_package(self.files, places, None)
        for place in places:
            self._note_place(place, None, "whatever Python is started")
        runs = any(copy.runs for copy in self.found.values())
        if first is not None and first.folders in self.found and not runs:
            self.found[first.folders].runs = f"any Python imports it, by {first.place.why}"

    def _note_place(self, place: Place, library: str | None, who: str) -> None:
        """A copy on a path, though another may hide it there: an option or a variable decides."""
        taken = find_package(self.files, [place], library)
        if taken is None or not taken.folders:
            return
        if not self._is_vllm(taken.folders[0]) and not place.is_package:
            return
        copy = self.found.setdefault(taken.folders, FoundCopy(taken.folders, library))
        copy.on_path_of.append(who)
        copy.sites.append(real(self.files, place.path) or place.path)

    def _sys_path(self, python: Interpreter, way: Started) -> list[Place]:
        """sys.path without the standard library, which holds no vLLM, but with its archive, as
        `python312.zip`: that is seldom there, and where it is may hold anything.
        """
        places = [Place(way.first, "its first folder")] if way.first else []
        if way.environment:
            places += self._python_path()
        name = f"python{(python.library or '').replace('.', '')}.zip"
        archives = (f"{python.prefix}/{lib}/{name}" for lib in ("lib", "lib64"))
        places += [Place(each, "") for each in archives if self.files.kind(each) is not None]
        sites = list(python.sites)
        if way.user_site and python.takes_user_site and python.library:
            home = self.start.home(self.files)
            base = self.start.environment.get("PYTHONUSERBASE") or join(home, ".local")
            sites.insert(0, normpath(f"{base}/lib/python{python.library}/site-packages"))
        for site in sites:
            if site not in self.sites:
                self.sites[site] = site_places(self.files, site)
                for place in self.sites[site]:
                    if place.is_package:
                        self._expect_known(f"{place.path}/.")
            places += self.sites[site]
        return places

    def _python_path(self) -> list[Place]:
        entries = self.start.environment.get("PYTHONPATH", "")
        folder = self.start.folder
        return [
            Place(normpath(join(folder, entry)), "PYTHONPATH")
            for entry in (entries.split(":") if entries else ())
        ]


def _by(taken: Imported) -> str:
    return taken.place.why or taken.place.path
