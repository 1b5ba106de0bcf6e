"""What the layers of images say, kept: a layer of 3 GB is streamed once for a file of 100 KB."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.cache import Cache, default_folder
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.rootfs.scan import Traces

if TYPE_CHECKING:
    from patcher.oci.model import Descriptor
    from patcher.oci.rootfs.scan import Wanted

_MOST_LAYER = 256 << 20

# Part of every key: whoever changes what a trace holds, or how it is found, raises it.
_FORM = 3


class LayerCache:
    """What layers say, by the layer's digest and what was looked for; neither ever changes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder() / "layers"
        self._kept = Cache(self.folder, most=_MOST_LAYER)

    def load(self, layer: Descriptor, wanted: Wanted) -> Traces | None:
        """What is kept of a layer; None for nothing, or nothing whole."""
        packed = self._kept.load(_layer_key(layer, wanted))
        if packed is None:
            return None
        try:
            inflater = zlib.decompressobj()
            data = inflater.decompress(packed, _MOST_LAYER)
            return _parse(data) if inflater.eof else None
        except (ValueError, TypeError, KeyError, zlib.error):
            return None

    def save(self, layer: Descriptor, wanted: Wanted, traces: Traces) -> None:
        """Keep what a layer said, if the disk takes it."""
        self._kept.save(_layer_key(layer, wanted), zlib.compress(_dump(traces), 1))


def _layer_key(layer: Descriptor, wanted: Wanted) -> bytes:
    looked_for = [
        sorted(wanted.targets),
        sorted(wanted.paths),
        sorted(wanted.scripts),
        sorted(wanted.packages),
        sorted(map(_text, wanted.mentions)),
    ]
    return json.dumps([_FORM, layer.digest, looked_for]).encode()


def _dump(traces: Traces) -> bytes:
    document = {
        "files": [_dump_file(file) for file in traces.files.values()],
        "mentions": [_dump_file(file) for file in traces.mentions.values()],
        "links": traces.links,
        "directories": [asdict(directory) for directory in traces.directories.values()],
        "names": sorted(traces.names),
        "bytecode": {path: _text(head) for path, head in traces.bytecode.items()},
        "read": traces.read,
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
        read={path: (before, after) for path, (before, after) in document["read"].items()},
        whiteouts=set(document["whiteouts"]),
        opaque=set(document["opaque"]),
        others=_little_endian(array("Q", _bytes(document["others"]))),
    )


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
