"""A vLLM of a few lines, as it is found in an image."""

from __future__ import annotations

from dataclasses import replace

from patcher.oci.installation import ImageFile, Installation
from patcher.oci.layer import LayerChange

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


def change_of(found: Installation, data: bytes = b"ANSWER = 'new'\n") -> LayerChange:
    """New contents for TARGET, as the main job makes them of an installation."""
    file = replace(found.files[TARGET], data=data)
    labels = {
        "dev.vllm-patcher.vllm": found.version,
        "org.opencontainers.image.version": "0.23.0-patched",
        "org.opencontainers.image.base.name": "docker.io/vllm/vllm-openai",
        "org.opencontainers.image.base.digest": f"sha256:{'0' * 64}",
    }
    return LayerChange((file,), found.bytecode[TARGET], found.directories, labels)
