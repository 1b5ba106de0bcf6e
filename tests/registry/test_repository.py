"""The registry client against the real registry, and against one that misbehaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import pytest
import requests

from patcher.errors import (
    AccessDenied,
    BrokenImage,
    NotInRegistry,
    RegistryFailed,
    TagRefused,
    Unreadable,
)
from patcher.oci.blobs import Verified, read_blob
from patcher.oci.image import load_image, load_index
from patcher.oci.model import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Part, part
from patcher.oci.reference import parse_reference
from patcher.registry.blobs import Upload
from patcher.registry.repository import Repository
from patcher.threads import in_order
from patcher.web.http import Http
from tests.auth_servers import docker_config
from tests.indexes import add_index
from tests.memory import DOCKER, OCI, Memory, add_image
from tests.registries import LOSE, LOSE_ANSWER, PASS, proxy_of, upload
from tests.scripted import HANG_UP, Reply, Script, Seen, in_turn, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOB = part(os.urandom(300_000), "application/octet-stream")
DIGEST = BLOB.descriptor.digest
MANIFEST = part(b'{"schemaVersion":2}', OCI_MANIFEST)
WAIT_NOT: Callable[[float], None] = lambda _: None  # noqa: E731


def at(host: str, name: str = "a/b", **rights: object) -> Repository:
    return Repository(parse_reference(f"{host}/{name}"), Http(wait=WAIT_NOT), **rights)  # type: ignore[arg-type]


def read(registry: Repository, start: int = 0) -> bytes:
    with registry.open(BLOB.descriptor, start) as stream:
        return stream.read()


@pytest.mark.parametrize("types", [OCI, DOCKER])
def test_an_index_is_read_down_to_its_layers(registry: str, types: tuple[str, ...]) -> None:
    blobs = Memory()
    root = add_index(blobs, types)
    name = f"read/{types[0].split('.')[2]}"
    upload(registry, name, blobs.data, root)
    there = at(registry, name)
    found = there.manifest(root["digest"]).descriptor
    assert found.document == root
    assert there.head(root["digest"]) == found
    images = load_index(there, found).images
    assert [str(image.platform) for image in images] == ["linux/amd64", "linux/arm64"]
    for image in images:
        for layer in load_image(there, image).manifest.layers:
            assert read_blob(there, layer) == blobs.data[layer.digest]


def test_what_was_published_is_there_under_its_names(registry: str) -> None:
    blobs = Memory()
    root = add_image(blobs, OCI)
    upload(registry, "named", blobs.data, root)
    there = at(registry, "named", push=True)
    manifest = part(blobs.data[root["digest"]], root["mediaType"])
    assert there.head("one") is None
    for tag in ("one", "two"):
        there.put_manifest(tag, manifest)
    assert set(there.tags()) == {"one", "two"}
    assert there.manifest("two") == manifest
    assert there.head("two") == manifest.descriptor


def test_what_is_not_there_is_said_by_name(registry: str) -> None:
    there = at(registry, "nothing/here")
    with pytest.raises(NotInRegistry, match="nothing/here has no v1: HTTP 404"):
        there.manifest("v1")
    with pytest.raises(NotInRegistry, match="nothing/here has no list"):
        there.tags()
    with pytest.raises(BrokenImage, match=f"nothing/here has no {DIGEST}"):
        there.open(BLOB.descriptor)
    with pytest.raises(BrokenImage, match=f"nothing/here has no {DIGEST}"):
        there.check([BLOB.descriptor])
    with pytest.raises(BrokenImage, match="has no sha256"):
        there.open(MANIFEST.descriptor)


def test_a_blob_is_mounted_beside(registry: str) -> None:
    with proxy_of(registry) as proxy:
        source = at(proxy.address, "mount/from", push=True)
        source.put(BLOB.descriptor, BLOB.data)
        sent = proxy.sent
        assert sent == BLOB.descriptor.size
        target = at(proxy.address, "mount/to", push=True, mount_from=("mount/from",))
        assert not target.has(BLOB.descriptor)
        assert target.mount(BLOB.descriptor, "mount/from") is None
        target.check([BLOB.descriptor])
        assert (read(target), read(target, 299_999)) == (BLOB.data, BLOB.data[-1:])
        assert proxy.sent == sent


def test_a_registry_that_does_not_mount_gives_an_upload_to_use(registry: str) -> None:
    with proxy_of(registry) as proxy:
        at(proxy.address, "no-mount/from", push=True).put(BLOB.descriptor, BLOB.data)
        proxy.refuse_mounts = True
        proxy.forget()
        target = at(proxy.address, "no-mount/to", push=True)
        opened = target.mount(BLOB.descriptor, "no-mount/from")
        assert isinstance(opened, Upload)
        steps: list[int] = []
        target.upload(BLOB.descriptor, lambda start: bytes_of(start), opened, steps.append)
        assert sum(steps) == BLOB.descriptor.size
        assert len(proxy.methods("POST")) == 1
        assert read(target) == BLOB.data


def bytes_of(start: int) -> BinaryIO:
    return io.BytesIO(BLOB.data[start:])


def test_a_source_that_is_not_there_is_not_mounted(registry: str) -> None:
    target = at(registry, "mount/alone", push=True)
    opened = target.mount(part(b"nowhere", "x/y").descriptor, "mount/nothing")
    assert isinstance(opened, Upload)


@pytest.mark.parametrize("fate", [LOSE, LOSE_ANSWER])
def test_an_upload_survives_each_of_its_requests_being_lost(registry: str, fate: str) -> None:
    for lost in range(1, 4):
        blob = part(os.urandom(100_000), "application/octet-stream")
        with proxy_of(registry) as proxy:
            proxy.decide = lambda number, *_, lost=lost: fate if number == lost else PASS
            target = at(proxy.address, "lossy", push=True)
            steps: list[int] = []
            target.upload(blob.descriptor, reader(blob.data), progress=steps.append)
            # Where only the answer was lost, the bytes are found there, and not sent again.
            found = fate == LOSE_ANSWER and lost == 2
            assert len(proxy.methods("PUT")) == (2 if lost == 2 and not found else 1)
            assert sum(steps) == (0 if found else 100_000)
            assert at(registry, "lossy").has(blob.descriptor)


def reader(data: bytes) -> Callable[[int], BinaryIO]:
    return lambda start: io.BytesIO(data[start:])


def test_a_source_that_lies_stores_nothing(registry: str) -> None:
    target = at(registry, "liars", push=True)
    altered = BLOB.data[:-1] + bytes([BLOB.data[-1] ^ 1])
    for data in (altered, BLOB.data[:-1], b""):
        with pytest.raises(BrokenImage):
            target.upload(BLOB.descriptor, reader(data))
        assert not target.has(BLOB.descriptor)


def test_a_blob_goes_from_registry_to_registry_in_constant_memory(registry: str) -> None:
    blob = part(os.urandom(24 << 20), "application/octet-stream")
    source, target = at(registry, "big/from", push=True), at(registry, "big/to", push=True)
    source.put(blob.descriptor, blob.data)
    tracemalloc.start()
    target.upload(blob.descriptor, lambda start: source.open(blob.descriptor, start))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert target.has(blob.descriptor)
    assert peak < 4 << 20


# --- Faults that no real registry shows.


def with_digest(data: Part, **headers: str | None) -> Reply:
    stated: dict[str, str | None] = {
        "Content-Type": data.descriptor.media_type,
        "Docker-Content-Digest": data.descriptor.digest,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Reply(headers={k: v for k, v in stated.items() if v is not None}, body=data.data)


def test_a_digest_that_is_not_stated_is_computed() -> None:
    with serving(in_turn(with_digest(MANIFEST, Docker_Content_Digest=None))) as server:
        assert at(server.host).manifest("v1") == MANIFEST
        assert at(server.host).head("v1") == MANIFEST.descriptor
        assert [seen.method for seen in server.seen] == ["GET", "HEAD", "GET"]


def test_a_digest_of_another_kind_is_computed_anew() -> None:
    other = f"sha512:{hashlib.sha512(MANIFEST.data).hexdigest()}"
    with serving(in_turn(with_digest(MANIFEST, Docker_Content_Digest=other))) as server:
        assert at(server.host).head("v1") == MANIFEST.descriptor


@pytest.mark.parametrize("name", ["v1", MANIFEST.descriptor.digest])
def test_other_bytes_than_stated_are_refused(name: str) -> None:
    altered = replace(MANIFEST, data=MANIFEST.data + b" ")
    with (
        serving(in_turn(with_digest(altered))) as server,
        pytest.raises(BrokenImage, match="came with other bytes"),
    ):
        at(server.host).manifest(name)


def test_another_digest_than_was_asked_for_is_refused() -> None:
    asked = part(b"{}", OCI_MANIFEST).descriptor.digest
    with serving(in_turn(with_digest(MANIFEST))) as server:
        with pytest.raises(BrokenImage, match="it states sha256"):
            at(server.host).head(asked)
        with pytest.raises(BrokenImage, match="came with other bytes"):
            at(server.host).manifest(asked)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"schemaVersion":2,"manifests":[]}', OCI_INDEX),
        (b'{"schemaVersion":2,"layers":[]}', OCI_MANIFEST),
        (b'{"schemaVersion":2,"mediaType":"%s"}' % DOCKER_MANIFEST.encode(), DOCKER_MANIFEST),
    ],
)
def test_a_manifest_without_a_type_says_itself_what_it_is(data: bytes, kind: str) -> None:
    untyped = part(data, "application/json; charset=utf-8")
    with serving(in_turn(with_digest(untyped))) as server:
        assert at(server.host).head("v1") == part(data, kind).descriptor


def test_all_four_types_are_accepted() -> None:
    with serving(in_turn(with_digest(MANIFEST))) as server:
        at(server.host).manifest("v1")
        accepted = server.seen[0].headers["accept"].split(", ")
    assert set(accepted) == {OCI[0], OCI[1], DOCKER[0], DOCKER[1]}


def test_tags_come_in_pages() -> None:
    def script(seen: Seen) -> Reply:
        if "last=" in seen.path:
            return Reply(body=b'{"tags": ["c"]}')
        link = '<https://evil.test/v2/x/tags/list?last=b&n=2>; rel="next"'
        return Reply(headers={"Link": link}, body=b'{"tags": ["a", "b"]}')

    with serving(script) as server:
        assert at(server.host).tags() == ["a", "b", "c"]
        assert server.seen[1].path == "/v2/a/b/tags/list?last=b&n=2"


def test_a_page_at_no_address_is_an_error() -> None:
    link: dict[str, str | None] = {"Link": '<http://[bad>; rel="next"'}
    with (
        serving(in_turn(Reply(headers=link, body=b'{"tags": null}'))) as server,
        pytest.raises(BrokenImage, match="its next page has no address"),
    ):
        at(server.host).tags()


def test_pages_without_end_are_an_error() -> None:
    link: dict[str, str | None] = {"Link": '<?n=1>; rel="next"'}
    with (
        serving(in_turn(Reply(headers=link, body=b'{"tags": null}'))) as server,
        pytest.raises(RegistryFailed, match="has no end"),
    ):
        at(server.host).tags()


def ranged(cuts: list[int]) -> Script:
    """Serves BLOB by Range, and cuts each answer off after so many bytes, until none is left."""

    def script(seen: Seen) -> Reply:
        first = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest = BLOB.data[first:]
        size = len(BLOB.data)
        headers: dict[str, str | None] = {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
        sent = cuts.pop(0) if cuts else None
        return Reply(206, headers, rest, sent) if first else Reply(200, {}, rest, sent)

    return script


def test_a_blob_is_taken_up_where_the_connection_broke() -> None:
    with serving(ranged([100_000, 0, 50_000])) as server:
        assert read(at(server.host)) == BLOB.data
        ranges = [seen.headers.get("range") for seen in server.seen]
    assert ranges[0] is None
    assert ranges[1] == ranges[2] == "bytes=100000-"
    assert ranges[3] == "bytes=150000-"


def test_a_server_without_ranges_is_read_from_the_start_again() -> None:
    cuts: list[int | None] = [100_000, 200_000, None]
    with serving(lambda _: Reply(body=BLOB.data, sent=cuts.pop(0))) as server:
        assert read(at(server.host)) == BLOB.data


def test_a_blob_may_come_without_a_length() -> None:
    length: dict[str, str | None] = {"Content-Length": None}
    replies = [Reply(200, length, BLOB.data[:9]), Reply(200, length, BLOB.data)]
    with serving(in_turn(*replies)) as server:
        assert read(at(server.host)) == BLOB.data


def test_a_connection_that_always_breaks_ends() -> None:
    with (
        serving(ranged([1] * 1000)) as server,
        pytest.raises(RegistryFailed, match="broke off too often"),
    ):
        read(at(server.host))
    assert len(server.seen) == 50


def test_a_blob_that_stops_is_an_error_that_says_where() -> None:
    with (
        serving(in_turn(Reply(200, {}, BLOB.data, 7), Reply(503))) as server,
        pytest.raises(RegistryFailed, match="HTTP 503, 5 times"),
    ):
        read(at(server.host))


@pytest.mark.parametrize("size", [299_999, 300_001, 0])
def test_a_length_that_lies_is_refused_at_once(size: int) -> None:
    lie: dict[str, str | None] = {"Content-Length": str(size)}
    with (
        serving(in_turn(Reply(200, lie, BLOB.data))) as server,
        pytest.raises(BrokenImage, match=f"states {size} bytes, not 300000"),
    ):
        read(at(server.host))


def test_another_part_than_was_asked_for_is_refused() -> None:
    part_of: dict[str, str | None] = {"Content-Range": "bytes 5-299999/300000"}
    replies = in_turn(Reply(200, {}, BLOB.data, 9), Reply(206, part_of, BLOB.data[5:]))
    with serving(replies) as server, pytest.raises(BrokenImage, match="another part"):
        read(at(server.host))


def test_an_altered_blob_is_found_out() -> None:
    altered = BLOB.data[:1000] + b"?" + BLOB.data[1001:]
    with serving(in_turn(Reply(body=altered))) as server:
        stream = Verified(at(server.host).open(BLOB.descriptor), BLOB.descriptor)
        with pytest.raises(BrokenImage, match="has other bytes"):
            stream.finish()


def test_a_blob_of_another_size_is_not_there() -> None:
    with (
        serving(in_turn(Reply(body=b"four"))) as server,
        pytest.raises(BrokenImage, match="has 4 bytes there, not 300000"),
    ):
        at(server.host).check([BLOB.descriptor])


@pytest.mark.parametrize("stated", ["0", "9" * 5000, "many", None])
def test_a_length_that_says_nothing_is_no_other_size(stated: str | None) -> None:
    with serving(in_turn(Reply(200, {"Content-Length": stated}))) as server:
        assert at(server.host).has(BLOB.descriptor)


def test_a_length_that_python_does_not_read_is_none() -> None:
    with serving(in_turn(Reply(200, {"Content-Length": "9" * 5000}, BLOB.data))) as server:
        assert read(at(server.host)) == BLOB.data


def test_a_blob_may_lie_on_another_host() -> None:
    with serving(in_turn(Reply(body=BLOB.data))) as storage:
        there: dict[str, str | None] = {"Location": f"{storage.url}/blob?signature=x"}
        with serving(in_turn(Reply(307, there))) as server:
            assert read(at(server.host)) == BLOB.data


def test_a_long_body_that_is_refused_goes_in_chunks() -> None:
    stored = bytearray()

    def script(seen: Seen) -> Reply:
        place: dict[str, str | None] = {"Location": f"/v2/a/b/blobs/uploads/7?at={len(stored)}"}
        if seen.method == "HEAD":
            return Reply(404)
        if seen.method == "POST":
            stored.clear()
            return Reply(202, place)
        if len(seen.body) > 4 << 20:
            return Reply(413)
        if seen.method == "PATCH":
            first = seen.headers["content-range"].partition("-")[0]
            assert int(first) == len(stored)
            stored.extend(seen.body)
            place["Location"] = f"/v2/a/b/blobs/uploads/7?at={len(stored)}"
            return Reply(202, place)
        return Reply(201)

    blob = part(os.urandom(9 << 20), "application/octet-stream")
    with serving(script) as server:
        steps: list[int] = []
        at(server.host, push=True).upload(blob.descriptor, reader(blob.data), None, steps.append)
        assert bytes(stored) == blob.data
        # The whole body was on its way before it was refused: that is taken back.
        assert sum(steps) == len(blob.data)
        last = server.seen[-1]
    assert (last.method, last.body) == ("PUT", b"")
    assert f"at={len(blob.data)}&digest=sha256%3A" in last.path


class Forgetful:
    """A registry of chunks that stumbles at every `trips`-th PATCH: `kept` tells whether it has
    stored what it was sent, and `loses` whether it forgets the upload.
    """

    def __init__(self, trips: int, *, kept: bool, loses: bool = False) -> None:
        self.trips, self.kept, self.loses = trips, kept, loses
        self.stored = bytearray()
        self.patches = 0

    def __call__(self, seen: Seen) -> Reply:
        place: dict[str, str | None] = {"Location": "/v2/a/b/blobs/uploads/7"}
        if seen.method == "HEAD":
            return Reply(404)
        if seen.method == "POST":
            self.stored.clear()
            return Reply(202, place)
        if seen.method == "GET":
            stated = f"0-{max(len(self.stored) - 1, 0)}"
            return Reply(404) if self.loses else Reply(204, {**place, "Range": stated})
        if seen.method == "PATCH":
            return self.patch(seen.body, place)
        return Reply(413) if seen.body else Reply(201)

    def patch(self, body: bytes, place: dict[str, str | None]) -> Reply:
        self.patches += 1
        trips = self.patches % self.trips == 0
        if self.kept or not trips:
            self.stored.extend(body)
        return Reply(502) if trips else Reply(202, place)


@pytest.mark.parametrize("kept", [True, False])
def test_a_chunk_that_broke_off_is_sent_again_and_the_blob_is_not(kept: bool) -> None:
    blob = part(os.urandom(22 << 20), "application/octet-stream")
    registry = Forgetful(2, kept=kept)
    with serving(registry) as server:
        at(server.host, push=True).upload(blob.descriptor, reader(blob.data))
        begun = [seen for seen in server.seen if seen.method == "POST"]
    assert bytes(registry.stored) == blob.data
    # The whole body that was refused, and the chunks.
    assert len(begun) == 2
    assert registry.patches == (6 if kept else 11)


def test_an_upload_that_the_registry_has_forgotten_begins_again() -> None:
    blob = part(os.urandom(9 << 20), "application/octet-stream")
    registry = Forgetful(2, kept=False, loses=True)
    with serving(registry) as server:
        with pytest.raises(RegistryFailed, match="an upload was lost after 4194304 bytes"):
            at(server.host, push=True).upload(blob.descriptor, reader(blob.data))
        registry.trips = 4
        at(server.host, push=True).upload(blob.descriptor, reader(blob.data))
    assert bytes(registry.stored) == blob.data


def test_an_upload_to_another_host_takes_no_secret_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(seen: Seen) -> Reply:
        if "authorization" not in seen.headers:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
        there = f"{storage.url}/upload?signature=x"
        return Reply(404) if seen.method == "HEAD" else Reply(202, {"Location": there})

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with serving(in_turn(Reply(201))) as storage, serving(script) as server:
        docker_config(tmp_path, server.host)
        at(server.host, push=True).put(BLOB.descriptor, BLOB.data)
        [sent] = storage.seen
    assert sent.body == BLOB.data
    assert "authorization" not in sent.headers


NO_ADDRESS = ["http://[x/y", "https://h:99999/x", "https://h:port/x", "//[::1"]


@pytest.mark.parametrize("place", ["http://elsewhere.test/upload", "ftp://x/y", None, *NO_ADDRESS])
def test_an_upload_goes_to_no_unsafe_place(place: str | None) -> None:
    with (
        serving(in_turn(Reply(202, {"Location": place}))) as server,
        pytest.raises(
            RegistryFailed, match=r"place for|without TLS|not a web address|cannot be used"
        ),
    ):
        at(server.host, push=True).put(BLOB.descriptor, BLOB.data)


def test_a_repository_that_must_be_made_first_is_named() -> None:
    said = b'{"errors": [{"code": "NAME_UNKNOWN", "message": "The repository does not exist"}]}'
    with serving(in_turn(Reply(404, body=said))) as server:
        with pytest.raises(NotInRegistry, match="has no repository a/b: HTTP 404") as raised:
            at(server.host, push=True).put(BLOB.descriptor, BLOB.data)
        assert "make the repository" in raised.value.next_step


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_manifest_is_stored_by_whatever_status_says_so(status: int) -> None:
    with serving(in_turn(Reply(status))) as server:
        at(server.host, push=True).put_manifest("v1", MANIFEST)


def test_a_manifest_that_may_not_be_seen_is_absent_to_whoever_may_push() -> None:
    """Artifactory's virtual repositories answer 403 for one that is not there."""
    with serving(in_turn(Reply(403))) as server:
        writer = at(server.host, push=True)
        assert (writer.head("v1"), writer.has(MANIFEST.descriptor)) == (None, False)
        reader = at(server.host)
        for ask in (lambda: reader.head("v1"), lambda: reader.has(MANIFEST.descriptor)):
            with pytest.raises(AccessDenied, match="HTTP 403"):
                ask()
        with pytest.raises(AccessDenied, match="HTTP 403"):
            writer.has(BLOB.descriptor)


def test_a_manifest_that_is_stored_as_another_is_an_error() -> None:
    other = Reply(201, {"Docker-Content-Digest": DIGEST})
    with (
        serving(in_turn(other)) as server,
        pytest.raises(BrokenImage, match=f"{DIGEST} was stored"),
    ):
        at(server.host, push=True).put_manifest("v1", MANIFEST)


def test_a_refusal_is_told_in_the_registrys_words() -> None:
    said = {"errors": [{"code": "MANIFEST_INVALID", "message": "no \x1b[2J config"}]}
    with serving(in_turn(Reply(400, body=json.dumps(said).encode()))) as server:
        with pytest.raises(RegistryFailed) as raised:
            at(server.host, push=True).put_manifest("v1", MANIFEST)
        assert "HTTP 400 (MANIFEST_INVALID: no \\x1b[2J config)" in raised.value.problem


def test_a_registry_that_is_gone_is_unreadable() -> None:
    # What reads images knows of `Unreadable` alone.
    with (
        serving(in_turn(HANG_UP)) as server,
        pytest.raises(Unreadable, match="the connection broke, 5 times"),
    ):
        at(server.host).manifest("v1")


def but(head: Reply) -> Script:
    """A registry that has MANIFEST and BLOB, and answers a HEAD like this."""

    def script(seen: Seen) -> Reply:
        if seen.method == "HEAD":
            return head
        return with_digest(MANIFEST) if "/manifests/" in seen.path else Reply(body=BLOB.data)

    return script


@pytest.mark.parametrize("status", [400, 401, 403, 405, 500, 501])
@pytest.mark.parametrize("push", [True, False])
def test_a_head_that_is_refused_is_asked_by_get(status: int, push: bool) -> None:
    challenge: dict[str, str | None] = {"WWW-Authenticate": 'Bearer realm="/nowhere"'}
    with serving(but(Reply(status, challenge if status == 500 else {}))) as server:
        there = at(server.host, push=push)
        if status == 401:
            with pytest.raises(AccessDenied, match="scheme"):
                there.head("v1")
            return
        assert there.head("v1") == MANIFEST.descriptor
        assert there.has(BLOB.descriptor)
        assert there.has(MANIFEST.descriptor)


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_a_head_that_a_storage_refuses_is_asked_by_get(status: int) -> None:
    def storage(seen: Seen) -> Reply:
        return Reply(status) if seen.method == "HEAD" else Reply(body=BLOB.data)

    with serving(storage) as behind:
        there: dict[str, str | None] = {"Location": f"{behind.url}/signed-for-get"}
        with serving(in_turn(Reply(307, there))) as server:
            assert at(server.host).has(BLOB.descriptor)
            assert read(at(server.host)) == BLOB.data


def test_a_storages_refusal_is_not_a_missing_login() -> None:
    said = b'{"errors": [{"code": "DENIED", "message": "signature"}]}'
    with serving(in_turn(Reply(403, body=said))) as behind:
        there: dict[str, str | None] = {"Location": f"{behind.url}/signed"}
        with serving(in_turn(Reply(307, there))) as server:
            with pytest.raises(RegistryFailed) as raised:
                read(at(server.host))
            assert not isinstance(raised.value, AccessDenied)
            assert "login" not in raised.value.next_step
            wanted = f"its storage {behind.host} answers HTTP 403 (DENIED: signature), 5 times"
            assert raised.value.problem == f"{server.host}: {wanted}"
            # Each attempt gets a new address from the registry: the last one may have expired.
            assert len(server.seen) == 5


class Late:
    """A registry that shows what was put there only at the `after`-th question."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.put: dict[str, bytes] = {}
        self.asked: dict[str, int] = {}

    def __call__(self, seen: Seen) -> Reply:
        name = seen.path.rpartition("/")[2]
        if seen.method == "POST":
            return Reply(202, {"Location": "/v2/a/b/blobs/uploads/7"})
        if seen.method == "PUT":
            self.put[DIGEST if "digest=" in name else name] = seen.body
            return Reply(201)
        self.asked[name] = self.asked.get(name, 0) + 1
        if name not in self.put or self.asked[name] < self.after:
            return Reply(404)
        return Reply(200, {"Content-Type": OCI_MANIFEST}, self.put[name])


def test_what_was_written_is_asked_for_again() -> None:
    for ask in (
        lambda there: there.head("v1") == MANIFEST.descriptor,
        lambda there: there.manifest("v1") == MANIFEST,
        lambda there: there.has(BLOB.descriptor),
        lambda there: there.has(MANIFEST.descriptor),
        lambda there: read(there) == BLOB.data,
    ):
        waits: list[float] = []
        with serving(Late(3)) as server:
            http = Http(wait=waits.append)
            there = Repository(parse_reference(f"{server.host}/a/b"), http, push=True)
            there.put(MANIFEST.descriptor, MANIFEST.data)
            there.put_manifest("v1", MANIFEST)
            there.put(BLOB.descriptor, BLOB.data)
            assert ask(there)
        assert waits == [0.5, 1.0]


def test_what_was_not_written_is_asked_for_once_and_all_ends() -> None:
    waits: list[float] = []
    with serving(Late(1000)) as server:
        http = Http(wait=waits.append)
        there = Repository(parse_reference(f"{server.host}/a/b"), http, push=True)
        assert not there.has(BLOB.descriptor)
        assert there.head("v1") is None
        assert waits == []
        there.put(BLOB.descriptor, BLOB.data)
        there.put_manifest("v1", MANIFEST)
        assert not there.has(BLOB.descriptor)
        assert there.head("v1") is None
        assert sum(waits) == 63.0
        with pytest.raises(RegistryFailed, match=r"not to be seen \(HTTP 404\), 8 times"):
            read(there)


def test_an_upload_goes_on_where_the_answer_came_from() -> None:
    def second(seen: Seen) -> Reply:
        relative: dict[str, str | None] = {"Location": "/v2/a/b/blobs/uploads/7?x=1"}
        return Reply(202, relative) if seen.method == "POST" else Reply(201)

    with serving(second) as other:
        there: dict[str, str | None] = {"Location": f"{other.url}/v2/a/b/blobs/uploads/"}
        with serving(in_turn(Reply(307, there))) as server:
            at(server.host, push=True).put(BLOB.descriptor, BLOB.data)
            assert [seen.method for seen in server.seen] == ["POST"]
        assert [seen.method for seen in other.seen] == ["POST", "PUT"]
        assert other.seen[1].body == BLOB.data


@pytest.mark.parametrize(("limit", "asked"), [(1000, 1), (100, 2), (0, 3)])
def test_fewer_tags_are_asked_for_where_a_registry_wants_it(limit: int, asked: int) -> None:
    def script(seen: Seen) -> Reply:
        stated = seen.path.partition("n=")[2]
        return Reply(400) if stated and int(stated) > limit else Reply(body=b'{"tags": ["a"]}')

    with serving(script) as server:
        assert at(server.host).tags() == ["a"]
        assert len(server.seen) == asked


def test_tags_without_end_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patcher.registry.repository._MOST_TAGS", 50)
    page = json.dumps({"tags": ["x"] * 20}).encode()
    with serving(in_turn(Reply(headers={"Link": '<?n=1>; rel="next"'}, body=page))) as server:
        with pytest.raises(RegistryFailed, match="has no end: 60 were read"):
            at(server.host).tags()
        assert len(server.seen) == 3


def test_chunks_are_as_long_as_a_registry_wants_them() -> None:
    stored: list[bytes] = []

    def script(seen: Seen) -> Reply:
        least = 5 << 20
        place: dict[str, str | None] = {"Location": "/v2/a/b/blobs/uploads/7"}
        if seen.method == "POST":
            stored.clear()
            return Reply(202, {**place, "OCI-Chunk-Min-Length": str(least)})
        if seen.method == "PATCH":
            stored.append(seen.body)
            return Reply(416 if len(seen.body) < least else 202, place)
        if seen.method == "PUT" and len(seen.body) <= least:
            stored.append(seen.body)
            return Reply(201)
        return Reply(413 if seen.method == "PUT" else 404)

    blob = part(os.urandom(12 << 20), "application/octet-stream")
    with serving(script) as server:
        at(server.host, push=True).upload(blob.descriptor, reader(blob.data))
    assert b"".join(stored) == blob.data
    assert [len(data) >> 20 for data in stored] == [5, 5, 2]


def test_chunks_that_are_too_long_to_hold_are_refused() -> None:
    answer = Reply(202, {"Location": "/x", "OCI-Chunk-Min-Length": str(1 << 40)})
    with (
        serving(in_turn(answer)) as server,
        pytest.raises(RegistryFailed, match="too many to hold"),
    ):
        at(server.host, push=True).put(BLOB.descriptor, BLOB.data)


def refusing(status: int, code: str) -> Script:
    """A registry whose tags are immutable."""

    def script(seen: Seen) -> Reply:
        if seen.method == "PUT" and seen.path.endswith("/v1"):
            said = {"errors": [{"code": code, "message": "the tag is immutable"}]}
            return Reply(status, body=json.dumps(said).encode())
        return Reply(201) if seen.method == "PUT" else with_digest(MANIFEST)

    return script


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412])
def test_a_tag_that_is_refused_says_that_the_image_is_there(status: int) -> None:
    with serving(refusing(status, "TAG_INVALID")) as server:
        there = at(server.host, push=True)
        there.put(MANIFEST.descriptor, MANIFEST.data)
        with pytest.raises(TagRefused, match="does not let the tag v1 lead") as raised:
            there.put_manifest("v1", MANIFEST)
    error = raised.value
    assert (error.tag, error.digest) == ("v1", MANIFEST.descriptor.digest)
    assert f"HTTP {status} (TAG_INVALID: the tag is immutable)" in error.problem
    assert f"{server.host}/a/b@{error.digest}" in error.next_step
    assert "network" not in error.next_step


def test_a_manifest_whose_blobs_are_not_seen_yet_is_sent_again() -> None:
    said = json.dumps({"errors": [{"code": "DIGEST_INVALID"}, {"code": "MANIFEST_BLOB_UNKNOWN"}]})
    unseen = Reply(400, body=said.encode())
    with serving(in_turn(unseen, unseen, Reply(201))) as server:
        at(server.host, push=True).put_manifest("v1", MANIFEST)
        assert len(server.seen) == 3
    said_whole = r"\(DIGEST_INVALID; MANIFEST_BLOB_UNKNOWN\), 8 times"
    with serving(in_turn(unseen)) as server, pytest.raises(RegistryFailed, match=said_whole):
        at(server.host, push=True).put_manifest("v1", MANIFEST)


def test_an_upload_that_fails_is_cancelled(registry: str) -> None:
    with proxy_of(registry) as proxy:
        proxy.decide = lambda _, method, __: LOSE if method == "PUT" else PASS
        with pytest.raises(RegistryFailed, match="the connection broke, 5 times"):
            at(proxy.address, "cancelled", push=True).put(BLOB.descriptor, BLOB.data)
        opened = [seen.partition(" ")[2] for seen in proxy.methods("DELETE")]
        assert len(opened) == len(proxy.methods("POST")) == 5
    for path in opened:
        assert requests.get(f"http://{registry}{path}", timeout=30).status_code == 404


def test_what_ends_a_publication_ends_its_uploads() -> None:
    begun, over = threading.Event(), threading.Event()

    def script(seen: Seen) -> Reply:
        if seen.method == "POST":
            return Reply(202, {"Location": "/v2/a/b/blobs/uploads/7"})
        if seen.method == "PUT":
            begun.set()
            over.wait(30)
            return HANG_UP
        over.set()
        return Reply(204 if seen.method == "DELETE" else 404)

    with serving(script) as server:
        there = at(server.host, push=True)
        failed: list[BaseException] = []

        def send() -> None:
            try:
                there.put(BLOB.descriptor, BLOB.data)
            except RegistryFailed as error:
                failed.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        assert begun.wait(30)
        there.cancel_uploads()
        thread.join(30)
        assert "the publication was ended" in str(failed[0])
        assert [seen.method for seen in server.seen].count("POST") == 1
        # A second publication by the same client is another matter.
        server.script = lambda seen: Reply(
            202 if seen.method == "POST" else 201, {"Location": "/x"}
        )
        there.put(BLOB.descriptor, BLOB.data)
        methods = [seen.method for seen in server.seen]
    assert methods[:3] == ["POST", "PUT", "DELETE"]
    assert methods[-2:] == ["POST", "PUT"]


def test_many_who_publish_one_image_at_once_all_end_well(registry: str) -> None:
    """docker-registry writes its links in place: another's PUT sees them empty for a moment."""
    config = part(os.urandom(1000), "application/vnd.oci.image.config.v1+json")
    layer = part(os.urandom(20_000), "application/vnd.oci.image.layer.v1.tar+gzip")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor.document,
        "layers": [layer.descriptor.document],
    }
    manifest = part(json.dumps(document).encode(), OCI_MANIFEST)

    def publish(_: int) -> bool:
        # Its own pauses: what is waited for is another thread's write.
        there = Repository(parse_reference(f"{registry}/many"), Http(), push=True)
        for each in (config, layer, manifest):
            there.put(each.descriptor, each.data)
        there.put_manifest("v1", manifest)
        return there.manifest("v1") == manifest

    assert all(in_order(publish, range(16), 16))


def test_a_manifest_is_read_once() -> None:
    with serving(in_turn(with_digest(MANIFEST))) as server:
        there = at(server.host)
        there.manifest("v1")
        assert read_blob(there, MANIFEST.descriptor) == MANIFEST.data
        assert len(server.seen) == 1
