"""Cut off before any call that changes a file, what is there is the old or the new, and a second
run finishes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.cutting import FATES, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"


def cuts(
    folder: Path, *command: str | Path, step: int = 1, cache: Path | None = None
) -> Iterator[dict[str, Any]]:
    """What came of each cut; at least one of each fate."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.cutting", str(step), folder, *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(cache or f"{folder}.cache"),
        },
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {line["fate"] for line in lines} == set(FATES)
    yield from lines


def whole(there: dict[str, str]) -> dict[str, str]:
    """Without what a kill may leave: partial files and bytecode under a name Python never runs."""
    return {path: data for path, data in there.items() if not path.endswith((".tmp", ".removed"))}


def test_patch_in_place(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    source = tree / TARGET
    source.parent.mkdir(parents=True)
    for package in (source.parent, *source.parent.parents[:2]):
        (package / "__init__.py").touch()
    (tree / "vllm" / "__init__.py").touch()
    source.write_bytes(NEEDED)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), invalidation_mode=unchecked)
    stale = str(Path(importlib.util.cache_from_source(str(source))).relative_to(tree))
    old = snapshot(tree)
    for cut in cuts(tree, "patch", tree, "--in-place", *ONE):
        there = cut["there"]
        if there[TARGET] != old[TARGET]:
            assert stale not in there, f"Python would run the old bytecode: {cut}"
        if cut["ended"] == 3:
            assert there == old, cut
        elif cut["ended"] == 130:
            assert whole(there) in (old, whole(cut["then"])), cut
        else:
            assert cut["ended"] in (0, "SIGKILL")
        assert cut["again"] == 0
        assert cut["then"][TARGET] != old[TARGET]
        assert stale not in cut["then"], cut
        assert not [path for path in cut["then"] if path.endswith(".removed")], cut


def test_adding_to_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir()
    lock = folder / "images.lock"
    digest = "sha256:" + "0" * 64
    command: list[str | Path] = [
        "lock",
        "add",
        "0.23.0",
        f"example.com/vllm@{digest}",
        "--offline",
        "--lock",
        lock,
    ]
    states = set()
    for cut in cuts(folder, *command):
        states.add(whole(cut["there"]).get("images.lock"))
        assert cut["again"] == 0
        assert list(whole(cut["then"])) == ["images.lock"]
        states.add(cut["then"]["images.lock"])
    assert len(states) == 2, "no lock, or the whole one"


def test_removing_from_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir()
    lock = folder / "images.lock"
    for number in (3, 4):
        image = f"example.com/vllm@sha256:{number:064}"
        assert (
            run("lock", "add", f"0.2{number}.0", image, "--offline", "--lock", lock).returncode == 0
        )
    states: set[str | None] = {snapshot(folder)["images.lock"]}
    for cut in cuts(folder, "lock", "remove", "0.23.0", "--lock", lock):
        states |= {whole(each).get("images.lock") for each in (cut["there"], cut["then"])}
    assert len(states) == 2, "the old lock, or the new one"


def test_a_revert(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    source = tree / TARGET
    source.parent.mkdir(parents=True)
    (tree / "vllm" / "__init__.py").touch()
    source.write_bytes(NEEDED)
    old = snapshot(tree)
    assert run("patch", tree, "--in-place", "--backup", *ONE).returncode == 0
    patched = snapshot(tree)
    for cut in cuts(tree, "revert", tree):
        there = whole(cut["there"])
        # The original goes last, and a second run removes it.
        assert there in (patched, old, {**patched, TARGET: old[TARGET]}), cut
        assert cut["again"] == 0 or there == old, "there is nothing more to revert"
        assert whole(cut["then"]) == old


def test_updating_the_lock(tmp_path: Path, registry: str) -> None:
    from tests.bases import Base, write_lock

    folder, place = tmp_path / "locks", f"{registry}/cuts/vllm"
    folder.mkdir()
    old, new = (Base(f"v{version}", version, NEEDED) for version in ("0.23.0", "0.24.0"))
    digests = [base.push(registry, "cuts/vllm") for base in (old, new)]
    write_lock(folder / "images.lock", old.entry(place, digests[0]))
    states = {snapshot(folder)["images.lock"]}
    for cut in cuts(folder, "lock", "update", "--lock", folder / "images.lock"):
        assert cut["again"] == 0, cut
        assert list(whole(cut["then"])) == ["images.lock"]
        states |= {cut["there"]["images.lock"], cut["then"]["images.lock"]}
    assert len(states) == 2, "the old lock, or the new one"


def test_the_cache(tmp_path: Path) -> None:
    """An entry that is there is whole; where none can be kept the work goes on."""
    base, target, cache = (tmp_path / name for name in ("base", "target", "cache"))
    base_layout(base)
    cache.mkdir(mode=0o700)
    command = ["image", f"oci:{base}:base", "--to", f"oci:{target}", *ONE]
    entries = set()
    for cut in cuts(cache, *command, step=3, cache=cache):
        # A full disk is an error where the layout is written: by then the entry is there.
        assert cut["ended"] in (0, 130, "SIGKILL") or "layers" in str(cut["there"]), cut
        assert cut["again"] == 0, cut
        there = whole(cut["there"])
        assert there.items() <= cut["then"].items()
        entries.add(json.dumps(whole(cut["then"])))
    assert len(entries) == 1
    assert "layers" in entries.pop()


def base_layout(path: Path) -> None:
    from patcher.jobs.demo import write_base
    from patcher.oci.reference import Platform
    from tests.installations import installed_file

    stated = installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n")
    files = [stated, installed_file(TARGET, NEEDED)]
    write_base(path, files, Platform("linux", "amd64"), {}, "base")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_layout(tmp_path: Path, fresh: bool) -> None:
    """A new one is there once it has a blob, and leaves nothing behind before that."""
    from patcher.oci.layout import Layout, existing_layout
    from patcher.oci.model import REF_NAME

    folder = tmp_path / "target"
    folder.mkdir()
    target = folder / "a" / "b" if fresh else folder
    base = tmp_path / "base" if fresh else target
    base_layout(base)
    to = ["--to", f"oci:{target}"] if fresh else []
    digests, without = set(), 0
    for cut in cuts(folder, "image", f"oci:{base}:base", *to, *ONE, step=4):
        assert cut["again"] == 0, cut
        if cut["ended"] != "SIGKILL" and "/sha256/" not in str(cut["there"]):
            assert not cut["there"], cut
            assert not cut["empty"], cut
            without += 1
        blobs = {path: digest for path, digest in cut["there"].items() if "/sha256/" in path}
        for path, digest in whole(blobs).items():
            assert path.endswith(digest), "a blob under its name is whole"
        digests.add(json.dumps(whole(cut["then"])))
    assert len(digests) == 1, "every second run comes to the same layout"
    assert bool(without) is fresh
    layout: Layout = existing_layout(target)
    assert {entry.annotations[REF_NAME] for entry in layout.entries()} >= {"0.23.0-patched"}
