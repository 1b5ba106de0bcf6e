"""A local image as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from patcher.daemon.engine import local_image
from patcher.errors import FileAbsent, Unreadable
from patcher.sources.images import ImageSource
from tests.docker_bases import ROOT, SOURCE, TARGET, Entry, installed, load_base, remove_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker


@pytest.fixture(
    params=[
        pytest.param(installed(), id="whole"),
    ]
)
def source(daemon: docker.DockerClient, request: pytest.FixtureRequest) -> Iterator[ImageSource]:
    """An image as a source; a test's parameter says what is in it."""
    image = load_base(daemon, request.param)
    yield ImageSource("vllm:local", local_image(daemon, image))
    remove_all(daemon, image)


def test_a_file_and_the_version_are_read(source: ImageSource) -> None:
    assert source.label == "vllm:local"
    assert source.read(TARGET) == SOURCE
    assert source.version() == "0.23.0"


def test_a_file_that_the_image_lacks_is_absent(source: ImageSource) -> None:
    with pytest.raises(FileAbsent, match=r"vllm:local has no vllm/other\.py"):
        source.read("vllm/other.py")


@pytest.mark.parametrize("source", [[Entry("/usr/x", b"")]], indirect=True)
def test_an_image_without_vllm_holds_no_file(source: ImageSource) -> None:
    with pytest.raises(FileAbsent, match="holds no vLLM"):
        source.read(TARGET)


@pytest.mark.parametrize(
    "source",
    [
        [*installed(), *installed("/opt/venv/lib/python3.12/site-packages")],
        [Entry(f"{ROOT}/vllm/_version.py", b"import os")],
    ],
    indirect=True,
)
def test_an_image_that_contradicts_itself_is_unreadable(source: ImageSource) -> None:
    with pytest.raises(Unreadable):
        source.read(TARGET)
    with pytest.raises(Unreadable):
        source.version()


def test_an_image_that_is_gone_is_unreadable(
    source: ImageSource, daemon: docker.DockerClient
) -> None:
    daemon.api.remove_image(source.image.digest)
    with pytest.raises(Unreadable, match="No such image"):
        source.read(TARGET)
