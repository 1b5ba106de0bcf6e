"""What was read out of layers, kept in the user's cache directory between runs.

A layer of 3 GB is streamed once for a file of 100 KB. What it said is kept by the layer's digest
and what was looked for, since neither ever changes. An entry carries a checksum: one that is
damaged, or of another form, is no entry. A cache that cannot be written is none, and no error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from array import array
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.errors import Unwritable
from patcher.files import write_atomically
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.scan import Traces

if TYPE_CHECKING:
    from patcher.oci.model import Descriptor
    from patcher.oci.scan import Wanted

# Part of every key: whoever changes what a trace holds, or how it is found, raises it.
_FORM = 2

_MOST_BYTES = 256 << 20
_CHECKSUM = 32


def default_folder() -> Path:
    """Where this user's entries lie."""
    from platformdirs import user_cache_path

    return user_cache_path("vllm-patcher") / "layers"


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Traces of layers in a folder; it is made with the first entry."""

    folder: Path

    def load(self, layer: Descriptor, wanted: Wanted) -> Traces | None:
        """What is kept of a layer; None for nothing, or nothing whole."""
        try:
            entry = self._path(layer, wanted).read_bytes()
            packed = entry[_CHECKSUM:]
            if hashlib.sha256(packed).digest() != entry[:_CHECKSUM]:
                return None
            return _parse(_inflate(packed))
        except (OSError, ValueError, TypeError, KeyError, zlib.error):
            return None

    def save(self, layer: Descriptor, wanted: Wanted, traces: Traces) -> None:
        """Keep what a layer said, if the disk takes it."""
        packed = zlib.compress(_dump(traces), 1)
        with suppress(OSError, Unwritable):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self._path(layer, wanted)
            write_atomically(path, hashlib.sha256(packed).digest() + packed)

    def _path(self, layer: Descriptor, wanted: Wanted) -> Path:
        looked_for = [
            sorted(wanted.targets),
            sorted(wanted.paths),
            sorted(wanted.scripts),
            sorted(wanted.packages),
            sorted(map(_text, wanted.mentions)),
        ]
        key = json.dumps([_FORM, layer.digest, looked_for]).encode()
        return self.folder / hashlib.sha256(key).hexdigest()


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(packed, _MOST_BYTES)
    if not inflater.eof:
        raise ValueError("an entry is too long")
    return data


def _dump(traces: Traces) -> bytes:
    document = {
        "files": [_dump_file(file) for file in traces.files.values()],
        "mentions": [_dump_file(file) for file in traces.mentions.values()],
        "links": traces.links,
        "directories": [asdict(directory) for directory in traces.directories.values()],
        "names": sorted(traces.names),
        "bytecode": {path: _text(head) for path, head in traces.bytecode.items()},
        "whiteouts": sorted(traces.whiteouts),
        "opaque": sorted(traces.opaque),
        "others": _text(_little_endian(traces.others).tobytes()),
    }
    # ASCII keeps the names that are not UTF-8, and tarfile gives as lone surrogates.
    return json.dumps(document, ensure_ascii=True).encode("ascii")


def _dump_file(file: ImageFile) -> dict[str, Any]:
    return {**asdict(file), "data": _text(file.data)}


def _parse_files(files: list[dict[str, Any]]) -> dict[str, ImageFile]:
    read = [ImageFile(**{**file, "data": _bytes(file["data"])}) for file in files]
    return {file.path: file for file in read}


def _parse(data: bytes) -> Traces:
    document: dict[str, Any] = json.loads(data)
    directories = [ImageDirectory(**directory) for directory in document["directories"]]
    return Traces(
        files=_parse_files(document["files"]),
        mentions=_parse_files(document["mentions"]),
        links=document["links"],
        directories={directory.path: directory for directory in directories},
        names=set(document["names"]),
        bytecode={path: _bytes(head) for path, head in document["bytecode"].items()},
        whiteouts=set(document["whiteouts"]),
        opaque=set(document["opaque"]),
        others=_little_endian(array("Q", _bytes(document["others"]))),
    )


def _little_endian(numbers: array[int]) -> array[int]:
    import sys

    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
