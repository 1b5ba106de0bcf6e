"""Where a file inflates from, and a lock that says so: kilobytes of an image instead of it all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.daemon.engine import local_image
from patcher.errors import BadSource
from patcher.lock.entries import Lock
from patcher.lock.file import load, save
from patcher.oci.installation import ImageFile
from patcher.oci.layer import write_tar
from patcher.oci.rootfs import point as points
from patcher.oci.rootfs.located import Located, LocatedFile, LocatedImage
from patcher.oci.rootfs.point import Point, find_point, read_at
from tests import docker_bases
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.installations import installed_file
from tests.registries import Proxy, proxy_of
from tests.registry.test_image import noise, push, zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

LIBRARY = Path(os.__file__).parent
ALONE = ("--lock", "images.lock")


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    """Some megabytes of Python that people wrote."""
    return sorted(path for path in LIBRARY.glob("*.py") if path.stat().st_size > 1000)


@pytest.mark.parametrize("level", [1, 6, 9])
def test_a_file_inflates_from_a_block_before_it(sources: list[Path], level: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sources:
            tar.add(path, path.name)
    blob = gzip.compress(out.getvalue(), level)
    read: list[int] = []

    def of_blob(start: int, size: int) -> bytes:
        read.append(size)
        return blob[start : start + size]

    # The whole file's place is found from where the blob was when it was read.
    before, after = len(blob) // 3, len(blob) // 3 + 300_000
    middle = zlib.decompressobj(31).decompress(blob[: len(blob) // 3 + 150_000])
    names = [path for path in sources if path.read_bytes() in middle]
    data = names[-1].read_bytes()
    point = find_point(of_blob, before, after, data)
    assert point is not None
    read.clear()
    assert read_at(of_blob, point, len(data)) == data
    assert sum(read) < 600_000
    assert len(point.window) <= 2048
    assert read_at(of_blob, replace(point, window=b"no zlib"), len(data)) is None
    for wrong in (replace(point, bit=(point.bit + 3) % 8), replace(point, start=point.start + 7)):
        assert read_at(of_blob, wrong, len(data)) != data


def test_a_file_that_is_not_there_has_no_point(sources: list[Path]) -> None:
    blob = gzip.compress(b"".join(path.read_bytes() for path in sources[:5]))
    of_blob = lambda start, size: blob[start : start + size]  # noqa: E731
    assert find_point(of_blob, 0, len(blob), os.urandom(500)) is None


def test_what_is_not_gzip_is_not_searched(sources: list[Path]) -> None:
    blob, asked = sources[0].read_bytes(), list[int]()

    def of_blob(start: int, size: int) -> bytes:
        asked.append(size)
        return blob[start : start + size]

    assert find_point(of_blob, 0, len(blob), blob[:500]) is None
    assert sum(asked) == 2


@pytest.fixture(scope="module")
def proxy(registry: str) -> Iterator[Proxy]:
    with proxy_of(registry) as front:
        yield front


@pytest.fixture(scope="module")
def base(release_file: Callable[[str], bytes], sources: list[Path]) -> bytes:
    """The layer of an installation: other packages before vLLM, and after it."""
    files = [
        installed_file(f"{name}/{path.name}", path.read_bytes())
        for name in ("before", "xafter")
        for path in sources[:60]
    ]
    files += [
        installed_file("vllm/__init__.py", b""),
        installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n"),
        installed_file(TARGET, release_file("0.23.0"), mode=0o640, owner=1234),
    ]
    return write_tar(sorted(files, key=lambda file: file.path))


def located(
    proxy: Proxy, folder: Path, *layers: bytes, form: Callable[[bytes], bytes] = gzip.compress
) -> Path:
    """A lock with one entry that `lock add --locate` has written; its folder."""
    name = f"located/{os.urandom(6).hex()}"
    reference = push(proxy.upstream, name, *layers, form=form)
    digest = reference.partition("@")[2]
    folder.mkdir()
    (folder / "images.lock").write_text("schema = 1\n")
    where = f"{proxy.address}/{name}@{digest}"
    done = run("lock", "add", "0.23.0", where, "--locate", *ALONE, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def entry(proxy: Proxy, base: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of such a lock, for tests that alter it."""
    folder = located(proxy, tmp_path_factory.mktemp("located") / "a", noise(300_000), base)
    return (folder / "images.lock").read_text()


def verify(folder: Path, proxy: Proxy, *more: str) -> tuple[int, str, int]:
    """Exit code, verdict, and bytes read by somebody who has nothing in a cache."""
    proxy.forget()
    home = str(folder / os.urandom(4).hex())
    done = run("verify", "0.23.0", *ONE, *ALONE, *more, cwd=folder, XDG_CACHE_HOME=home)
    return done.returncode, done.stderr.strip().splitlines()[-1], proxy.received


NEEDED = "0.23.0: kv-b-proj-dtype: needed (1 unguarded, 2 guarded)"


def test_who_uses_the_lock_reads_a_range(proxy: Proxy, tmp_path: Path, base: bytes) -> None:
    folder = located(proxy, tmp_path / "a", noise(2_000_000), base, noise(2_000_000))
    entry = load(folder / "images.lock").entries[0]
    [pin] = entry.locked.platforms.values()
    assert pin.located is not None
    assert [file.target for file in pin.located.files] == [TARGET]
    code, said, received = verify(folder, proxy)
    assert (code, said) == (1, NEEDED)
    assert received < 600_000
    assert verify(folder, proxy, "--everywhere")[2] > 4_000_000
    plain = tmp_path / "plain"
    plain.mkdir()
    pins = {where: replace(each, located=None) for where, each in entry.locked.platforms.items()}
    without = replace(entry, locked=replace(entry.locked, platforms=pins))
    save(plain / "images.lock", Lock((without,)))
    assert verify(plain, proxy)[:2] == (1, NEEDED)
    assert verify(plain, proxy)[2] > 4_000_000
    digests = []
    for where in (folder, plain):
        home = str(where / "fresh")
        to = f"oci:{where / 'out'}"
        done = run("image", "0.23.0", *ONE, *ALONE, "--to", to, cwd=where, XDG_CACHE_HOME=home)
        assert done.returncode == 0, done.stderr
        digests += re.findall(r"^image +(sha256:\w+)", done.stdout, re.MULTILINE)
    assert len(digests) == 2
    assert len(set(digests)) == 1, "the same image, however the base was read"


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        (r'sha256 = "\w{8}', 'sha256 = "00000000'),
        (r'point = "(\d+)\.', 'point = "9999999.'),
        (r'window = "[^"]*"', 'window = "AAAA"'),
        (r"size = \d+", "size = 12"),
        (r'layer = "sha256:\w{8}', 'layer = "sha256:00000000'),
        (r"form = 1", "form = 0"),
        (r'"kv_b_proj"', '"other"'),
    ],
)
def test_what_does_not_fit_is_read_from_the_layers(
    proxy: Proxy, tmp_path: Path, entry: str, what: str, instead: str
) -> None:
    altered = re.sub(what, instead, entry)
    assert altered != entry
    (tmp_path / "images.lock").write_text(altered)
    code, said, received = verify(tmp_path, proxy)
    assert (code, said) == (1, NEEDED)
    assert received > 600_000
    asked = [request for request in proxy.methods("GET") if "/blobs/" in request]
    # The config, a range, and both layers: no range that is not there is asked for again.
    assert len(asked) <= 4


PLUGIN = installed_file("vllm_other/a.py", b"import vllm\nx = self.kv_b_proj.weight.dtype\n")
SECOND = [
    ImageFile(f"/opt/b/site-packages/{path}", data, 0, 0, 0o644, 0)
    for path, data in (("vllm/_version.py", b"version = '1'\n"), (TARGET, b"x = 1\n"))
]


@pytest.mark.parametrize("more", [[PLUGIN], SECOND], ids=["a plugin", "a second vLLM"])
def test_what_is_not_the_plain_case_is_not_located(
    proxy: Proxy, tmp_path: Path, base: bytes, more: list[ImageFile]
) -> None:
    folder = located(proxy, tmp_path / "a", write_tar(more), base)
    assert "located" not in (folder / "images.lock").read_text().replace("/located/", ""), (
        "one who looks sees all of it"
    )


@pytest.mark.parametrize("form", [bytes, zstd], ids=["plain", "zstd"])
def test_what_gzip_did_not_pack_is_not_located(
    proxy: Proxy, tmp_path: Path, base: bytes, form: Callable[[bytes], bytes]
) -> None:
    folder = located(proxy, tmp_path / "a", base, form=form)
    [pin] = load(folder / "images.lock").entries[0].locked.platforms.values()
    assert pin.located is None
    assert verify(folder, proxy)[:2] == (1, NEEDED)


@pytest.mark.parametrize(
    ("what", "instead", "said"),
    [
        (r'point = "[^"]*"', 'point = "1 2"', "point"),
        (r'point = "[^"]*"', 'point = "1.9 2 3"', "not START.BIT PACKED SKIP"),
        (r'window = "[^"]*"', 'window = "%"', "window"),
        (r'entry = "[^"]*"', 'entry = "0 0 999 0"', "entry"),
        (r"size = \d+", "size = 99999999999", "size"),
    ],
)
def test_a_lock_that_is_none_is_told_by_line(
    tmp_path: Path, entry: str, what: str, instead: str, said: str
) -> None:
    (tmp_path / "images.lock").write_text(re.sub(what, instead, entry))
    done = run("lock", "list", *ALONE, cwd=tmp_path)
    assert done.returncode == 3
    assert "images.lock, line " in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("what", "instead", "said"),
    [
        (r'path = "[^"]*"', 'path = "/etc/other.py"', "/etc/other.py is not"),
        (r"\nwindow", '\nbytecode = ["/etc/passwd"]\nwindow', "/etc/passwd is not bytecode of"),
        (r"\nwindow", '\nbytecode = ["/etc/mla_attention.x.pyc"]\nwindow', "is not bytecode of"),
        (r'root = "[^"]*"', 'root = "/opt/none"', "in /opt/none"),
        (r'target = "vllm/', 'target = "other/', "is not other/"),
        (r'folders = \[\n *"[^"]*', 'folders = [\n"0 0 755 0 /etc', "/etc, of mode 755,"),
        (r'folders = \[\n *"0 0 \d+', 'folders = [\n"0 0 7777', "of mode 7777"),
        (r'version = "0.23.0"\nsearched', 'version = "0.33.0"\nsearched', "0.33.0 is located"),
    ],
)
def test_a_lock_that_reaches_beyond_vllm_is_refused(
    tmp_path: Path, entry: str, what: str, instead: str, said: str
) -> None:
    """Else our layer would replace or hide what is not vLLM's."""
    altered = re.sub(what, instead, entry)
    assert altered != entry
    (tmp_path / "images.lock").write_text(altered)
    done = run("image", "0.23.0", *ONE, *ALONE, "--to", f"oci:{tmp_path / 'out'}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_zeros_are_not_inflated_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of 600 KB can hold 600 MB of them: here less, and a bound as much lower."""
    monkeypatch.setattr(points, "_MOST_INFLATED", 1 << 20)
    packed = gzip.compress(bytes(8 << 20) + os.urandom(2000), 9)
    tracemalloc.start()
    try:
        find_point(lambda start, size: packed[start : start + size], 0, len(packed), b"x" * 999)
        read_at(lambda start, size: packed[start : start + size], Point(10, 0, 1 << 20, 0, b""), 9)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_daemon_is_asked_for_the_file_alone(daemon: docker.DockerClient) -> None:
    """The lock's own words come through where its file fits, and the image's where it does not."""
    target = docker_bases.TARGET
    base = docker_bases.load_base(daemon, docker_bases.installed())
    try:
        image = local_image(daemon, base)
        found = image.installation([target])
        file = found.files[target]
        entry = (target, file.path, file.uid, file.gid, file.mode, file.mtime, len(file.data))
        there = LocatedFile(
            *entry, hashlib.sha256(file.data).hexdigest(), "sha256:0", Point(0, 0, 0, 0, b"")
        )
        said = Located(found.root, "said", True, "9.9", None, ("a",), (there,), found.directories)
        known = LocatedImage(image, said).installation([target], None, [b"a"])
        assert (known.version, known.files, known.directories, known.bytecode) == (
            "9.9",
            found.files,
            found.directories,
            found.bytecode,
        )
        for wrong in (replace(there, sha256="0" * 64), replace(there, path="/nowhere")):
            other = replace(said, files=(wrong,))
            assert LocatedImage(image, other).installation([target]) == found
        known_image = LocatedImage(image, said)
        with pytest.raises(BadSource, match="no vLLM in /opt"):
            known_image.installation([target], "/opt")
        assert known_image.installation(["vllm/x.py"]).version == "0.23.0"
        assert known_image.installation([target], None, [b"b"]).version == "0.23.0"
    finally:
        docker_bases.remove_all(daemon, base)
