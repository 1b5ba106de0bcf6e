"""`vllm-patcher smoke IMAGE` with a real daemon, which has no GPU: refused, and nothing is left.

How the probe runs in a container is shown without the request for one. What a GPU makes of an
image's vLLM is told in docs/evidence.md.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.daemon.engine import DockerImage, local_image
from patcher.errors import DaemonFailed, Undecided, WrongPlatform
from patcher.smoke.cases import read_probe, select_cases
from patcher.smoke.container import (
    LABEL,
    Engine,
    claimed,
    engine_of,
    gpu,
    prepared,
    run_in,
    what_helps,
)
from tests.commands import run
from tests.conftest import missing, shared_libraries
from tests.docker_bases import ROOT, Entry, installed, load_base, remove_all
from tests.smoke.test_interpreter import NO_GPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import docker

PATH = "PATH=/usr/local/bin:/usr/bin"
SITE = "/srv/packages"
TMP = Entry("/tmp", mode=0o1777)  # noqa: S108
RUNS = {"Env": [PATH, f"PYTHONPATH={SITE}"]}
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


def found(daemon: docker.DockerClient, name: str) -> Engine:
    return engine_of(local_image(daemon, name), name)


def left_over(daemon: docker.DockerClient, image: str | DockerImage) -> list[object]:
    """Our containers of an image: those of other images belong to tests that run beside this."""
    name = image if isinstance(image, str) else image.id
    return list(daemon.api.containers(all=True, filters={"label": LABEL, "ancestor": name}))


def test_a_daemon_without_a_gpu(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    image = load([*python_entries, *installed(SITE)], RUNS)
    done = run("smoke", image)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"trying the vLLM in {SITE}, with /usr/local/bin/python3" in done.stderr
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
    with pytest.raises(Undecided, match=f"no Python of it is seen to import the vLLM in {ROOT}"):
        found(daemon, load(installed()))


def test_an_image_for_another_machine(daemon: docker.DockerClient) -> None:
    name = load_base(daemon, installed(), architecture="s390x")
    try:
        with pytest.raises(WrongPlatform, match="is for linux/s390x, and this daemon's machine is"):
            found(daemon, name)
    finally:
        remove_all(daemon, name)


VENV = "/opt/venv/lib/python{}.{}/site-packages".format(*sys.version_info)


def vllm_in(site: str, **changed: str) -> list[Entry]:
    """Packages in a vLLM's place, as `tests.smoke.test_interpreter` has them."""
    modules = {**NO_GPU, **{f"{name}.py": text for name, text in changed.items()}}
    return [
        *installed(site),
        *[Entry(f"{site}/{path}", text.encode()) for path, text in modules.items()],
    ]


def test_the_probe_runs_with_the_python_that_runs_the_images_vllm(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    """The vLLM is an environment's, which is not in PATH; the python3 that is has none."""
    venv = [
        Entry("/opt/venv/bin/python3", link="/usr/local/bin/python3"),
        Entry("/opt/venv/pyvenv.cfg", b"home = /usr/local/bin\n"),
        Entry("/opt/venv/bin/vllm", b"#!/opt/venv/bin/python3\n", mode=0o755),
    ]
    config = {"Env": [PATH], "User": "1000", "Entrypoint": ["/opt/venv/bin/vllm", "serve"]}
    made = load([*python_entries, *vllm_in(VENV), *venv, TMP], config)
    engine = found(daemon, made)
    assert (engine.python, engine.root) == ("/opt/venv/bin/python3", VENV)
    ran = run_in(engine, (), CONTROL, 60)
    assert ran.code == 0
    assert read_probe(ran.output)["place"] == f"{VENV}/vllm"
    assert "PyTorch sees no GPU" in read_probe(ran.output)["refused"]
    assert left_over(daemon, made) == []


def test_a_vllm_that_is_not_the_one_that_runs_is_not_tried(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> None:
    """`python3 -m` takes the one in the working directory, and a script does not."""
    config = {
        **RUNS,
        "WorkingDir": "/work",
        "Cmd": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
    }
    made = load([*python_entries, *vllm_in(SITE), *vllm_in("/work"), TMP], config)
    engine = found(daemon, made)
    assert engine.root == "/work"
    with pytest.raises(Undecided, match=rf"in /work, but a script .* imports {SITE}/vllm"):
        run_in(engine, (), CONTROL, 60)
    assert left_over(daemon, made) == []


@pytest.fixture
def hanging(
    daemon: docker.DockerClient, load: Callable[..., str], python_entries: list[Entry]
) -> Engine:
    """An image whose Python does not come back."""
    hangs = vllm_in(SITE, torch="import time\ntime.sleep(3600)\n")
    return found(daemon, load([*python_entries, *hangs, TMP], RUNS))


def test_a_container_that_hangs_is_ended(daemon: docker.DockerClient, hanging: Engine) -> None:
    ran = run_in(hanging, (), CONTROL, 3)
    assert ran.code is None
    assert ran.output == ""
    assert left_over(daemon, hanging.image) == []


def test_ctrl_c_ends_the_container_too(daemon: docker.DockerClient, hanging: Engine) -> None:
    program = (
        "from tests.smoke.test_container import *\n"
        "import docker\n"
        "engine = found(docker.from_env(), sys.argv[1])\n"
        "run_in(engine, (), CONTROL, 300)\n"
    )
    starts = daemon.events(decode=True, filters={"event": "start", "label": LABEL})
    process = subprocess.Popen(
        [sys.executable, "-c", program, hanging.image.id], stderr=subprocess.PIPE, text=True
    )
    try:
        for event in starts:
            if event["from"] == hanging.image.id:
                break
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=60)
    finally:
        process.kill()
        starts.close()
    assert talk.splitlines()[-1] == "KeyboardInterrupt"
    assert left_over(daemon, hanging.image) == []


def test_one_gpu_is_asked_for_as_docker_run_does(
    daemon: docker.DockerClient, hanging: Engine
) -> None:
    program = shutil.which("docker")
    if program is None:
        missing("the docker command is not installed")
    called = [program, "create", "--gpus", "1", hanging.image.id, "-"]
    theirs = subprocess.run(called, capture_output=True, text=True, check=True).stdout.strip()
    try:
        with prepared(hanging, gpu(), CONTROL) as ours:
            asked = [devices_of(daemon, name) for name in (ours, theirs)]
    finally:
        daemon.api.remove_container(theirs)
    assert asked[0] == asked[1]
    assert asked[0][0]["Capabilities"] == [["gpu"]]


def devices_of(daemon: docker.DockerClient, container: str) -> list[dict[str, object]]:
    """What a container asks for, without what is empty."""
    asked = daemon.api.inspect_container(container)["HostConfig"]["DeviceRequests"]
    return [{key: value for key, value in each.items() if value} for each in asked]


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-ctk"),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", "cdi generate"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0", "cdi generate"),
        (
            "OCI runtime create failed: error running hook #0: exit status 1, stderr: "
            "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
            "nvidia-ctk",
        ),
        (
            "OCI runtime create failed: error running hook #0: exit status 1, stderr: "
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0: unknown",
            "Update the GPU's driver",
        ),
    ],
)
def test_a_refused_gpu_is_known_by_what_the_daemon_says(said: str, helps: str) -> None:
    assert helps in (what_helps(said) or "")


def test_another_fault_is_the_daemons_own_whatever_the_image_is_called(
    daemon: docker.DockerClient, load: Callable[..., str]
) -> None:
    broken = [*installed(SITE), Entry("/usr/local/bin/python3", b"")]
    tag = uuid.uuid4().hex
    name = f"nvidia-container/cdi:{tag}"
    daemon.api.tag(load(broken, RUNS), "nvidia-container/cdi", tag)
    with pytest.raises(
        DaemonFailed, match=f"^{name} cannot be tried: .*permission denied"
    ) as caught:
        run_in(found(daemon, name), (), CONTROL, 60)
    assert "nvidia-ctk" not in caught.value.next_step


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


def test_an_image_whose_patches_claim_no_case_is_told(
    load: Callable[..., str], python_entries: list[Entry]
) -> None:
    config = {**RUNS, "Labels": {"dev.vllm-patcher.patches": ""}}
    image = load([*python_entries, *installed(SITE)], config)
    assert "no case is claimed by this image's patches" in run("smoke", image).stderr


def test_an_unpatched_image_is_tried_for_all(
    daemon: docker.DockerClient, load: Callable[..., str]
) -> None:
    image = local_image(daemon, load(installed()))
    assert "kv-b-proj-dtype" in [patch.name for patch in claimed(image)]
