"""Where in a gzipped layer a file inflates from, so that a range of it is enough.

Deflate goes back by 32 KB at most, and each of its blocks begins anew: from the first bit of a
block all that follows can be inflated, if what it copies from the bytes before is known. Of those
the file needs few: of vLLM 0.23.0's mla_attention.py (91 KB) 201 where the range begins 48 KB
before it. They are kept with the point, in a window that is zero elsewhere.

What comes out is not proven: the reader holds it against the file's digest. Only a layer of one
gzip member has points.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Read = Callable[[int, int], bytes]
"""Reads a range of a blob: from which byte on, and how many."""

_GZIP = b"\x1f\x8b"
_REACH = 32768  # RFC 1951, 3.2.5

# How far before the bytes that were last read the file may begin: what gzip and the buffers below
# it read ahead.
_AHEAD = 512 << 10
_BACK = 64 << 10
_LOOK = 96 << 10

# More is not worth a place in a file that people read. The real one has 350.
_MOST_WINDOW = 2048

# What is inflated at most to look for a file: of zeros a range can hold gigabytes.
_MOST_INFLATED = 32 << 20
_MOST_STARTS = 24

_ZEROS, _ONES = bytes(_REACH), b"\xff" * _REACH
# Two windows whose bytes together say which byte of the window it was.
_LOW = bytes(place & 0xFF for place in range(_REACH))
_HIGH = bytes(place >> 8 for place in range(_REACH))


@dataclass(frozen=True, slots=True)
class Point:
    """A block of a layer's deflate stream that a file can be inflated from.

    The block begins `bit` bits into byte `start` of the blob; `packed` bytes from there are
    needed; the file begins after `skip` inflated ones. `window` are the 32 KB before the block,
    zero where nothing is copied from, packed by zlib.
    """

    start: int
    bit: int
    packed: int
    skip: int
    window: bytes


def read_at(read: Read, point: Point, size: int) -> bytes | None:
    """The bytes of the file of `size` at a point; None where nothing inflates there.

    They are not proven to be the file's.
    """
    if not size:
        return b""  # to zlib, none means all that there is
    try:
        inflater = zlib.decompressobj()
        window = inflater.decompress(point.window, _REACH)
        raw = read(point.start, point.packed)
        inflated = _inflate(raw, point.bit, window, point.skip + size)
    except zlib.error:
        return None
    return inflated[point.skip :]


def find_point(read: Read, before: int, after: int, data: bytes) -> Point | None:
    """The point of a file with these bytes, in a blob that `read` reads.

    `before` and `after` are how much of the blob had been read when the file's bytes were asked
    for, and when they were there. None where there is no point that is worth it.
    """
    if read(0, len(_GZIP)) != _GZIP:
        return None  # else bits that look like blocks are tried for seconds
    begin = max(0, before - _AHEAD - _BACK)
    packed = read(begin, after - begin)
    first = _first_point(packed, 0, data)
    if first is None:
        return None
    # The nearer the block, the shorter the range, and the larger the window.
    near = _first_point(packed, max(first.start + 1, _place_of(packed, first) - _LOOK), data)
    point = near if near is not None and len(near.window) <= _MOST_WINDOW // 2 else first
    if len(point.window) > _MOST_WINDOW:
        return None
    return Point(begin + point.start, point.bit, point.packed, point.skip, point.window)


def _first_point(packed: bytes, start: int, data: bytes) -> Point | None:
    """The first block from `start` on that the file can be inflated from."""
    for number, (place, bit) in enumerate(_starts(packed, start)):
        if number == _MOST_STARTS:
            break
        point = _point_at(packed, place, bit, data)
        if point is not None:
            return point
    return None


def _starts(packed: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Where a block with codes of its own (BTYPE 10, RFC 1951, 3.2.7) can begin: by trying.

    One bit in eight looks like one; zlib says within some bytes of nearly all others that they
    are none. 80 KB take 0.7 s.
    """
    for place in range(start, len(packed) - 3):
        bits = int.from_bytes(packed[place : place + 3], "little")
        for bit in range(8):
            head = bits >> bit
            # HLIT and HDIST of 30 and 31 are not used.
            if head & 6 == 4 and (head >> 3) & 31 < 30 and (head >> 8) & 31 < 30:
                try:
                    _inflate(packed[place : place + 600], bit, _ZEROS, _MOST_INFLATED)
                    _inflate(packed[place : place + 60_000], bit, _ZEROS, _MOST_INFLATED)
                except zlib.error:
                    continue
                yield place, bit


def _point_at(packed: bytes, place: int, bit: int, data: bytes) -> Point | None:
    """The point at one block, if the file is all behind it."""
    raw = packed[place:]
    try:
        zeros, ones = (_inflate(raw, bit, each, _MOST_INFLATED) for each in (_ZEROS, _ONES))
        skip = _found(data, zeros, ones)
        if skip is None:
            return None
        window = bytearray(_REACH)
        file = slice(skip, skip + len(data))
        low, high = (_inflate(raw, bit, each, file.stop)[file] for each in (_LOW, _HIGH))
        pairs = zip(data, zeros[file], ones[file], low, high, strict=True)
        for true, zero, one, lower, higher in pairs:
            if zero != one:
                window[lower | higher << 8] = true
        needed = _needed(raw, bit, bytes(window), skip + len(data))
        point = Point(place, bit, needed, skip, zlib.compress(bytes(window), 9))
    except (zlib.error, ValueError):
        return None
    return (
        point
        if read_at(lambda at, size: packed[at : at + size], point, len(data)) == data
        else None
    )


def _found(data: bytes, zeros: bytes, ones: bytes) -> int | None:
    """Where the file is in what came out, whose bytes are right where both are the same."""
    step = 64
    for offset in range(0, len(data), step):
        place = zeros.find(data[offset : offset + step])
        skip = place - offset
        if place < 0 or skip < 0 or skip + len(data) > len(zeros):
            continue
        file = slice(skip, skip + len(data))
        pairs = zip(data, zeros[file], ones[file], strict=True)
        if all(true == zero or zero != one for true, zero, one in pairs):
            return skip
    return None


def _needed(raw: bytes, bit: int, window: bytes, size: int) -> int:
    """How many packed bytes it takes to inflate so many."""
    least, most = 0, len(raw)
    while most - least > 512:
        middle = (least + most) // 2
        if len(_inflate(raw[:middle], bit, window, size)) < size:
            least = middle
        else:
            most = middle
    return most


def _place_of(packed: bytes, point: Point) -> int:
    """The packed byte at which a point's file begins."""
    return point.start + _needed(packed[point.start :], point.bit, _ZEROS, max(1, point.skip))


def _inflate(raw: bytes, bit: int, window: bytes, most: int) -> bytes:
    """The first `most` bytes, at least one, of what a deflate stream inflates to, whose first block
    begins `bit` bits into `raw`.
    """
    shifted = int.from_bytes(raw, "little") >> bit
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=window)
    return inflater.decompress(shifted.to_bytes(len(raw), "little"), most)
