"""The places that an image is published to, and how a blob of the base gets there.

A blob moves once and in one direction: from the source's stream into the target's, hashed on the
way, in constant memory. Where source and target are repositories of one registry it is mounted
and does not move at all (OCI distribution-spec 1.1, "Mounting a blob from another repository").
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO, RawIOBase
from typing import TYPE_CHECKING, BinaryIO, Protocol

from patcher.errors import Unreadable, Unwritable
from patcher.files import make_directory
from patcher.oci.blobs import Blobs, Verified, read_blob
from patcher.oci.model import Part
from patcher.progress import Progress
from patcher.registry.repository import AT_ONCE
from patcher.threads import in_order

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import WriteableBuffer

    from patcher.oci.layout import Layout
    from patcher.oci.model import Descriptor
    from patcher.registry.repository import Registry

Watch = Callable[[Progress], None]

_CHUNK = 1 << 20

# Configs and thin layers, which reading, appending and validating each ask for.
_SMALL = 1 << 20


class Target(Blobs, Protocol):
    """Where an image is published to: a registry's repository, or an OCI layout."""

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a blob, manifest or index. After it returns, it is there, whole."""
        ...

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """The blobs and manifests that are not there, in their order."""
        ...

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """Get blobs from `source`; gives the bytes that were moved for them, 0 for a mount.

        After it returns they are there, whole. Raises `BrokenImage`, `Unreadable`, `Unwritable`.
        """
        ...

    def named(self, name: str) -> str | None:
        """The digest that a name leads to; None where there is no such name."""
        ...

    def name(self, root: Part, names: Sequence[str]) -> None:
        """Let these names lead to `root`, in this order."""
        ...


@dataclass(slots=True)
class Tally:
    """Bytes of blobs, manifests and indexes that were read, by any number of threads."""

    received: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, count: int) -> None:
        """Some more were read."""
        with self.lock:
            self.received += count


class _Counted(RawIOBase):
    """A stream whose bytes are counted as they pass."""

    def __init__(self, stream: BinaryIO, tally: Tally) -> None:
        super().__init__()
        self._stream = stream
        self._tally = tally

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._tally.add(len(data))
        return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        self._stream.close()
        super().close()


@dataclass(frozen=True, slots=True)
class InRegistry:
    """A repository as source and as target. Small blobs that were read, and proven, are kept."""

    registry: Registry
    small: dict[str, bytes] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`."""
        if descriptor.size > _SMALL:
            return BufferedReader(_Counted(self.registry.open(descriptor, start), self.tally))
        if descriptor.digest not in self.small:
            self.small[descriptor.digest] = read_blob(self.registry, descriptor)
            self.tally.add(descriptor.size)
        return BytesIO(self.small[descriptor.digest][start:])

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """See `Target`."""
        self.registry.put(descriptor, data)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.registry.check(descriptors)

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """See `Target`."""
        return self.registry.lacking(descriptors)

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """See `Target`: several at a time, mounted where that can be, else streamed through."""
        return sum(in_order(lambda blob: self._fetch(blob, source, watch), descriptors, AT_ONCE))

    def _fetch(self, descriptor: Descriptor, source: Blobs, watch: Watch) -> int:
        upload = None
        if isinstance(source, InRegistry) and self._beside(source):
            upload = self.registry.mount(descriptor, source.registry.repository.name)
            if upload is None:
                watch(Progress(short(descriptor), "Mounted", None, None))
                return 0
        elif self.registry.has(descriptor):
            # Another job has brought it since the plan was made.
            return 0
        moved = _Moved(descriptor, watch)
        self.registry.upload(
            descriptor, lambda start: source.open(descriptor, start), upload, moved.add
        )
        return descriptor.size

    def _beside(self, source: InRegistry) -> bool:
        return source.registry.repository.registry == self.registry.repository.registry

    def named(self, name: str) -> str | None:
        """See `Target`."""
        there = self.registry.head(name)
        return there.digest if there else None

    def name(self, root: Part, names: Sequence[str]) -> None:
        """See `Target`."""
        for name in names:
            self.registry.put_manifest(name, root)


@dataclass(frozen=True, slots=True)
class InLayout:
    """An OCI layout as source and as target."""

    layout: Layout

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`."""
        return self.layout.open(descriptor, start)

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """See `Target`."""
        self.layout.put(descriptor, data)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.layout.check(descriptors)

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """See `Target`: damaged ones too. What is read for it, `check` need not read again."""
        return [each for each in descriptors if not self.layout.holds(each)]

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """See `Target`. One after the other: an interrupt finds one file to take away."""
        return sum(self._fetch(descriptor, source, watch) for descriptor in descriptors)

    def _fetch(self, descriptor: Descriptor, source: Blobs, watch: Watch) -> int:
        """Stream it to a file beside, which takes the blob's name when it is whole."""
        folder = self.layout.path / "blobs" / "sha256"
        make_directory(folder)
        partial = folder / f".{secrets.token_hex(8)}.tmp"
        try:
            with source.open(descriptor) as raw:
                _write(partial, Verified(raw, descriptor), _Moved(descriptor, watch))
            partial.replace(folder / descriptor.digest.removeprefix("sha256:"))
        finally:
            partial.unlink(missing_ok=True)
        # Hashed while it was written: to read 9 GB back would prove the disk, not the image.
        self.layout.checked.add(descriptor.digest)
        return descriptor.size

    def named(self, name: str) -> str | None:
        """See `Target`."""
        return self.layout.named(name)

    def name(self, root: Part, names: Sequence[str]) -> None:
        """See `Target`: all in one step."""
        self.layout.name(root.descriptor, names)


def _write(path: Path, stream: Verified, moved: _Moved) -> None:
    try:
        with path.open("xb") as file:
            for data in _chunks(stream):
                file.write(data)
                moved.add(len(data))
            stream.finish()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def _chunks(stream: Verified) -> Iterator[bytes]:
    try:
        while data := stream.read(_CHUNK):
            yield data
    except OSError as error:
        raise Unreadable(f"a blob cannot be read: {error}", next_step="Try again.") from error


def _unwritable(path: Path, error: OSError) -> Unwritable:
    return Unwritable(
        f"{path.parent} cannot be written to: {error.strerror}",
        next_step="Free some space there, or name another directory; a second run goes on.",
    )


@dataclass(slots=True)
class _Moved:
    """Tells a watcher how far a blob has come. A negative step is an upload that begins again."""

    descriptor: Descriptor
    watch: Watch
    done: int = 0

    def add(self, step: int) -> None:
        self.done += step
        size = self.descriptor.size
        self.watch(Progress(short(self.descriptor), "Copying", self.done, size))


def short(descriptor: Descriptor) -> str:
    """A blob's id as docker shows it."""
    return descriptor.digest.removeprefix("sha256:")[:12]
