"""images.lock as TOML: read with the line of every fault, written the same way each time."""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

from patcher.errors import BadReference, BrokenLock, Unreadable
from patcher.files import make_directory, write_atomically
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.toml_lines import TomlPath, line_of
from patcher.oci.reference import parse_digest, parse_platform, parse_reference
from patcher.versions import parsed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from packaging.version import Version

    from patcher.oci.reference import Platform

SCHEMA = 1

_HEADER = """\
# Which image a vLLM version means, pinned by digest. Written by vllm-patcher.
# Add an entry with `vllm-patcher lock add VERSION REFERENCE`; to drop one, delete its tables.
#
# stated_by: so many independent projects state this digest in public files; where it is missing, a
# registry was asked. `unknown`: the digest of an index or of one platform, it is not known which.
# A statement is no proof: a pull by digest is.

"""

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


class _Fault(Exception):
    """A value that the format does not allow, and where it stands."""

    def __init__(self, path: TomlPath, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(reason)


def load(path: Path) -> Lock:
    """The lock in a file. Raises `Unreadable`, and `BrokenLock` with file, line and reason."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read: {error.strerror}", next_step="Check the path."
        ) from error
    return loads(data, str(path))


def loads(data: bytes, name: str) -> Lock:
    """The lock in a file's bytes. Raises `BrokenLock` with the name, line and reason."""
    try:
        # A byte order mark is what some editors leave; TOML itself has none.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(name, data[: error.start].count(b"\n") + 1, "it is not UTF-8") from error
    try:
        return _lock(tomllib.loads(text))
    except _Fault as fault:
        raise _broken(name, line_of(text, fault.path), fault.reason) from fault
    except tomllib.TOMLDecodeError as error:
        raise _broken(name, *_syntax_fault(text, str(error))) from error
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits; brackets nested as deep.
        raise _broken(name, 1, f"{type(error).__name__}: {error}") from error


def dump(lock: Lock) -> str:
    """The file's text: sorted, and equal for equal entries."""
    import tomli_w

    entries = sorted(lock.entries, key=lambda entry: entry.key)
    document = {"schema": SCHEMA, "image": [_entry_table(entry) for entry in entries]}
    return _HEADER + tomli_w.dumps(document)


def save(path: Path, lock: Lock) -> None:
    """Write the lock in one step. Raises `Unwritable`."""
    write_atomically(path, dump(lock).encode())


def edit(path: Path, start: Path, change: Callable[[Lock], Lock]) -> None:
    """Change the lock in a file, or that in `start` where there is no such file yet.

    One at a time: two that read the same lock would lose an entry. Raises as `load` and `save`.
    """
    make_directory(path.parent)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The file itself is replaced, and no place for a lock that lasts.
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = path if path.exists() else start
        save(path, change(load(known) if known.exists() else Lock()))
    finally:
        os.close(folder)


def _entry_table(entry: Entry) -> dict[str, Any]:
    original, locked = entry.original, entry.locked
    tables = {"index": locked.index, "unknown": locked.unknown}
    table: dict[str, Any] = {"version": str(locked.version)}
    if locked.commit:
        table["commit"] = locked.commit
    table |= {kind: _pin_table(pin) for kind, pin in tables.items() if pin}
    if locked.platforms:
        named = {str(platform): _pin_table(pin) for platform, pin in locked.platforms.items()}
        table["platforms"] = dict(sorted(named.items()))
    return {
        "original": {"version": original.version, "reference": str(original.reference)},
        "locked": table,
    }


def _pin_table(pin: Pin) -> dict[str, Any]:
    stated = {} if pin.stated_by is None else {"stated_by": pin.stated_by}
    return {"digest": pin.digest, **stated}


def _lock(document: dict[str, Any]) -> Lock:
    _keys(document, (), required={"schema"}, optional={"image"})
    if document["schema"] != SCHEMA or document["schema"] is True:
        raise _Fault(
            ("schema",), f"schema is {document['schema']!r}, and this program knows {SCHEMA}"
        )
    raw = document.get("image", [])
    if not isinstance(raw, list):
        raise _Fault(("image",), "image is no array of tables")
    entries = tuple(_entry(table, ("image", number)) for number, table in enumerate(raw))
    first: dict[object, int] = {}
    for number, entry in enumerate(entries):
        if first.setdefault(entry.key, number) != number:
            raise _Fault(("image", number), f"{entry.key[1]} {entry.key[0]} is there twice")
    return Lock(entries)


def _entry(raw: object, path: TomlPath) -> Entry:
    table = _keys(raw, path, required={"original", "locked"})
    return Entry(
        _original(table["original"], (*path, "original")),
        _locked(table["locked"], (*path, "locked")),
    )


def _original(raw: object, path: TomlPath) -> Original:
    table = _keys(raw, path, required={"version", "reference"})
    _version(table["version"], (*path, "version"))
    text = _text(table["reference"], (*path, "reference"))
    try:
        return Original(table["version"], parse_reference(text))
    except BadReference as error:
        raise _Fault((*path, "reference"), error.problem) from error


def _locked(raw: object, path: TomlPath) -> Locked:
    kinds = {"index", "unknown", "platforms"}
    table = _keys(raw, path, required={"version"}, optional={"commit"} | kinds)
    commit = table.get("commit")
    if commit is not None and not _COMMIT.fullmatch(_text(commit, (*path, "commit"))):
        raise _Fault((*path, "commit"), f"{commit!r} is no commit (7 to 40 hexadecimal digits)")
    pins = {
        kind: _pin(table[kind], (*path, kind)) for kind in ("index", "unknown") if kind in table
    }
    platforms = _platforms(table.get("platforms", {}), (*path, "platforms"))
    if not (pins or platforms):
        raise _Fault(path, "no digest is locked")
    version = _version(table["version"], (*path, "version"))
    return Locked(version, commit, pins.get("index"), pins.get("unknown"), platforms)


def _platforms(raw: object, path: TomlPath) -> dict[Platform, Pin]:
    if not isinstance(raw, dict):
        raise _Fault(path, "platforms is no table")
    pins: dict[Platform, Pin] = {}
    for name, table in raw.items():
        try:
            platform = parse_platform(name)
        except BadReference as error:
            raise _Fault((*path, name), error.problem) from error
        if platform in pins:
            raise _Fault((*path, name), f"{platform} is there twice")
        pins[platform] = _pin(table, (*path, name))
    return pins


def _pin(raw: object, path: TomlPath) -> Pin:
    table = _keys(raw, path, required={"digest"}, optional={"stated_by"})
    try:
        digest = parse_digest(_text(table["digest"], (*path, "digest")))
    except BadReference as error:
        raise _Fault((*path, "digest"), error.problem) from error
    stated_by = table.get("stated_by")
    if stated_by is not None and (type(stated_by) is not int or stated_by < 1):
        raise _Fault((*path, "stated_by"), "stated_by is no positive number")
    return Pin(digest, stated_by)


def _version(raw: object, path: TomlPath) -> Version:
    version = parsed(_text(raw, path))
    if version is None:
        raise _Fault(path, f"{raw!r} is no version (PEP 440)")
    return version


def _text(raw: object, path: TomlPath) -> str:
    if not isinstance(raw, str):
        raise _Fault(path, f"{path[-1]} is no string")
    return raw


def _keys(
    raw: object,
    path: TomlPath,
    *,
    required: set[str],
    optional: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Any]:
    """The table, if it has the keys that it must have and none that it must not."""
    if not isinstance(raw, dict):
        raise _Fault(path, f"{'image' if isinstance(path[-1], int) else path[-1]} is no table")
    for key in raw:
        if key not in required | optional:
            raise _Fault((*path, key), f"unknown key {key!r}")
    for key in sorted(required - raw.keys()):
        raise _Fault(path, f"{key} is missing")
    return raw


def _broken(name: str, line: int, reason: str) -> BrokenLock:
    return BrokenLock(
        f"{name}, line {line}: {reason}",
        next_step="Mend that line, or take the file from version control again.",
    )


def _syntax_fault(text: str, message: str) -> tuple[int, str]:
    """Line and reason out of tomllib's message, which is all that says where before Python 3.14."""
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if match is None:
        return 1, message
    return int(match[1] or text.count("\n") + 1), message[: match.start()]
