"""A repository of a registry, spoken to without a daemon: the OCI distribution API (spec 1.1).

What comes from a registry is believed only as far as its digest goes: manifests are hashed when
they come, blobs while they stream. What is sent is checked by the registry against the digest
that the client names, which the specification asks of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode, urlsplit

from patcher.errors import AccessDenied, BadReference, NotInRegistry
from patcher.oci.model import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Part,
    broken,
    expect,
    parse_json,
    part,
)
from patcher.oci.reference import parse_digest
from patcher.registry.blobs import Sending, place_of, start_upload
from patcher.registry.session import Calls
from patcher.registry.streams import BlobStream
from patcher.threads import in_order
from patcher.web.addresses import joined

if TYPE_CHECKING:
    from patcher.errors import BrokenImage
    from patcher.oci.reference import Reference
    from patcher.web.http import Answer, Http

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


# OCI first: what is written in both forms is wanted in the newer one.
_ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"}

_DOCUMENTS = INDEXES | MANIFESTS

_MOST_PAGES = 200

# Requests to one repository at a time. vLLM's images have some 30 layers on each platform, and a
# registry abroad takes 0.1 s to say that it has one.
AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that the registry has opened: where its bytes go."""

    place: str


class Registry:
    """A repository as a store of blobs (see `Blobs`), and what publishing needs besides.

    Every method raises `AccessDenied` where the registry wants other credentials, `NotInRegistry`
    where it answers that there is no such thing, and `RegistryFailed` (an `Unreadable`) for all
    else that keeps it from answering.
    """

    def __init__(self, repository: Repository, http: Http) -> None:
        self.repository = repository
        self._calls = Calls(
            http,
            repository.registry,
            repository.name,
            push=repository.push,
            beside=repository.mount_from,
        )
        # Whoever may push is told 403 by Artifactory for a manifest that is not there.
        self._answers = {200, 404, 403} if repository.push else {200, 404}
        # What was read under its digest never changes.
        self._read: dict[str, Part] = {}

    def head(self, name: str) -> Descriptor | None:
        """The manifest or index behind a tag or digest, by one HEAD; None where there is none.

        A registry that does not state the digest is asked for the manifest itself.
        """
        answer = self._calls.ask("HEAD", f"/manifests/{name}", self._answers, _ACCEPT)
        if answer.status != 200:
            return None
        media_type, digest, size = _media_type(answer), _stated_digest(answer), _length(answer)
        if digest is None or not size or media_type not in _DOCUMENTS:
            return self.manifest(name).descriptor
        if name.startswith("sha256:") and digest != name:
            raise broken(f"{self._calls.name}: asked for {name}, it states {digest}")
        document = {"mediaType": media_type, "digest": digest, "size": size}
        return Descriptor(media_type, digest, size, document=document)

    def manifest(self, name: str) -> Part:
        """The manifest or index behind a tag or digest, hashed. Raises `BrokenImage` where it is
        not what the digest, or the registry's own statement of it, says.
        """
        if name in self._read:
            return self._read[name]
        answer = self._calls.ask("GET", f"/manifests/{name}", {200}, _ACCEPT)
        found = part(answer.body, _kind(answer))
        digest = found.descriptor.digest
        asked = name if name.startswith("sha256:") else digest
        for wanted in (asked, _stated_digest(answer) or digest):
            if wanted != digest:
                raise broken(f"{self._calls.name}: {wanted} came with other bytes: {digest}")
        self._read[digest] = found
        return found

    def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        query: str | None = "n=1000"
        found: list[str] = []
        for _ in range(_MOST_PAGES):
            answer = self._calls.ask("GET", f"/tags/list?{query}", {200})
            page = parse_json(answer.body, "list of tags").get("tags") or []
            found += [expect(tag, str, "tag") for tag in expect(page, list, "list of tags")]
            query = _next_page(answer)
            if query is None:
                return found
        raise self._calls.failure("its list of tags has no end")

    def open(self, descriptor: Descriptor, start: int = 0) -> BinaryIO:
        """See `Blobs`: a manifest, index or blob from byte `start` on.

        A connection that breaks is taken up where it broke. Wrap it in `Verified`.
        """
        try:
            if descriptor.media_type in _DOCUMENTS:
                return io.BytesIO(self.manifest(descriptor.digest).data[start:])
            stream: BinaryIO = io.BufferedReader(
                BlobStream(self._calls, descriptor, start), 1 << 16
            )
        except NotInRegistry as error:
            raise self._lacks(descriptor) from error
        return stream

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a manifest or index under its digest, or anything else as a blob."""
        if descriptor.media_type in _DOCUMENTS:
            self.put_manifest(descriptor.digest, Part(descriptor, data))
        else:
            self.upload(descriptor, lambda start: io.BytesIO(data[start:]))

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`: there with this size, by a HEAD. The registry has checked the digest."""
        for descriptor in self.lacking(descriptors):
            raise self._lacks(descriptor)

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """Those that are not there, in their order; asked for several at a time."""
        answers = in_order(self.has, descriptors, AT_ONCE)
        return [each for each, there in zip(descriptors, answers, strict=True) if not there]

    def has(self, descriptor: Descriptor) -> bool:
        """Is the manifest, index or blob there? Raises `BrokenImage` for another size."""
        kind = "manifests" if descriptor.media_type in _DOCUMENTS else "blobs"
        path = f"/{kind}/{descriptor.digest}"
        good, headers = (self._answers, _ACCEPT) if kind == "manifests" else ({200, 404}, {})
        answer = self._calls.ask("HEAD", path, good, headers)
        size = _length(answer)
        # 0 is what a proxy says that answers for a storage.
        if answer.status == 200 and size not in (None, 0, descriptor.size):
            raise broken(f"{descriptor.digest} has {size} bytes there, not {descriptor.size}")
        return answer.status == 200

    def mount(self, descriptor: Descriptor, source: str) -> Upload | None:
        """Take a blob over from another repository of this registry (201): None, it is there.

        A registry that does not mount, or not from there, opens an upload instead (202), which is
        then to be used.
        """
        query = urlencode({"mount": descriptor.digest, "from": source})
        try:
            answer = self._calls.ask("POST", f"/blobs/uploads/?{query}", {201, 202, 400, 405})
        except (AccessDenied, NotInRegistry):
            # The right to read the source may be what lacks. If it is that to write, it says so.
            return Upload(start_upload(self._calls))
        if answer.status == 201:
            return None
        if answer.status == 202:
            return Upload(place_of(self._calls, answer, self._calls.root))
        return Upload(start_upload(self._calls))

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
        sending = Sending(
            self._calls,
            descriptor,
            read_from,
            progress,
            there=lambda: self.has(descriptor),
            place=upload.place if upload else None,
        )
        self._calls.http.persist(self._calls.root, sending.attempt)

    def put_manifest(self, name: str, manifest: Part) -> None:
        """Store a manifest or index under a tag or its digest. Raises `BrokenImage` where the
        registry stored it under another digest.
        """
        headers = {"Content-Type": manifest.descriptor.media_type}
        # 201 by the specification. Quay has said 202, and other registries 200.
        good = {200, 201, 202}
        answer = self._calls.ask("PUT", f"/manifests/{name}", good, headers, manifest.data)
        stored = _stated_digest(answer)
        if stored not in (None, manifest.descriptor.digest):
            raise broken(f"{name}: {manifest.descriptor.digest} was sent, {stored} was stored")

    def _lacks(self, descriptor: Descriptor) -> BrokenImage:
        return broken(f"{self._calls.registry}/{self._calls.name} has no {descriptor.digest}")


def open_registry(
    reference: Reference, http: Http, *, push: bool = False, mount_from: tuple[str, ...] = ()
) -> Registry:
    """The repository that a reference lies in. Nothing is asked yet."""
    repository = Repository(reference.registry, reference.repository, push, mount_from)
    return Registry(repository, http)


def _stated_digest(answer: Answer) -> str | None:
    """Docker-Content-Digest, which registries may leave out, or give by another hash."""
    try:
        return parse_digest(answer.headers.get("Docker-Content-Digest", ""))
    except BadReference:
        return None


def _length(answer: Answer) -> int | None:
    stated = answer.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else None


def _media_type(answer: Answer) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _kind(answer: Answer) -> str:
    """The media type of a manifest: as the registry states it, or else as it states itself.

    Only a plain file server leaves that out, and OCI documents may.
    """
    if (stated := _media_type(answer)) in _DOCUMENTS:
        return stated
    document = parse_json(answer.body, "manifest")
    inside = document.get("mediaType")
    return str(inside or (OCI_INDEX if "manifests" in document else OCI_MANIFEST))


def _next_page(answer: Answer) -> str | None:
    """The query of the next page (RFC 5988). Its host and path can only be those just asked."""
    from requests.utils import parse_header_links

    links = parse_header_links(answer.headers.get("Link", ""))
    following = [link["url"] for link in links if link.get("rel") == "next"]
    if not following:
        return None
    place = joined("", following[0])
    if place is None:
        raise broken("list of tags: its next page has no address")
    return urlsplit(place).query
