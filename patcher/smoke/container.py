"""The probe in a container of an image, on this daemon's GPU; the container is removed, always."""

from __future__ import annotations

import io
import math
import re
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname
from typing import TYPE_CHECKING, Any

from patcher.daemon.client import asking, undisturbed
from patcher.errors import DaemonFailed, Undecided, WrongPlatform
from patcher.jobs.naming import PATCHES_LABEL
from patcher.rules.catalogue import catalogue
from patcher.rules.patch import Patch
from patcher.smoke import probe
from patcher.smoke.cases import Case, Ran, read_probe

if TYPE_CHECKING:
    from docker import DockerClient

    from patcher.daemon.engine import DockerImage
    from patcher.oci.installation import Installation

LABEL = "dev.vllm-patcher.smoke"
"""Marks the containers: one that outlives a kill can be recognised."""

_FOLDER = "vllm-patcher-probe"
_MOST_BYTES = 8 << 20

_NEXT = "See what the daemon says, and try again."

# What daemons say that were asked for a GPU and cannot give one: Docker before 29; Docker 29, which
# asks CDI; NVIDIA's hook.
_NO_GPU = re.compile(r"could not select device driver|CDI|nvidia-container")
_SET_UP = (
    "Run it where Docker hands out GPUs (NVIDIA Container Toolkit: `nvidia-ctk runtime configure "
    "--runtime=docker`; Docker 29 also `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`). "
    "A check without one would prove nothing."
)
_OLD_DRIVER = "unsatisfied condition"
_UPDATE = "Update the GPU's driver on this machine, or take an image made with an older CUDA."


def claimed(image: DockerImage) -> tuple[Patch, ...]:
    """The patches that an image's labels name; the whole catalogue for one that was not patched."""
    stated = image.labels.get(PATCHES_LABEL)
    if stated is None:
        return catalogue()
    names = {each.partition("@")[0] for each in stated.split(",")}
    return tuple(patch for patch in catalogue() if patch.name in names)


def gpu() -> Sequence[Any]:
    """The request for one GPU, as `docker run --gpus 1` makes it."""
    from docker.types import DeviceRequest

    return (DeviceRequest(count=1, capabilities=[["gpu"]]),)


@dataclass(frozen=True, slots=True)
class Engine:
    """The vLLM of an image that is tried: the folder that holds it, and the Python that imports it.

    `name` is what the image was asked for by, `found` all that is known of its vLLMs.
    """

    name: str
    image: DockerImage
    python: str
    root: str
    found: Installation


def engine_of(image: DockerImage, name: str) -> Engine:
    """The vLLM that an image runs; `name` is what the image was asked for by.

    Raises `FileAbsent` where there is none, `Undecided` where no Python is seen to import it,
    `WrongPlatform` for another machine's image, and as `DockerImage.installation` does.
    """
    with asking("the daemon cannot be asked for its machine", next_step=_NEXT):
        machine = image.client.api.version().get("Arch")
    if image.platform.architecture != machine:
        raise WrongPlatform(
            f"{name} is for {image.platform}, and this daemon's machine is {machine}",
            next_step=f"Try it on {image.platform}, or take the image for {machine}.",
        )
    found = image.installation([])
    [copy, *_] = found.copies
    if copy.python is None:
        raise Undecided(
            f"{name}: no Python of it is seen to import the vLLM in {copy.root}",
            next_step="Start the image's vLLM as you do, and try it by its URL.",
        )
    return Engine(name, image, copy.python, copy.root, found)


def run_in(engine: Engine, devices: Sequence[Any], case: Case, limit: float) -> Ran:
    """Run the probe with the Python that runs the image's vLLM, without a network.

    Raises `Undecided` where the daemon has no GPU, or that Python imports another vLLM in the
    container; `DaemonFailed`.
    """
    client, doing = engine.image.client, f"{engine.name} cannot be tried"
    with prepared(engine, devices, case) as name:
        _start(client, name, doing)
        code = _wait(client, name, limit)
        with asking(doing, next_step=_NEXT):
            ran = Ran(_output(client, name), code)
    place = read_probe(ran.output).get("place")
    if place is not None and dirname(place) != engine.root:
        raise Undecided(
            f"{engine.name} runs the vLLM in {engine.root}, but a script of "
            f"{engine.python} imports {place}",
            next_step="Start the image's vLLM as you do, and try it by its URL.",
        )
    return ran


@contextmanager
def prepared(engine: Engine, devices: Sequence[Any], case: Case) -> Iterator[str]:
    """A container, by its name, that will run the probe. It is removed, whatever happens inside.

    Raises `DaemonFailed`.
    """
    from docker.errors import NotFound

    api, name = engine.image.client.api, f"vllm-patcher-smoke-{uuid.uuid4().hex}"
    doing = f"{engine.name} cannot be tried"
    try:
        with asking(doing, next_step=_NEXT), undisturbed():
            api.create_container(
                engine.image.id,
                entrypoint=[engine.python],
                command=[f"/{_FOLDER}/probe.py", case.name],
                name=name,
                labels={LABEL: "true"},
                platform=str(engine.image.platform),
                host_config=api.create_host_config(
                    device_requests=list(devices), network_mode="none"
                ),
            )
            api.put_archive(name, "/", _script())
        yield name
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
        # The daemon's own text: `problem` may be cut, and holds the image's name.
        helps = what_helps(getattr(error.__cause__, "explanation", None) or "")
        if helps is None:
            raise
        raise Undecided(error.problem, next_step=helps) from error


def what_helps(said: str) -> str | None:
    """The next step where a daemon says that it has no GPU to give; None if it says another thing.

    The texts are Docker's and the NVIDIA Container Toolkit's.
    """
    if _OLD_DRIVER in said:
        return _UPDATE
    return _SET_UP if _NO_GPU.search(said) else None


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
