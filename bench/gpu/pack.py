"""Fit a vLLM wheel through a narrow door: `python -m bench.gpu.pack WHEEL OUT.tar.xz`.

For a GPU machine that reaches no package index. The wheel of 0.23.0 (274 MB) becomes 45 MB: of
its fat binaries only the device code of one GPU generation stays (sm_90), and PTX where a kernel
has no other; the rest is zeros, which xz takes to nothing. Left out are what an MLA model on such
a GPU does not load: FlashAttention 2, the Rust front end, CUTLASS's headers, DeepGEMM for other
Pythons. No Python file is touched.
"""

from __future__ import annotations

import lzma
import re
import struct
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

ARCHITECTURE = 90  # H100, H200

_LEFT_OUT = re.compile(
    r"_vllm_fa2_C|/vllm-rs$|(deep_gemm|fmha_sm100)/(include|cutlass)/|swagger-ui"
    r"|_C\.cpython-3(10|11|13|14)-"
)

# As cuobjdump reads them: a header of 16 bytes, then entries with a header of their own.
_MAGIC = struct.pack("<I", 0xBA55ED50)
_PTX, _MACHINE_CODE = 1, 2


def strip(data: bytearray) -> None:
    """Zero what is for other GPUs, in place."""
    position = 0
    while (position := data.find(_MAGIC, position)) >= 0:
        _, version, header, size = struct.unpack_from("<IHHQ", data, position)
        start, end = position + 16, position + 16 + size
        position += 4
        if (version, header) != (1, 16) or end > len(data):
            continue
        entries = []
        while start < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, start)
            [architecture] = struct.unpack_from("<I", data, start + 28)
            entries.append((kind, architecture, start + header, size))
            start += header + size
        native = any(each[:2] == (_MACHINE_CODE, ARCHITECTURE) for each in entries)
        for kind, architecture, at, size in entries:
            wanted = architecture == ARCHITECTURE if kind == _MACHINE_CODE else not native
            if not wanted:
                data[at : at + size] = bytes(size)
        position = end


def main() -> None:
    wheel, out = map(Path, sys.argv[1:])
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 256 << 20}]
    with (
        zipfile.ZipFile(wheel) as packed,
        lzma.open(out, "wb", filters=filters) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for name in sorted(packed.namelist()):
            if _LEFT_OUT.search(name) or name.endswith("/"):
                continue
            data = bytearray(packed.read(name))
            if name.endswith(".so"):
                strip(data)
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name.endswith(".so") else 0o644
            archive.addfile(info, BytesIO(data))
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
