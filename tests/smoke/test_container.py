"""`vllm-patcher smoke IMAGE` with a real daemon, which has no GPU: refused, and nothing is left.

How the probe runs in a container is shown without the request for one. What a GPU makes of an
image's vLLM is told in docs/evidence.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.daemon.engine import DockerImage, local_image
from patcher.errors import Undecided
from patcher.smoke.cases import select_cases, told
from patcher.smoke.container import LABEL, claimed, gpu, run_in
from tests.commands import run
from tests.conftest import shared_libraries
from tests.docker_bases import Entry, installed, load_base, remove_all
from tests.smoke.test_interpreter import NO_GPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import docker

PATH = "PATH=/usr/local/bin:/usr/bin"
SITE = "/srv/packages"
TMP = Entry("/tmp", mode=0o1777)  # noqa: S108
[CONTROL] = select_cases(["bf16"])

# What the probe imports.
_LIST = (
    "import __future__, functools, json, os, pathlib, random, sys, tempfile, time\n"
    "import traceback, typing, zlib\n"
    "print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', 0)]))"
)


@pytest.fixture
def load(daemon: docker.DockerClient) -> Iterator[Callable[..., str]]:
    """Loads images, and removes them."""
    loaded: list[str] = []

    def make(entries: list[Entry], config: Mapping[str, object] | None = None) -> str:
        loaded.append(load_base(daemon, entries, config or {"Env": [PATH]}))
        return loaded[-1]

    yield make
    for image in loaded:
        remove_all(daemon, image)


@pytest.fixture(scope="session")
def python_entries(python_rootfs: Path) -> list[Entry]:
    """A Python for images with all that the probe imports."""
    interpreter = getattr(sys, "_base_executable", sys.executable)
    listed = subprocess.run(
        [interpreter, "-I", "-S", "-c", _LIST], capture_output=True, text=True, check=True
    )
    stdlib = Path(json.__file__).parents[1]
    home = f"/usr/local/lib/{stdlib.name}"
    there = {f"/{one.relative_to(python_rootfs)}": one for one in python_rootfs.rglob("*.*")}
    there |= {"/usr/local/bin/python3": python_rootfs / "usr/local/bin/python3"}
    for name in map(Path, json.loads(listed.stdout)):
        there[f"{home}/{name.relative_to(stdlib)}"] = name
        if name.suffix == ".so":
            there |= {library: Path(library) for library in shared_libraries(name)}
    files = {path: file for path, file in there.items() if file.is_file()}
    return [Entry(path, file.read_bytes(), mode=0o755) for path, file in files.items()]


def left_over(daemon: docker.DockerClient, image: str | DockerImage) -> list[object]:
    """Our containers of an image: those of other images belong to tests that run beside this."""
    name = image if isinstance(image, str) else image.id
    return list(daemon.api.containers(all=True, filters={"label": LABEL, "ancestor": name}))


def test_a_daemon_without_a_gpu(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    image = load([*python_entries, *installed()])
    done = run("smoke", image)
    assert (done.returncode, done.stdout) == (3, "")
    assert "could not select device driver" in done.stderr
    assert "nvidia-ctk" in done.stderr
    assert left_over(daemon, image) == []


def test_an_image_without_vllm(daemon: docker.DockerClient, load: Callable[..., str]) -> None:
    image = load([Entry("/etc/os-release", b"")])
    done = run("smoke", image)
    assert done.returncode == 3
    assert "the image holds no vLLM" in done.stderr
    assert left_over(daemon, image) == []


def test_an_image_that_the_daemon_does_not_have(daemon: docker.DockerClient) -> None:
    done = run("smoke", "not/there:1")
    assert done.returncode == 3
    assert "has no image" in done.stderr


def test_an_image_without_python(daemon: docker.DockerClient, load: Callable[..., str]) -> None:
    image = local_image(daemon, load(installed()))
    with pytest.raises(Undecided, match="there is no python3 in its PATH"):
        run_in(image, (), CONTROL, 60)
    assert left_over(daemon, image) == []


def test_the_probe_runs_with_the_images_python_and_is_heard(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    fake = [Entry(f"{SITE}/{name}", text.encode()) for name, text in NO_GPU.items()]
    config = {"Env": [PATH, f"PYTHONPATH={SITE}"], "User": "1000", "Entrypoint": ["/none"]}
    image = local_image(daemon, load([*python_entries, *fake, TMP], config))
    ran = run_in(image, (), CONTROL, 60)
    assert ran.code == 0
    assert told(ran.output)["place"] == f"{SITE}/vllm"
    assert "PyTorch sees no GPU" in told(ran.output)["refused"]
    assert left_over(daemon, image) == []


def test_a_container_that_hangs_is_ended(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    hangs = Entry(f"{SITE}/torch.py", b"import time\ntime.sleep(3600)\n")
    config = {"Env": [PATH, f"PYTHONPATH={SITE}"]}
    image = local_image(daemon, load([*python_entries, hangs, TMP], config))
    ran = run_in(image, (), CONTROL, 3)
    assert ran.code is None
    assert ran.output == ""
    assert left_over(daemon, image) == []


def test_one_gpu_is_asked_for() -> None:
    [request] = gpu()
    assert (request["Count"], request["Capabilities"]) == (1, [["gpu"]])


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ({"dev.vllm-patcher.patches": "kv-b-proj-dtype@1,gone@3"}, ["kv-b-proj-dtype"]),
        ({"dev.vllm-patcher.patches": ""}, []),
    ],
)
def test_a_patched_image_is_tried_for_what_it_claims(
    daemon: docker.DockerClient,
    load: Callable[..., str],
    label: Mapping[str, str],
    names: list[str],
) -> None:
    image = local_image(daemon, load(installed(), {"Env": [PATH], "Labels": label}))
    assert [patch.name for patch in claimed(image)] == names


def test_an_image_whose_patches_claim_no_case_is_told(load: Callable[..., str]) -> None:
    label = {"dev.vllm-patcher.patches": ""}
    image = load(installed(), {"Env": [PATH], "Labels": label})
    assert "no case is claimed by this image's patches" in run("smoke", image).stderr


def test_an_unpatched_image_is_tried_for_all(
    daemon: docker.DockerClient, load: Callable[..., str]
) -> None:
    image = local_image(daemon, load(installed()))
    assert "kv-b-proj-dtype" in [patch.name for patch in claimed(image)]
