"""The docker engine against a real daemon and a real registry."""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import py_compile
import signal
import socket
import tarfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from patcher.daemon import engine
from patcher.daemon.build import build
from patcher.daemon.client import connect
from patcher.daemon.dockerfile import context
from patcher.daemon.files import READER_LABEL, opened
from patcher.errors import (
    BadReference,
    BrokenImage,
    DaemonFailed,
    FileAbsent,
    NoDaemon,
    WrongPlatform,
)
from patcher.oci.installation import ImageDirectory, ImageFile
from patcher.oci.layer import LayerChange
from patcher.oci.reference import Platform, parse_platform
from patcher.progress import Progress
from tests.docker_bases import (
    ROOT,
    SOURCE,
    TARGET,
    Entry,
    containers,
    descendants,
    files_of,
    installed,
    load_base,
    push_index,
    remove_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

AMD64, ARM64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
PATCHED = b"GUARDED = True\n"
STALE = f"{ROOT}/vllm/attention/__pycache__/mla.cpython-312.pyc"
PATH = "PATH=/usr/local/bin:/usr/bin"
CONFIG = {
    "Entrypoint": ["python3"],
    "Cmd": ["-m", "vllm"],
    "User": "1000:1001",
    "WorkingDir": "/usr",
    "ExposedPorts": {"8000/tcp": {}},
    "Volumes": {"/srv/models": {}},
    "Env": [PATH, "A=b"],
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Shell": ["/bin/sh", "-ec"],
    "Labels": {"inherited": "yes", "overridden": "no"},
}


@pytest.fixture
def base(daemon: docker.DockerClient) -> Iterator[Callable[..., engine.DockerImage]]:
    """`base(entries, config, architecture)`; all of it is gone after the test."""
    made: list[str] = []

    def make(
        entries: list[Entry], config: Any = None, architecture: str = "amd64"
    ) -> engine.DockerImage:
        made.append(load_base(daemon, entries, config, architecture))
        return engine.local_image(daemon, made[-1])

    yield make
    for image in made:
        remove_all(daemon, image)


@pytest.fixture
def vllm(base: Callable[..., engine.DockerImage]) -> engine.DockerImage:
    """A base image with vLLM, stale bytecode, and everything set that a result must keep."""
    return base([*installed(), Entry(STALE, b"stale"), Entry("/srv/models")], CONFIG)


def change(image: engine.DockerImage, **labels: str) -> LayerChange:
    """What a build does to an image: the target patched, its bytecode covered."""
    found = image.installation([TARGET])
    old = found.files[TARGET]
    new = ImageFile(old.path, PATCHED, old.uid, old.gid, old.mode, old.mtime)
    return LayerChange((new,), found.bytecode[TARGET], found.directories, labels)


def nothing_left(image: engine.DockerImage) -> bool:
    return not descendants(image.client, image.id) and not containers(image.client, image.id)


def press_ctrl_c() -> None:
    """The signal that a terminal sends, to the thread that gets it."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


# Finding and reading


def test_an_installation_is_read_whole(vllm: engine.DockerImage) -> None:
    found = vllm.installation([TARGET, "vllm/not_there.py"])
    assert (found.root, found.version, found.commit) == (ROOT, "0.23.0", "0fc695fc6")
    path = f"{ROOT}/{TARGET}"
    assert found.files == {TARGET: ImageFile(path, SOURCE, 1000, 1001, 0o640, 1_700_000_000)}
    assert found.bytecode == {TARGET: (STALE,)}
    assert nothing_left(vllm)


def test_the_directories_above_come_outermost_first_with_their_owners(
    base: Callable[..., engine.DockerImage],
) -> None:
    package = Entry(f"{ROOT}/vllm", uid=5, gid=6, mode=0o2750)
    found = base([package, *installed()]).installation([TARGET])
    paths = [directory.path for directory in found.directories]
    assert paths == [
        "/usr",
        "/usr/local",
        "/usr/local/lib",
        "/usr/local/lib/python3.12",
        ROOT,
        f"{ROOT}/vllm",
        f"{ROOT}/vllm/attention",
    ]
    stated = found.directories[paths.index(f"{ROOT}/vllm")]
    assert stated == ImageDirectory(f"{ROOT}/vllm", 5, 6, 0o2750, stated.mtime)


@pytest.mark.parametrize(
    ("root", "variable"),
    [
        ("/no/path/leads/here/lib/python3.12/site-packages", PATH),
        ("/usr/local/lib/python3.12/dist-packages", PATH),
        ("/usr/local/lib/python3.9/site-packages", PATH),
        ("/usr/lib/python3/dist-packages", PATH),
        ("/usr/lib64/python3.19/site-packages", PATH),
        ("/opt/venv/lib/python3.12/site-packages", PATH),
        ("/srv/venv/lib/python3.11/site-packages", "VIRTUAL_ENV=/srv/venv"),
        ("/srv/conda/lib/python3.11/site-packages", "CONDA_PREFIX=/srv/conda"),
        ("/srv/any/lib/python3.11/site-packages", "PATH=/srv/any/bin/:/usr/bin"),
        ("/srv/packages", "PYTHONPATH=relative::/srv/packages/"),
    ],
)
def test_vllm_is_found_wherever_its_python_would_look(
    base: Callable[..., engine.DockerImage], root: str, variable: str
) -> None:
    found = base(installed(root), {"Env": [variable]}).installation([TARGET])
    assert found.root == root
    assert found.files[TARGET].path == f"{root}/{TARGET}"


@pytest.mark.parametrize(
    "links",
    [
        [Entry("/usr/local/lib64", link="lib")],
        [Entry("/usr/lib", link="local/lib")],
        [Entry("/opt/venv", link="/usr/local")],
        [Entry("/usr/lib/python3/dist-packages", link="/usr/local/lib/python3.12/dist-packages")],
        [Entry("/usr/lib/python3/dist-packages/vllm", link=f"{ROOT}/vllm")],
        [Entry("/usr/local/lib/python3.13", link="python3.12")],
        [Entry("/opt/venv", link="venv"), Entry("/usr/lib64", link="/nowhere")],
    ],
)
def test_links_to_one_vllm_do_not_make_it_two(
    base: Callable[..., engine.DockerImage], links: list[Entry]
) -> None:
    image = base([*installed(), *links])
    assert image.installation([TARGET]).files[TARGET].path == f"{ROOT}/{TARGET}"


def test_paths_are_real_where_every_part_is_a_link(
    base: Callable[..., engine.DockerImage],
) -> None:
    image = base(
        [
            *installed("/data/packages"),
            Entry("/data/cache/mla.cpython-312.pyc", b"stale"),
            Entry("/data/packages/vllm/attention/__pycache__", link="../../../cache"),
            Entry("/data/packages/vllm/linked.py", link="/data/store/1"),
            Entry("/data/store/1", SOURCE),
            Entry(ROOT, link="/var/packages"),
            Entry("/var", link="data"),
        ]
    )
    found = image.installation([TARGET, "vllm/linked.py"])
    assert found.root == "/data/packages"
    # The link is cut, and what others share stays as it is.
    assert found.files["vllm/linked.py"].path == "/data/packages/vllm/linked.py"
    assert found.bytecode[TARGET] == ("/data/cache/mla.cpython-312.pyc",)


def test_an_image_without_vllm_says_so(base: Callable[..., engine.DockerImage]) -> None:
    image = base([Entry(f"{ROOT}/vllm.py", SOURCE), Entry(f"{ROOT}/other/vllm/mla.py", SOURCE)])
    with pytest.raises(FileAbsent, match="holds no vLLM"):
        image.installation([TARGET])
    assert nothing_left(image)


def test_a_directory_in_the_target_s_place_is_refused(
    base: Callable[..., engine.DockerImage],
) -> None:
    image = base([Entry(f"{ROOT}/vllm/_version.py", b"version = '1'"), Entry(f"{ROOT}/{TARGET}")])
    with pytest.raises(BrokenImage, match=r"mla\.py is not a regular file"):
        image.installation([TARGET])


def test_a_container_that_vanishes_is_not_taken_for_an_empty_image(
    vllm: engine.DockerImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vllm.client.api.get

    def vanish(url: str, **named: Any) -> Any:
        if url.endswith("/export"):
            vllm.client.api.remove_container(url.split("/")[-2], force=True)
        return real(url, **named)

    monkeypatch.setattr(vllm.client.api, "get", vanish)
    with pytest.raises(DaemonFailed, match="No such container"):
        vllm.installation([TARGET])


@pytest.mark.parametrize("left", [0, 1, 2])
def test_an_image_that_comes_cut_off_is_not_taken_for_a_whole_one(
    vllm: engine.DockerImage, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    real = vllm.client.api.get

    def cut(url: str, **named: Any) -> Any:
        answer = real(url, **named)
        data = answer.raw.read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            ends = [member.offset for member in archive]
        answer.raw = io.BytesIO(data[: ends[len(ends) * left // 3]])
        return answer

    monkeypatch.setattr(vllm.client.api, "get", cut)
    with pytest.raises((DaemonFailed, BrokenImage), match=r"cut off|cannot be read"):
        vllm.installation([TARGET])


def test_ctrl_c_while_reading_leaves_no_container(vllm: engine.DockerImage) -> None:
    def interrupted() -> None:
        with opened(vllm.client, vllm.id, AMD64):
            (container,) = containers(vllm.client, vllm.id)
            assert READER_LABEL in container["Labels"]
            assert container["State"] == "created"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert nothing_left(vllm)


def test_ctrl_c_while_the_container_is_created_leaves_none(
    vllm: engine.DockerImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vllm.client.api.create_container
    answered: list[Any] = []

    def create(*arguments: Any, **named: Any) -> Any:
        press_ctrl_c()
        answered.append(real(*arguments, **named))
        return answered[0]

    monkeypatch.setattr(vllm.client.api, "create_container", create)
    with pytest.raises(KeyboardInterrupt):
        vllm.installation([TARGET])
    assert answered
    assert nothing_left(vllm)


# Baking


def test_a_baked_file_keeps_owner_mode_and_time_and_its_bytecode_is_covered(
    vllm: engine.DockerImage,
) -> None:
    baked = vllm.bake(change(vllm))
    before, after = vllm.installation([TARGET]), baked.image.installation([TARGET])
    path = f"{ROOT}/{TARGET}"
    assert after.files == {TARGET: ImageFile(path, PATCHED, 1000, 1001, 0o640, 1_700_000_000)}
    assert before.bytecode == {TARGET: (STALE,)}
    assert after.bytecode == {TARGET: ()}
    assert files_of(vllm.client, baked.digest)[STALE][1] == b""

    def owners(directories: tuple[ImageDirectory, ...]) -> list[tuple[object, ...]]:
        return [(one.path, one.uid, one.gid, one.mode) for one in directories]

    with_cache = owners(before.directories)
    assert owners(after.directories) == [one for one in with_cache if "__pycache__" not in str(one)]


def test_a_result_starts_as_its_base_does_and_has_the_labels(vllm: engine.DockerImage) -> None:
    before = vllm.client.images.get(vllm.id).attrs
    baked = vllm.bake(change(vllm, overridden="yes", added="$HOME"))
    after = vllm.client.images.get(baked.digest).attrs
    labels = {"inherited": "yes", "overridden": "yes", "added": "$HOME"}
    assert after["Config"]["Labels"] == labels == baked.image.labels
    ours = {"Labels", "Image", "OnBuild"}
    for key in set(before["Config"]) | set(after["Config"]):
        assert key in ours or after["Config"].get(key) == before["Config"].get(key)
    layers = before["RootFS"]["Layers"]
    assert after["RootFS"]["Layers"][: len(layers)] == layers
    assert len(after["RootFS"]["Layers"]) == len(layers) + 2
    assert after["RepoTags"] == []
    assert vllm.client.images.get(vllm.id).attrs == before


def test_another_architecture_is_baked_and_nothing_is_run(
    base: Callable[..., engine.DockerImage],
) -> None:
    image = base(installed(), architecture="arm64")
    baked = image.bake(change(image))
    assert (image.platform, baked.image.platform) == (ARM64, ARM64)
    assert baked.image.attrs["Architecture"] == "arm64"
    assert baked.image.installation([TARGET]).files[TARGET].data == PATCHED


@pytest.mark.parametrize("environment", [None, [], ["A=b"]])
def test_a_base_without_a_path_can_be_baked(
    base: Callable[..., engine.DockerImage], environment: list[str] | None
) -> None:
    image = base(installed(), {"Env": environment})
    after = image.bake(change(image)).image.attrs["Config"]["Env"]
    assert [entry for entry in after if not entry.startswith("PATH=")] == (environment or [])


@pytest.mark.parametrize("missing", [{"WorkingDir": "/new"}, {"Volumes": {"/new": {}}}])
def test_a_directory_that_the_daemon_makes_for_itself_is_no_foreign_change(
    base: Callable[..., engine.DockerImage], missing: dict[str, object]
) -> None:
    image = base(installed(), missing)
    baked = image.bake(change(image, a="b"))
    assert baked.image.installation([TARGET]).files[TARGET].data == PATCHED


def test_a_patched_module_wins_over_an_unchecked_pyc(
    base: Callable[..., engine.DockerImage],
    python_rootfs: Path,
    tmp_path: Path,
) -> None:
    root = "/srv/packages"
    source = tmp_path / "mla.py"
    source.write_bytes(b"GUARDED = 'stale'\n")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compiled = py_compile.compile(str(source), str(tmp_path / "pyc"), invalidation_mode=mode)
    pyc = Path(importlib.util.cache_from_source("mla.py")).name
    python = [path for path in python_rootfs.rglob("*") if path.is_file()]
    image = base(
        [
            *(
                Entry(f"/{one.relative_to(python_rootfs)}", one.read_bytes(), mode=0o755)
                for one in python
            ),
            Entry(f"{root}/vllm/_version.py", b"version = '0.23.0'"),
            Entry(f"{root}/{TARGET}", SOURCE),
            Entry(f"{root}/vllm/attention/__pycache__/{pyc}", Path(str(compiled)).read_bytes()),
        ],
        {"Env": [PATH, f"PYTHONPATH={root}"], "Entrypoint": ["python3", "-S", "-c"]},
    )
    program = "import vllm.attention.mla as mla; print(mla.GUARDED)"

    def run(image_id: str) -> bytes:
        return image.client.containers.run(image_id, [program], network_mode="none", remove=True)

    assert run(image.id) == b"stale\n"
    assert run(image.bake(change(image)).digest) == b"True\n"


@pytest.mark.parametrize(
    "instruction",
    [
        'ENTRYPOINT ["other"]',
        'CMD ["other"]',
        "USER 0",
        "ENV A=other",
        "ENV PATH=/other",
        "WORKDIR /other",
        "LABEL other=yes",
        'COPY ["empty.pyc", "/other"]',
        "ONBUILD RUN other",
    ],
)
def test_a_result_that_is_more_than_the_change_is_removed(
    vllm: engine.DockerImage, instruction: str
) -> None:
    wanted = change(vllm)
    text = f"{vllm.dockerfile(wanted)}{instruction}\n"
    with pytest.raises(DaemonFailed, match="another image than it was asked for"):
        build(vllm.client, vllm.attrs, AMD64, context(text, wanted), wanted)
    assert nothing_left(vllm)


def test_a_base_that_would_run_commands_is_refused(
    base: Callable[..., engine.DockerImage],
) -> None:
    image = base(installed(), {"OnBuild": ["RUN anything"]})
    with pytest.raises(BrokenImage, match="ONBUILD"):
        image.bake(change(image))
    assert nothing_left(image)


def test_a_build_that_fails_half_way_leaves_nothing(vllm: engine.DockerImage) -> None:
    wanted = change(vllm)
    (file,) = wanted.files
    under_a_file = ImageFile(f"{file.path}/x", b"", 0, 0, 0o644, 0)
    with pytest.raises(DaemonFailed, match=r"the build failed: .*mla\.py"):
        vllm.bake(LayerChange((file, under_a_file), (), (), {}))
    assert nothing_left(vllm)


def test_a_change_of_nothing_is_no_build(vllm: engine.DockerImage) -> None:
    with pytest.raises(DaemonFailed, match="nothing to do"):
        vllm.bake(LayerChange((), (), (), {}))
    assert nothing_left(vllm)


@pytest.mark.parametrize("moment", ["Step 1/", "Step 4/", "Successfully built"])
def test_ctrl_c_while_building_leaves_nothing(
    vllm: engine.DockerImage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    wanted = change(vllm, a="b")
    real = vllm.client.api.build
    seen: list[str] = []

    def press(**arguments: Any) -> Iterator[dict[str, Any]]:
        for event in real(**arguments):
            if event.get("stream", "").startswith(moment):
                press_ctrl_c()
                seen.append(moment)
            yield event

    monkeypatch.setattr(vllm.client.api, "build", press)
    with pytest.raises(KeyboardInterrupt):
        vllm.bake(wanted)
    assert seen == [moment]
    assert nothing_left(vllm)


@pytest.fixture
def place() -> str:
    """A repository in the daemon that no other run of the tests has."""
    return f"localhost/vllm-patcher-test-{uuid.uuid4().hex}"


def test_tags_are_given_in_order_and_move(vllm: engine.DockerImage, place: str) -> None:
    names = [f"{place}:one", f"{place}:moving"]
    first, second = vllm.bake(change(vllm)), vllm.bake(change(vllm, again="yes"))
    first.tag(names)
    assert engine.local_image(vllm.client, names[1]).id == first.digest
    second.tag(names[1:])
    assert engine.local_image(vllm.client, names[1]).id == second.digest
    assert engine.local_image(vllm.client, names[0]).id == first.digest


@pytest.mark.parametrize("bad", ["localhost/UPPER:x", f"localhost/x@sha256:{'0' * 64}", "a b"])
def test_a_bad_name_is_refused_before_any_is_given(
    vllm: engine.DockerImage, place: str, bad: str
) -> None:
    baked = vllm.bake(change(vllm))
    with pytest.raises(BadReference):
        baked.tag([f"{place}:good", bad])
    assert vllm.client.images.get(baked.digest).tags == []


def test_discarding_takes_the_names_too_and_keeps_an_untagged_base(
    vllm: engine.DockerImage, place: str
) -> None:
    baked = vllm.bake(change(vllm))
    baked.tag([f"{place}:a", f"{place}:b"])
    baked.discard()
    assert nothing_left(vllm)
    assert vllm.client.images.get(vllm.id).attrs == vllm.attrs
    with pytest.raises(DaemonFailed, match="has no image"):
        engine.local_image(vllm.client, f"{place}:a")


# The daemon and the registry


@pytest.fixture
def published(
    daemon: docker.DockerClient, registry: str, base: Callable[..., engine.DockerImage]
) -> tuple[str, dict[str, str]]:
    """A two-platform image in the registry and not in the daemon: repository and digests."""
    images = {
        architecture: base(installed(), architecture=architecture)
        for architecture in ("amd64", "arm64")
    }
    repository = f"{registry}/bases/{images['amd64'].id[7:19]}"
    digests = push_index(daemon, repository, {name: one.id for name, one in images.items()})
    for image in images.values():
        remove_all(daemon, image.id)
    return repository, digests


def test_an_index_gives_each_platform_its_own_image(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    reference = f"{repository}@{digests['index']}"
    for platform in (AMD64, ARM64):
        image = engine.pull(daemon, reference, platform)
        assert (image.platform, image.digest) == (platform, digests["index"])
        baked = image.bake(change(image))
        assert baked.image.attrs["Architecture"] == platform.architecture
        assert f"ARG BASE={reference}\n" in image.dockerfile(change(image))
        remove_all(daemon, image.id)


def test_a_second_platform_of_an_index_comes_or_the_way_out_is_told(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    reference = f"{repository}@{digests['index']}"
    first = engine.pull(daemon, reference, AMD64)
    try:
        second = engine.pull(daemon, reference, ARM64)
    except DaemonFailed as error:
        assert f"'docker rmi {reference}'" in error.next_step  # noqa: PT017
        daemon.api.remove_image(reference)
        second = engine.pull(daemon, reference, ARM64)
    assert (first.platform, second.platform) == (AMD64, ARM64)


def test_a_pull_tells_its_steps(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    steps: list[Progress] = []
    engine.pull(daemon, f"{repository}@{digests['arm64']}", ARM64, steps.append)
    done = [step for step in steps if step.status == "Pull complete"]
    assert len({step.layer for step in done}) == 1
    assert done[0].layer is not None
    assert any(step.current and step.total for step in steps)
    assert steps[0].layer is None


def test_what_is_there_already_is_not_pulled_again(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    reference = f"{repository}@{digests['amd64']}"
    first = engine.pull(daemon, reference, AMD64)
    steps: list[Progress] = []
    assert engine.pull(daemon, reference, AMD64, steps.append) == first
    assert steps == []


def test_a_single_image_of_another_platform_is_not_taken(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    with pytest.raises(WrongPlatform, match="is for linux/amd64, not for linux/arm64"):
        engine.pull(daemon, f"{repository}@{digests['amd64']}", ARM64)


def test_a_platform_that_the_index_lacks_is_the_daemon_s_error(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    with pytest.raises(DaemonFailed, match=r"cannot be pulled: .*linux/s390x"):
        engine.pull(daemon, f"{repository}@{digests['index']}", parse_platform("linux/s390x"))


def test_a_digest_that_is_gone_is_the_daemon_s_error(
    daemon: docker.DockerClient, registry: str
) -> None:
    with pytest.raises(DaemonFailed, match=r"cannot be pulled: .*not found"):
        engine.pull(daemon, f"{registry}/gone@sha256:{'0' * 64}", AMD64)


def test_an_error_inside_the_pull_s_stream_is_an_error(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    url = f"http://{repository.replace('/', '/v2/', 1)}"
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = requests.get(
        f"{url}/manifests/{digests['amd64']}", headers={"Accept": kind}, timeout=30
    ).json()
    layer = manifest["layers"][0]["digest"]
    requests.delete(f"{url}/blobs/{layer}", timeout=30).raise_for_status()
    steps: list[Progress] = []
    with pytest.raises(DaemonFailed, match=r"cannot be pulled: .*unknown"):
        engine.pull(daemon, f"{repository}@{digests['amd64']}", AMD64, steps.append)
    assert steps


@pytest.mark.parametrize("loose", ["localhost/vllm", "localhost/vllm:v0.23.0"])
def test_only_what_a_digest_pins_is_pulled(daemon: docker.DockerClient, loose: str) -> None:
    with pytest.raises(BadReference, match="pins nothing"):
        engine.pull(daemon, loose, AMD64)


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_pulling_leaves_no_image(
    daemon: docker.DockerClient, published: tuple[str, dict[str, str]]
) -> None:
    repository, digests = published
    reference = f"{repository}@{digests['amd64']}"

    def press(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pull(daemon, reference, AMD64, press)
    # docker-py leaves the connection of a stream that was cut off to the collector.
    gc.collect()
    assert engine.pull(daemon, reference, AMD64).platform == AMD64


def test_a_local_image_is_pinned_by_its_id_and_must_have_the_platform(
    vllm: engine.DockerImage,
) -> None:
    assert vllm.digest == vllm.reference == vllm.id
    assert engine.local_image(vllm.client, vllm.id, AMD64) == vllm
    with pytest.raises(WrongPlatform):
        engine.local_image(vllm.client, vllm.id, ARM64)
    with pytest.raises(WrongPlatform):
        engine.local_image(vllm.client, vllm.id, Platform("linux", "arm", "v6"))


def test_a_missing_image_is_named(daemon: docker.DockerClient) -> None:
    with pytest.raises(DaemonFailed, match=r"has no image 'localhost/nobody:here'.*docker images"):
        engine.local_image(daemon, "localhost/nobody:here")


def test_an_image_removed_between_two_steps_is_an_error(vllm: engine.DockerImage) -> None:
    wanted = change(vllm)
    vllm.client.api.remove_image(vllm.id)
    with pytest.raises(DaemonFailed):
        vllm.installation(["vllm/never_asked_for.py"])
    with pytest.raises(DaemonFailed, match="the build failed"):
        vllm.bake(wanted)


def refusal() -> str:
    """What a `NoDaemon` says. docker-py leaves a refused socket to the garbage collector."""
    try:
        connect()
    except NoDaemon as error:
        text = str(error)
    gc.collect()
    return text


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "x://y"])
def test_no_daemon_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    text = refusal()
    assert "no Docker daemon answers" in text
    assert text.endswith("('docker context ls' shows it).")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_socket_without_permission_is_told_from_no_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "d.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        for directory in (tmp_path, *tmp_path.parents):
            if directory.owner() == tmp_path.owner() and directory != Path("/"):
                directory.chmod(directory.stat().st_mode | 0o011)
        user = os.geteuid()
        # root may use any socket
        os.seteuid(65534 if user == 0 else user)
        try:
            text = refusal()
        finally:
            os.seteuid(user)
    assert "denies access to this user" in text
    assert "docker group" in text


def test_connecting_reaches_the_daemon(daemon: docker.DockerClient) -> None:
    client = connect()
    try:
        assert client.ping()
        assert client.api.timeout > 60
    finally:
        client.close()
