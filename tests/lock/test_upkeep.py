"""The lock kept up with a real registry: releases, nightlies and dated builds come and go."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from packaging.version import Version

from patcher.errors import BadReference, NotLocked
from patcher.layer_cache import LayerCache
from patcher.lock.adding import Looked
from patcher.lock.drift import Pruned, dropped, find_gone
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin, add, entry_for
from patcher.lock.file import save
from patcher.lock.newer import Update, find_newer
from patcher.oci.reference import Platform, parse_reference
from patcher.registry.image import ask_registry
from patcher.report.lock import prune_markdown, update_markdown
from patcher.web.http import Http
from tests.certificates import make_certificate
from tests.commands import run
from tests.conftest import free_port
from tests.indexes import add_index
from tests.installations import installed_file, vllm_files
from tests.memory import OCI, Memory
from tests.registries import Proxy, proxy_of, put_manifest, upload
from tests.scripted import Reply, serving

HTTP = Http(wait=lambda _: None)
OLD, NEW, NEXT = (
    f"{number:09x}".ljust(40, "e") for number in (0xA00000001, 0xA00000002, 0xA00000003)
)


# A release's version is its tag, and a build states its own: no file of a patch is looked for.
LOOKED = Looked((), (), locate=False)


def unwatched(done: int, total: int | None) -> None:
    """Nobody looks on."""


def nightly(commit: str) -> str:
    return f"nightly-{commit}"


@dataclass
class World:
    """A repository in a registry, seen through a proxy, and a lock."""

    proxy: Proxy
    name: str
    cache: LayerCache
    lock: Lock = field(default_factory=Lock)
    made: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.proxy.address}/{self.name}"

    def publish(
        self,
        tag: str,
        version: str,
        labels: Mapping[str, str] | None = None,
        commit: str | None = None,
    ) -> str:
        """A build of vLLM for two platforms, under a tag; gives its digest."""
        self.made += 1
        lines = [f"__version__ = version = {version!r}\n"]
        lines += [f"__commit_id__ = commit_id = 'g{commit[:9]}'\n"] if commit else []
        stated = installed_file("vllm/_version.py", "".join(lines).encode())
        files = [file for file in vllm_files() if file.path != stated.path]
        blobs = Memory()
        run = {"Labels": dict(labels or {})}
        root = add_index(blobs, OCI, [*files, stated], run, filler=self.made)
        upload(self.proxy.upstream, self.name, blobs.data, root)
        data = blobs.data[root["digest"]]
        put_manifest(self.proxy.upstream, self.name, tag, root["mediaType"], data)
        self.digests[tag] = root["digest"]
        return str(root["digest"])

    def locked(self, tag: str, version: str) -> Entry:
        """Publish a build and lock it, as `lock add` does."""
        self.publish(tag, version)
        reference = parse_reference(f"{self.place}:{tag}")
        entry = entry_for(version, reference, ask_registry(reference, HTTP))
        self.lock = add(self.lock, entry)
        return entry

    def update(self, *names: str) -> Update:
        self.proxy.forget()
        return find_newer(self.lock, names, HTTP, self.cache, lambda _: None, LOOKED)

    def delete(self, digest: str) -> None:
        url = f"http://{self.proxy.upstream}/v2/{self.name}/manifests/{digest}"
        assert requests.delete(url, timeout=30).status_code == 202

    def blobs_read(self) -> int:
        """Layers and configs."""
        return len([seen for seen in self.proxy.seen if "/blobs/" in seen and "GET" in seen])


@pytest.fixture
def world(registry: str, tmp_path: Path) -> Iterator[World]:
    with proxy_of(registry) as proxy:
        yield World(proxy, f"vllm/{uuid.uuid4().hex}", LayerCache(tmp_path / "layers"))


def found(done: Update) -> dict[str | None, str]:
    return {entry.original.reference.tag: str(entry.locked.version) for entry in done.added}


def test_a_newer_release_is_locked_and_no_other_tag_of_it(world: World) -> None:
    old = world.locked("v0.23.0", "0.23.0")
    for tag in ("v0.22.1", "v0.24.0", "v0.24.0-cu129", "v0.25.0rc1", "latest", "v0.24.1.post1"):
        world.publish(tag, tag.removeprefix("v").partition("-")[0])
    done = world.update()
    assert found(done) == {"v0.24.0": "0.24.0", "v0.24.1.post1": "0.24.1.post1"}
    assert done.unread == ()
    first, entry, last = functools.reduce(add, done.added, world.lock).entries
    assert (first, last.original.version) == (old, "0.24.1.post1")
    assert entry.locked.index == Pin(world.digests["v0.24.0"])
    assert world.blobs_read() == 2, "configs alone: a release's version is its tag"


def test_a_nightly_is_locked_with_the_version_that_its_content_states(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5+gaaaaaaaaa")
    version = f"0.23.1rc1.dev20+g{NEW[:9]}"
    world.publish(nightly(NEW), version)
    done = world.update()
    assert found(done) == {nightly(NEW): version}
    [entry] = done.added
    assert entry.locked.commit == NEW
    assert str(entry.original.reference) == f"{world.place}:{nightly(NEW)}"


def test_a_spelling_of_which_nothing_is_locked_is_not_looked_for(world: World) -> None:
    world.locked("v0.23.0", "0.23.0")
    world.publish(nightly(NEW), f"0.24.1rc1.dev20+g{NEW[:9]}")
    world.publish("2026070501", "0.24.1rc1.dev21")
    assert found(world.update()) == {}
    assert world.blobs_read() == 0


def test_a_nightly_below_the_newest_locked_one_is_left_alone(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    world.publish(nightly(NEW), "0.23.1rc1.dev4")
    assert found(world.update()) == {}


def test_another_build_of_the_newest_locked_commit_is_no_newer_one(world: World) -> None:
    world.locked("2026070501", "0.23.1rc1.dev790+g85d955ed5")
    world.publish("2026070502", "0.23.1rc1.dev790+g85d955ed5")
    assert found(world.update()) == {}


def test_a_nightly_that_is_labelled_with_the_last_release_is_not_taken_for_old(
    world: World,
) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    labels = {"ai.vllm.build.commit": NEW, "org.opencontainers.image.version": "v0.23.0"}
    world.publish(nightly(NEW), "0.23.1rc1.dev9", labels)
    assert found(world.update()) == {nightly(NEW): "0.23.1rc1.dev9"}


def test_a_label_can_show_a_nightly_to_be_old_without_its_layers(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    labels = {"ai.vllm.build.commit": NEW, "org.opencontainers.image.version": "0.23.1rc1.dev4"}
    world.publish(nightly(NEW), "0.23.1rc1.dev9", labels)
    assert found(world.update()) == {}
    assert world.blobs_read() == 1, "the config alone"


def test_a_label_never_shows_a_nightly_to_be_new(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    labels = {"ai.vllm.build.commit": NEW, "org.opencontainers.image.version": "0.23.1rc1.dev9"}
    world.publish(nightly(NEW), "0.23.1rc1.dev4", labels)
    assert found(world.update()) == {}
    assert world.blobs_read() > 1


@pytest.mark.parametrize("inherited", ["24.04", "v0.11.0", "nightly"])
def test_a_label_of_what_an_image_was_made_from_is_not_taken_for_vllms(
    world: World, inherited: str
) -> None:
    world.locked("v0.23.0", "0.23.0")
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    labels = {"org.opencontainers.image.version": inherited}
    world.publish("v0.24.0", "0.24.0", labels)
    world.publish(nightly(NEW), "0.23.1rc1.dev9", labels)
    assert found(world.update()) == {"v0.24.0": "0.24.0", nightly(NEW): "0.23.1rc1.dev9"}


def test_a_release_whose_own_label_names_another_is_not_locked(world: World) -> None:
    world.locked("v0.23.0", "0.23.0")
    labels = {"ai.vllm.build.commit": NEW, "org.opencontainers.image.version": "0.22.0"}
    world.publish("v0.24.0", "0.24.0", labels)
    done = world.update()
    assert done.added == ()
    [unread] = done.unread
    assert "disagree: its label org.opencontainers.image.version says 0.22.0" in unread.problem


def test_a_nightly_built_from_another_commit_than_its_tag_says_is_not_locked(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    world.publish(nightly(NEW), f"0.23.1rc1.dev9+g{NEXT[:9]}", commit=NEXT)
    done = world.update()
    assert done.added == ()
    assert f"built from {NEXT[:9]}" in done.unread[0].problem


def test_a_dated_build_after_the_newest_is_locked_with_the_commit_that_fits(world: World) -> None:
    world.locked("2026070501", "0.23.1rc1.dev790+g85d955ed5.d20260705")
    labels = {"org.opencontainers.image.revision": "9" * 40, "ai.vllm.build.commit": NEW}
    version = f"0.23.1rc1.dev841+g{NEW[:9]}.d20260706"
    world.publish("2026070601", version, labels)
    world.publish("2026070401", "0.99.0")
    world.publish("2026139901", "0.99.0")
    done = world.update()
    assert found(done) == {"2026070601": version}
    assert done.added[0].locked.commit == NEW


def test_each_spelling_has_a_newest_of_its_own(world: World) -> None:
    world.locked("v0.30.0", "0.30.0")
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    world.publish(nightly(NEW), "0.23.1rc1.dev6")
    assert found(world.update()) == {nightly(NEW): "0.23.1rc1.dev6"}


def test_one_image_that_cannot_be_read_does_not_keep_the_others_out(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    blobs = Memory()
    root = add_index(blobs, OCI, [installed_file("other.py", b"")])
    upload(world.proxy.upstream, world.name, blobs.data, root)
    data = blobs.data[root["digest"]]
    put_manifest(world.proxy.upstream, world.name, nightly(NEW), root["mediaType"], data)
    world.publish(nightly(NEXT), "0.23.1rc1.dev9")
    done = world.update()
    assert found(done) == {nightly(NEXT): "0.23.1rc1.dev9"}
    assert [each.image for each in done.unread] == [f"{world.place}:{nightly(NEW)}"]


def test_a_registry_that_does_not_answer_does_not_keep_the_others_out(world: World) -> None:
    world.locked("v0.23.0", "0.23.0")
    away = parse_reference(f"127.0.0.1:{free_port()}/vllm/vllm-openai:v0.1.0")
    entry = Entry(Original("0.1.0", away), Locked(Version("0.1.0"), index=Pin(f"sha256:{0:064}")))
    world.lock = add(world.lock, entry)
    world.publish("v0.24.0", "0.24.0")
    done = world.update()
    assert found(done) == {"v0.24.0": "0.24.0"}
    assert [each.image for each in done.unread] == [away.name]


def test_only_the_named_repository_is_looked_in(world: World) -> None:
    world.locked("v0.23.0", "0.23.0")
    world.publish("v0.24.0", "0.24.0")
    assert found(world.update(world.place, f"{world.place}:v0.23.0")) == {"v0.24.0": "0.24.0"}
    with pytest.raises(NotLocked, match=r"no image of docker\.io/vllm/other"):
        world.update("vllm/other")
    with pytest.raises(BadReference):
        world.update("Vllm/Other")


def test_what_was_added_is_not_added_again(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    world.publish(nightly(NEW), "0.23.1rc1.dev6")
    world.lock = functools.reduce(add, world.update().added, world.lock)
    assert found(world.update()) == {}
    assert world.proxy.seen == [f"GET /v2/{world.name}/tags/list?n=1000"]


def test_the_markdown_of_an_update_holds_no_markup_of_others(world: World) -> None:
    world.locked(nightly(OLD), "0.23.1rc1.dev5")
    world.publish(nightly(NEW), "0.23.1rc1.dev6")
    text = update_markdown(world.update())
    assert text.startswith("## images.lock: 1 newer\n")
    digest = world.digests[nightly(NEW)]
    assert f"| `0.23.1rc1.dev6` | `{NEW[:12]}` | `{world.place}:{nightly(NEW)}` |" in text
    assert f"index `{digest}` |" in text


def test_what_is_gone_is_dropped_and_what_only_lost_its_name_stays(world: World) -> None:
    gone = world.locked("v0.22.0", "0.22.0")
    renamed = world.locked("v0.23.0", "0.23.0")
    world.publish("v0.23.0", "0.23.0")
    for _, pin in gone.locked.pins():
        world.delete(pin.digest)
    done: Pruned = find_gone(world.lock, HTTP, unwatched)
    assert [(each.entry, each.whole) for each in done.gone] == [(gone, True)]
    assert dropped(world.lock, done.gone) == Lock((renamed,))
    assert done.unread == ()
    # What was added while the registries were asked stays.
    added = dataclasses.replace(renamed, original=Original("0.9", renamed.original.reference))
    assert dropped(Lock((gone, added)), done.gone) == Lock((added,))
    pins = ", ".join(f"{kind} `{pin.digest}`" for kind, pin in gone.locked.pins())
    assert prune_markdown(done) == (
        f"## images.lock: 1 gone upstream\n\n- `0.22.0` (`{world.place}:v0.22.0`): {pins}\n\n"
    )


def test_of_an_entry_with_pins_that_are_left_only_the_gone_ones_are_dropped(world: World) -> None:
    digest = world.publish("v0.23.0", "0.23.0")
    lost, kept = Pin(f"sha256:{1:064x}", 3), Pin(digest)
    reference = parse_reference(f"{world.place}:v0.23.0")
    locked = Locked(
        Version("0.23.0"),
        index=kept,
        unknown=Pin(f"sha256:{2:064x}"),
        platforms={Platform("linux", "amd64"): lost},
    )
    lock = Lock((Entry(Original("0.23.0", reference), locked),))
    done = find_gone(lock, HTTP, unwatched)
    assert [[kind for kind, _ in each.pins] for each in done.gone] == [["unknown", "linux/amd64"]]
    [left] = dropped(lock, done.gone).entries
    assert list(left.locked.pins()) == [("index", kept)]
    assert "; the rest stays" in prune_markdown(done)


def test_a_person_reads_tables_and_a_pull_request_markdown(world: World, tmp_path: Path) -> None:
    gone = world.locked("v0.22.0", "0.22.0")
    world.locked("v0.23.0", "0.23.0")
    world.publish("v0.24.0", "0.24.0")
    lock = tmp_path / "images.lock"
    save(lock, world.lock)
    added = run("lock", "update", "--lock", lock)
    digest = world.digests["v0.24.0"]
    [header, first, *_] = added.stdout.splitlines()
    assert header.split() == ["VERSION", "PIN", "DIGEST", "REFERENCE"]
    assert first.split() == ["0.24.0", "index", digest, f"{world.place}:v0.24.0"]
    assert added.stderr.endswith(f"{lock}: 1 image added; looked in {world.place}\n")
    for _, pin in gone.locked.pins():
        world.delete(pin.digest)
    dropped = run("lock", "prune", "--lock", lock)
    rows = [line.split()[0] for line in dropped.stdout.splitlines()]
    assert rows == ["VERSION", *["0.22.0"] * len(list(gone.locked.pins()))]
    assert dropped.stderr.endswith(f"{lock}: 1 image dropped\n")
    again = run("lock", "prune", "--lock", lock)
    assert (again.stdout, again.stderr) == ("", f"{lock}: nothing is gone\n")
    for command in ("update", "prune"):
        asked = run("lock", command, "--lock", lock, "--format", "markdown")
        assert asked.stdout.startswith("## images.lock: 0 ")
        assert run("lock", command, "--lock", lock, "--format", "table", "--json").returncode == 2


def test_a_registry_that_does_not_answer_drops_nothing(tmp_path: Path) -> None:
    away = parse_reference(f"127.0.0.1:{free_port()}/vllm/vllm-openai:v0.1.0")
    entry = Entry(Original("0.1.0", away), Locked(Version("0.1.0"), index=Pin(f"sha256:{0:064}")))
    done = find_gone(Lock((entry,)), HTTP, unwatched)
    assert done.gone == ()
    assert [each.image for each in done.unread] == [str(away)]
    # Final, where a connection that is refused is tried again for 7.5 seconds.
    with serving(lambda _: Reply(), make_certificate(tmp_path / "nobody-trusts-it")) as wall:
        away = dataclasses.replace(away, registry=wall.host)
        entry = dataclasses.replace(entry, original=Original("0.1.0", away))
        save(tmp_path / "lock", Lock((entry,)))
        ran = run("lock", "prune", "--lock", tmp_path / "lock")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert f"{away}: could not be read, and stays as it was: " in ran.stderr
