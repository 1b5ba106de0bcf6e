"""The Dockerfile's text, and what the daemon makes of hostile values in it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.daemon.dockerfile import context, json_paths, quoted, render
from patcher.daemon.engine import local_image
from patcher.errors import BadReference
from patcher.oci.installation import ImageFile
from patcher.oci.layer import LayerChange
from patcher.oci.reference import Platform, parse_platform
from tests.docker_bases import Entry, files_of, installed, load_base, remove_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    from patcher.daemon.engine import DockerImage

AMD64 = parse_platform("linux/amd64")
BASE = f"docker.io/vllm/vllm-openai@sha256:{'ab' * 32}"
HOSTILE = (
    "$HOME",
    "${HOME:-x}",
    "\\",
    '"',
    "'",
    "\\$",
    '"\\',
    "`x`",
    "#",
    "\\\\",
    " ",
    "[",
    "*",
    "é",
)

LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
VALUE = st.lists(st.one_of(st.sampled_from(HOSTILE), LINE), max_size=6).map("".join)
# A file's name has at most 255 bytes.
NAME = VALUE.map(lambda text: text.replace("/", "")[:40]).filter(lambda text: text.strip(".") != "")


def file(path: str = "/usr/lib/x.py", data: bytes = b"x\n", mode: int = 0o640) -> ImageFile:
    return ImageFile(path, data, 1000, 1001, mode, 1_700_000_000)


@pytest.fixture(scope="module")
def base(daemon: docker.DockerClient) -> Iterator[DockerImage]:
    image = load_base(daemon, [*installed(), Entry("/w")], {"Env": ["HOME=/root", "x=y"]})
    yield local_image(daemon, image)
    remove_all(daemon, image)


def test_the_text_is_what_a_person_would_write() -> None:
    text = render(
        BASE, AMD64, LayerChange((file(),), ("/usr/lib/a.pyc",), (), {"b": "2", "a": "1"})
    )
    head, _, body = text.partition("\nARG ")
    assert all(line == "" or line.startswith("#") for line in head.splitlines())
    assert body == (
        f"BASE={BASE}\n"
        "FROM ${BASE}\n"
        "\n"
        'COPY --chown=1000:1001 ["0.patched", "/usr/lib/x.py"]\n'
        'COPY ["empty.pyc", "/usr/lib/a.pyc"]\n'
        "\n"
        'LABEL a="1" \\\n'
        '      b="2"\n'
    )


def test_the_head_holds_no_parser_directive() -> None:
    first = render(BASE, AMD64, LayerChange((), (), (), {})).splitlines()[0]
    assert re.match(r"#\s*\w+\s*=", first) is None


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("vllm/vllm-openai:v0.23.0", "pins nothing"),
        ("vllm/vllm-openai", "pins nothing"),
        ("sha256:12", "not a digest"),
        (f"x\nRUN y@sha256:{'ab' * 32}", "is lower case"),
        (f"x\nrun y@sha256:{'ab' * 32}", "not a valid repository"),
        (f"{BASE}\nRUN x", "not a digest"),
        ("", "not a valid repository"),
    ],
)
def test_a_base_is_named_by_digest_and_by_nothing_else(base: str, reason: str) -> None:
    with pytest.raises(BadReference, match=reason):
        render(base, AMD64, LayerChange((file(),), (), (), {}))


def test_a_tag_beside_the_digest_is_left_out() -> None:
    tagged = BASE.replace("@", ":v0.23.0@")
    assert f"ARG BASE={BASE}\n" in render(tagged, AMD64, LayerChange((), (), (), {}))


def test_a_platform_out_of_a_hostile_config_is_refused() -> None:
    with pytest.raises(BadReference, match="not a platform"):
        render(BASE, Platform("linux", "amd64\nRUN x"), LayerChange((), (), (), {}))


@pytest.mark.parametrize("path", ["relative.py", "/", "/a/../b", "/a/", "/a//b", "", "//a", "/a/."])
def test_a_path_must_be_absolute_and_plain(path: str) -> None:
    for change in (LayerChange((file(path),), (), (), {}), LayerChange((), (path,), (), {})):
        with pytest.raises(BadReference, match="not the absolute path of a file"):
            render(BASE, AMD64, change)


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\t", "\x1b", "\x85", "\u2028", "\udc80"])
def test_a_control_character_is_refused_wherever_it_stands(character: str) -> None:
    value = f"/a{character}RUN x"
    for change in (
        LayerChange((file(value),), (), (), {}),
        LayerChange((), (value,), (), {}),
        LayerChange((), (), (), {"x": value}),
    ):
        with pytest.raises(BadReference, match=r"U\+"):
            render(BASE, AMD64, change)


@pytest.mark.parametrize("key", ["", "a=b", "a b", 'a"', "$a", "a\n", "a\\", ".a", "é"])
def test_a_label_s_key_that_the_builder_would_read_otherwise_is_refused(key: str) -> None:
    with pytest.raises(BadReference, match=r"cannot be a label.s key"):
        render(BASE, AMD64, LayerChange((), (), (), {key: "x"}))


@given(value=VALUE, paths=st.lists(VALUE, min_size=1))
def test_quoting_leaves_no_variable_and_no_open_quote(value: str, paths: list[str]) -> None:
    inner = quoted(value)[1:-1]
    # Every special character stands behind a backslash of its own.
    assert re.fullmatch(r'(?:[^"$\\]|\\["$\\])*', inner)
    assert re.sub(r"\\(.)", r"\1", inner) == value
    assert [re.sub(r"\\(.)", r"\1", path) for path in json.loads(json_paths(paths))] == paths


def test_the_context_holds_contents_modes_and_times_and_is_the_same_every_time() -> None:
    change = LayerChange((file(data=b"a", mode=0o750), file("/b", b"b")), ("/c.pyc",), (), {})
    packed = context("FROM x\n", change)
    assert packed == context("FROM x\n", change)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        entries = {
            member.name: (member.mode, member.mtime, archive.extractfile(member).read())  # type: ignore[union-attr]
            for member in archive
        }
    assert entries == {
        "Dockerfile": (0o644, 0, b"FROM x\n"),
        "empty.pyc": (0o644, 0, b""),
        "0.patched": (0o750, 1_700_000_000, b"a"),
        "1.patched": (0o640, 1_700_000_000, b"b"),
    }


@settings(max_examples=15, deadline=None)
@given(values=st.lists(VALUE, min_size=1, max_size=20))
def test_the_daemon_stores_each_label_as_it_was_given(base: DockerImage, values: list[str]) -> None:
    labels = {f"dev.vllm-patcher/a_{at}": value for at, value in enumerate(values)}
    baked = base.bake(LayerChange((), (), (), labels))
    try:
        assert baked.image.labels == labels
    finally:
        baked.discard()


@settings(max_examples=10, deadline=None)
@given(names=st.lists(NAME, min_size=1, max_size=6, unique=True))
def test_the_daemon_writes_each_path_as_it_was_given(base: DockerImage, names: list[str]) -> None:
    half = len(names) // 2
    files = tuple(file(f"/w/{name}", name.encode()) for name in names[half:])
    covered = tuple(f"/w/{name}" for name in names[:half])
    baked = base.bake(LayerChange(files, covered, (), {}))
    try:
        there = files_of(base.client, baked.digest)
        for one in files:
            header, data = there[one.path]
            assert data == one.data
            owner = (header.uid, header.gid, header.mode & 0o7777, header.mtime)
            assert owner == (one.uid, one.gid, one.mode, one.mtime)
        assert all(there[path][1] == b"" for path in covered)
        written = {path for path in there if path.startswith("/w/")}
        assert written == {*covered, *(one.path for one in files)}
    finally:
        baked.discard()
