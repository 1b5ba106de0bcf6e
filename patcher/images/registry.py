"""A repository of a registry, spoken to without a daemon: the OCI distribution API (spec 1.1).

What comes from a registry is believed only as far as its digest goes: manifests are hashed when
they come, blobs while they stream. What is sent is checked by the registry against the digest
that the client names, which the specification asks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from patcher.images.descriptor import Descriptor, Part
    from patcher.images.http import Http
    from patcher.images.reference import Reference

Reader = Callable[[int], BinaryIO]
"""Opens a blob's bytes from an offset on, for an upload that may have to begin again."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Which repository, and what for.

    `registry` and `name` are as in a `Reference`. `push` asks for the right to write;
    `mount_from` are repositories of the same registry whose blobs are to be mounted, which takes
    the right to read them.
    """

    registry: str
    name: str
    push: bool = False
    mount_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in progress: where it goes on, and how many bytes the registry has of it."""

    location: str
    offset: int = 0


class Registry:
    """A repository as a store of blobs (see `Blobs`), and what publishing needs besides.

    Every method raises `AccessDenied` where the registry wants other credentials, `NotInRegistry`
    where it answers that there is no such thing, and `RegistryFailed` (an `Unreadable`) for all
    else that keeps it from answering.
    """

    def __init__(self, repository: Repository, http: Http) -> None:
        self.repository = repository
        self._http = http

    def head(self, name: str) -> Descriptor | None:
        """The manifest or index behind a tag or digest, by one HEAD; None where there is none."""
        raise NotImplementedError

    def manifest(self, name: str) -> Part:
        """The manifest or index behind a tag or digest, hashed. Raises `BrokenImage` where it is
        not what the digest, or the registry's own statement of it, says.
        """
        raise NotImplementedError

    def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        raise NotImplementedError

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`: a manifest, index or blob from byte `start` on.

        A connection that breaks is taken up where it broke. Wrap it in `Verified`.
        """
        raise NotImplementedError

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """See `Blobs`: a manifest or index goes in under its digest, anything else as a blob.
        What is there already is not sent.
        """
        raise NotImplementedError

    def check(self, descriptor: Descriptor) -> None:
        """See `Blobs`: there with this size, by one HEAD. The digest was the registry's to check."""
        raise NotImplementedError

    def has(self, descriptor: Descriptor) -> bool:
        """Is the manifest, index or blob there? Raises `BrokenImage` for another size."""
        raise NotImplementedError

    def mount(self, descriptor: Descriptor, source: str) -> Upload | None:
        """Take a blob over from another repository of this registry (201): None, it is there.

        A registry that does not mount opens an upload instead (202), which is then to be used.
        """
        raise NotImplementedError

    def start_upload(self) -> Upload:
        """Open an upload."""
        raise NotImplementedError

    def append(self, upload: Upload, data: bytes) -> Upload:
        """Send the next chunk."""
        raise NotImplementedError

    def finish(self, upload: Upload, descriptor: Descriptor, data: bytes = b"") -> None:
        """Send the last bytes, if any are left, and close the upload under the blob's digest."""
        raise NotImplementedError

    def upload(
        self,
        descriptor: Descriptor,
        read_from: Reader,
        upload: Upload | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Stream a blob in, in constant memory; again from its start where the connection breaks.

        `upload` is one that `mount` gave back. `progress` is told the bytes that went out, and a
        negative number when the upload begins again. Raises `BrokenImage` where `read_from`
        gives other bytes than the descriptor says: nothing is stored then.
        """
        raise NotImplementedError

    def put_manifest(self, name: str, manifest: Part) -> None:
        """Store a manifest or index under a tag or its digest. Raises `BrokenImage` where the
        registry stored it under another digest.
        """
        raise NotImplementedError


def open_registry(
    reference: Reference, http: Http, *, push: bool = False, mount_from: tuple[str, ...] = ()
) -> Registry:
    """The repository that a reference lies in. Nothing is asked yet."""
    repository = Repository(reference.registry, reference.repository, push, mount_from)
    return Registry(repository, http)
