"""A repository in a registry, without a daemon: the OCI distribution API (spec 1.1).

What comes from a registry is believed only as far as its digest goes: manifests are hashed when
they come, blobs while they stream. What is sent is checked by the registry against the digest
that the client names, which the specification asks of it.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from patcher.errors import (
    AccessDenied,
    BadReference,
    NotInRegistry,
    PatcherError,
    TagRefused,
)
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
from patcher.oci.reference import is_tag, parse_digest
from patcher.registry.blobs import (
    SETTLING,
    BlobStream,
    Sending,
    Upload,
    opened_upload,
    start_upload,
)
from patcher.registry.session import Session
from patcher.threads import in_order
from patcher.web.http import Fault, explanation
from patcher.web.trust import joined, origin

if TYPE_CHECKING:
    from patcher.errors import BrokenImage
    from patcher.oci.reference import Reference
    from patcher.web.http import Answer, Http

Reader = Callable[[int], BinaryIO]
"""Opens a blob's bytes from an offset on, for an upload that may have to begin again."""


# OCI first: what is written in both forms is wanted in the newer one.
_ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"}

_DOCUMENTS = INDEXES | MANIFESTS

_ANY = range(200, 600)

# The tags of one repository, in all: vLLM's nightlies are some thousands. Seconds for all pages.
_MOST_TAGS = 100_000
_MOST_PAGES = 200
_MOST_REFERRER_PAGES = 10
_TAGS_SECONDS = 300.0

# Tags on one page. A registry that wants fewer says 400 (ECR, ACR and others have limits of 100 to
# 1000); without a number it sends as many as it likes.
_PAGES = ("n=1000", "n=100", "")

# What a registry says of a manifest whose blobs or manifests it does not see yet: another job
# was writing the same ones, or its storage lags.
_UNSEEN = ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN")

# How registries refuse to move a tag: immutable tags are a setting of ECR, Harbor, Quay, ACR and
# Docker Hub, each with its own status.
_TAG_REFUSALS = frozenset({400, 403, 405, 409, 412, 422})

# Requests to one repository at a time. vLLM's images have some 30 layers on each platform, and a
# registry abroad takes 0.1 s to say that it has one.
AT_ONCE = 6


class Repository:
    """A repository as a store of blobs (see `Blobs`), and what publishing needs besides.

    It is that of a reference; nothing is sent yet. `push` asks for the right to write;
    `mount_from` are repositories of the same registry whose blobs are to be mounted, which takes
    the right to read them.

    Every method raises `AccessDenied` where the registry wants other credentials, `NotInRegistry`
    where it answers that there is no such thing, and `RegistryFailed` (an `Unreadable`) for all
    else that keeps it from answering.
    """

    def __init__(
        self,
        reference: Reference,
        http: Http,
        *,
        push: bool = False,
        mount_from: tuple[str, ...] = (),
    ) -> None:
        self.registry = reference.registry
        self.name = reference.repository
        self._session = Session(http, self.registry, self.name, push=push, beside=mount_from)
        # Artifactory says 403 to whoever may push for a manifest that is not there.
        self._absent = {404, 403} if push else {404}
        # What was read under its digest never changes.
        self._read: dict[str, Part] = {}
        # Digests and tags that were written here: a 404 for one of them is asked again.
        self._written: set[str] = set()
        # Repositories that nothing may be mounted from.
        self._unmountable: set[str] = set()

    def head(self, name: str) -> Descriptor | None:
        """The manifest or index behind a tag or digest; None where there is none.

        By one HEAD, if the registry answers it with all that a descriptor takes.
        """
        answer = self._look("manifests", name)
        if answer is None:
            return None
        media_type, digest, size = _media_type(answer), _stated_digest(answer), answer.length
        if digest is None or not size or media_type not in _DOCUMENTS:
            return self.manifest(name).descriptor
        if name.startswith("sha256:") and digest != name:
            raise broken(f"{self.name}: asked for {name}, it states {digest}")
        document = {"mediaType": media_type, "digest": digest, "size": size}
        return Descriptor(media_type, digest, size, document=document)

    def manifest(self, name: str) -> Part:
        """The manifest or index behind a tag or digest, hashed. Raises `BrokenImage` where it is
        not what the digest, or the registry's own statement of it, says.
        """
        if name in self._read:
            return self._read[name]
        path = f"/manifests/{name}"
        answer = self._settled(
            name, lambda: self._session.ask("GET", path, {200, 404}, _ACCEPT), {404}
        )
        if answer.status == 404:
            raise self._session.absent(name, f"HTTP 404{explanation(answer.body)}")
        found = part(answer.body, _kind(answer))
        digest = found.descriptor.digest
        asked = name if name.startswith("sha256:") else digest
        for wanted in (asked, _stated_digest(answer) or digest):
            if wanted != digest:
                raise broken(f"{self.name}: {wanted} came with other bytes: {digest}")
        self._read[digest] = found
        return found

    def _look(self, kind: str, name: str) -> Answer | None:
        """The headers of a manifest or blob; None where it is not there.

        By HEAD. Only 200, and the registry's own 404, are an answer to it: some registries, their
        proxies, and storages behind a redirect refuse the method, and are asked by GET.
        """
        session, path = self._session, f"/{kind}/{name}"
        headers = _ACCEPT if kind == "manifests" else {}
        absent = self._absent if kind == "manifests" else {404}

        def look() -> Answer:
            answer = session.ask("HEAD", path, _ANY, headers)
            own = origin(answer.url) == origin(session.root)
            if answer.status == 200 or (answer.status == 404 and own):
                return answer
            answer = session.http.persist(
                session.root,
                lambda: session.send("GET", f"{session.root}{path}", {200, *absent}, headers),
            )
            answer.close()
            return answer

        answer = self._settled(name, look, absent)
        return answer if answer.status == 200 else None

    def _settled(self, name: str, ask: Callable[[], Answer], absent: set[int]) -> Answer:
        """The answer about something; of what was written here, not the first "not found"."""
        for pause in SETTLING if name in self._written else ():
            answer = ask()
            if answer.status not in absent:
                return answer
            self._session.http.wait(pause)
        return ask()

    def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        smaller = list(_PAGES)
        query: str | None = smaller.pop(0)
        found: list[str] = []
        until = time.monotonic() + _TAGS_SECONDS
        for _ in range(_MOST_PAGES):
            good = {200, 400} if smaller and not found else {200}
            answer = self._session.ask("GET", f"/tags/list?{query}".rstrip("?"), good)
            if answer.status == 400:
                query = smaller.pop(0)
                continue
            smaller = []
            page = parse_json(answer.body, "list of tags").get("tags") or []
            said = [expect(tag, str, "tag") for tag in expect(page, list, "list of tags")]
            found += filter(is_tag, said)  # anything else might be of any length
            query = _next_page(answer)
            if query is None:
                return found
            if len(found) > _MOST_TAGS or time.monotonic() > until:
                break
        raise self._session.failure(f"its list of tags has no end: {len(found)} were read")

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        """See `Blobs`: a manifest, index or blob from byte `start` on.

        A connection that breaks is taken up where it broke. Wrap it in `Verified`.
        """
        try:
            if descriptor.media_type in _DOCUMENTS:
                return io.BytesIO(self.manifest(descriptor.digest).data[start:])
            written = descriptor.digest in self._written
            end = descriptor.size if size is None else min(start + size, descriptor.size)
            stream = BlobStream(self._session, descriptor, start, end, written=written)
        except NotInRegistry as error:
            raise self._lacks(descriptor) from error
        return io.BufferedReader(stream, 1 << 16)

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
        """Whether the manifest, index or blob is there. Raises `BrokenImage` for another size."""
        kind = "manifests" if descriptor.media_type in _DOCUMENTS else "blobs"
        answer = self._look(kind, descriptor.digest)
        size = answer.length if answer else None
        # 0 is what a proxy says that answers for a storage.
        if size not in (None, 0, descriptor.size):
            raise broken(f"{descriptor.digest} has {size} bytes there, not {descriptor.size}")
        return answer is not None

    def mount(self, descriptor: Descriptor, source: str) -> Upload | None:
        """Take a blob over from another repository of this registry (201): None, it is there.

        A registry that does not mount, or not from there, opens an upload instead (202), which is
        then to be used.
        """
        query = urlencode({"mount": descriptor.digest, "from": source})
        path = f"/blobs/uploads/?{query}"
        if source in self._unmountable:
            return start_upload(self._session)
        try:
            answer = self._session.ask("POST", path, {201, 202, 400, 405})
        except (AccessDenied, NotInRegistry):
            self._unmountable.add(source)
            # The right to read the source may be missing. If the one to write is, this says so.
            return start_upload(self._session)
        if answer.status == 201:
            self._written.add(descriptor.digest)
            return None
        if answer.status == 202:
            return opened_upload(self._session, answer)
        return start_upload(self._session)

    def expect_writable(self) -> None:
        """Raise `AccessDenied`, `NotInRegistry` or `RegistryFailed` unless one may write here.

        Only an upload tells: some give a token for it to whoever may read. It is cancelled.
        """
        self._session.cancel(start_upload(self._session).place)

    def upload(
        self,
        descriptor: Descriptor,
        read_from: Reader,
        upload: Upload | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Stream a blob in, in constant memory; again from its start where the connection breaks.

        `upload` is one that `mount` gave back. `progress` is called with the bytes that went out,
        and with a negative number when the upload begins again. Raises `BrokenImage` where
        `read_from` gives other bytes than the descriptor says: nothing is stored then.
        """
        sending = Sending(
            self._session, descriptor, read_from, progress, lambda: self.has(descriptor), upload
        )
        self._session.http.persist(self._session.root, sending.attempt)
        self._written.add(descriptor.digest)

    def cancel_uploads(self) -> None:
        """End all uploads that are under way, and let none of them begin again; in ten seconds.

        For a publication that failed or was interrupted while other threads were sending.
        """
        self._session.ended.set()
        self._session.ended = threading.Event()
        self._session.cancel(*tuple(self._session.uploads))

    def list_referrers(self, subject: str, kind: str) -> dict[str, Any] | None:
        """The index of what refers to a digest; None where the registry keeps no such list.

        The registry may or may not leave out other artifact types than `kind`.
        """
        query: str | None = urlencode({"artifactType": kind})
        path = f"/referrers/{subject}"
        whole: dict[str, Any] | None = None
        for _ in range(_MOST_REFERRER_PAGES):
            # Older registries and their proxies know no such address.
            good = {200, 400, 404, 405} if whole is None else {200}
            answer = self._session.ask("GET", f"{path}?{query}", good)
            if answer.status != 200 or _media_type(answer) not in INDEXES:
                return None
            page = parse_json(answer.body, "list of referrers")
            more = expect(page.get("manifests"), list, "list of referrers: manifests")
            whole = whole or {**page, "manifests": []}
            whole["manifests"] += more
            query = _next_page(answer)
            if query is None:
                return whole
        raise self._session.failure(f"its list of what refers to {subject} has no end")

    def put_manifest(self, name: str, manifest: Part) -> str | None:
        """Store a manifest or index under a tag or its digest; gives the digest of the subject
        that the registry has noted for it, None for none (OCI-Subject).

        Raises `BrokenImage` where the registry stored it under another digest, and `TagRefused`
        where it has the manifest and will not let this tag lead to it.
        """
        digest = manifest.descriptor.digest
        headers = {"Content-Type": manifest.descriptor.media_type}

        def put() -> Answer:
            answer = self._session.send(
                "PUT", f"{self._session.root}/manifests/{name}", _ANY, headers, manifest.data
            )
            self._session.take(answer)
            if answer.status in (400, 404) and _is_unseen(answer):
                raise Fault(f"HTTP {answer.status}{explanation(answer.body)}")
            # 201 by the specification. Quay has said 202, and other registries 200.
            if answer.status not in (200, 201, 202):
                raise self._refused(name, manifest, answer)
            return answer

        answer = self._session.http.persist(self._session.root, put, SETTLING)
        stored = _stated_digest(answer)
        if stored not in (None, digest):
            raise broken(f"{name}: {digest} was sent, {stored} was stored")
        self._written |= {name, digest}
        return answer.headers.get("OCI-Subject")

    def _refused(self, name: str, manifest: Part, answer: Answer) -> PatcherError | Fault:
        """The error for a manifest that was not stored: is it the tag that is refused?"""
        error = self._session.error(answer, f"{self._session.root}/manifests/{name}")
        digest = manifest.descriptor.digest
        if isinstance(error, Fault) or name == digest or answer.status not in _TAG_REFUSALS:
            return error
        try:
            if not self.has(manifest.descriptor):
                return error
        except PatcherError:
            return error
        where = f"{self.registry}/{self.name}"
        reason = self._session.http.keyring.hide(explanation(answer.body))
        return TagRefused(
            f"{where}: the registry does not let the tag {name} lead to the new image, "
            f"HTTP {answer.status}{reason}",
            next_step=f"The image is there, as {where}@{digest}. If tags are immutable there, "
            "give it a new tag of its own (--to REGISTRY/REPO:TAG), or use the fixed one; else "
            "ask for the right to move this tag.",
            tag=name,
            digest=digest,
        )

    def _lacks(self, descriptor: Descriptor) -> BrokenImage:
        return broken(f"{self.registry}/{self.name} has no {descriptor.digest}")


def _stated_digest(answer: Answer) -> str | None:
    """Docker-Content-Digest, which registries may leave out, or give by another hash."""
    try:
        return parse_digest(answer.headers.get("Docker-Content-Digest", ""))
    except BadReference:
        return None


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


def _is_unseen(answer: Answer) -> bool:
    """Whether an error is about blobs or manifests that it does not see, and about them alone."""
    said = answer.body.decode("utf-8", "replace")
    return any(f'"{code}"' in said for code in _UNSEEN) and "MANIFEST_INVALID" not in said


def _next_page(answer: Answer) -> str | None:
    """The query of the next page (RFC 8288). Its host and path can only be those just asked."""
    from requests.utils import parse_header_links

    links = parse_header_links(answer.headers.get("Link", ""))
    following = [link["url"] for link in links if link.get("rel") == "next"]
    if not following:
        return None
    place = joined(answer.url, following[0])
    if place is None:
        raise broken("list of tags: its next page has no address")
    return urlsplit(place).query
