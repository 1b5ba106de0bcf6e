"""The whole job on a real release, with nothing but Python and PyPI: `vllm-patcher demo`.

The base is a small image made of the wheel's own files: no Python is in it, so it cannot run,
but it is read, patched, verified and tagged exactly as a real one is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from patcher.build import Base, Order, Report, Say, bake
from patcher.diff import unified_diff
from patcher.errors import Unwritable
from patcher.images import ImageFile
from patcher.images.installed import VERSION_FILE
from patcher.images.oci.assemble import write_base
from patcher.images.oci.layout import open_layout
from patcher.images.reference import Platform
from patcher.patch import catalogue
from patcher.sources.wheel import open_release

PACKAGES = "/usr/local/lib/python3.12/dist-packages"
PLATFORM = Platform("linux", "amd64", None)  # fixed: the same digest on every machine
# As in vLLM's own images (docker inspect of 0.18.0 to 0.28.0).
RUN = {
    "Entrypoint": ["vllm", "serve"],
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
    "WorkingDir": "/vllm-workspace",
}


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo did. `bytes_read` came over the network; `wheel_size` would have."""

    report: Report
    diff: str
    layout: Path
    bytes_read: int
    wheel_size: int


def run(version: str, output: Path, say: Say) -> Demo:
    """Fetch, assemble, patch, verify, append, tag and read back. Writes only below `output`."""
    wheel = open_release(version)
    targets = sorted({patch.target for patch in catalogue()})
    files = {target: wheel.read(target) for target in (VERSION_FILE, *targets)}
    say(
        f"took {len(files)} files of vLLM {version} out of its wheel: "
        f"{wheel.bytes_read / 1e6:.2f} of {wheel.size / 1e6:.0f} MB"
    )
    _empty(output)
    entries = [
        ImageFile(f"{PACKAGES}/{target}", data, uid=0, gid=0, mode=0o644, mtime=0)
        for target, data in files.items()
    ]
    digest = write_base(output, entries, PLATFORM, RUN, version)
    say(f"made a base image of them: {digest}")
    base = Base(open_layout(output, None, version), None, None)
    report = bake(base, Order(catalogue(), repository=""), say)
    diffs = [unified_diff(c.before.data, c.after, c.target) for c in report.changes]
    return Demo(report, "".join(diffs), output, wheel.bytes_read, wheel.size)


def _empty(output: Path) -> None:
    """Remove an earlier demo; refuse to touch a folder that is none."""
    if output.exists() and not (output / "oci-layout").is_file():
        raise Unwritable(
            f"{output} is there and is no OCI layout", next_step="Name another folder with -o."
        )
    if output.exists():
        shutil.rmtree(output)
