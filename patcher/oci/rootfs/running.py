"""Which vLLM is run in an image: one answer, however the image is reached.

From the config and the names in all layers. Every copy on the path of some Python of the image is
looked at, for it may be imported; any other is named. Where the path of none is known, as in an
image whose interpreter is not recognised, each folder of installed packages counts as one.
"""

from __future__ import annotations

import _imp
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from posixpath import basename, dirname, join, normpath

from patcher.errors import BadSource, BrokenImage, FileAbsent
from patcher.oci.installation import Copy, ImageFile, Installation
from patcher.oci.layer import parents
from patcher.oci.model import broken
from patcher.oci.rootfs.filesystem import Filesystem, Layers
from patcher.oci.rootfs.installed import PACKAGE, VERSION_FILE, bytecode_names, parse_version
from patcher.oci.rootfs.python import (
    Imported,
    Interpreter,
    Loader,
    Place,
    find_package,
    interpreters_at,
    module_file,
    redirections,
    site_places,
)
from patcher.oci.rootfs.scan import INTERPRETER, Wanted
from patcher.oci.rootfs.start import Start, Started, started
from patcher.oci.rootfs.tree import Kind, real, real_folder, resolve

_SITES = ("site-packages", "dist-packages")

# A real image has one to three; each costs a verdict.
_MOST_COPIES = 64
_MOST_INTERPRETERS = 256


class _Unseen(Exception):
    """Something is asked for that was not kept: the layers must be read for more."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        super().__init__()


@dataclass(slots=True)
class _Found:
    """A copy of vLLM: its real package folders, who has it on its path, who imports it."""

    folders: tuple[str, ...]
    library: str | None = None
    on_path_of: list[str] = field(default_factory=list)
    imported_by: list[str] = field(default_factory=list)
    runs: str = ""
    sites: list[str] = field(default_factory=list)

    @property
    def root(self) -> str:
        return dirname(self.folders[0])


def find_installation(
    scan: Callable[[Wanted], Layers],
    start: Start,
    targets: Sequence[str],
    *,
    root: str | None = None,
    mentions: Sequence[bytes] = (),
) -> Installation:
    """The vLLM that is run in an image, with the target files, and every other that may be.

    `scan` gives the layers' traces of what is wanted; it is called again only where a file is a
    link to a place of no other interest. `root` picks one copy, by the folder that holds the
    package. `mentions` picks the other Python files that are handed out.
    Raises `FileAbsent` where no vLLM is, `BadSource` where `root` is not one, `BrokenImage` where
    something else is run in a target's place, or a link or another hostile entry stands there.
    """
    wanted = wanted_of(start, targets, mentions)
    while True:
        files = Filesystem(scan(wanted))
        try:
            return _Search(files, start, tuple(targets), wanted).answer(root)
        except _Unseen as unseen:
            wanted = unseen.wanted


def wanted_of(start: Start, targets: Sequence[str], mentions: Sequence[bytes]) -> Wanted:
    """What to look for in the layers of an image that starts so."""
    return Wanted((VERSION_FILE, *targets), scripts=start.scripts, mentions=tuple(mentions))


@dataclass(frozen=True, slots=True)
class _Search:
    files: Filesystem
    start: Start
    targets: tuple[str, ...]
    wanted: Wanted
    notes: list[str] = field(default_factory=list)
    sites: dict[str, list[Place]] = field(default_factory=dict)

    def answer(self, root: str | None) -> Installation:
        copies = self._copies()
        if not copies:
            raise FileAbsent(
                "; ".join(self.notes)
                or f"the image holds no vLLM: no {VERSION_FILE} in any folder",
                next_step="Take an image that vLLM was installed into.",
            )
        picked = _picked(copies, root)
        main, *others = [self._installation(copy) for copy in picked]
        idle: dict[str, Installation] = {}
        problems: dict[str, str] = {}
        for copy in copies if root is None else ():
            if copy not in picked:
                try:
                    idle[copy.root] = self._installation(copy)
                except BrokenImage as error:
                    problems[copy.root] = error.problem
        looked_at = {*(copy.root for copy in picked), *idle}
        return replace(
            main,
            others=tuple(others),
            idle=tuple(idle.values()),
            followed=self._is_followed(),
            copies=tuple(_told(copy, looked_at, problems.get(copy.root)) for copy in copies),
            notes=tuple(dict.fromkeys(self.notes)),
            mentions=dict(sorted(self.files.mentions.items())),
        )

    def _is_followed(self) -> bool:
        """Is it known which Python the image's command starts, and how? A shell's script may do
        anything; without a command a Python is started by hand.
        """
        if not self.start.command:
            return True
        running = started(self.files, self.start)
        return running is not None and running.known

    # --- Which copies there are, and who imports them.

    def _copies(self) -> list[_Found]:
        """All of them: what runs first, then what else some Python has on its path, then others."""
        found: dict[tuple[str, ...], _Found] = {}
        pythons, packages = self._names()
        running = started(self.files, self.start)
        seen = set()
        for python in dict.fromkeys([*([running.python] if running else []), *pythons]):
            for each in interpreters_at(self.files, python):
                if (each.prefix, each.library) not in seen:
                    seen.add((each.prefix, each.library))
                    runs = running if running and running.python == python else None
                    self._note_imports(found, each, runs)
        anything = self._any_python()
        first = find_package(self.files, anything, None)
        for place in anything:
            self._note_place(found, place, None, "whatever Python is started")
        if first is not None and first.folders in found and not any(c.runs for c in found.values()):
            found[first.folders].runs = f"any Python imports it, by {first.place.why}"
        whole = {folder for folders in found if len(folders) > 1 for folder in folders}
        for folder in whole:
            found.pop((folder,), None)
        for package in packages:
            if not any(package in copy.folders for copy in found.values()):
                found[(package,)] = _Found((package,))
        if len(found) > _MOST_COPIES:
            raise broken(f"the image holds {len(found)} copies of vLLM")
        return sorted(found.values(), key=_order)

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
            raise _Unseen(replace(self.wanted, packages=self.wanted.packages | {there}))

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

    def _note_imports(
        self, found: dict[tuple[str, ...], _Found], python: Interpreter, runs: Started | None
    ) -> None:
        """What one interpreter imports and has on its path: as its command has it, and from the
        working directory, as `-m` and `-c` do.
        """
        ways = [Started(python.path, self.start.folder), Started(python.path, None)]
        for way in [*([runs] if runs else []), *ways]:
            places = self._sys_path(python, way)
            self.notes.extend(
                f"{path} runs code that speaks of vLLM or of imports when Python starts"
                for path in redirections(self.files, places)
            )
            taken = find_package(self.files, places, python.library)
            for place in places:
                self._note_place(found, place, python.library, python.path)
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
            copy = found.setdefault(taken.folders, _Found(taken.folders))
            copy.library = copy.library or python.library
            if way is runs and not copy.runs:
                copy.runs = f"{python.path} imports it, by {_by(taken)}"
            copy.imported_by.append(python.path)

    def _note_place(
        self,
        found: dict[tuple[str, ...], _Found],
        place: Place,
        library: str | None,
        who: str,
    ) -> None:
        """A copy on a path, though another may hide it there: an option or a variable decides."""
        taken = find_package(self.files, [place], library)
        if taken is None or not taken.folders:
            return
        if not self._is_vllm(taken.folders[0]) and not place.is_package:
            return
        copy = found.setdefault(taken.folders, _Found(taken.folders, library))
        copy.on_path_of.append(who)
        copy.sites.append(real(self.files, place.path) or place.path)

    def _sys_path(self, python: Interpreter, way: Started) -> list[Place]:
        """sys.path, without the standard library, which holds no vLLM."""
        places = [Place(way.first, "its first folder")] if way.first else []
        if way.environment:
            places += self._python_path()
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

    def _any_python(self) -> list[Place]:
        """What is on the path of whatever Python is started."""
        return [Place(self.start.folder, "the working directory"), *self._python_path()]

    # --- What is handed out of one copy.

    def _installation(self, copy: _Found) -> Installation:
        files: dict[str, ImageFile] = {}
        bytecode: dict[str, tuple[str, ...]] = {}
        stale: dict[str, str] = {}
        for target in self.targets:
            path = self._runs(copy, target)
            if path is None:
                continue
            files[target] = self._content(path)
            bytecode[target] = self._bytecode(path)
            old = [pyc for pyc in bytecode[target] if self._is_stale(pyc, files[target].data)]
            stale |= {target: old[0]} if old else {}
        version, commit, problem = self._version(copy)
        # Where a patch may put a file that is not there yet.
        free = [
            path
            for target in self.targets
            if target not in files and not target.endswith(".py")
            if self.files.kind(dirname(path := f"{copy.root}/{target}")) is Kind.FOLDER
        ]
        below = [
            *free,
            *(f.path for f in files.values()),
            *(p for each in bytecode.values() for p in each),
        ]
        directories = tuple(map(self.files.directory, parents(below)))
        return Installation(
            copy.root,
            version,
            commit,
            files,
            bytecode,
            directories,
            stale=stale,
            version_problem=problem,
        )

    def _runs(self, copy: _Found, target: str) -> str | None:
        """The path of a target's source, if that is what Python runs; None where there is none."""
        if not target.endswith(".py"):
            return self._data_file(copy, target)
        parts = target.removeprefix(f"{PACKAGE}/").removesuffix(".py").split("/")
        found = module_file(self.files, copy.folders, parts, copy.library)
        if found is None:
            self._check_nothing_odd(copy, target)
            return None
        loader, path = found
        if loader is not Loader.SOURCE or basename(path) != basename(target):
            raise BrokenImage(
                f"Python runs {path}, and not {copy.root}/{target}",
                next_step="Only a source file can be judged: take an image that has but that.",
            )
        # A layer that states a file below a link means another place in every runtime.
        for folder in parents([path]):
            self.files.directory(folder)
        return path

    def _data_file(self, copy: _Found, target: str) -> str | None:
        """The path of a target that Python does not run but reads."""
        path = f"{copy.root}/{target}"
        if resolve(self.files, path)[1] is not Kind.FILE:
            self._check_nothing_odd(copy, target)
            return None
        for folder in parents([path]):
            self.files.directory(folder)
        return path

    def _check_nothing_odd(self, copy: _Found, target: str) -> None:
        """Something that is there and that Python cannot run does not count as absent."""
        for folder in copy.folders:
            path = join(dirname(folder), target)
            for above in parents([path]):
                if above.startswith(dirname(folder)) and self.files.at(above) is not None:
                    there, kind = resolve(self.files, above)
                    if kind is Kind.FILE or (kind is None and self.files.kind(above)):
                        raise broken(f"{there} is not a directory, and vLLM's files are below it")
            if self.files.kind(path) is Kind.FOLDER:
                raise broken(f"{path} is not a regular file")

    def _content(self, path: str) -> ImageFile:
        """The file at a path, under that path though its bytes are where a link leads."""
        there, _ = resolve(self.files, path)
        entry = self.files.at(there)
        if isinstance(entry, ImageFile):
            return replace(entry, path=path)
        if there != path and there not in self.wanted.paths:
            raise _Unseen(replace(self.wanted, paths=self.wanted.paths | {there}))
        if self.files.kind(path) is Kind.LINK:
            raise broken(f"{path} is a link to nothing, or in a circle")
        raise broken(f"{path} is not a regular file")

    def _bytecode(self, path: str) -> tuple[str, ...]:
        """Every .pyc that Python could run in a file's place. An empty one does not count: Python
        reads the source then, which is how the Dockerfile's way covers bytecode.
        """
        cache = real_folder(self.files, join(dirname(path), "__pycache__"))
        if cache is None:
            return ()
        if basename(cache) != "__pycache__" and cache not in self.wanted.paths:
            raise _Unseen(replace(self.wanted, paths=self.wanted.paths | {cache}))
        there = [
            name for name in self.files.names(cache) if self.files.bytecode.get(f"{cache}/{name}")
        ]
        return tuple(f"{cache}/{name}" for name in bytecode_names(path, there))

    def _is_stale(self, pyc: str, source: bytes) -> bool:
        """Does Python run it without a look at the source, though that is another? (PEP 552)"""
        head = self.files.bytecode[pyc]
        if head[4:8] != _UNCHECKED:
            return False
        # importlib.util.source_hash, but for the Python that wrote it. Before 3.11 the hash was
        # another one: such bytecode cannot be held against the source.
        magic = int.from_bytes(head[:4], "little")
        same = _imp.source_hash(magic, source) == head[8:16]
        return magic & 0xFFFF < _FIRST_MAGIC or not same

    def _version(self, copy: _Found) -> tuple[str, str | None, str | None]:
        """Version, commit, and why there is no version."""
        for folder in copy.folders:
            there, _ = resolve(self.files, join(folder, basename(VERSION_FILE)))
            data = self.files.read(there)
            if data is not None:
                try:
                    return (*parse_version(data), None)
                except BrokenImage as error:
                    return "", None, error.problem
        for site in [copy.root, *copy.sites]:
            for name in self.files.names(real(self.files, site) or site):
                if name.startswith(f"{PACKAGE}-") and name.endswith(".dist-info"):
                    return name[len(PACKAGE) + 1 : -len(".dist-info")], None, None
        return "", None, f"{copy.root} has no {VERSION_FILE} and no {PACKAGE}-*.dist-info"


_UNCHECKED = b"\1\0\0\0"
_FIRST_MAGIC = 3450


def _by(taken: Imported) -> str:
    return taken.place.why or taken.place.path


def _is_site(root: str) -> bool:
    return basename(root) in _SITES


def _order(copy: _Found) -> tuple[int, tuple[str, ...]]:
    if copy.runs:
        return 0, copy.folders
    if copy.imported_by:
        return 1, copy.folders
    if copy.on_path_of:
        return 2, copy.folders
    return (3 if _is_site(copy.root) else _IDLE), copy.folders


_IDLE = 4


def _picked(copies: Sequence[_Found], root: str | None) -> list[_Found]:
    """The copies to look at: the one that is asked for, else all that a Python could import."""
    if root is not None:
        wanted = normpath(root)
        fitting = [c for c in copies if wanted in (c.root, *c.folders, *c.sites)]
        if not fitting:
            raise BadSource(
                f"there is no vLLM in {root}", next_step=f"There is one in: {_roots(copies)}."
            )
        return fitting[:1]
    likely = [copy for copy in copies if _order(copy)[0] < _IDLE]
    if not likely and len(copies) > 1:
        raise BrokenImage(
            f"the image holds more than one vLLM, and no Python of it is seen to import any: "
            f"{_roots(copies)}",
            next_step=f"Say which is run: --root {copies[0].root}",
        )
    return likely or list(copies)


def _roots(copies: Iterable[_Found]) -> str:
    return ", ".join(copy.root for copy in copies)


def _told(copy: _Found, looked_at: set[str], problem: str | None) -> Copy:
    return Copy(
        copy.root,
        _why(copy),
        runs=bool(copy.runs),
        looked_at=copy.root in looked_at,
        idle=_order(copy)[0] == _IDLE,
        problem=problem,
        python=next(iter(copy.imported_by), None),
    )


def _why(copy: _Found) -> str:
    if copy.runs:
        return copy.runs
    if copy.imported_by:
        return f"{_some(copy.imported_by)} would import it"
    if copy.on_path_of:
        return f"on the path of {_some(copy.on_path_of)}, behind another"
    if _is_site(copy.root):
        return "in a folder of installed packages whose Python is not seen"
    return "on no Python's path"


def _some(names: Iterable[str]) -> str:
    one, *more = dict.fromkeys(names)
    return f"{one} and {len(more)} more" if more else one
