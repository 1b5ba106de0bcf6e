"""Hostile content of each kind ends in an answer or in one of our errors, in bounded time.

A valid piece is taken and altered: a value of its JSON, some of its bytes. `make fuzz` does more.
"""

from __future__ import annotations

import copy
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.errors import PatcherError
from patcher.lock.file import loads
from patcher.oci.append import append
from patcher.oci.image import StoredImage, load_family
from patcher.oci.layer import write_tar
from patcher.oci.layout import Layout, create_layout
from patcher.oci.model import OCI_LAYER, part
from patcher.oci.scan import Wanted, scan_layer
from patcher.places.place import Draft
from patcher.places.stored import Stored, StoredPlace
from patcher.sources.index import releases
from patcher.sources.wheel import open_wheel
from patcher.web.http import Http
from tests.installations import TARGET, change_of, vllm_files
from tests.memory import OCI, Memory, add_image
from tests.scripted import Reply, Server, serving
from tests.wheelhouse import CLEAN, Site, wheel

# Seconds of this process's CPU that one case may take; none has taken a tenth.
MOST_SECONDS = 20

fuzz = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")))

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**63, 10**30, 1.5, "", "x", "\n::add-mask::x", "\ud800", "../../x", "/",
     "9" * 5000, "sha256:" + "0" * 64, "a/" * 3000, [], {}, [[]], {"x": []}, "linux", "file:///x"]
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each holder in a JSON value, with each key in it."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key]) if isinstance(value[key], dict | list) else []
    return found


@st.composite
def altered_json(draw: st.DrawFn, document: Any) -> Any:
    """The document with up to three values replaced, left out or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        if not (found := places(document)):
            break
        holder, key = draw(st.sampled_from(found))
        what = draw(st.sampled_from(["replace", "drop", "double"]))
        if what == "replace":
            holder[key] = draw(ODD)
        elif what == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = [holder[key], holder[key]]
    return document


@st.composite
def altered_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to six places overwritten, cut out or put in twice."""
    made = bytearray(data)
    for _ in range(draw(st.integers(0, 6))):
        at, size = draw(st.integers(0, len(made))), draw(st.integers(0, 40))
        new = draw(
            st.binary(max_size=12) | st.sampled_from([b"\xff" * 12, b"9" * 12, b"/../", b"\0"])
        )
        made[at : at + draw(st.sampled_from([0, len(new), size]))] = new
    return bytes(made)


@contextmanager
def ours() -> Iterator[None]:
    """Errors of ours may come, one line each; no other, and no end of time."""

    def late(*_: object) -> None:
        raise AssertionError(f"over {MOST_SECONDS} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    except PatcherError as error:
        if not str(error).isprintable() or str(error).startswith("::"):
            raise AssertionError(str(error)) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


BASE = Memory()
MANIFEST = BASE.json(add_image(BASE, OCI)["digest"])
CONFIG = BASE.json(MANIFEST["config"]["digest"])
ENTRY = {"platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"a": "b"}}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return create_layout(tmp_path_factory.mktemp("fuzz") / "inner" / "target")


@fuzz
@given(altered_json(CONFIG), altered_json(MANIFEST), altered_json(ENTRY))
def test_documents_of_an_image(target: Layout, config: Any, manifest: Any, entry: Any) -> None:
    """Each is sound by its digest: what is wrong is what it says."""
    blobs = Memory(dict(BASE.data))
    described = blobs.add(json.dumps(config).encode(), OCI[2])
    if isinstance(manifest.get("config"), dict):
        manifest["config"] |= {key: described[key] for key in ("digest", "size")}
    image = blobs.add(json.dumps(manifest).encode(), OCI[1])
    index = {"schemaVersion": 2, "mediaType": OCI[0], "manifests": [{**image, **entry}]}
    root = blobs.add(json.dumps(index).encode(), OCI[0])
    outside = set(target.path.parent.parent.rglob("*")) - set(target.path.rglob("*"))
    with ours():
        family = load_family(blobs, blobs.descriptor(root))
        [only] = family.images
        found = StoredImage(blobs, only.digest, only).installation([TARGET])
        changes = {only.digest: change_of(found)}
        append(family, changes, {})
        place = StoredPlace("here", target, Stored(blobs, family))
        plan = place.plan(Draft((only.digest,), changes, {}, ("a", "b")))
        assert plan.outline.digest
        place.plan(Draft((only.digest,), {}, {}, ("a",)))
    assert set(target.path.parent.parent.rglob("*")) - set(target.path.rglob("*")) == outside


LAYER = write_tar(vllm_files())


@fuzz
@given(altered_bytes(LAYER))
def test_layers(data: bytes) -> None:
    made = part(data, OCI_LAYER)
    with ours():
        scan_layer(lambda: io.BytesIO(data), made.descriptor, Wanted((TARGET,)))


@fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["", "../", "/", "./", "a/" * 300, ".wh.", ".wh..wh..opq", "x/.wh...", "ä\n"]
            ),
            st.sampled_from([file.path for file in vllm_files()]),
            st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"S", b"x"]),
            st.sampled_from(["", "../../../etc/passwd", "/", "vllm", "a/" * 3000, "\udcff"]),
            st.sampled_from([0, 0o7777, 2**20]),
            st.sampled_from([0, 10**30, 2**40]),
        ),
        max_size=6,
    )
)
def test_entries_of_a_layer(entries: list[tuple[str, str, bytes, str, int, int]]) -> None:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for prefix, path, kind, link, mode, owner in entries:
            entry = tarfile.TarInfo(f"{prefix}{path[1:]}")
            entry.type, entry.linkname, entry.mode, entry.uid = kind, link, mode, owner
            tar.addfile(entry)
    data = buffer.getvalue() + LAYER
    with ours():
        scan_layer(lambda: io.BytesIO(data), part(data, OCI_LAYER).descriptor, Wanted((TARGET,)))


LOCK = (Path(__file__).parents[1] / "images.lock").read_bytes()[:3000]


@fuzz
@given(altered_bytes(LOCK.rpartition(b"[[image]]")[0]))
def test_locks(data: bytes) -> None:
    with ours():
        loads(data, "images.lock")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(lambda _: Reply(404)) as running:
        yield running


WHEEL = wheel("0.23.0", {TARGET: CLEAN, "vllm/_version.py": b"__version__ = '0.23.0'\n"})


@fuzz
@given(altered_bytes(WHEEL), st.booleans())
def test_wheels(server: Server, data: bytes, ranged: bool) -> None:
    def script(seen: Any) -> Reply:
        said = seen.headers.get("range", "")
        if not ranged or not said:
            return Reply(body=data)
        first, _, last = said.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = int(last) if first else len(data) - 1
        span = f"bytes {start}-{end}/{len(data)}"
        return Reply(206, {"Content-Range": span}, data[start : end + 1])

    server.script = script
    with ours():
        open_wheel(f"{server.url}/vllm-0.23.0-py3-none-any.whl", http=quiet()).read(TARGET)


def quiet() -> Http:
    return Http(wait=lambda _: None)


SITE = Site()
SITE.put_json([SITE.put_wheel(version) for version in ("0.22.0", "0.23.0")])
PAGE = json.loads(SITE.files["/simple/vllm/"])


@fuzz
@given(
    altered_json(PAGE), st.sampled_from(["application/vnd.pypi.simple.v1+json", "text/html", "x"])
)
def test_indexes(server: Server, page: Any, kind: str) -> None:
    server.script = lambda _: Reply(200, {"Content-Type": kind}, json.dumps(page).encode())
    with ours():
        for release in releases(f"{server.url}/simple", quiet()):
            assert release.label.isprintable()
