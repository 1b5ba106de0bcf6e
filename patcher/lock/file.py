"""images.lock as TOML: read with the line and path of a fault, written the same way each time.

pydantic checks the shape: it names the path of a fault, also inside `platforms`, and comes with
pypi-simple. (msgspec loads 30 ms faster, says `[...]` there, and would be one more dependency.)
"""

from __future__ import annotations

import base64
import contextlib
import re
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from packaging.version import Version
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PositiveInt,
    ValidationError,
    model_validator,
)

from patcher.errors import BadReference, BrokenLock, Unreadable, Unwritable
from patcher.files import is_there, locked, new_folder, read_file, write_atomically
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.oci.installation import ImageDirectory
from patcher.oci.reference import Platform, Reference, parse_digest, parse_platform, parse_reference
from patcher.oci.rootfs.located import FORM, Located, LocatedFile, fault
from patcher.oci.rootfs.point import Point
from patcher.oci.rootfs.tree import MOST_PATH_BYTES
from patcher.versions import parsed

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1

# 5,000 images have some 3 MB.
_MOST_BYTES = 64 << 20

# Of a key or a table's name there are up to 3. tomllib keeps each beginning of one: 40 KB of
# `a.a.a...` took 2.3 GB.
_MOST_DOTS = 10
_STRING = re.compile(r"""\"(?:[^"\\\n]|\\.)*\"|'[^'\n]*'""")

_HEADER = """\
# Which image a vLLM version means, pinned by digest. Written by vllm-patcher: `lock add VERSION
# REFERENCE` adds an entry, `lock remove NAME` drops one.
#
# stated_by: how many independent projects state this digest in public files; where it is missing, a
# registry was asked. `unknown`: the digest of an index or of one platform, it is not known which.
# A statement is no proof: a pull by digest is.

"""

_Value = TypeVar("_Value")
_Keys = tuple[str | int, ...]


def _read(parse: Callable[[str], _Value]) -> PlainValidator:
    """What reads one string of the file. Its refusal must be a ValueError for pydantic."""

    def read(raw: object) -> _Value:
        if not isinstance(raw, str):
            raise ValueError("not a string")  # noqa: TRY004 - pydantic takes no TypeError
        try:
            return parse(raw)
        except BadReference as error:
            raise ValueError(error.problem) from error

    return PlainValidator(read)


def _version(text: str) -> Version:
    version = parsed(text)
    if version is None:
        raise ValueError(f"{text!r} is not a version (PEP 440)")
    return version


def _platform(name: str) -> Platform:
    platform = parse_platform(name)
    if str(platform) != name:
        # Two names of one platform could hold two digests.
        raise ValueError(f"write it as {platform}")
    return platform


def _stated_version(text: str) -> str:
    _version(text)
    return text


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Path = Annotated[str, Field(pattern="^/", max_length=MOST_PATH_BYTES)]


def _entry(text: str) -> tuple[int, int, int, int]:
    """`UID GID MODE MTIME`: the mode octal, the time in seconds."""
    uid, gid, mode, mtime = text.split(" ")
    return _number(uid), _number(gid), _number(mode, 8), _number(mtime)


def _folder(text: str) -> ImageDirectory:
    """`UID GID MODE MTIME PATH`."""
    *entry, path = text.split(" ", 4)
    if len(entry) != 4 or not path.startswith("/"):
        raise ValueError("not UID GID MODE MTIME PATH")
    return ImageDirectory(path, *_entry(" ".join(entry)))


def _point(text: str) -> tuple[int, int, int, int]:
    """`START.BIT PACKED SKIP`: see `Point`."""
    place, packed, skip = text.split(" ")
    start, bit = place.split(".")
    found = _number(start), _number(bit), _number(packed), _number(skip)
    if found[1] > 7 or max(found[2:]) > _MOST_RANGE:
        raise ValueError("not START.BIT PACKED SKIP")
    return found


def _number(text: str, base: int = 10) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text, base)


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


# A range of half a megabyte has been enough.
_MOST_RANGE = 64 << 20


class _File(_Table):
    """See `LocatedFile`, `_entry` and `_point`."""

    target: str
    path: _Path
    entry: Annotated[tuple[int, int, int, int], _read(_entry)]
    size: Annotated[int, Field(ge=1, le=_MOST_RANGE)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    layer: Annotated[str, _read(parse_digest)]
    point: Annotated[tuple[int, int, int, int], _read(_point)]
    window: Annotated[bytes, _read(_unpacked)]
    bytecode: list[_Path] = Field(default_factory=list)

    def value(self) -> LocatedFile:
        point, known = Point(*self.point, self.window), tuple(self.bytecode)
        entry = (self.target, self.path, *self.entry, self.size, self.sha256, self.layer)
        return LocatedFile(*entry, point, known)


class _Located(_Table):
    """See `Located` and `_folder`."""

    form: int
    root: _Path
    why: str
    runs: bool
    version: Annotated[str, _read(_stated_version)]
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")] | None = None
    searched: list[str]
    folders: list[Annotated[ImageDirectory, _read(_folder)]]
    files: list[_File]

    @model_validator(mode="after")
    def _is_one_vllm(self) -> _Located:
        found = self.value()
        if found is not None and (problem := fault(found)) is not None:
            raise ValueError(problem)
        return self

    def value(self) -> Located | None:
        """None for one that another version of the program has written."""
        if self.form != FORM:
            return None
        return Located(
            self.root,
            self.why,
            self.runs,
            self.version,
            self.commit,
            tuple(self.searched),
            tuple(file.value() for file in self.files),
            tuple(self.folders),
        )


class _Pin(_Table):
    digest: Annotated[str, _read(parse_digest)]
    stated_by: PositiveInt | None = None
    located: _Located | None = None

    def value(self) -> Pin:
        return Pin(self.digest, self.stated_by, self.located.value() if self.located else None)


class _Original(_Table):
    version: Annotated[str, _read(_stated_version)]
    reference: Annotated[Reference, _read(parse_reference)]


class _Locked(_Table):
    version: Annotated[Version, _read(_version)]
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,40}$")] | None = None
    index: _Pin | None = None
    unknown: _Pin | None = None
    platforms: dict[Annotated[Platform, _read(_platform)], _Pin] = Field(default_factory=dict)
    root: Annotated[str, Field(pattern="^/")] | None = None

    @model_validator(mode="after")
    def _locks_something(self) -> _Locked:
        if not (self.index or self.unknown or self.platforms):
            raise ValueError("no digest is locked")
        for platform, pin in self.platforms.items():
            if pin.located and _version(pin.located.version).public != self.version.public:
                raise ValueError(f"{platform}: {pin.located.version} is located, and not locked")
        return self


class _Image(_Table):
    original: _Original
    locked: _Locked

    def entry(self) -> Entry:
        locked = self.locked
        index = locked.index.value() if locked.index else None
        unknown = locked.unknown.value() if locked.unknown else None
        platforms = {platform: pin.value() for platform, pin in locked.platforms.items()}
        return Entry(
            Original(self.original.version, self.original.reference),
            Locked(locked.version, locked.commit, index, unknown, platforms, locked.root),
        )


class _Document(_Table):
    schema_: int = Field(alias="schema", ge=SCHEMA, le=SCHEMA)
    image: list[_Image] = Field(default_factory=list)


def load(path: Path) -> Lock:
    """The lock in a file. Raises `Unreadable`, and `BrokenLock`, which says where and why."""
    try:
        data = read_file(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise Unreadable(
            f"there is no {path}",
            next_step="`vllm-patcher lock add` makes one; --lock names another.",
        ) from error
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read: {error.strerror}", next_step="Check the path."
        ) from error
    return loads(data, str(path))


def loads(data: bytes, name: str) -> Lock:
    """The lock in a file's bytes. Raises `BrokenLock`, which says where and why."""
    try:
        # A byte order mark is what some editors leave; TOML itself has none.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(name, data[: error.start].count(b"\n") + 1, "it is not UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        # Few lines come to be looked at twice.
        is_dotted = line.count(".") > _MOST_DOTS and not line.lstrip().startswith("#")
        if is_dotted and _STRING.sub("", line).count(".") > _MOST_DOTS:
            raise _broken(name, number, f"a name of more than {_MOST_DOTS + 1} parts")
    try:
        images = _Document.model_validate(tomllib.loads(text)).image
    except ValidationError as error:
        # A key with a typing error is unknown, and the one that was meant is missing.
        fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        path = tuple(key for key in fault["loc"] if key != "[key]")
        context = fault.get("ctx", {})
        ours = _SAID.get(fault["type"], "").format(**context)
        said = context.get("error") or ours or fault["msg"]
        if path == ("schema",) and "than_equal" in fault["type"]:
            said = f"this program knows {SCHEMA} only"
        raise _broken(name, _line_of(text, path), f"{_shown(path)}: {said}") from error
    except tomllib.TOMLDecodeError as error:
        raise _broken(name, *_syntax_fault(text, str(error))) from error
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits; brackets nested as deep.
        raise _broken(name, 1, f"{type(error).__name__}: {error}") from error
    entries: dict[object, Entry] = {}
    for number, entry in enumerate(image.entry() for image in images):
        if entry.key in entries:
            twice = f"image[{number}]: {entry.key[1]} {entry.key[0]} is there twice"
            raise _broken(name, _line_of(text, ("image", number)), twice)
        entries[entry.key] = entry
    return Lock(tuple(entries.values()))


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
    with contextlib.ExitStack() as held:
        held.enter_context(new_folder(path.parent))
        try:
            held.enter_context(locked(path.parent))
        except OSError as error:
            raise Unwritable(
                f"{path.parent} cannot be locked: {error.strerror}",
                next_step="Check the folder's permissions.",
            ) from error
        known = path if is_there(path) else start
        save(path, change(load(known) if is_there(known) else Lock()))


def _entry_table(entry: Entry) -> dict[str, Any]:
    original, locked = entry.original, entry.locked
    tables = {"index": locked.index, "unknown": locked.unknown}
    table: dict[str, Any] = {"version": str(locked.version)}
    if locked.commit:
        table["commit"] = locked.commit
    if locked.root:
        table["root"] = locked.root
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
    located = {"located": _located_table(pin.located)} if pin.located else {}
    return {"digest": pin.digest, **stated, **located}


def _located_table(located: Located) -> dict[str, Any]:
    commit = {"commit": located.commit} if located.commit else {}
    return {
        "form": FORM,
        "root": located.root,
        "why": located.why,
        "runs": located.runs,
        "version": located.version,
        **commit,
        "searched": list(located.searched),
        "folders": [f"{_entry_text(folder)} {folder.path}" for folder in located.folders],
        "files": [_file_table(file) for file in located.files],
    }


def _entry_text(entry: LocatedFile | ImageDirectory) -> str:
    return f"{entry.uid} {entry.gid} {entry.mode:o} {entry.mtime}"


def _file_table(file: LocatedFile) -> dict[str, Any]:
    point = file.point
    bytecode = {"bytecode": list(file.bytecode)} if file.bytecode else {}
    return {
        "target": file.target,
        "path": file.path,
        "entry": _entry_text(file),
        "size": file.size,
        "sha256": file.sha256,
        "layer": file.layer,
        "point": f"{point.start}.{point.bit} {point.packed} {point.skip}",
        "window": base64.b64encode(point.window).decode(),
        **bytecode,
    }


def _broken(name: str, line: int, reason: str) -> BrokenLock:
    return BrokenLock(
        f"{name}, line {line}: {reason}",
        next_step="Mend that line, or take the file from version control again.",
    )


# What pydantic says otherwise, in words of TOML.
_SAID = {
    "extra_forbidden": "this key is not known",
    "missing": "it is missing",
    "model_type": "not a table",
    "dict_type": "not a table",
    "list_type": "not an array of tables",
    "string_type": "not a string",
    "string_pattern_mismatch": "not a commit (7 to 40 hexadecimal digits)",
    "int_type": "not a whole number",
    "greater_than": "not above {gt}",
    "greater_than_equal": "below {ge}",
    "less_than_equal": "above {le}",
}


def _shown(path: _Keys) -> str:
    """A path as people write it: `image[3].locked.index.digest`."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path]
    return "".join(parts).removeprefix(".")


# A header, `[[image]]` or `[image.locked]`, or `key =`.
_PLACE = re.compile(r"\s*(\[{0,2})([^=#\[\]]+)[\]=].*")
_KEY = re.compile(r'"([^"]*)"|([\w/-]+)')


def _line_of(text: str, path: _Keys) -> int:
    """The line, from 1, of the value at `path`, or of the nearest table around it that has one.

    pydantic sees no lines. Goes by the headers and keys that `dump` writes; what a hand wrote in
    another form (inline tables, strings of many lines) gives the line of something around it.
    """
    table: _Keys = ()
    number, best, depth = -1, 1, 0
    for line, written in enumerate(text.split("\n"), start=1):
        if not (found := _PLACE.match(written)):
            continue
        keys: _Keys = tuple(quoted or bare for quoted, bare in _KEY.findall(found[2]))
        if found[1]:
            number += found[1] == "[[" and keys == ("image",)
            if number >= 0 and keys[:1] == ("image",):
                keys = ("image", number, *keys[1:])
            table = keys
        else:
            keys = (*table, *keys)
        if len(keys) > depth and path[: len(keys)] == keys:
            best, depth = line, len(keys)
    return best


def _syntax_fault(text: str, message: str) -> tuple[int, str]:
    """Line and reason out of tomllib's message, which is all that says where before Python 3.14."""
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if match is None:
        return 1, message
    return int(match[1] or text.count("\n") + 1), message[: match.start()]
