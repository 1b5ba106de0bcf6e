"""The thin layer's bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.errors import BrokenImage
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import LayerChange, gzipped, parents, thin_layer, write_tar

FILE = ImageFile("/opt/site/x.py", b"X = 1\n", uid=5, gid=6, mode=0o640, mtime=1_700_000_000)
DIRECTORIES = (
    ImageDirectory("/opt", uid=0, gid=0, mode=0o755, mtime=1),
    ImageDirectory("/opt/site", uid=1, gid=2, mode=0o2775, mtime=2),
    ImageDirectory("/opt/site/__pycache__", uid=3, gid=4, mode=0o700, mtime=3),
)
CHANGE = LayerChange((FILE,), ("/opt/site/__pycache__/x.cpython-312.pyc",), DIRECTORIES, {})


def members(layer: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return archive.getmembers()


def test_the_entries_and_their_owners_modes_and_times() -> None:
    facts = [(m.name, m.type, m.uid, m.gid, m.mode, m.mtime) for m in members(thin_layer(CHANGE))]
    assert facts == [
        ("opt", b"5", 0, 0, 0o755, 1),
        ("opt/site", b"5", 1, 2, 0o2775, 2),
        ("opt/site/__pycache__", b"5", 3, 4, 0o700, 3),
        ("opt/site/__pycache__/.wh.x.cpython-312.pyc", b"0", 0, 0, 0, 0),
        ("opt/site/x.py", b"0", 5, 6, 0o640, 1_700_000_000),
    ]
    assert all(not m.uname and not m.gname for m in members(thin_layer(CHANGE)))


def test_directories_that_nothing_is_written_below_are_left_alone() -> None:
    only_file = LayerChange((FILE,), (), DIRECTORIES, {})
    assert [m.name for m in members(thin_layer(only_file))] == ["opt", "opt/site", "opt/site/x.py"]


def test_these_bytes_stay_what_they_are() -> None:
    """A digest written down: another Python or another tarfile must not change a layer."""
    digest = hashlib.sha256(thin_layer(CHANGE)).hexdigest()
    assert digest == "57d9fc2052ef09fed0b9defdcdd8acee5810992f01567a045a59848b4647bd5b"


@given(st.permutations([FILE, *DIRECTORIES]))
def test_the_order_of_the_entries_given_does_not_matter(entries: list[ImageFile]) -> None:
    assert write_tar(entries) == write_tar([FILE, *DIRECTORIES])


@pytest.mark.parametrize(
    "path", [f"/{'d' * 90}/{'n' * 200}.py", "/opt/größe.py", "/opt/\udcff.py", f"/{'a/' * 200}x"]
)
@pytest.mark.parametrize("number", [0, 0o7777777 + 1, 2**40])
def test_what_ustar_cannot_hold_reads_back_whole(path: str, number: int) -> None:
    file = ImageFile(path, b"data", uid=number, gid=number, mode=0o644, mtime=number)
    [member] = members(write_tar([file]))
    assert (f"/{member.name}", member.uid, member.gid, member.mtime) == (path, *[number] * 3)
    assert write_tar([file]) == write_tar([file])


@pytest.mark.parametrize("path", ["x", "/", "/a/../b", "/a//b", "/a/", "//a", "", "/."])
def test_a_path_that_is_not_absolute_and_plain_is_refused(path: str) -> None:
    with pytest.raises(BrokenImage, match="not an absolute, plain path"):
        write_tar([ImageFile(path, b"", 0, 0, 0o644, 0)])


def test_a_path_given_twice_is_refused() -> None:
    with pytest.raises(BrokenImage, match="twice"):
        write_tar([FILE, FILE])


def test_a_file_named_like_a_whiteout_is_refused() -> None:
    with pytest.raises(BrokenImage, match="whiteout"):
        thin_layer(LayerChange((ImageFile("/.wh.x", b"", 0, 0, 0o644, 0),), (), (), {}))


def test_a_directory_that_is_not_described_is_refused() -> None:
    with pytest.raises(BrokenImage, match="owner and mode of /opt/site are not known"):
        thin_layer(LayerChange((FILE,), (), DIRECTORIES[:1], {}))


@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o6000])
def test_a_file_that_runs_as_its_owner_is_not_carried_on(bits: int) -> None:
    with pytest.raises(BrokenImage, match=r"/opt/site/x\.py has mode \d+640"):
        LayerChange((replace(FILE, mode=0o640 | bits),), (), DIRECTORIES, {})


@pytest.mark.parametrize("number", [10**30, 2**32 - 1, -1])
@pytest.mark.parametrize("name", ["uid", "gid"])
def test_an_owner_that_linux_cannot_have_is_named(name: str, number: int) -> None:
    owner: dict[str, Any] = {name: number}
    with pytest.raises(BrokenImage, match=r"/opt/site/x\.py belongs to a user"):
        LayerChange((replace(FILE, **owner),), (), DIRECTORIES, {})
    with pytest.raises(BrokenImage, match="/opt belongs to a user"):
        LayerChange((FILE,), (), (replace(DIRECTORIES[0], **owner), *DIRECTORIES[1:]), {})


@pytest.mark.parametrize("number", [10**30, 2**63, -(2**63)])
def test_a_mode_or_a_time_that_linux_cannot_have_is_named(number: int) -> None:
    with pytest.raises(BrokenImage, match=r"/opt/site/x\.py has mode -?\d+, which no file"):
        LayerChange((replace(FILE, mode=number),), (), DIRECTORIES, {})
    with pytest.raises(BrokenImage, match=r"/opt/site/x\.py was changed at a time"):
        LayerChange((replace(FILE, mtime=number),), (), DIRECTORIES, {})
    with pytest.raises(BrokenImage, match="/opt was changed at a time"):
        LayerChange((FILE,), (), (replace(DIRECTORIES[0], mtime=number), *DIRECTORIES[1:]), {})
    LayerChange((replace(FILE, mtime=2**63 - 1, mode=0o1777),), (), DIRECTORIES, {})


def test_parents_are_outermost_first_and_once() -> None:
    assert parents(["/a/b/x", "/a/c/x", "/y"]) == ["/a", "/a/b", "/a/c"]


# A stored block holds up to 65,535 bytes.
SIZES = [0, 1, 65_534, 65_535, 65_536, 131_070, 131_071, 300_000]


@pytest.mark.parametrize("size", SIZES)
def test_gzip_comes_out_as_it_went_in(size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    packed = gzipped(data)
    assert gzip.decompress(packed) == data
    reader = zlib.decompressobj(31)
    assert (reader.decompress(packed), reader.eof, reader.unused_data) == (data, True, b"")
    program = shutil.which("gzip")
    assert program, "every Debian has it"
    done = subprocess.run([program, "-dc"], input=packed, capture_output=True, check=True)
    assert done.stdout == data


def test_the_bytes_of_a_gzip_are_those_of_the_standards() -> None:
    """By hand, from RFC 1952 and RFC 1951, section 3.2.4: no clock, no system, nothing chosen."""
    assert gzipped(b"abc") == bytes.fromhex(
        "1f8b 08 00 00000000 00 ff"  # magic, deflate, no flags, no time, no hint, no system
        "01 0300 fcff 616263"  # the last block, stored: length, its complement, the data
        "c2412435 03000000"  # CRC-32 of "abc", and its size
    )
