"""What `import vllm` means to an interpreter: where it looks, in which order, and what it takes.

As CPython 3.9 to 3.14 do it (Modules/getpath.py, Lib/site.py, importlib's PathFinder and
FileFinder), with Debian's and Fedora's own folders. Nothing is run: names and small files tell.
"""

from __future__ import annotations

import ast
import enum
import re
from dataclasses import dataclass
from posixpath import basename, dirname, join, normpath
from typing import TYPE_CHECKING

from patcher.oci.rootfs.installed import PACKAGE
from patcher.oci.rootfs.tree import Kind, Tree, read, real, real_folder
from patcher.syntax import parse_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_LIBRARY = re.compile(r"(?:python|pypy)(3\.\d+t?)")
_FINDER = re.compile(r"import (__editable__\w+)")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python: where it is started, and the folders that its `site` adds to sys.path.

    `library` is the version in its folders' names (`3.12`, `3.13t`), None where none is seen.
    `prefix` is sys.prefix; `takes_user_site` whether a user's own packages are imported.
    """

    path: str
    prefix: str
    library: str | None
    sites: tuple[str, ...]
    takes_user_site: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of sys.path, or the package folder that an editable install's finder maps to."""

    path: str
    why: str
    is_package: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """What `import vllm` takes: the package's real folders (several for a namespace package).

    `module` is the file where no package is taken, but a module of the name.
    """

    place: Place
    folders: tuple[str, ...]
    module: str | None = None
    is_namespace: bool = False


class Loader(enum.IntEnum):
    """What runs a module's file, in the order in which Python looks for it."""

    EXTENSION = 0
    SOURCE = 1
    BYTECODE = 2


def interpreters_at(tree: Tree, path: str) -> Iterator[Interpreter]:
    """What a path may start: mostly one; one for each version there where its name tells none."""
    there = real(tree, path)
    if there is None:
        return
    folder = real_folder(tree, dirname(path)) or dirname(path)
    for prefix in (folder, dirname(folder)):
        settings = read(tree, join(prefix, "pyvenv.cfg"))
        if settings is not None:
            yield from _of_venv(tree, path, there, prefix, settings)
            return
    prefix = dirname(dirname(there))
    for library in _libraries(tree, prefix, there) or (None,):
        yield Interpreter(path, prefix, library, _sites(tree, prefix, library))


def _of_venv(
    tree: Tree, path: str, there: str, prefix: str, settings: bytes
) -> Iterator[Interpreter]:
    """PEP 405: the environment's own packages, and its base's where it says so."""
    stated = venv_settings(settings)
    base = dirname(stated.get("home", ""))
    is_open = stated.get("include-system-site-packages", "").lower() == "true"
    for library in _libraries(tree, prefix, there) or (None,):
        own = _sites(tree, prefix, library)
        below = _sites(tree, real_folder(tree, base) or base, library) if is_open and base else ()
        yield Interpreter(path, prefix, library, (*own, *below), takes_user_site=is_open)


def venv_settings(data: bytes) -> dict[str, str]:
    """The keys of a pyvenv.cfg."""
    lines = data.decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _libraries(tree: Tree, prefix: str, binary: str) -> tuple[str, ...]:
    """The versions that an interpreter may be of: the one in its name, or those that are there."""
    stated = _LIBRARY.fullmatch(basename(binary))
    if stated:
        return (stated[1],)
    found = {
        match[1]
        for lib in ("lib", "lib64")
        for name in tree.names(real_folder(tree, join(prefix, lib)) or join(prefix, lib))
        if (match := _LIBRARY.fullmatch(name))
    }
    whole = {library for library in found if _has_standard_library(tree, prefix, library)}
    return tuple(sorted(whole or found, key=_by_number))


def _has_standard_library(tree: Tree, prefix: str, library: str) -> bool:
    folders = (join(prefix, lib, f"python{library}") for lib in ("lib", "lib64"))
    return any(real(tree, join(folder, name)) for folder in folders for name in ("os.py", "os.pyc"))


def _by_number(library: str) -> tuple[int, str]:
    number = library.removeprefix("3.").rstrip("t")
    return int(number[:4]), library


def _sites(tree: Tree, prefix: str, library: str | None) -> tuple[str, ...]:
    """The folders of installed packages of a prefix, as `site.getsitepackages` gives them."""
    if library is None:
        return ()
    version = f"python{library}"
    plain = [join(prefix, lib, version, "site-packages") for lib in ("lib64", "lib")]
    if prefix == "/usr":
        # Debian's site.py, and Fedora's, which looks into /usr/local for what pip put there.
        is_fedora = real(tree, f"/usr/lib64/{version}/os.py") is not None
        local = [f"/usr/local/{lib}/{version}/site-packages" for lib in ("lib64", "lib")]
        plain = [
            f"/usr/local/lib/{version}/dist-packages",
            *(local if is_fedora else ()),
            "/usr/lib/python3/dist-packages",
            f"/usr/lib/{version}/dist-packages",
            *plain,
        ]
    found: dict[str, str] = {}
    for site in plain:
        there = real_folder(tree, site)
        if there is not None:
            found.setdefault(there, site)
    return tuple(found.values())


def site_places(tree: Tree, site: str) -> list[Place]:
    """A folder of installed packages as `site.addsitedir` takes it: itself, then what its .pth
    files add, then what the finders of editable installs map to.
    """
    there = real_folder(tree, site)
    if there is None:
        return []
    places, mapped = [Place(site, "")], list[Place]()
    for name in sorted(tree.names(there)):
        if not name.endswith(".pth") or name.startswith("."):
            continue
        for line in _lines(read(tree, join(there, name))):
            if line.startswith(("import ", "import\t")):
                mapped += _mapped(tree, there, name, line)
            elif line.strip() and not line.startswith("#"):
                places.append(Place(normpath(join(site, line.rstrip())), f"{site}/{name}"))
    return [*places, *mapped]


def _lines(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8-sig", "surrogateescape").splitlines()


def _mapped(tree: Tree, site: str, name: str, line: str) -> Iterator[Place]:
    """What setuptools' finder of an editable install answers for vLLM."""
    finder = _FINDER.match(line)
    data = read(tree, join(site, f"{finder[1]}.py")) if finder else None
    package = _mapping(data or b"").get(PACKAGE)
    if package is not None and package.startswith("/"):
        yield Place(normpath(package), f"{site}/{name}", is_package=True)


def _mapping(data: bytes) -> Mapping[str, str]:
    try:
        for node in parse_python(data).body:
            match node:
                case (
                    ast.AnnAssign(target=ast.Name(id="MAPPING"), value=ast.Dict() as value)
                    | ast.Assign(targets=[ast.Name(id="MAPPING")], value=ast.Dict() as value)
                ):
                    found = ast.literal_eval(value)
                    return {k: v for k, v in found.items() if isinstance(v, str)}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return {}


def redirections(tree: Tree, places: Iterable[Place]) -> Iterator[str]:
    """What may lead the import of vLLM elsewhere, as sentences: what runs at the start of a Python
    and speaks of it, and archives, into which nobody looks here.
    """
    for place in places:
        if _ARCHIVE.search(place.path) and tree.kind(place.path) is not Kind.FOLDER:
            yield f"{place.path} is an archive on sys.path: whether it holds vLLM is not seen"
        folder = real_folder(tree, place.path)
        if folder is None or place.is_package:
            continue
        for name in tree.names(folder):
            text = b""
            if name in ("sitecustomize.py", "usercustomize.py"):
                text = read(tree, join(folder, name)) or b""
            elif name.endswith(".pth") and not place.why and not name.startswith("__editable__"):
                lines = _lines(read(tree, join(folder, name)))
                code = [line for line in lines if line.startswith(("import ", "import\t"))]
                text = "\n".join(code).encode("utf-8", "surrogateescape")
            if b"vllm" in text or b"meta_path" in text:
                yield (
                    f"{folder}/{name} runs code that speaks of vLLM or of imports when Python "
                    "starts"
                )


# What zipimport looks into, by the endings that such files have.
_ARCHIVE = re.compile(r"\.(?:zip|egg|whl|pyz)$")


def find_package(tree: Tree, places: Sequence[Place], library: str | None) -> Imported | None:
    """What `import vllm` takes with these places as sys.path: the first package or module, or
    all folders of the name that hold no `__init__`; an editable install's finder comes last.
    """
    portions: list[tuple[Place, str]] = []
    for place in places:
        if place.is_package:
            continue
        base = real_folder(tree, place.path)
        if base is None:
            continue
        folder = real_folder(tree, join(base, PACKAGE))
        if folder is not None and _has_init(tree, folder, library):
            return Imported(place, (folder,))
        module = _module(tree, base, PACKAGE, library)
        if module is not None:
            return Imported(place, (), module[1])
        if folder is not None:
            portions.append((place, folder))
    if portions:
        folders = tuple(dict.fromkeys(folder for _, folder in portions))
        return Imported(portions[0][0], folders, is_namespace=True)
    for place in places:
        folder = real_folder(tree, place.path) if place.is_package else None
        if folder is not None:
            return Imported(place, (folder,))
    return None


def module_file(
    tree: Tree, folders: Sequence[str], parts: Sequence[str], library: str | None
) -> tuple[Loader, str] | None:
    """The file that Python runs for a module of a package in `folders`.

    `parts` are the names below the package, the module's last. A package of the module's name and
    an extension module come before a .py file, and a .py file before bytecode without source.
    None where there is no such module, or where a name on the way is a module and not a package:
    then its file is given. The last link on the way is not followed.
    """
    for part in parts[:-1]:
        below = []
        for folder in folders:
            inner = real_folder(tree, join(folder, part))
            if inner is not None and _has_init(tree, inner, library):
                below = [inner]
                break
            module = _module(tree, folder, part, library)
            if module is not None:
                return Loader.EXTENSION, module[1]
            if inner is not None:
                below.append(inner)
        folders = below
    for folder in folders:
        package = real_folder(tree, join(folder, parts[-1]))
        if package is not None and _has_init(tree, package, library):
            return Loader.EXTENSION, f"{package}/__init__.py"
        module = _module(tree, folder, parts[-1], library)
        if module is not None:
            return module
    return None


def _has_init(tree: Tree, folder: str, library: str | None) -> bool:
    return _module(tree, folder, "__init__", library) is not None


def _module(tree: Tree, folder: str, stem: str, library: str | None) -> tuple[Loader, str] | None:
    """The file in a folder that Python takes for a name."""
    found = [
        (loader, f"{folder}/{name}")
        for name in tree.names(folder)
        if name.startswith(f"{stem}.")
        and (loader := _loader(name[len(stem) + 1 :], library)) is not None
        and tree.kind(f"{folder}/{name}") is not Kind.FOLDER
    ]
    return min(found, default=None)


def _loader(ending: str, library: str | None) -> Loader | None:
    if ending == "py":
        return Loader.SOURCE
    if ending == "pyc":
        return Loader.BYTECODE
    if ending in ("so", "abi3.so", "abi3t.so"):
        return Loader.EXTENSION
    # `d` is a debug build's.
    match = re.fullmatch(r"(?:cpython-|pypy)3(\d+t?)d?-[^.]*\.so", ending)
    if match and library in (None, f"3.{match[1]}"):
        return Loader.EXTENSION
    return None
