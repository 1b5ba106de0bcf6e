"""Our gzip, held against readers that share nothing with it: zlib's and GNU gzip's."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.oci.deflate import gzipped

if TYPE_CHECKING:
    from collections.abc import Callable

KB = 1024
few = st.sampled_from([b"a", b"b", b"ab", b"    self.", b"\0" * 300, bytes(range(256))])
texts = st.lists(few | st.binary(max_size=9), max_size=60).map(b"".join)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@settings(derandomize=True, deadline=None, database=None, max_examples=600)
@given(texts)
def test_what_went_in_comes_out(data: bytes) -> None:
    assert gzip.decompress(gzipped(data)) == data


def skewed() -> bytes:
    """Bytes whose best code has symbols of more than the 15 bits that are the most: the counts of
    some are Fibonacci's numbers. Every second byte is one of many others, so that little matches.
    """
    counts = [1, 1]
    while len(counts) < 23:
        counts.append(counts[-1] + counts[-2])
    some = [symbol for symbol, count in enumerate(counts) for _ in range(count)]
    shuffled = random.Random(0)
    shuffled.shuffle(some)
    return bytes(byte for each in some for byte in (each, shuffled.randrange(23, 103)))


EDGES = {
    "nothing": b"",
    "one byte": b"a",
    "too short for a match": b"aaa",
    "a match of the least length": b"abcdXabcd",
    "the longest match": b"a" * 259,
    "longer than the longest match": b"a" * 100_000,
    "a match at the window's edge": noise(40) + noise(32 * KB - 40, 1) + noise(40),
    "a match beyond the window": noise(40) + noise(32 * KB - 39, 1) + noise(40),
    "every length and many distances": b"".join(noise(n, 5) + noise(n, n) for n in range(300)),
    "no byte like another": noise(70_000),
    "every byte once": bytes(range(256)),
    "the deepest code": skewed(),
    "a tar's zeros": b"x" + bytes(10 * KB),
}


@pytest.mark.parametrize("data", EDGES.values(), ids=EDGES.keys())
def test_edges(data: bytes) -> None:
    packed = gzipped(data)
    assert gzip.decompress(packed) == data
    reader = zlib.decompressobj(31)
    assert (reader.decompress(packed), reader.unused_data) == (data, b"")


def test_gnu_gzip_reads_it() -> None:
    program = shutil.which("gzip")
    assert program, "every Debian has it"
    for data in EDGES.values():
        done = subprocess.run(
            [program, "-dc"], input=gzipped(data), capture_output=True, check=True
        )
        assert done.stdout == data


def test_a_source_file_shrinks_nearly_as_far_as_zlib_can(
    release_file: Callable[..., bytes],
) -> None:
    data = release_file("0.23.0")
    packed = gzipped(data)
    assert gzip.decompress(packed) == data
    assert len(packed) < 1.08 * len(gzip.compress(data, 9))


def test_these_bytes_stay_what_they_are() -> None:
    """Written down: another Python, zlib or machine must not change a published digest."""
    data = b"".join(b"def f%d(x):\n    return x.weight.dtype\n" % number for number in range(999))
    digest = hashlib.sha256(gzipped(data + noise(999))).hexdigest()
    assert digest == "3414617945eeae8419212189a66e6276614177175f477c5512726b97ceb01421"


def test_no_clock_and_no_system_is_in_it() -> None:
    assert gzipped(b"x")[:10] == bytes.fromhex("1f8b 08 00 00000000 00 ff")
