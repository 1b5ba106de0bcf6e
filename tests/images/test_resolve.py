"""What the real daemon answers about images in a real registry, and about what is not there."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import requests

from patcher.errors import DaemonFailed
from patcher.images.lock import entry_for
from patcher.images.reference import Reference, parse_reference
from patcher.images.resolve import Answer, ask_daemon
from tests.conftest import free_port
from tests.images.locks import AMD64, ARM64

if TYPE_CHECKING:
    from docker import DockerClient

KINDS = {
    "oci": (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar",
    ),
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
}
INDEX = "application/vnd.oci.image.index.v1+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def put_blob(repository: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    begun = requests.post(f"{repository}/blobs/uploads/", timeout=10)
    where = begun.headers["Location"]
    done = requests.put(f"{where}&digest={digest}", data=data, timeout=10)
    done.raise_for_status()
    return {"digest": digest, "size": len(data)}


def put_manifest(repository: str, tag: str, manifest: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(manifest).encode()
    headers = {"Content-Type": manifest["mediaType"]}
    url = f"{repository}/manifests/{tag}"
    done = requests.put(url, data=data, headers=headers, timeout=10)
    done.raise_for_status()
    return {
        "mediaType": manifest["mediaType"],
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
    }


def put_image(
    repository: str, tag: str, platform: dict[str, str], kind: str = "docker"
) -> dict[str, Any]:
    """A manifest for one platform with one empty layer; returns its descriptor."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    diff_id = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {**platform, "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "config": {}}
    manifest_type, config_type, layer_type = KINDS[kind]
    stored = put_blob(repository, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {"mediaType": config_type, **stored},
        "layers": [{"mediaType": layer_type, **put_blob(repository, layer.getvalue())}],
    }
    return put_manifest(repository, tag, manifest)


@pytest.fixture
def repository(registry: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a repository in the loopback registry."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return f"http://{registry}/v2/resolve/test"


def named(registry: str, tag: str) -> Reference:
    return parse_reference(f"{registry}/resolve/test:{tag}")


@pytest.mark.parametrize("media_type", [INDEX, LIST])
def test_an_index_is_answered_with_its_platforms(
    daemon: DockerClient, registry: str, repository: str, media_type: str
) -> None:
    platforms = [
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
        {"os": "linux", "architecture": "amd64"},
        {"os": "unknown", "architecture": "unknown"},
    ]
    manifests = [
        {**put_image(repository, f"part{number}", platform), "platform": platform}
        for number, platform in enumerate(platforms)
    ]
    index = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    stored = put_manifest(repository, "index", index)
    answer = ask_daemon(daemon, named(registry, "index"))
    assert answer == Answer(stored["digest"], True, (AMD64, ARM64))
    locked = entry_for("0.23.0", named(registry, "index"), answer).locked
    assert [kind for kind, _ in locked.pins()] == ["index"]


def test_a_single_manifest_is_answered_with_its_own_platform(
    daemon: DockerClient, registry: str, repository: str
) -> None:
    stored = put_image(repository, "single", {"os": "linux", "architecture": "arm64"})
    answer = ask_daemon(daemon, named(registry, "single"))
    assert answer == Answer(stored["digest"], False, (ARM64,))
    locked = entry_for("0.23.0", named(registry, "single"), answer).locked
    assert [kind for kind, _ in locked.pins()] == ["linux/arm64"]


def test_a_digest_is_looked_up_as_well_as_a_tag(
    daemon: DockerClient, registry: str, repository: str
) -> None:
    stored = put_image(repository, "single", {"os": "linux", "architecture": "amd64"})
    pinned = named(registry, "single").pinned(stored["digest"])
    assert ask_daemon(daemon, pinned).digest == stored["digest"]


@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_a_manifest_whose_platform_is_not_stated_is_of_unknown_kind(
    daemon: DockerClient, registry: str, repository: str, kind: str
) -> None:
    stored = put_image(repository, "bare", {}, kind)
    answer = ask_daemon(daemon, named(registry, "bare"))
    assert answer == Answer(stored["digest"], False, ())
    locked = entry_for("0.23.0", named(registry, "bare"), answer).locked
    assert [kind for kind, _ in locked.pins()] == ["unknown"]


def test_an_oci_manifest_is_answered_with_its_platform_or_with_none(
    daemon: DockerClient, registry: str, repository: str
) -> None:
    stored = put_image(repository, "oci", {"os": "linux", "architecture": "arm64"}, "oci")
    answer = ask_daemon(daemon, named(registry, "oci"))
    assert (answer.digest, answer.is_index) == (stored["digest"], False)
    assert answer.platforms in ((), (ARM64,))


def test_a_hostile_platform_is_refused_and_does_not_reach_the_lock(
    daemon: DockerClient, registry: str, repository: str
) -> None:
    stored = put_image(repository, "part", {"os": "linux", "architecture": "arm64"})
    part = {**stored, "platform": {"os": "linux", "architecture": "arm64\n[x]\x1b[31m"}}
    put_manifest(
        repository, "hostile", {"schemaVersion": 2, "mediaType": LIST, "manifests": [part]}
    )
    with pytest.raises(DaemonFailed, match="is no platform") as caught:
        ask_daemon(daemon, named(registry, "hostile"))
    assert str(caught.value).isprintable()


def test_a_tag_that_is_not_there_is_named(daemon: DockerClient, registry: str) -> None:
    with pytest.raises(DaemonFailed, match=r"resolve/test:gone cannot be looked up"):
        ask_daemon(daemon, named(registry, "gone"))


def test_a_registry_that_is_not_there_is_named(daemon: DockerClient) -> None:
    with pytest.raises(DaemonFailed, match="connection refused"):
        ask_daemon(daemon, named(f"127.0.0.1:{free_port()}", "t"))
