"""Small images for the tests: a vLLM of a few lines, and a root that can start Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from patcher.images import Change, ImageFile, Installation
from tests.conftest import missing

# What the tests' containers run, and what Python itself loads at its start.
_MODULES = "encodings, importlib.util, json, py_compile, runpy, site, stat"

_LIST_FILES = (
    f"import {_MODULES}, sys, json\n"
    "names = [getattr(module, '__file__', None) for module in sys.modules.values()]\n"
    "print(json.dumps([name for name in names if name]))"
)


def _copy(source: Path, root: Path, destination: str) -> None:
    target = root / destination.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _shared_libraries(binary: Path) -> list[str]:
    """The absolute paths that the loader takes for a binary, the loader itself included."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", listed)


@pytest.fixture(scope="session")
def python_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory (under 30 MB) that, as an image's root, runs `/usr/local/bin/python3`.

    It is this interpreter without site-packages: point PYTHONPATH at what a test adds. Copy it
    (`shutil.copytree`) or add to it in a layer; never write into it.
    """
    if shutil.which("ldd") is None:
        missing("ldd is not here: no Linux base image can be made of this interpreter")
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    root = tmp_path_factory.mktemp("python-rootfs")
    listed = subprocess.run(
        [interpreter, "-I", "-S", "-c", _LIST_FILES], capture_output=True, text=True, check=True
    )
    stdlib = Path(json.__file__).parents[1]
    home = f"/usr/local/lib/{stdlib.name}"
    for name in map(Path, json.loads(listed.stdout)):
        _copy(name, root, f"{home}/{name.relative_to(stdlib)}")
    (root / home.lstrip("/") / "lib-dynload").mkdir(exist_ok=True)
    _copy(interpreter, root, "/usr/local/bin/python3")
    for binary in [interpreter, *root.glob(f".{home}/lib-dynload/*.so")]:
        for library in _shared_libraries(binary):
            _copy(Path(library), root, library)
    return root


SITE = "/usr/local/lib/python3.12/dist-packages"
TARGET = "vllm/model_executor/layers/attention/probe.py"
CACHE = f"{SITE}/vllm/model_executor/layers/attention/__pycache__"


def installed_file(path: str, data: bytes, *, mode: int = 0o644, owner: int = 0) -> ImageFile:
    """A file under SITE, with a time that is nobody's clock."""
    return ImageFile(f"{SITE}/{path}", data, uid=owner, gid=owner, mode=mode, mtime=1_700_000_000)


def vllm_files(source: bytes = b"ANSWER = 'old'\n") -> list[ImageFile]:
    """The least vLLM that can be found, and imported."""
    packages = ["vllm", *(f"vllm/{path}" for path in ("model_executor", "model_executor/layers"))]
    packages.append("vllm/model_executor/layers/attention")
    return [
        *(installed_file(f"{package}/__init__.py", b"") for package in packages),
        installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n"),
        installed_file(TARGET, source, mode=0o640, owner=1234),
    ]


def change_of(found: Installation, data: bytes = b"ANSWER = 'new'\n") -> Change:
    """New contents for TARGET, as the main job makes them of an installation."""
    file = replace(found.files[TARGET], data=data)
    labels = {
        "dev.vllm-patcher.vllm": found.version,
        "org.opencontainers.image.version": "0.23.0-patched",
        "org.opencontainers.image.base.name": "docker.io/vllm/vllm-openai",
        "org.opencontainers.image.base.digest": f"sha256:{'0' * 64}",
    }
    return Change((file,), found.bytecode[TARGET], found.directories, labels)
