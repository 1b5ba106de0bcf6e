"""An image that holds several vLLMs: each that may be run is patched, or the one that is meant."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from patcher.oci.layout import open_image
from patcher.oci.model import OCI_LAYER
from tests.commands import ONE, run
from tests.memory import OCI, Memory, add_image
from tests.oci.rootfs.test_running import LIB, TARGET, Entry, package, tar_of, venv, write_layout

if TYPE_CHECKING:
    from pathlib import Path

READ = "class A:\n    def f(self):\n        return self.kv_b_proj.weight.dtype\n"
FIRST, SECOND = (f"/ray/w{n}/lib/{LIB}/site-packages" for n in (0, 1))
PLUGIN = f"{FIRST}/vllm_metax/attention.py"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two environments with a vLLM each, a source that nobody imports, and a plugin."""
    entries = [
        *venv("/ray/w0"),
        *package(FIRST, READ),
        *venv("/ray/w1"),
        *package(SECOND, READ),
        *package("/tmp/build", READ),  # noqa: S108
        Entry(PLUGIN, READ),
        Entry("/usr/local/bin/python3"),
        Entry(f"/usr/local/lib/{LIB}/os.py"),
    ]
    blobs = Memory()
    layer = blobs.add(tar_of(entries), OCI_LAYER)
    settings = {
        "config": {"Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    root = add_image(blobs, OCI, layers=[layer], settings=settings)
    named = {"org.opencontainers.image.ref.name": "base"}
    write_layout(tmp_path / "l", blobs, [{**root, "annotations": named}])
    return tmp_path / "l"


def guarded(layout: Path, name: str) -> dict[str, bool]:
    found = open_image(layout, name, None).installation([TARGET])
    return {each.root: b"hasattr" in each.files[TARGET].data for each in found.all}


def test_all_are_patched_and_what_is_not_is_named(layout: Path) -> None:
    done = run("image", f"oci:{layout}:base", *ONE)
    assert done.returncode == 0, done.stderr
    assert guarded(layout, "0.23.0-patched") == {FIRST: True, SECOND: True}
    assert "vLLM in /tmp/build: idle: on no Python's path" in done.stderr
    assert f"{PLUGIN}:3: " in done.stderr
    document = json.loads(run("verify", f"oci:{layout}:base", *ONE, "--json").stdout)
    assert document["notes"][0].endswith(": may run: " + document["copies"][0]["why"])
    assert [each["state"] for each in document["elsewhere"]] == ["may run"]
    again = run("verify", f"oci:{layout}:0.23.0-patched", *ONE)
    assert again.returncode == 0, again.stderr
    said = "notice: unguarded self.kv_b_proj.weight.dtype [kv-b-proj-dtype] (may run)\n"
    assert f"oci:{layout}:0.23.0-patched:{PLUGIN}:3: {said}" in again.stderr


def test_the_one_that_is_meant_is_patched_and_has_a_tag_of_its_own(layout: Path) -> None:
    every = run("image", f"oci:{layout}:base", *ONE)
    one = run("image", f"oci:{layout}:base", "--root", SECOND, *ONE)
    assert (every.returncode, one.returncode) == (0, 0), one.stderr
    assert guarded(layout, "0.23.0-patched") == {FIRST: False, SECOND: True}
    tags = [{line for line in each.stdout.splitlines() if "tag" in line} for each in (every, one)]
    assert len(tags[0] | tags[1]) == 3  # two fixed ones, and the moving one of both
    judged = run("verify", f"oci:{layout}:0.23.0-patched", *ONE)
    assert judged.returncode == 1
    assert run("verify", f"oci:{layout}:0.23.0-patched", "--root", SECOND, *ONE).returncode == 0


def test_a_root_that_is_none_is_told_with_those_that_are(layout: Path) -> None:
    for command in ("verify", "image", "diff"):
        wrong = run(command, f"oci:{layout}:base", "--root", "/opt", *ONE)
        assert wrong.returncode == 2
        assert f"There is one in: {FIRST}, {SECOND}, /tmp/build" in wrong.stderr


@pytest.mark.parametrize(
    ("command", "broken", "code", "said"),
    [
        (["/start.sh"], False, 3, "what the image's command starts is not followed"),
        (["/ray/w0/bin/python", "-m", "vllm"], False, 0, "no Python is seen to import it"),
        (["/ray/w0/bin/python", "-m", "vllm"], True, 3, "cannot be judged: Python runs"),
    ],
)
def test_an_idle_copy_leaves_it_open_only_if_it_might_run_or_cannot_be_judged(
    tmp_path: Path, command: list[str], broken: bool, code: int, said: str
) -> None:
    idle = package("/opt/src", READ)
    if broken:
        idle.append(Entry(f"/opt/src/{TARGET.removesuffix('.py')}/__init__.py"))
    entries = [
        *venv("/ray/w0"),
        *package(FIRST, "x = 1\n"),
        *idle,
        Entry("/start.sh", "#!/bin/sh\nPYTHONPATH=/opt/src exec python3 -m vllm\n"),
        Entry("/usr/local/bin/python3"),
        Entry(f"/usr/local/lib/{LIB}/os.py"),
    ]
    blobs = Memory()
    layer = blobs.add(tar_of(entries), OCI_LAYER)
    settings = {
        "config": {"Env": ["PATH=/ray/w0/bin:/usr/local/bin"], "Entrypoint": command},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    root = add_image(blobs, OCI, layers=[layer], settings=settings)
    write_layout(tmp_path / "l", blobs, [root])
    source = f"oci:{tmp_path / 'l'}"
    done = run("verify", source, *ONE)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert run("verify", source, "--root", FIRST, *ONE).returncode == 0
    to = f"oci:{tmp_path / 'out'}"
    made = run("image", source, "--to", to, "--allow-clean", *ONE)
    assert made.returncode == code, made.stderr
    if code:
        assert "--root" in made.stderr
        assert not (tmp_path / "out" / "blobs").exists()
