"""vLLM's PR 44692 mends a file that was moved between 0.22.1 and 0.23.0: from `new` to an image."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from patcher.errors import FileAbsent
from patcher.jobs.base import judge_all
from patcher.oci.installation import ImageFile, Installation
from patcher.oci.layout import open_image
from patcher.oci.model import OCI_LAYER
from patcher.rules.backport.rule import Backport
from patcher.rules.patch import Patch
from tests.auth_servers import tunnels
from tests.certificates import make_certificate
from tests.commands import run
from tests.memory import OCI, Memory, add_image
from tests.oci.rootfs.test_running import LIB, Entry, package, tar_of, venv, write_layout
from tests.patches.wheels import source_of
from tests.test_schemas import check
from tests.wheelhouse import Site, serving, wheel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEW, OLD = "vllm/model_executor/kernels/mhc/tilelang_kernels.py", "vllm/_tilelang_ops.py"
NAME = "mhc_pre_big_fuse_with_norm_tilelang"
SITE = f"/opt/venv/lib/{LIB}/site-packages"
TAG = LIB.removeprefix("python").replace(".", "")
PYC = f"{SITE}/vllm/__pycache__/_tilelang_ops.cpython-{TAG}.pyc"
PATHS = {"0.22.1": OLD, "0.23.0": NEW}


def write_base(folder: Path, source: str) -> None:
    """A layout with a vLLM 0.22.1, which has the file in its older place, compiled; and a tree."""
    blobs = Memory()
    entries = [
        *venv(),
        *(replace(each, data=str(each.data).replace("0.23.0", "0.22.1")) for each in package(SITE)),
        Entry(f"{SITE}/{OLD}", source),
        Entry(PYC, "compiled"),
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
    write_layout(folder / "l", blobs, [{**root, "annotations": named}])
    for entry in entries:
        if entry.path.startswith(f"{SITE}/vllm") and entry.data is not None:
            path = folder / "tree" / entry.path.removeprefix(f"{SITE}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data.encode("latin-1"))


def test_a_fix_of_a_moved_file_is_taken_to_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release_file: Callable[..., bytes]
) -> None:
    files = {version: release_file(version, path) for version, path in PATHS.items()}
    certificate = make_certificate(tmp_path)
    site = Site()
    site.put_json(
        [
            site.put_bytes(version, wheel(version, {"vllm/x.py": b"x = 1\n", path: files[version]}))
            for version, path in PATHS.items()
        ]
    )
    write_base(tmp_path, files["0.22.1"].decode("latin-1"))
    draft = ("--before", "0.22.1", "--after", "0.23.0", "--function", f"{NEW}:{NAME}")
    trusting = ("--ca-file", certificate.with_name("ca.pem"))
    mine = ("--patch", "own/mhc.py", *trusting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (
        serving(site, certificate) as server,
        tunnels({"pypi.org:443": urlsplit(server).netloc}),
    ):
        done = run("new", "mhc", *draft, "-o", "own", *trusting, "--json", cwd=tmp_path)
        said = check(done.stdout, done.returncode)
        assert said["affected"] == [">=0.22.1,<0.23.0"], done.stderr
        [move] = said["moved"]
        assert (move["path"], move["other"], move["release"]) == (NEW, OLD, "0.22.1")
        assert (
            f"{NEW}: vLLM 0.22.1 is taken to have it as {OLD}, which holds 99 % of" in done.stderr
        )
        # A diff fits the release that has the fix; where the other one has the file is looked up.
        fixed = files["0.23.0"].decode()
        lacking = fixed.replace(source_of(files["0.23.0"], NAME), source_of(files["0.22.1"], NAME))
        one, other = (text.splitlines(keepends=True) for text in (lacking, fixed))
        diff = difflib.unified_diff(one, other, f"a/{NEW}", f"b/{NEW}")
        (tmp_path / "pr.diff").write_text("".join(diff))
        words = ("--diff", "pr.diff", "--from", "0.22.1", *trusting, "--json")
        done = run("new", "too", *words, cwd=tmp_path)
        again = check(done.stdout, done.returncode)
        for each in ("affected", "functions", "moved"):
            assert again[each] == said[each], done.stderr
        form = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100"]
        form += [str(tmp_path / name) for name in ("own/mhc.py", "too.py")]
        assert subprocess.run(form, capture_output=True, check=False).returncode == 0
        told = run("landed", *mine, "--json", cwd=tmp_path)
        bands = json.loads(told.stdout)["patches"][0]["bands"]
        assert [each["status"] for each in bands] == ["needed", "clean"], told.stdout
        asked = len(site.asked)
        # What the releases have, and what they have not, is known by now.
        shown = run("diff", "tree", *mine, cwd=tmp_path)
        assert (shown.returncode, len(site.asked)) == (0, asked), shown.stderr
        assert f"+++ b/{OLD}" in shown.stdout
        assert NEW not in shown.stdout
        made = run("image", "oci:l:base", *mine, "--to", "oci:out", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        assert re.findall(r"^  file +(.*)", made.stdout, re.MULTILINE) == [f"{SITE}/{OLD}"]
        [tag] = re.findall(r"^tag +(.*-patched)$", made.stdout, re.MULTILINE)
        image = open_image(tmp_path / "out", tag.rpartition(":")[2], None)
        found = image.installation([OLD, NEW])
        assert found.files.keys() == {OLD}
        assert source_of(found.files[OLD].data, NAME) == source_of(files["0.23.0"], NAME)
        assert found.bytecode == {OLD: ()}
        assert image.labels["dev.vllm-patcher.patch.mhc.target"] == OLD
        assert run("verify", tag, *mine, cwd=tmp_path).returncode == 0
        # What it says to do next knows the folder of the patch.
        _, *step = shlex.split(made.stderr.splitlines()[-1])
        assert step[:3] == ["verify", "--proof", tag]
        assert step[-2:] == ["--patches", "own"]
        proven = run(*step, cwd=tmp_path)
        assert proven.returncode == 0, proven.stderr
        lost = run(*step[:-2], cwd=tmp_path).stderr
        assert "mhc: this program does not have the patch" in lost
        # A base that has both: nobody knows which is run.
        (tmp_path / "tree" / NEW).parent.mkdir(parents=True)
        (tmp_path / "tree" / NEW).write_bytes(files["0.23.0"])
        both = run("verify", "tree", *mine, cwd=tmp_path)
        assert both.returncode == 3
        assert f"{NEW} and {OLD} are both there: which is the fix's file?" in both.stderr


@pytest.mark.parametrize(
    ("there", "lacks"),
    [
        ({OLD: b"x = 1\n"}, f"{OLD}: there is no f"),
        ({}, f"it has no {NEW}"),
    ],
)
def test_an_image_without_the_code_is_told_which_file_lacks_it(
    there: dict[str, bytes], lacks: str
) -> None:
    diff = f"--- a/{NEW}\n+++ b/{NEW}\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n"
    rule = Backport(diff=diff, moved=((NEW, OLD),))
    patch = Patch("mine", 1, "t", "w", (NEW, OLD), rule, (), (">=0.22",))
    files = {
        target: ImageFile(f"{SITE}/{target}", data, 0, 0, 0o644, 0)
        for target, data in there.items()
    }
    found = Installation(SITE, "0.22.1", None, files, dict.fromkeys(files, ()), ())
    with pytest.raises(FileAbsent) as raised:
        judge_all([patch], found)
    assert raised.value.problem.startswith(f"mine cannot judge vLLM 0.22.1 in {SITE}: {lacks}")
