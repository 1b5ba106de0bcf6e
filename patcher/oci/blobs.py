"""A store of an image's blobs; and reading one, held against its digest and size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from patcher.oci.model import Descriptor, broken
from patcher.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import WriteableBuffer


Watch = Callable[[Progress], None]
"""Called with each step of a transfer."""

# containerd's own limit for a manifest is 8 MiB, and no registry takes a larger one.
MOST_BYTES = 8 * 1024 * 1024


class Blobs(Protocol):
    """A store of blobs, manifests and indexes; a descriptor's media type says which one it is.

    A layout on disk is one; a repository of a registry is another.
    """

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        """The blob's bytes from `start` on, as a stream that the caller closes.

        At most `size` of them will be read: no more need be sent. They are not checked: see
        `Verified`.

        Raises `Unreadable` where the store does not answer, `BrokenImage` where it lacks it.
        """
        ...

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """Raise `BrokenImage` unless each blob is there with its digest and size.

        A store that checked the digest when it took the blob may ask for the size alone.
        """
        ...


class Verified(io.RawIOBase):
    """A blob's stream, counted and hashed as it is read; `finish` reads the rest and checks it."""

    def __init__(self, raw: BinaryIO, descriptor: Descriptor) -> None:
        super().__init__()
        self.consumed = 0
        self._raw = raw
        self._descriptor = descriptor
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._raw.read(len(view))
        view[: len(data)] = data
        self.consumed += len(data)
        self._hash.update(data)
        if self.consumed > self._descriptor.size:
            raise broken(f"{self._descriptor.digest} is longer than {self._descriptor.size} bytes")
        return len(data)

    def finish(self) -> None:
        """Raise `BrokenImage` unless the whole stream has the descriptor's size and digest."""
        while self.read(1 << 20):
            pass
        wanted = self._descriptor
        if self.consumed != wanted.size:
            raise broken(f"{wanted.digest} has {self.consumed} bytes, not {wanted.size}")
        if f"sha256:{self._hash.hexdigest()}" != wanted.digest:
            raise broken(f"{wanted.digest} has other bytes: {self._hash.hexdigest()}")


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Counted(io.RawIOBase):
    """A stream that reports how many bytes each read gave."""

    def __init__(self, stream: _Stream, count: Callable[[int], None]) -> None:
        super().__init__()
        self._stream = stream
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._count(len(data))
        return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        self._stream.close()
        super().close()


def read_blob(blobs: Blobs, descriptor: Descriptor) -> bytes:
    """A small blob (manifest, config, thin layer), proven. Raises `BrokenImage`, `Unreadable`."""
    if descriptor.size > MOST_BYTES:
        raise broken(f"{descriptor.digest} says that it has {descriptor.size} bytes")
    with blobs.open(descriptor) as raw:
        stream = Verified(raw, descriptor)
        data = stream.readall()
        stream.finish()
    return data


@dataclass(slots=True)
class Moved:
    """Tells a watcher how far a blob has come. A negative step is an upload that begins again."""

    descriptor: Descriptor
    watch: Watch
    doing: str = "Copying"
    done: int = 0

    def add(self, step: int) -> None:
        self.done += step
        size = self.descriptor.size
        self.watch(Progress(short_id(self.descriptor), self.doing, self.done, size))


def short_id(descriptor: Descriptor) -> str:
    """A blob's id as docker shows it."""
    return descriptor.digest.removeprefix("sha256:")[:12]
