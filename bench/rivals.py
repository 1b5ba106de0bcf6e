"""What sed, patch(1) and a grep make of each release, against what is so.

The diffs are of the shape of upstream's own: one made on 0.17.1 (PR 34695's), one made on 0.23.0
(PR 43889's). A release crashes where a read is unguarded.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from bench.files import PATCH, all_files, patched
from patcher.diff import unified_diff
from patcher.rules.verdict import Status, judge_files

READ = "self.kv_b_proj.weight.dtype"
SED = f's/{READ}/({READ} if hasattr(self.kv_b_proj, "weight") else self.kv_b_proj.params_dtype)/'


def report() -> None:
    """Print a row for each rival: on how many releases it leaves what a user wants."""
    files = all_files()
    crashing = {version for version, data in files.items() if not _is_clean(data)}
    print(f"{len(files)} releases, {len(crashing)} with an unguarded read")
    for base, pull in (("0.17.1", 34695), ("0.23.0", 43889)):
        diff = unified_diff(files[base], patched(files[base]), PATCH.target)
        done = {version for version, data in files.items() if _applies(diff, data)}
        cured = {v for v in done & crashing if _is_clean(_by_diff(diff, files[v]))}
        print(f"diff of PR {pull}'s shape: applies to {len(done)}, cures {len(cured)}")
    grep = {v for v, data in files.items() if b'hasattr(self.kv_b_proj, "weight")' in data}
    print(f"grep for the guard: calls {len(grep & crashing)} crashing releases fixed")
    once = {version: _sed(data) for version, data in files.items()}
    doubled = sum(_guards(once[v]) > _guards(patched(files[v])) for v in files)
    again = sum(_sed(data) != data for data in once.values())
    print(f"sed: guards what was guarded on {doubled}, changes {again} more on a second run")
    ours = {version: patched(data) for version, data in files.items()}
    mended = sum(_is_clean(ours[version]) for version in crashing)
    untouched = sum(ours[version] == files[version] for version in files.keys() - crashing)
    again = sum(patched(data) != data for data in ours.values())
    print(f"vllm-patcher: cures {mended}, leaves {untouched} clean ones, changes {again} again")


def _is_clean(data: bytes) -> bool:
    return judge_files(PATCH, {PATCH.target: data}, "").status is Status.CLEAN


def _guards(data: bytes) -> int:
    return data.count(b'hasattr(self.kv_b_proj, "weight")')


def _sed(data: bytes) -> bytes:
    return subprocess.run(["sed", SED], input=data, capture_output=True, check=True).stdout


def _applies(diff: str, data: bytes) -> bool:
    return _by_diff(diff, data) != data


def _by_diff(diff: str, data: bytes) -> bytes:
    """What `patch -p1` makes of a file; the file itself where a hunk fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PATCH.target
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        ran = subprocess.run(
            ["patch", "-p1", "--forward", "--batch", "--silent", "-r", "-"],
            input=diff.encode(), cwd=folder, capture_output=True, check=False,
        )  # fmt: skip
        return data if ran.returncode else path.read_bytes()
