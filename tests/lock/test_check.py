"""The lock against a real registry whose tags move and whose digests go."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests
from packaging.version import Version

from patcher.lock.drift import Drift, Drifted, check_pins
from patcher.lock.entries import Entry, Lock, Locked, Original, Pin, entry_for
from patcher.oci.reference import Platform, parse_reference
from patcher.registry.image import ask_registry
from patcher.registry.repository import Repository
from patcher.web.http import Http
from tests.conftest import free_port
from tests.indexes import add_index
from tests.memory import OCI, Memory, add_image
from tests.registries import put_manifest, upload

if TYPE_CHECKING:
    from collections.abc import Sequence

HTTP = Http(wait=lambda _: None)
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def unwatched(done: int, total: int | None) -> None:
    """Nobody looks on."""


def check(*entries: Entry) -> list[tuple[Drift, str]]:
    drifts: Sequence[Drifted] = list(
        check_pins(Lock(entries), partial(Repository, http=HTTP), unwatched)
    )
    return [(each.drift, each.problem) for each in drifts]


def publish(registry: str, name: str, tag: str, filler: int = 10) -> tuple[Memory, dict[str, Any]]:
    """An index under a tag; another `filler` makes another one."""
    blobs = Memory()
    root = add_index(blobs, OCI, filler=filler)
    upload(registry, name, blobs.data, root)
    put_manifest(registry, name, tag, root["mediaType"], blobs.data[root["digest"]])
    return blobs, root


def delete(registry: str, name: str, digest: str) -> None:
    url = f"http://{registry}/v2/{name}/manifests/{digest}"
    assert requests.delete(url, timeout=30).status_code == 202


def locked(version: str, reference: str) -> Entry:
    """The entry as `lock add` makes it today."""
    parsed = parse_reference(reference)
    answer = ask_registry(parsed, HTTP)
    # An index alone, as public files mostly state it.
    return entry_for(version, parsed, replace(answer, platforms={}) if answer.is_index else answer)


def test_what_is_as_it_was_locked_is_not_mentioned(registry: str) -> None:
    publish(registry, "check/same", "v1")
    assert check(locked("0.23.0", f"{registry}/check/same:v1")) == []


def test_a_tag_that_moved_is_reported_and_its_digest_still_serves(registry: str) -> None:
    publish(registry, "check/moved", "v1")
    entry = locked("0.23.0", f"{registry}/check/moved:v1")
    _, now = publish(registry, "check/moved", "v1", filler=20)
    assert check(entry) == [(Drift.MOVED, f"the tag v1 leads to {now['digest']} now")]


def test_a_digest_that_is_gone_names_what_the_tag_has(registry: str) -> None:
    _, first = publish(registry, "check/gone", "v1")
    entry = locked("0.23.0", f"{registry}/check/gone:v1")
    _, now = publish(registry, "check/gone", "v1", filler=20)
    delete(registry, "check/gone", first["digest"])
    assert check(entry) == [
        (
            Drift.GONE,
            f"index {first['digest']} is gone. There is still: the tag v1 ({now['digest']})",
        ),
        (Drift.MOVED, f"the tag v1 leads to {now['digest']} now"),
    ]


def test_a_nightly_that_is_gone_names_the_newest_locked_one(registry: str) -> None:
    _, gone = publish(registry, "check/nightly", "n1")
    entries = [locked("0.23.1rc1.dev1", f"{registry}/check/nightly:n1")]
    for number in (2, 3):
        publish(registry, "check/nightly", f"n{number}", filler=number)
        name = f"{registry}/check/nightly:n{number}"
        entries.append(locked(f"0.23.1rc1.dev{number}", name))
    delete(registry, "check/nightly", gone["digest"])
    assert check(*entries) == [
        (
            Drift.GONE,
            f"index {gone['digest']} is gone. There is still: 0.23.1rc1.dev3 ({name})",
        ),
        (Drift.MOVED, "the tag n1 is gone"),
    ]


def test_a_platform_that_is_left_is_named(registry: str) -> None:
    blobs, root = publish(registry, "check/left", "v1")
    [amd64, _, arm64, _] = blobs.json(root["digest"])["manifests"]
    pins = {AMD64: Pin(amd64["digest"]), ARM64: Pin(arm64["digest"])}
    entry = Entry(
        Original("0.23.0", parse_reference(f"{registry}/check/left@{root['digest']}")),
        Locked(Version("0.23.0"), index=Pin(root["digest"]), platforms=pins),
    )
    assert check(entry) == []
    delete(registry, "check/left", amd64["digest"])
    [(drift, problem)] = check(entry)
    left = f"index {root['digest']}, linux/arm64 {arm64['digest']}"
    assert drift == Drift.GONE
    assert problem == f"linux/amd64 {amd64['digest']} is gone. There is still: {left}"


def test_a_platform_that_the_index_does_not_have_is_wrong(registry: str) -> None:
    blobs, root = publish(registry, "check/wrong", "v1")
    [amd64, _, arm64, _] = blobs.json(root["digest"])["manifests"]
    reference = parse_reference(f"{registry}/check/wrong:v1")
    pins = {ARM64: Pin(amd64["digest"])}
    entry = Entry(
        Original("0.23.0", reference),
        Locked(Version("0.23.0"), index=Pin(root["digest"]), platforms=pins),
    )
    problem = f"linux/arm64 {amd64['digest']} is locked, and the index has {arm64['digest']}"
    assert check(entry) == [(Drift.WRONG, problem)]


def test_an_index_that_is_none_is_wrong(registry: str) -> None:
    blobs = Memory()
    root = add_image(blobs, OCI)
    upload(registry, "check/single", blobs.data, root)
    reference = parse_reference(f"{registry}/check/single@{root['digest']}")
    entry = Entry(
        Original("0.23.0", reference), Locked(Version("0.23.0"), index=Pin(root["digest"]))
    )
    assert check(entry) == [(Drift.WRONG, f"index {root['digest']} is one platform's manifest")]


def test_a_tag_may_lead_to_the_index_of_a_locked_platform(registry: str) -> None:
    blobs, root = publish(registry, "check/member", "v1")
    [amd64, *_] = blobs.json(root["digest"])["manifests"]
    reference = parse_reference(f"{registry}/check/member:v1")
    pins = {AMD64: Pin(amd64["digest"])}
    entry = Entry(Original("0.23.0", reference), Locked(Version("0.23.0"), platforms=pins))
    assert check(entry) == []


def test_a_registry_that_does_not_answer_leaves_the_others_asked(registry: str) -> None:
    publish(registry, "check/after", "v1")
    fine = locked("0.24.0", f"{registry}/check/after:v1")
    silent = entry_for("0.23.0", parse_reference(f"127.0.0.1:{free_port()}/a@sha256:{'0' * 64}"))
    moved = Entry(fine.original, Locked(fine.locked.version, unknown=Pin(f"sha256:{'1' * 64}")))
    found = check(silent, moved)
    assert [drift for drift, _ in found] == [Drift.UNKNOWN, Drift.GONE, Drift.MOVED]
    assert "the connection is refused" in found[0][1]


@pytest.mark.parametrize("count", [3])
def test_each_repository_is_opened_once(registry: str, count: int) -> None:
    publish(registry, "check/once", "v1")
    entry = locked("0.23.0", f"{registry}/check/once:v1")
    opened: list[str] = []

    def open_at(reference: Any) -> Any:
        opened.append(reference.name)
        return Repository(reference, HTTP)

    assert list(check_pins(Lock((entry,) * count), open_at, unwatched)) == []
    assert opened == [f"{registry}/check/once"]


def test_a_host_that_gave_no_answer_is_not_asked_again(registry: str) -> None:
    publish(registry, "check/beside", "v1")
    away = f"127.0.0.1:{free_port()}"
    silent = [
        entry_for(f"0.2.{number}", parse_reference(f"{away}/{name}@sha256:{number:064}"))
        for number, name in enumerate(["a", "b", "a"])
    ]
    waits: list[float] = []
    http = Http(wait=waits.append)
    seen: list[tuple[int, int | None]] = []
    lock = Lock((*silent, locked("0.24.0", f"{registry}/check/beside:v1")))
    found = list(check_pins(lock, partial(Repository, http=http), lambda *at: seen.append(at)))
    assert [each.drift for each in found] == [Drift.UNKNOWN] * 3
    assert len({each.problem for each in found}) == 1
    once: list[float] = []
    open_once = partial(Repository, http=Http(wait=once.append))
    list(check_pins(Lock(tuple(silent[:1])), open_once, unwatched))
    assert len(waits) == len(once)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
