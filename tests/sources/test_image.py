"""A local image as a source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from patcher.daemon.engine import local_image
from patcher.errors import BadSource, FileAbsent, Unreadable
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


OTHER = "/opt/venv/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    "source",
    [[*installed(), *(replace(each, data=b"x = 1\n") for each in installed(OTHER))]],
    indirect=True,
)
def test_two_vllms_are_two_sources_and_no_single_file(source: ImageSource) -> None:
    copies = source.copies([TARGET])
    assert [copy.label for copy in copies] == [f"vllm:local {OTHER}", f"vllm:local {ROOT}"]
    assert [copy.read(TARGET) for copy in copies] == [b"x = 1\n", SOURCE]
    with pytest.raises(Unreadable, match=f"--root {OTHER}"):
        source.read(TARGET)
    assert replace(source, root=ROOT).read(TARGET) == SOURCE
    with pytest.raises(BadSource, match=f"one in: {OTHER}, {ROOT}"):
        replace(source, root="/elsewhere").read(TARGET)


@pytest.mark.parametrize(
    "source",
    [
        [Entry(f"{ROOT}/vllm/_version.py", text), Entry(f"{ROOT}/{TARGET}", SOURCE)]
        for text in (b"import os", b"__version__ = '0." + b"9" * 50_000 + b"'")
    ],
    indirect=True,
)
def test_a_file_is_judged_though_the_version_cannot_be_told(source: ImageSource) -> None:
    assert source.read(TARGET) == SOURCE
    assert source.version() is None


def test_an_image_that_is_gone_is_unreadable(
    source: ImageSource, daemon: docker.DockerClient
) -> None:
    daemon.api.remove_image(source.image.digest)
    with pytest.raises(Unreadable, match="No such image"):
        source.read(TARGET)
