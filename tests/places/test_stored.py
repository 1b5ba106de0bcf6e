"""Publishing, with real registries: order, mounts, streams, repetition, and every cut."""

from __future__ import annotations

import functools
import json
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import BadReference, BrokenImage, PatcherError, Unwritable
from patcher.oci.append import Appended, append
from patcher.oci.image import load_family
from patcher.oci.layout import create_layout
from patcher.oci.model import INDEXES, MANIFESTS, Descriptor
from patcher.oci.reference import parse_reference
from patcher.oci.referrer import Artifact, File, make_artifact, read_artifact, referrers_tag
from patcher.places.place import Recipe, Sent
from patcher.places.registry import RepositoryStore
from patcher.places.stored import Stored, StoredPlace, StoredPlan
from patcher.progress import Progress
from patcher.registry.repository import Repository
from patcher.web.http import Http
from tests.conftest import real_registry
from tests.indexes import add_index, changes_for, find_in
from tests.installations import TARGET
from tests.memory import DOCKER, EXTRA, OCI, Memory, Opened, add_image
from tests.registries import (
    LOSE,
    LOSE_ANSWER,
    PASS,
    Proxy,
    fetch,
    proxy_of,
    put_manifest,
    upload,
)
from tests.scripted import Reply, Seen, serving

if TYPE_CHECKING:
    from patcher.oci.blobs import Blobs
    from patcher.oci.image import Family
    from patcher.oci.layer import LayerChange
    from patcher.oci.referrer import Referred
    from patcher.places.stored import Store

BASE, OURS = "base/vllm", "patched/vllm"
WRITES = ("POST", "PATCH", "PUT", "DELETE")
KIND = "application/vnd.example.note.v1"
NOTE = [File("note.txt", "text/plain", b"all of it")]


@dataclass(frozen=True)
class Base:
    """A base, and what it becomes."""

    blobs: Memory
    family: Family
    changes: dict[str, LayerChange]
    appended: Appended

    @property
    def root(self) -> Descriptor:
        """Its index or manifest."""
        return self.family.root

    def plan(
        self, source: Blobs, store: Store, tags: tuple[str, ...] = ("fixed", "moving")
    ) -> StoredPlan:
        """As the job asks for it."""
        place = StoredPlace("here", store, Stored(source, self.family))
        return place.plan(Recipe(tuple(self.changes), self.changes, EXTRA, tags))

    def publish(
        self, source: Blobs, store: Store, tags: tuple[str, ...] = ("fixed", "moving")
    ) -> tuple[StoredPlan, Sent]:
        """As the job does it."""
        plan = self.plan(source, store, tags)
        made = plan.make(lambda _: None)
        images = [image.descriptor for image in self.family.images if image.digest in self.changes]
        before = {image.digest: find_in(self.blobs, image, [TARGET]) for image in images}
        back = made.read_back(before)
        for digest, change in self.changes.items():
            assert back[digest].files[TARGET].data == change.files[0].data
        assert made.attach(KIND, NOTE) == self.note.digest
        made.name()
        return plan, made.sent

    @property
    def note(self) -> Artifact:
        """What `publish` puts beside the result."""
        return make_artifact(KIND, self.appended.root, NOTE)

    def publish_itself(self, source: Blobs, store: Store, tag: str) -> None:
        """The base as it is, under a tag."""
        place = StoredPlace("here", store, Stored(source, self.family))
        images = tuple(image.digest for image in self.family.images)
        made = place.plan(Recipe(images, {}, {}, (tag,))).make(lambda _: None)
        assert made.read_back({}) == {}
        made.name()

    @property
    def borrowed(self) -> set[str]:
        """The digests of the base's layers."""
        manifests = (self.blobs.json(digest) for digest in self.changes)
        return {layer["digest"] for manifest in manifests for layer in manifest["layers"]}


def make_base(types: tuple[str, ...] = OCI, *, single: bool = False, filler: int = 10_000) -> Base:
    """An index of two images, each with a layer of `filler` bytes; or only the first of these."""
    blobs = Memory()
    root = blobs.descriptor(add_index(blobs, types, filler=filler))
    changes = changes_for(blobs, root)
    if single:
        root = blobs.descriptor(blobs.json(root.digest)["manifests"][0])
        changes = {root.digest: changes[root.digest]}
    family = load_family(blobs, root)
    return Base(blobs, family, changes, append(family, changes, EXTRA))


@functools.cache
def client() -> Http:
    """It does not wait between attempts."""
    return Http(wait=lambda _: None)


def store(host: str, repository: str, *, push: bool = False, mount: str = "") -> RepositoryStore:
    reference = parse_reference(f"{host}/{repository}")
    beside = (mount,) if mount else ()
    return RepositoryStore(Repository(reference, client(), push=push, mount_from=beside))


@pytest.fixture
def base(request: pytest.FixtureRequest) -> Base:
    return make_base(getattr(request, "param", OCI))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A registry of this test's own."""
    with real_registry(tmp_path / "registry") as address:
        yield address


@pytest.fixture
def proxy(host: str) -> Iterator[Proxy]:
    with proxy_of(host) as proxy:
        yield proxy


def served(host: str, base: Base) -> None:
    upload(host, BASE, base.blobs.data, _document(base.root))


def _document(root: Descriptor) -> dict[str, Any]:
    return {"mediaType": root.media_type, "digest": root.digest, "size": root.size}


def is_whole(host: str, repository: str, digest: str) -> bool:
    """Does everything that a manifest or index leads to lie in the repository?"""
    data = fetch(host, repository, "manifests", digest)
    if data is None:
        return False
    document = json.loads(data)
    leaves = [*document.get("layers", ()), *([document["config"]] if "config" in document else [])]
    return all(
        is_whole(host, repository, child["digest"]) for child in document.get("manifests", ())
    ) and all(fetch(host, repository, "blobs", leaf["digest"]) is not None for leaf in leaves)


@pytest.mark.parametrize("base", [OCI, DOCKER], indirect=True)
def test_in_one_registry_the_base_is_mounted_and_the_names_come_last(
    base: Base, host: str, proxy: Proxy
) -> None:
    served(host, base)
    source = store(proxy.address, BASE)
    target = store(proxy.address, OURS, push=True, mount=BASE)
    todo, sent = base.publish(source, target)
    assert {blob.digest for blob in todo.borrowed} == base.borrowed
    assert sent.streamed == 0
    assert sent.parts == sum(
        {p.descriptor.digest: len(p.data) for p in base.appended.parts}.values()
    )
    assert sum("mount=" in seen for seen in proxy.methods("POST")) == len(base.borrowed)
    manifests = [
        seen.rpartition("/")[2]
        for seen in proxy.seen
        if seen.startswith("PUT /v2/") and "/manifests/" in seen
    ]
    new = [
        p.descriptor.digest
        for p in base.appended.parts
        if p.descriptor.media_type in INDEXES | MANIFESTS
    ]
    beside = referrers_tag(base.appended.root.digest)
    assert manifests == [*new, base.note.digest, beside, "fixed", "moving"]
    assert fetch(host, OURS, "manifests", "moving") == base.appended.parts[-1].data
    assert is_whole(host, OURS, "fixed")


@pytest.mark.parametrize("base", [OCI, DOCKER], indirect=True)
def test_from_one_registry_to_another_the_base_is_streamed_through(
    base: Base, host: str, tmp_path: Path
) -> None:
    served(host, base)
    with real_registry(tmp_path / "other") as other:
        _, sent = base.publish(store(host, BASE), store(other, OURS, push=True))
        assert sent.streamed == sum(len(base.blobs.data[digest]) for digest in base.borrowed)
        assert is_whole(other, OURS, "moving")
        for digest in base.borrowed:
            assert fetch(other, OURS, "blobs", digest) == base.blobs.data[digest]


def test_a_registry_that_does_not_mount_is_sent_the_bytes(
    base: Base, host: str, proxy: Proxy
) -> None:
    served(host, base)
    proxy.refuse_mounts = True
    target = store(proxy.address, OURS, push=True, mount=BASE)
    _, sent = base.publish(store(proxy.address, BASE), target)
    assert sent.streamed == sum(len(base.blobs.data[digest]) for digest in base.borrowed)
    assert is_whole(host, OURS, "moving")


def test_publishing_again_sends_nothing(base: Base, host: str, proxy: Proxy) -> None:
    served(host, base)
    target = store(proxy.address, OURS, push=True, mount=BASE)
    base.publish(store(proxy.address, BASE), target)
    proxy.forget()
    again, sent = base.publish(store(proxy.address, BASE), store(proxy.address, OURS, push=True))
    assert (again.borrowed, again.parts, again.moving) == ((), (), ())
    assert sent == Sent()
    assert proxy.methods(*WRITES) == []


def test_a_plan_counts_the_bytes_and_writes_nothing(base: Base, host: str, proxy: Proxy) -> None:
    served(host, base)
    target = store(proxy.address, OURS, push=True, mount=BASE)
    todo = base.plan(store(proxy.address, BASE), target)
    assert todo.outline.lacking == sum(
        {part.descriptor.digest: len(part.data) for part in base.appended.parts}.values()
    )
    assert todo.outline.base_lacking == sum(
        len(base.blobs.data[digest]) for digest in base.borrowed
    )
    assert todo.moving == ("fixed", "moving")
    assert proxy.methods(*WRITES) == []
    assert fetch(host, OURS, "manifests", "fixed") is None


def test_the_base_itself_is_published_with_its_attestations(base: Base, host: str) -> None:
    served(host, base)
    source, target = store(host, BASE), store(host, OURS, push=True, mount=BASE)
    base.publish_itself(source, target, "fixed")
    assert fetch(host, OURS, "manifests", "fixed") == base.blobs.data[base.root.digest]
    entries = base.blobs.json(base.root.digest)["manifests"]
    assert len(entries) == 4
    assert is_whole(host, OURS, "fixed")


def test_a_layer_that_lies_elsewhere_is_not_passed_on(host: str) -> None:
    base = make_base()
    manifest = base.blobs.json(next(iter(base.changes)))
    manifest["layers"][0]["urls"] = ["https://elsewhere.example/layer"]
    root = base.blobs.descriptor(base.blobs.add(manifest, manifest["mediaType"]))
    with pytest.raises(BrokenImage, match="foreign"):
        load_family(base.blobs, root)
    index = {**base.blobs.json(base.root.digest)}
    attested = index["manifests"][1]
    statement = base.blobs.json(attested["digest"])
    statement["layers"][0]["urls"] = ["https://elsewhere.example/statement"]
    index["manifests"][1] = {**attested, **base.blobs.add(statement, attested["mediaType"])}
    root = base.blobs.descriptor(base.blobs.add(index, base.root.media_type))
    elsewhere = replace(base, family=load_family(base.blobs, root))
    with pytest.raises(BrokenImage, match="foreign"):
        elsewhere.publish_itself(Opened(base.blobs), store(host, OURS, push=True), "fixed")


def test_indexes_below_indexes_without_end_are_one_error(host: str) -> None:
    base = make_base()
    inner = base.blobs.json(base.root.digest)["manifests"][0]
    for _ in range(1500):
        document = {"schemaVersion": 2, "mediaType": base.root.media_type, "manifests": [inner]}
        inner = base.blobs.add(document, base.root.media_type)
    attested = {**inner, "platform": {"os": "unknown", "architecture": "unknown"}}
    index = base.blobs.json(base.root.digest)
    index["manifests"].append(attested)
    root = base.blobs.descriptor(base.blobs.add(index, base.root.media_type))
    nested = replace(base, family=load_family(base.blobs, root))
    with pytest.raises(BrokenImage, match="indexes lead to indexes"):
        nested.publish_itself(Opened(base.blobs), store(host, OURS, push=True), "fixed")


def test_a_layer_that_is_cut_on_the_way_is_taken_up_where_it_broke(
    host: str, proxy: Proxy, tmp_path: Path
) -> None:
    base = make_base(single=True, filler=3_000_000)
    served(host, base)
    cut: set[str] = set()

    def halve(path: str, chunk: bytes) -> bytes:
        if len(chunk) < 1 << 16 or path in cut:
            return chunk
        cut.add(path)
        return chunk[: len(chunk) // 2]

    proxy.edit = halve
    with real_registry(tmp_path / "other") as other:
        _, sent = base.publish(store(proxy.address, BASE), store(other, OURS, push=True))
        assert is_whole(other, OURS, "moving")
    assert cut
    assert proxy.received < 1.1 * sent.streamed


@pytest.mark.parametrize("damage", [{"altered": True}, {"short": 1}])
@pytest.mark.parametrize("where", ["registry", "layout"])
def test_a_blob_damaged_on_the_way_is_one_error_and_nothing_is_named(
    base: Base, host: str, tmp_path: Path, damage: dict[str, Any], where: str
) -> None:
    layout = create_layout(tmp_path / "layout")
    target = store(host, OURS, push=True) if where == "registry" else layout
    with pytest.raises(BrokenImage):
        base.publish(Opened(base.blobs, **damage), target)
    assert target.named("fixed") is None
    ours = [part.descriptor for part in base.appended.parts]
    assert target.lacking(ours) == ours
    assert list((tmp_path / "layout").rglob("*.tmp")) == []
    base.publish(Opened(base.blobs), target)
    assert target.named("moving") == base.appended.root.digest


def test_into_a_layout_and_from_one_layout_to_another(base: Base, tmp_path: Path) -> None:
    first, second = (create_layout(tmp_path / name) for name in ("first", "second"))
    base.publish_itself(Opened(base.blobs), first, "base")
    _, sent = base.publish(first, second)
    assert sent.streamed == sum(len(base.blobs.data[digest]) for digest in base.borrowed)
    assert second.named("moving") == base.appended.root.digest
    again, sent = base.publish(first, second)
    assert (again.borrowed, again.parts, again.moving) == ((), (), ())
    assert sent == Sent()
    for digest in base.borrowed:
        blob = tmp_path / "second" / "blobs" / digest.replace(":", "/")
        assert blob.read_bytes() == base.blobs.data[digest]


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel lets no file grow over 4 KB: as near to a full disk as a test may come."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_one_error_and_leaves_no_part(
    base: Base, tmp_path: Path, small_files: None
) -> None:
    target = create_layout(tmp_path / "layout")
    with pytest.raises(Unwritable, match="File too large"):
        base.publish(Opened(base.blobs), target)
    assert target.named("fixed") is None
    assert list((tmp_path / "layout" / "blobs").rglob("*.*")) == []


def test_a_blob_that_is_damaged_in_a_layout_is_fetched_again(base: Base, tmp_path: Path) -> None:
    target = create_layout(tmp_path / "layout")
    base.publish(Opened(base.blobs), target)
    damaged = min(base.borrowed)
    blob = tmp_path / "layout" / "blobs" / damaged.replace(":", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    todo, _ = base.publish(Opened(base.blobs), create_layout(tmp_path / "layout"))
    assert [each.digest for each in todo.borrowed] == [damaged]
    assert blob.read_bytes() == base.blobs.data[damaged]


def test_a_layouts_name_is_judged_before_anything_is_copied(base: Base, tmp_path: Path) -> None:
    target = create_layout(tmp_path / "layout")
    with pytest.raises(BadReference, match="'-bad' cannot name an image in a layout"):
        base.publish(Opened(base.blobs), target, tags=("-bad",))
    assert not (tmp_path / "layout" / "blobs").exists()


def test_a_folder_of_something_else_is_not_taken_for_a_layout(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(BadReference, match=r"holds an index\.json and is not an OCI layout"):
        create_layout(tmp_path)
    assert (tmp_path / "index.json").read_text() == "{}"


def test_a_watcher_sees_every_byte_of_what_is_streamed(base: Base, host: str) -> None:
    steps: list[Progress] = []
    target = store(host, OURS, push=True)
    todo = base.plan(Opened(base.blobs), target)
    todo.make(steps.append)
    last = {step.layer: (step.current, step.total) for step in steps}
    assert {total for _, total in last.values()} == {blob.size for blob in todo.borrowed}
    assert all(current == total for current, total in last.values())


@pytest.mark.parametrize("mounts", [True, False])
@pytest.mark.parametrize("fate", [LOSE, LOSE_ANSWER])
def test_a_connection_that_is_lost_once_at_every_request_is_mended(
    base: Base, host: str, proxy: Proxy, fate: str, mounts: bool
) -> None:
    served(host, base)
    proxy.refuse_mounts = not mounts
    pending: set[str] = set()
    losses: Counter[str] = Counter()

    def lose_the_first(_: int, method: str, path: str) -> str:
        # An upload has another address the next time.
        what = f"{method} {path.rpartition('digest=')[2]}"
        with proxy.lock:
            # Uploads begin alike: between two tries of one, another's may have been let pass. Four
            # times in all, so that none is lost each of the five times that it is tried.
            if what in pending or losses[what] == 4:
                pending.discard(what)
                return PASS
            pending.add(what)
            losses[what] += 1
        return fate

    proxy.decide = lose_the_first
    mount = BASE if mounts else ""
    base.publish(store(proxy.address, BASE), store(proxy.address, OURS, push=True, mount=mount))
    assert {what.partition(" ")[0] for what in losses} >= {"HEAD", "GET", "POST", "PUT"}
    assert is_whole(host, OURS, "moving")


def test_killed_at_any_write_the_name_is_the_old_image_or_the_new_and_a_second_run_finishes(
    host: str, proxy: Proxy
) -> None:
    """Killed at a read, the registry is as it is when killed at the write that comes next.

    A mount would leave the same blob as an upload does, and of an index too the names come last:
    see the first test.
    """
    served(host, base := make_base(single=True))
    old = Memory()
    old_root = add_image(old, OCI)
    cut = 0
    while True:
        cut += 1
        name = f"{OURS}/{cut}"
        upload(host, name, old.data, old_root)
        put_manifest(host, name, "moving", old_root["mediaType"], old.data[old_root["digest"]])
        proxy.forget()
        proxy.decide = lambda *_, cut=cut: PASS if len(proxy.methods(*WRITES)) < cut else LOSE
        try:
            base.publish(store(proxy.address, BASE), store(proxy.address, name, push=True))
        except PatcherError:
            pass
        else:
            break
        here = fetch(host, name, "manifests", "moving")
        assert here in (old.data[old_root["digest"]], base.appended.parts[-1].data)
        assert is_whole(host, name, "moving")
        proxy.decide = lambda *_: PASS
        base.publish(store(proxy.address, BASE), store(proxy.address, name, push=True))
        assert fetch(host, name, "manifests", "moving") == base.appended.parts[-1].data
        assert is_whole(host, name, "moving")
        assert notes_in(store(host, name), base) == [NOTE]
    assert cut > 14


def notes_in(there: Referred, base: Base) -> list[list[File]]:
    """What is listed with the result, read back."""
    root = base.appended.root.digest
    return [read_artifact(there, each, KIND, root) for each in there.referrers(root, KIND)]


@pytest.mark.parametrize("where", ["registry", "layout"])
def test_what_is_beside_a_result_is_listed_with_it_once_and_as_others_list_it(
    base: Base, host: str, tmp_path: Path, where: str
) -> None:
    layout = create_layout(tmp_path / "layout")
    there = store(host, OURS, push=True) if where == "registry" else layout
    base.publish(Opened(base.blobs), there)
    other = make_artifact(KIND, base.appended.root, [File("more", "text/plain", b"")])
    assert there.attach(other) == other.size
    assert there.attach(other) == 0
    base.publish(Opened(base.blobs), there)
    assert notes_in(there, base) == [NOTE, [File("more", "text/plain", b"")]]
    assert there.referrers(base.appended.root.digest, "text/other") == []
    if where == "registry":
        listing = json.loads(fetch(host, OURS, "manifests", referrers_tag(other.subject)) or b"")
        assert listing["manifests"][1] == {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": other.digest,
            "size": len(other.manifest.data),
            "artifactType": KIND,
        }


def test_two_that_write_the_list_at_once_are_both_on_it(
    base: Base, host: str, proxy: Proxy
) -> None:
    base.publish(Opened(base.blobs), store(host, OURS, push=True))
    tag = referrers_tag(base.appended.root.digest)
    kept = fetch(host, OURS, "manifests", tag)
    assert kept is not None
    first, second = (
        make_artifact(KIND, base.appended.root, [File(name, "text/plain", b"")]) for name in "ab"
    )

    def meanwhile(_: int, method: str, path: str) -> str:
        if method == "PUT" and path.endswith(tag):
            proxy.decide = lambda *_: PASS
            # The other one reads the list, too, before this one has written it; and writes last.
            store(host, OURS, push=True).attach(second)
        return PASS

    proxy.decide = meanwhile
    store(proxy.address, OURS, push=True).attach(first)
    listing = {each.digest for each in store(host, OURS).referrers(first.subject, KIND)}
    assert first.digest in listing
    store(host, OURS, push=True).attach(second)
    listing = {each.digest for each in store(host, OURS).referrers(first.subject, KIND)}
    assert listing == {base.note.digest, first.digest, second.digest}


def test_a_registry_that_lists_referrers_itself_is_believed_and_gets_no_tag() -> None:
    root = make_base(single=True).appended.root
    note = make_artifact(KIND, root, NOTE)
    index = {"schemaVersion": 2, "mediaType": OCI[0], "manifests": [dict(note.entry)]}

    def script(seen: Seen) -> Reply:
        if seen.path.startswith(f"/v2/a/b/referrers/{root.digest}?"):
            return Reply(200, {"Content-Type": OCI[0]}, json.dumps(index).encode())
        if seen.method == "PUT" and seen.path == f"/v2/a/b/manifests/{note.digest}":
            return Reply(201, {"OCI-Subject": root.digest})
        if seen.method == "HEAD" and "/blobs/" in seen.path:
            return Reply(200)
        return Reply(404)

    with serving(script) as server:
        there = store(server.host, "a/b", push=True)
        assert there.attach(note) == note.size
        assert [each.digest for each in there.referrers(root.digest, KIND)] == [note.digest]
        assert [seen.path for seen in server.seen if seen.method == "PUT"] == [
            f"/v2/a/b/manifests/{note.digest}"
        ]
