"""The probe in a container of an image, on this daemon's GPU; the container is removed, always."""

from __future__ import annotations

import io
import math
import tarfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.daemon.client import asking, undisturbed
from patcher.errors import DaemonFailed, Undecided
from patcher.rules.catalogue import catalogue
from patcher.rules.patch import Patch
from patcher.smoke import probe
from patcher.smoke.cases import Case, Ran

if TYPE_CHECKING:
    from docker import DockerClient

    from patcher.daemon.engine import DockerImage

LABEL = "dev.vllm-patcher.smoke"
"""Marks the containers: one that outlives a kill can be recognised."""

# Set by `image` on what it bakes: `name@version,...`.
_PATCHES = "dev.vllm-patcher.patches"

_FOLDER = "vllm-patcher-probe"
_MOST_BYTES = 8 << 20

_NEXT = "See what the daemon says, and try again."
_NO_GPU = (
    "Run it where Docker hands out GPUs (NVIDIA Container Toolkit: `nvidia-ctk runtime configure "
    "--runtime=docker`). A check without one would prove nothing."
)


def claimed(image: DockerImage) -> tuple[Patch, ...]:
    """The patches that an image's labels name; the whole catalogue for one that was not patched."""
    stated = image.labels.get(_PATCHES)
    if stated is None:
        return catalogue()
    names = {each.partition("@")[0] for each in stated.split(",")}
    return tuple(patch for patch in catalogue() if patch.name in names)


def gpu() -> Sequence[Any]:
    """The request for one GPU, as `docker run --gpus 1` makes it."""
    from docker.types import DeviceRequest

    return (DeviceRequest(count=1, capabilities=[["gpu"]]),)


def run_in(image: DockerImage, devices: Sequence[Any], case: Case, limit: float) -> Ran:
    """Run the probe with the image's own Python, without a network.

    Raises `Undecided` where the daemon has no GPU or the image no Python, `DaemonFailed`.
    """
    from docker.errors import NotFound

    api, name = image.client.api, f"vllm-patcher-smoke-{uuid.uuid4().hex}"
    doing = f"{image.reference} cannot be tried"
    try:
        with asking(doing, next_step=_NEXT), undisturbed():
            api.create_container(
                image.id,
                entrypoint=["python3"],
                command=[f"/{_FOLDER}/probe.py", case.name],
                name=name,
                labels={LABEL: "true"},
                platform=str(image.platform),
                host_config=api.create_host_config(
                    device_requests=list(devices), network_mode="none"
                ),
            )
            api.put_archive(name, "/", _script())
        _start(image.client, name, doing)
        code = _wait(image.client, name, limit)
        with asking(doing, next_step=_NEXT):
            return Ran(_output(image.client, name), code)
    finally:
        with asking(doing, next_step=_NEXT), undisturbed(), suppress(NotFound):
            api.remove_container(name, v=True, force=True)


def _script() -> bytes:
    """The probe in a folder of its own, as a tar."""
    data = Path(probe.__file__).read_bytes()
    folder, file = tarfile.TarInfo(_FOLDER), tarfile.TarInfo(f"{_FOLDER}/probe.py")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    file.size, file.mode = len(data), 0o644
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(folder)
        archive.addfile(file, io.BytesIO(data))
    return buffer.getvalue()


def _start(client: DockerClient, name: str, doing: str) -> None:
    try:
        with asking(doing, next_step=_NEXT):
            client.api.start(name)
    except DaemonFailed as error:
        if "device driver" in error.problem or "nvidia" in error.problem:
            raise Undecided(error.problem, next_step=_NO_GPU) from error
        if "python3" in error.problem:
            raise Undecided(
                f"{doing}: there is no python3 in its PATH",
                next_step="Take an image that runs vLLM with a Python of its PATH.",
            ) from error
        raise


def _wait(client: DockerClient, name: str, limit: float) -> int | None:
    """The exit code; None where time ran out."""
    from requests import ConnectionError as Broken
    from requests import Timeout

    with asking("the container cannot be waited for", next_step=_NEXT):
        try:
            return int(client.api.wait(name, timeout=math.ceil(limit))["StatusCode"])
        except Timeout:
            return None
        except Broken as error:
            # docker-py: urllib3's ReadTimeoutError comes as one of these.
            if "timed out" in str(error):
                return None
            raise


def _output(client: DockerClient, name: str) -> str:
    """What it printed; of very much, the beginning."""
    kept = bytearray()
    lines = client.api.logs(name, stdout=True, stderr=True, stream=True, follow=False)
    for piece in lines:
        kept += piece
        if len(kept) > _MOST_BYTES:
            break
    return kept.decode(errors="replace")
