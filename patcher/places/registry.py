"""A registry as a place: blobs are mounted where they can be, and streamed through otherwise.

A blob moves once and in one direction: from the source's stream into the target's, hashed on the
way, in constant memory. Where source and target are repositories of one registry it is mounted
and does not move at all (OCI distribution-spec 1.1, "Mounting a blob from another repository").
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO

from patcher.oci.blobs import Counted, Moved, short_id
from patcher.places.stored import StoredPlace
from patcher.progress import Progress
from patcher.registry.referrers import attach, referrers
from patcher.registry.repository import AT_ONCE, Repository
from patcher.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.oci.blobs import Blobs, Watch
    from patcher.oci.model import Descriptor, Part
    from patcher.oci.reference import Reference
    from patcher.oci.referrer import Artifact
    from patcher.places.stored import Stored
    from patcher.web.http import Http


@dataclass(slots=True)
class Tally:
    """Bytes of blobs, manifests and indexes that were read, by any number of threads."""

    received: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, count: int) -> None:
        """Some more were read."""
        with self.lock:
            self.received += count


@dataclass(frozen=True, slots=True)
class RepositoryStore:
    """A registry's repository as a store (see `Store`). What is read of blobs is counted."""

    repository: Repository
    tally: Tally = field(default_factory=Tally)

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        """See `Blobs`."""
        return BufferedReader(
            Counted(self.repository.open(descriptor, start, size), self.tally.add)
        )

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """See `Store`."""
        self.repository.put(descriptor, data)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`."""
        self.repository.check(descriptors)

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """See `Store`."""
        return self.repository.lacking(descriptors)

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """See `Store`: several at a time, mounted where that can be, else streamed through."""
        try:
            moved = in_order(lambda blob: self._fetch(blob, source, watch), descriptors, AT_ONCE)
            return sum(moved)
        except BaseException:
            # The other threads are still sending, and their result is no longer waited for.
            self.repository.cancel_uploads()
            raise

    def _fetch(self, descriptor: Descriptor, source: Blobs, watch: Watch) -> int:
        upload = None
        if isinstance(source, RepositoryStore) and self._beside(source):
            upload = self.repository.mount(descriptor, source.repository.name)
            if upload is None:
                watch(Progress(short_id(descriptor), "Mounted", None, None))
                return 0
        elif self.repository.has(descriptor):
            # Another job has brought it since the plan was made.
            return 0
        moved = Moved(descriptor, watch)
        self.repository.upload(
            descriptor, lambda start: source.open(descriptor, start), upload, moved.add
        )
        return descriptor.size

    def _beside(self, source: RepositoryStore) -> bool:
        return source.repository.registry == self.repository.registry

    def referrers(self, subject: str, kind: str) -> list[Descriptor]:
        """See `Referred`."""
        return referrers(self.repository, subject, kind)

    def attach(self, artifact: Artifact) -> int:
        """See `Store`."""
        try:
            return attach(self.repository, artifact)
        except BaseException:
            self.repository.cancel_uploads()
            raise

    def named(self, name: str) -> str | None:
        """See `Store`."""
        there = self.repository.head(name)
        return there.digest if there else None

    def name(self, root: Part, names: Sequence[str]) -> None:
        """See `Store`."""
        for name in names:
            self.repository.put_manifest(name, root)


def registry_place(
    target: Reference, base: Stored, http: Http, tally: Tally, *, dry_run: bool
) -> StoredPlace:
    """The repository that `target` names as the place for a base.

    It is asked at once for the right to write: it takes minutes to read a base of gigabytes. A dry
    run asks for none, and may be tried before one has it.
    """
    beside: tuple[str, ...] = ()
    source = base.blobs
    if isinstance(source, RepositoryStore):
        there = source.repository
        beside = (there.name,) if there.registry == target.registry else ()
    repository = Repository(target, http, push=not dry_run, mount_from=beside)
    if not dry_run:
        repository.expect_writable()
    return StoredPlace(target.name, RepositoryStore(repository, tally), base)
