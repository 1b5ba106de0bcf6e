"""How a container of an image starts, and what that says of the Python that runs.

Out of the image's config: Env, WorkingDir, User, Entrypoint, Cmd (OCI image-spec, config.md;
Docker's own has the same names).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from posixpath import basename, dirname, join, normpath

from patcher.oci.model import expect, texts
from patcher.oci.rootfs.scan import INTERPRETER
from patcher.oci.rootfs.tree import Kind, Tree, read, resolve

# What docker sets where an image sets none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What starts another program and imports nothing itself.
_STARTERS = frozenset({"env", "tini", "dumb-init", "catatonit", "exec", "nice"})

# pip's, where a path is too long or has blanks for a `#!` line.
_EXEC = re.compile(rb"'''exec' \"?(/[^\" ]+)")


@dataclass(frozen=True, slots=True)
class Start:
    """How a container starts. `command` is Entrypoint and Cmd; `folder` the working directory."""

    environment: Mapping[str, str]
    folder: str = "/"
    user: str = ""
    command: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The folders of PATH."""
        stated = self.environment.get("PATH") or _PATH
        return tuple(normpath(join(self.folder, entry)) for entry in stated.split(":") if entry)

    @property
    def scripts(self) -> frozenset[str]:
        """The names of the programs that may be scripts of a Python."""
        return frozenset(basename(part) for part in self.command[:8])

    def home(self, tree: Tree) -> str:
        """The home of the user that the container runs as."""
        if "HOME" in self.environment:
            return self.environment["HOME"]
        name = self.user.partition(":")[0] or "0"
        for line in (read(tree, "/etc/passwd") or b"").decode("utf-8", "replace").splitlines():
            fields = line.split(":")
            if len(fields) >= 6 and name in (fields[0], fields[2]):
                return fields[5]
        return "/root" if name in ("0", "root") else "/"


@dataclass(frozen=True, slots=True)
class Started:
    """The Python that a command starts: by which path, and what comes first on its sys.path.

    `first` is None where nothing does. `known` is whether the command says so; else it is what
    `python3` means, with the working directory first, as `python3 -c` and `-m` have it.
    """

    python: str
    first: str | None
    environment: bool = True
    user_site: bool = True
    known: bool = True


def read_start(run: object) -> Start:
    """A config's part for running it. Raises `BrokenImage` for anything else."""
    settings = expect(run or {}, dict, "config: config")
    env = [expect(each, str, "config: Env") for each in _list(settings.get("Env"), "Env")]
    command = [
        expect(each, str, f"config: {key}")
        for key in ("Entrypoint", "Cmd")
        for each in _list(settings.get(key), key)
    ]
    folder = expect(settings.get("WorkingDir") or "", str, "config: WorkingDir")
    user = expect(settings.get("User") or "", str, "config: User")
    environment = texts(
        {key: value for key, _, value in (entry.partition("=") for entry in env)}, "config: Env"
    )
    return Start(environment, normpath(join("/", folder)), user, tuple(command))


def _list(value: object, key: str) -> list[object]:
    return expect(value or [], list, f"config: {key}")


def started(tree: Tree, start: Start) -> Started | None:
    """The Python that the image's command starts, else what `python3` is on its PATH."""
    found = _of_command(tree, start, list(start.command[:64]))
    if found is None:
        for name in ("python3", "python"):
            path = _which(tree, start, name)
            if path is not None:
                return replace(_of_python(tree, start, path, ["-c"]), known=False)
    return found


def _of_command(tree: Tree, start: Start, words: list[str]) -> Started | None:
    while words and basename(words[0]) in _STARTERS:
        words = words[1:]
        while words and (words[0].startswith("-") or "=" in words[0]):
            words = words[1:]
    path = _which(tree, start, words[0]) if words else None
    if path is None:
        return None
    if INTERPRETER.fullmatch(basename(path)):
        return _of_python(tree, start, path, words[1:])
    there, _ = resolve(tree, path)
    first, _, rest = (tree.read(there) or b"").partition(b"\n")
    if not first.startswith(b"#!"):
        return None
    exact = _EXEC.match(rest)
    line = first[2:].decode("utf-8", "replace").split()
    words = [exact[1].decode("utf-8", "replace")] if exact else line
    if words and basename(words[0]) == "env":
        words = [word for word in words[1:] if word != "-S"]
    python = _which(tree, start, words[0]) if words else None
    if python is None or not INTERPRETER.fullmatch(basename(python)):
        return None
    return _of_python(tree, start, python, [*words[1:], there])


def _of_python(tree: Tree, start: Start, path: str, words: list[str]) -> Started:
    """By the interpreter's own options (Doc/using/cmdline.rst)."""
    first: str | None = start.folder
    flags = set()
    for word in words:
        if not word.startswith("-") or word == "-":
            if word != "-":
                first = dirname(resolve(tree, join(start.folder, word))[0])
            break
        letters = re.match(r"-([A-Za-z]*)", word)
        flags |= set(letters[1] if letters else "")
        if {"m", "c"} & flags:
            break
    safe = {"I", "P"} & flags or start.environment.get("PYTHONSAFEPATH")
    return Started(
        path,
        None if safe else first,
        environment=not {"I", "E"} & flags,
        user_site=not {"I", "s"} & flags and not start.environment.get("PYTHONNOUSERSITE"),
    )


def _which(tree: Tree, start: Start, name: str) -> str | None:
    """The path of a program, as the kernel and the shell find it; links are not followed."""
    places = [start.folder] if "/" in name else start.path
    for place in places:
        path = normpath(join(place, name))
        if resolve(tree, path)[1] is Kind.FILE:
            return path
    return None
