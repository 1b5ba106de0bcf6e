"""The wheel that is installed: patches, templates and pins are in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import patcher
from tests.conftest import missing

CHECKOUT = Path(patcher.__file__).parent.parent


def test_an_installed_wheel_has_its_patches_pins_and_templates(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    built = subprocess.run([*build, str(CHECKOUT)], capture_output=True, text=True, check=False)
    if built.returncode:
        missing(f"the wheel cannot be built: {built.stderr[-300:]}")
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert not (tmp_path / "site" / "patches").exists()

    def installed(*arguments: str) -> dict[str, object]:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "patcher", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )
        assert ran.stdout, ran.stderr
        document: dict[str, object] = json.loads(ran.stdout)
        return document

    (tmp_path / "a.py").write_text("x = kv_b_proj.weight.dtype\n")
    assert installed("verify", "a.py")["verdicts"]
    assert len(installed("lock", "list")["images"]) == 47  # type: ignore[arg-type]
    template = tmp_path / "site" / "patcher" / "_data" / "dockerfiles" / "patched.Dockerfile.j2"
    assert template.is_file()
