"""Small bases in a registry, of two platforms each, and a lock that pins them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

from patcher.lock.entries import Entry, Lock, Locked, Original, Pin
from patcher.lock.file import save
from patcher.oci.reference import parse_reference
from tests.conftest import TARGET
from tests.indexes import add_index
from tests.installations import installed_file
from tests.memory import OCI, Memory
from tests.registries import put_manifest, upload

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Base:
    """A build of vLLM whose target file is `source`; `tag` is what its registry calls it."""

    tag: str
    version: str
    source: bytes

    def push(self, host: str, repository: str) -> str:
        """Put it there, over plain http; its index's digest."""
        stated = f"__version__ = version = {self.version!r}\n".encode()
        files = [
            installed_file("vllm/_version.py", stated),
            installed_file(TARGET, self.source, mode=0o640, owner=1234),
        ]
        blobs = Memory()
        root = add_index(blobs, OCI, files)
        upload(host, repository, blobs.data, root)
        put_manifest(host, repository, self.tag, root["mediaType"], blobs.data[root["digest"]])
        return str(root["digest"])

    def entry(self, place: str, digest: str) -> Entry:
        """Its entry in a lock; `place` is registry and repository."""
        original = Original(self.version, parse_reference(f"{place}:{self.tag}"))
        return Entry(original, Locked(Version(self.version), index=Pin(digest)))


def write_lock(path: Path, *entries: Entry) -> None:
    """An images.lock of these entries."""
    save(path, Lock(tuple(sorted(entries, key=lambda entry: entry.key))))
