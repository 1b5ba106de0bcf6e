"""Images in a registry, read from the top down; what was read is kept."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.errors import BrokenImage, FileAbsent, WrongPlatform
from patcher.layer_cache import LayerCache
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import parents, write_tar
from patcher.oci.model import DOCKER_LAYER, OCI_LAYER
from patcher.oci.reference import Platform, parse_reference
from patcher.oci.rootfs.layers import StoredImage
from patcher.registry.image import ask_registry, open_remote
from patcher.sources.spec import open_source
from patcher.web.http import Http
from tests.commands import run
from tests.conftest import missing
from tests.indexes import add_index
from tests.installations import CACHE, SITE, TARGET, vllm_files
from tests.memory import DOCKER, OCI, Memory, add_image
from tests.oci.rootfs.test_filesystem import DIRECTORY, FILE, LINK, Entry, tar
from tests.registries import Proxy, proxy_of, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AMD64 = Platform("linux", "amd64")
PATH = f"{SITE}/{TARGET}"
PYC = f"{CACHE}/probe.cpython-312.pyc"


@pytest.fixture
def proxy(registry: str) -> Iterator[Proxy]:
    with proxy_of(registry) as front:
        yield front


@pytest.fixture
def cache(tmp_path: Path) -> LayerCache:
    return LayerCache(tmp_path / "cache" / "layers")


def installed(*more: ImageFile) -> bytes:
    """The layer that vLLM was installed by: as a builder writes it, with every folder."""
    files = [*vllm_files(), *more]
    folders = [ImageDirectory(path, 3, 4, 0o750, 5) for path in parents(f.path for f in files)]
    return write_tar([*folders, *files])


def noise(size: int = 40_000) -> bytes:
    """A layer of its own, that holds nothing of interest."""
    return tar([(f"opt/{os.urandom(8).hex()}", FILE, os.urandom(size).hex())])


def push(registry: str, name: str, *layers: bytes, form: Callable[[bytes], bytes] = bytes) -> str:
    """An image of these layers, the lowest first, in the registry; gives its reference."""
    blobs = Memory()
    stored = [blobs.add(form(layer), OCI_LAYER) for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    history: list[dict[str, str]] = []
    settings = {"rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history}
    root = add_image(blobs, OCI, layers=stored, settings=settings)
    upload(registry, name, blobs.data, root)
    return f"{registry}/{name}@{root['digest']}"


def remote(
    host: str, reference: str, cache: LayerCache | None = None, platform: Platform | None = None
) -> StoredImage:
    """The image, asked for through `host`."""
    name = f"{host}/{reference.partition('/')[2]}"
    return open_remote(parse_reference(name), platform, Http(wait=lambda _: None), cache)


def layers_read(proxy: Proxy) -> int:
    """Requests for layers; an image's config, the smallest of its blobs, is asked for once too."""
    blobs = [seen for seen in proxy.seen if seen.startswith("GET") and "/blobs/" in seen]
    return len(blobs) - 1


def test_every_layer_is_read_once(proxy: Proxy) -> None:
    layers = [noise(), noise(), installed(), noise(), noise()]
    reference = push(proxy.upstream, "early", *layers)
    found = remote(proxy.address, reference).installation([TARGET])
    assert found.files[TARGET].data == b"ANSWER = 'old'\n"
    assert (found.root, found.version) == (SITE, "0.23.0")
    assert {folder.mode for folder in found.directories} == {0o750}
    assert layers_read(proxy) == 5
    assert proxy.received < sum(len(layer) for layer in layers) + 3_000


@pytest.mark.parametrize(("command", "code"), [("verify", 3), ("diff", 3), ("landed", 0)])
def test_a_command_reads_every_layer_once_for_all_patches(
    proxy: Proxy, tmp_path: Path, command: str, code: int
) -> None:
    """`diff` read all layers for each file, 45 GB of a base of 9; `landed` read them twice."""
    reference = push(proxy.upstream, "commanded", noise(), installed(), noise())
    name = f"registry:{proxy.address}/{reference.partition('/')[2]}"
    done = run(command, name, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == code, "this vLLM has none of the files"
    assert layers_read(proxy) == 3


def test_a_second_vllm_far_below_is_seen(proxy: Proxy, cache: LayerCache) -> None:
    """The first one settles all that was asked; only the names below tell that it is not alone."""
    other = tar(
        [
            (f"opt/tools/lib/python3.12/site-packages/vllm/{name}", FILE, "__version__ = '1'")
            for name in ("__init__.py", "_version.py")
        ]
    )
    reference = push(proxy.upstream, "below-all", other, noise(), installed())
    for _ in range(2):
        found = remote(proxy.address, reference, cache).installation([TARGET])
        assert len(found.all) == 2


def test_a_second_call_reads_manifest_and_config_only(proxy: Proxy, cache: LayerCache) -> None:
    reference = push(proxy.upstream, "cached", noise(), installed(), noise())
    first = remote(proxy.address, reference, cache).installation([TARGET])
    proxy.forget()
    assert remote(proxy.address, reference, cache).installation([TARGET]) == first
    assert [seen.split()[0] for seen in proxy.seen] == ["GET", "GET"]
    assert "/manifests/" in proxy.seen[0]
    assert layers_read(proxy) == 0
    assert proxy.received < 3_000


def test_another_image_upon_the_same_layers_reads_its_own_only(
    proxy: Proxy, cache: LayerCache
) -> None:
    base = [noise(), installed()]
    remote(proxy.address, push(proxy.upstream, "below", *base), cache).installation([TARGET])
    patched = push(proxy.upstream, "above", *base, tar([(PATH.lstrip("/"), FILE, "ANSWER = 1\n")]))
    proxy.forget()
    found = remote(proxy.address, patched, cache).installation([TARGET])
    assert found.files[TARGET].data == b"ANSWER = 1\n"
    assert layers_read(proxy) == 1


def test_bytecode_of_a_layer_below_a_patched_file_counts(proxy: Proxy) -> None:
    pyc = ImageFile(PYC, b"\0", 0, 0, 0o644, 0)
    above = tar([(PATH.lstrip("/"), FILE, "ANSWER = 1\n")])
    reference = push(proxy.upstream, "patched", noise(), installed(pyc), above)
    found = remote(proxy.address, reference).installation([TARGET])
    assert found.files[TARGET].data == b"ANSWER = 1\n"
    assert found.bytecode[TARGET] == (PYC,)


@pytest.mark.parametrize(
    "above",
    [
        [(f"{os.path.dirname(PATH)[1:]}/.wh.probe.py", FILE, "")],  # noqa: PTH120
        [(f"{SITE[1:]}/vllm/model_executor/.wh.layers", FILE, "")],
        [(f"{SITE[1:]}/vllm/model_executor/layers/.wh..wh..opq", FILE, "")],
    ],
)
def test_what_a_layer_above_hides_is_not_found_below(registry: str, above: list[Entry]) -> None:
    reference = push(registry, "hidden", noise(), installed(), tar(above))
    assert remote(registry, reference).installation([TARGET]).files == {}


def test_a_hidden_installation_below_another_is_no_second_one(proxy: Proxy) -> None:
    old = installed()
    hide = tar([("usr/local/lib/python3.12/.wh.dist-packages", FILE, "")])
    moved = [(p.path.replace("python3.12", "python3.13"), p) for p in vllm_files()]
    new = tar([(path.lstrip("/"), FILE, file.data.decode()) for path, file in moved])
    reference = push(proxy.upstream, "moved", old, hide, new)
    found = remote(proxy.address, reference).installation([TARGET])
    assert found.root == SITE.replace("python3.12", "python3.13")


def test_folders_that_no_upper_layer_states_are_looked_for_below(proxy: Proxy) -> None:
    bare = tar([(file.path.lstrip("/"), FILE, file.data.decode()) for file in vllm_files()])
    below = tar([(path.lstrip("/"), DIRECTORY, "") for path in parents([PATH])])
    reference = push(proxy.upstream, "bare", below, bare)
    found = remote(proxy.address, reference).installation([TARGET])
    assert {(folder.uid, folder.mode) for folder in found.directories} == {(7, 0o751)}
    assert layers_read(proxy) == 2


def test_a_link_below_the_files_is_not_overlooked(registry: str) -> None:
    bare = tar([(file.path.lstrip("/"), FILE, file.data.decode()) for file in vllm_files()])
    below = tar([("usr/local/lib/python3.12", LINK, "../../../opt/python")])
    with pytest.raises(BrokenImage, match="is not a directory"):
        remote(registry, push(registry, "linked", below, bare)).installation([TARGET])


def test_an_image_without_vllm_is_read_to_its_end_and_says_so(proxy: Proxy) -> None:
    reference = push(proxy.upstream, "none", noise(), noise())
    with pytest.raises(FileAbsent, match="holds no vLLM"):
        remote(proxy.address, reference).installation([TARGET])
    assert layers_read(proxy) == 2


def members(data: bytes) -> bytes:
    """gzip of several members, as pigz and eStargz write it."""
    return b"".join(gzip.compress(data[at : at + 4096]) for at in range(0, len(data), 4096))


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        missing("zstd is not installed")
    half = len(data) // 2
    frames = [data[:half], data[half:]]
    return b"".join(
        subprocess.run(["zstd", "-qc"], input=frame, capture_output=True, check=True).stdout
        for frame in frames
    )


@pytest.mark.parametrize("form", [gzip.compress, members, zstd])
def test_a_layer_may_be_compressed(registry: str, form: Callable[[bytes], bytes]) -> None:
    reference = push(registry, f"packed/{form.__name__}", installed(), noise(), form=form)
    found = remote(registry, reference).installation([TARGET])
    assert found.files[TARGET].data == b"ANSWER = 'old'\n"


def test_a_blob_that_was_altered_gives_no_file_and_is_not_kept(
    proxy: Proxy, cache: LayerCache
) -> None:
    reference = push(proxy.upstream, "altered", installed())
    proxy.edit = lambda _, chunk: chunk.replace(b"ANSWER = 'old'", b"ANSWER = 'bad'")
    with pytest.raises(BrokenImage, match="has other bytes"):
        remote(proxy.address, reference, cache).installation([TARGET])
    assert not cache.folder.exists()


def test_a_connection_that_breaks_in_a_layer_is_taken_up(proxy: Proxy) -> None:
    reference = push(proxy.upstream, "broken", installed(), noise(400_000))
    cuts = [1]

    def cut(path: str, chunk: bytes) -> bytes:
        return chunk[:-1] if "/blobs/" in path and len(chunk) > 9_999 and cuts.pop() else chunk

    proxy.edit = lambda path, chunk: cut(path, chunk) if cuts else chunk
    assert TARGET in remote(proxy.address, reference).installation([TARGET]).files
    assert not cuts


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "form", "swap"])
def test_a_damaged_entry_is_read_again(proxy: Proxy, cache: LayerCache, damage: str) -> None:
    reference = push(proxy.upstream, "damaged", installed())
    first = remote(proxy.address, reference, cache).installation([TARGET])
    [entry] = list(cache.folder.iterdir())
    data = entry.read_bytes()
    flipped = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    swapped = data[:32] + zlib.compress(zlib.decompress(data[32:]).replace(b"3, ", b"4, "))
    damaged = {"cut": data[:-9], "flip": flipped, "empty": b"", "form": b"x" * 99, "swap": swapped}
    entry.write_bytes(damaged[damage])
    proxy.forget()
    assert remote(proxy.address, reference, cache).installation([TARGET]) == first
    assert layers_read(proxy) == 1
    assert entry.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_none(registry: str, tmp_path: Path) -> None:
    reference = push(registry, "uncached", installed())
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file" / "layers", Path("/dev/full/layers"), Path("/proc/layers")):
        cache = LayerCache(folder)
        assert TARGET in remote(registry, reference, cache).installation([TARGET]).files


def test_a_disk_that_is_full_costs_the_entry_and_nothing_else(
    registry: str, cache: LayerCache
) -> None:
    reference = push(registry, "full", installed())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        assert TARGET in remote(registry, reference, cache).installation([TARGET]).files
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.folder.iterdir()) == []


@pytest.mark.parametrize("types", [OCI, DOCKER])
def test_an_index_gives_the_platform_that_is_asked_for(
    registry: str, types: tuple[str, ...]
) -> None:
    blobs = Memory()
    root = add_index(blobs, types)
    name = f"platforms/{'docker' if types[3] == DOCKER_LAYER else 'oci'}"
    upload(registry, name, blobs.data, root)
    reference = f"{registry}/{name}@{root['digest']}"
    found = remote(registry, reference, platform=Platform("linux", "arm64", "v8"))
    assert (found.digest, str(found.platform)) == (root["digest"], "linux/arm64")
    assert TARGET in found.installation([TARGET]).files
    # Attestations are no platform.
    with pytest.raises(WrongPlatform) as raised:
        remote(registry, reference, platform=Platform("linux", "s390x"))
    assert raised.value.problem.endswith("linux/s390x, but for: linux/amd64, linux/arm64")
    answer = ask_registry(parse_reference(reference), Http())
    assert (answer.digest, answer.is_index) == (root["digest"], True)
    assert [str(platform) for platform in answer.platforms] == ["linux/amd64", "linux/arm64"]


def test_a_single_manifest_has_the_platform_of_its_config(registry: str) -> None:
    reference = push(registry, "single", installed())
    found = remote(registry, reference, platform=AMD64)
    assert (str(found.platform), found.labels["old"]) == ("linux/amd64", "1")
    with pytest.raises(WrongPlatform, match="is not there for linux/arm64, but for: linux/amd64"):
        remote(registry, reference, platform=Platform("linux", "arm64"))
    answer = ask_registry(parse_reference(reference), Http())
    assert (answer.is_index, answer.platforms) == (False, {AMD64: answer.digest})


def test_what_skopeo_copies_is_read_alike(registry: str, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        missing("skopeo is not installed")
    reference = push(registry, "copied/from", noise(), installed(), form=gzip.compress)
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
    target = f"{registry}/copied/to:v1"
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copy += ["--policy", str(policy), "--preserve-digests"]
    subprocess.run(
        [*copy, f"docker://{reference}", f"docker://{target}"], check=True, capture_output=True
    )
    found = remote(registry, target)
    assert found.digest == reference.partition("@")[2]
    assert TARGET in found.installation([TARGET]).files


def test_the_source_says_what_was_typed(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = push(registry, "source", installed())
    spec = f"registry:{reference}"
    source = open_source(spec, tmp_path / "images.lock")
    assert (source.label, source.version()) == (spec, "0.23.0")
    assert source.read(TARGET) == b"ANSWER = 'old'\n"
    with pytest.raises(FileAbsent, match="has no vllm/nothing"):
        source.read("vllm/nothing.py")
    kept = [entry.name for entry in (tmp_path / "vllm-patcher" / "layers").iterdir()]
    assert len(kept) == 3  # one for each thing that was looked for


def test_a_layer_may_hold_names_that_are_no_text(registry: str, cache: LayerCache) -> None:
    odd = tar([(b"opt/\xff\xfe".decode("utf-8", "surrogateescape"), LINK, "x")])
    reference = push(registry, "odd", installed(), odd)
    first = remote(registry, reference, cache).installation([TARGET])
    assert remote(registry, reference, cache).installation([TARGET]) == first
