"""Several patches at once: what each says of a vLLM, and what one layer holds of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from patcher.oci.layout import open_image
from patcher.oci.model import OCI_LAYER
from tests.commands import run
from tests.memory import OCI, Memory, add_image
from tests.oci.rootfs.test_running import LIB, Entry, package, tar_of, venv, write_layout

if TYPE_CHECKING:
    from pathlib import Path

SITE = f"/opt/venv/lib/{LIB}/site-packages"
ONE, TWO = "vllm/one.py", "vllm/two.py"
CONFIG = "vllm/configs/E=8,device_name=GB10.json"
SOURCE = "def limit():\n    return 1\n\n\ndef name():\n    return 'a'\n"

FORM = """
from patcher.rules.patch import Patch
from patcher.rules.datafile import DataFile
from patcher.rules.replace import Change, Replace

PATCH = Patch(
    name={name!r}, version=1, title="t", why="w", targets=({target!r},),
    rule={rule}, upstream=(), affected=({affected!r},),
)
"""


def change(target: str, function: str, old: str, new: str) -> str:
    return f"Replace((Change({target!r}, {function!r}, {old!r}, {new!r}),))"


PATCHES = {
    "limit": (ONE, change(ONE, "limit", "return 1", "return 2"), ">=0.20"),
    "name": (ONE, change(ONE, "name", "return 'a'", "return 'b'"), ">=0.20"),
    "other": (TWO, change(TWO, "name", "return 'a'", "return 'b'"), ">=0.20"),
    "tuned": (CONFIG, f"DataFile({CONFIG!r}, b'{{}}')", ">=0.20"),
    "late-gone": (ONE, change(ONE, "gone", "return 1", "return 2"), ">=0.24"),
    "late-needed": (TWO, change(TWO, "limit", "return 1", "return 3"), ">=0.24"),
    "late-unknown": (ONE, change(ONE, "limit", "return 7", "return 8"), "<0.20"),
}
ALL = [word for name in PATCHES for word in ("--patch", name)]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A layout with a vLLM 0.23.0, the same as a tree, and a folder of patches."""
    blobs = Memory()
    entries = [
        *venv(),
        *package(SITE),
        Entry(f"{SITE}/{ONE}", SOURCE),
        Entry(f"{SITE}/{TWO}", SOURCE),
        Entry(f"{SITE}/vllm/configs", None),
        Entry(f"{SITE}/vllm/configs/E=1.json", "{}"),
        Entry("/usr/local/bin/python3"),
        Entry(f"/usr/local/lib/{LIB}/os.py"),
    ]
    layer = blobs.add(tar_of(entries), OCI_LAYER)
    settings = {
        "config": {"Env": ["PATH=/opt/venv/bin:/usr/local/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    root = add_image(blobs, OCI, layers=[layer], settings=settings)
    named = {"org.opencontainers.image.ref.name": "base"}
    write_layout(tmp_path / "l", blobs, [{**root, "annotations": named}])
    for entry in entries:
        if entry.path.startswith(SITE) and entry.data is not None:
            path = tmp_path / "tree" / entry.path.removeprefix(f"{SITE}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(entry.data)
    (tmp_path / "own").mkdir()
    for name, (target, rule, affected) in PATCHES.items():
        text = FORM.format(name=name, target=target, rule=rule, affected=affected)
        (tmp_path / "own" / f"{name}.py").write_text(text)
    return tmp_path


def test_one_layer_has_all_that_are_needed_and_the_rest_is_told(here: Path) -> None:
    done = run("image", "oci:l:base", "--patches", "own", *ALL, cwd=here)
    assert done.returncode == 0, done.stderr
    for line in (
        "limit: needed (1 to be replaced, 0 replaced), now clean",
        "tuned: needed (1 to be put, 0 there), now clean",
        "late-gone: not for this version, left alone: absent (there is no gone in",
        "late-needed: not for this version, left alone: needed (1",
        "late-unknown: not for this version: unknown\n",
    ):
        assert f"  patch  {line}" in done.stdout
    assert done.stderr.endswith("verify --proof oci:l:0.23.0-patched --patches own\n")
    found = open_image(here / "l", "0.23.0-patched", None).installation([ONE, TWO, CONFIG])
    texts = {target: file.data.decode() for target, file in found.files.items()}
    assert texts == {
        ONE: SOURCE.replace("return 1", "return 2").replace("'a'", "'b'"),
        TWO: SOURCE.replace("'a'", "'b'"),
        CONFIG: "{}",
    }
    assert found.files[CONFIG].mode == 0o644
    judged = run("verify", "oci:l:0.23.0-patched", "--patches", "own", *ALL, cwd=here)
    assert judged.returncode == 0, judged.stderr
    assert judged.stdout == ""
    again = run("image", "oci:l:0.23.0-patched", "--patches", "own", *ALL, cwd=here)
    assert again.returncode == 1
    assert "already carries this: limit, name, other, tuned" in again.stderr
    assert "; not claimed for vLLM 0.23.0: late-gone, late-needed, late-unknown" in again.stderr
    proven = run("verify", "--proof", "oci:l:0.23.0-patched", "--patches", "own", cwd=here)
    assert re.search(r": limit: needed .*, now clean \(0", proven.stderr)
    assert re.search(
        r": late-needed: not for this version, left alone: needed [^,]*, [^,]*$",
        proven.stderr,
        re.MULTILINE,
    ), "what is as before is said once"


def test_why_it_is_open_is_said_of_a_patch_that_was_named(here: Path) -> None:
    """Of the catalogue's patches most are for other versions."""
    every = run("verify", "tree", "--patches", "own", cwd=here)
    assert "tree: late-unknown: not for this version: unknown\n" in every.stderr
    named = run("verify", "tree", "--patches", "own", "--patch", "late-unknown", cwd=here)
    assert "tree: late-unknown: not for this version, left alone: unknown (" in named.stderr


def test_a_new_file_has_no_preimage(here: Path) -> None:
    words = ("--patches", "own", "--patch", "tuned", "--patch", "limit", "--json")
    done = run("image", "oci:l:base", *words, cwd=here)
    files = json.loads(done.stdout)["platforms"][0]["files"]
    stated = {each["target"]: each["patches"][0]["preimage"] for each in files}
    assert stated[CONFIG] is None
    assert len(stated[ONE]) == 64
    labels = open_image(here / "l", "0.23.0-patched", None).labels
    assert "dev.vllm-patcher.patch.tuned.postimage" in labels
    assert "dev.vllm-patcher.patch.tuned.preimage" not in labels


def test_a_tree_is_patched_with_the_same(here: Path) -> None:
    words = ("--patches", "own", *ALL)
    shown = run("diff", "tree", *words, cwd=here)
    assert shown.returncode == 0, shown.stderr
    assert f"+++ b/{CONFIG}" in shown.stdout
    assert "return 3" not in shown.stdout
    assert run("patch", "tree", "--in-place", *words, cwd=here).returncode == 0
    assert (here / "tree" / CONFIG).read_text() == "{}"
    assert "return 1" in (here / "tree" / TWO).read_text()
    again = run("verify", "tree", *words, cwd=here)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr


def test_absent_or_unknown_where_it_is_claimed_stops_the_image(here: Path) -> None:
    for name in ("late-gone", "late-unknown"):
        path = here / "own" / f"{name}.py"
        path.write_text(path.read_text().replace(PATCHES[name][2], ">=0.23"))
        judged = run("verify", "oci:l:base", "--patches", "own", "--patch", name, cwd=here)
        assert judged.returncode == 3
        made = run("image", "oci:l:base", "--patches", "own", *ALL, cwd=here)
        assert made.returncode == 3
        assert f"{name} cannot judge " in made.stderr
        step = made.stderr.partition("next: To apply the others that are needed: ")[2]
        without = run("image", "oci:l:base", "--patches", "own", *step.split(), cwd=here)
        assert without.returncode == 0, without.stderr
        path.write_text(path.read_text().replace(">=0.23", ">=0.24"))
    assert run("image", "oci:l:base", "--patches", "own", *ALL, cwd=here).returncode == 0
