"""Hostile content of each kind ends in an answer or in one of our errors, in bounded time.

A valid piece is taken and altered: a value of its JSON, some of its bytes. A registry answers with
any status, headers and body. Time, memory and the number of requests have a bound in each case, and
what goes over it is a failure. `make fuzz` does more.
"""

from __future__ import annotations

import base64
import copy
import functools
import io
import json
import os
import signal
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.errors import PatcherError
from patcher.lock.file import loads
from patcher.oci.append import append
from patcher.oci.blobs import read_blob
from patcher.oci.image import load_family
from patcher.oci.layer import write_tar
from patcher.oci.layout import Layout, create_layout
from patcher.oci.model import OCI_LAYER, Part, part
from patcher.oci.reference import parse_reference
from patcher.oci.rootfs.layers import StoredImage
from patcher.oci.rootfs.scan import Wanted, scan_layer
from patcher.places.place import Recipe
from patcher.places.stored import Stored, StoredPlace
from patcher.registry.repository import Repository
from patcher.rules.catalogue import select
from patcher.rules.verdict import Status
from patcher.sources.index import releases
from patcher.sources.wheel import open_wheel
from patcher.web.http import Http
from tests.installations import TARGET, change_of, vllm_files
from tests.memory import OCI, Memory, add_image
from tests.one_file import apply, judge_bytes
from tests.scripted import HANG_UP, Reply, Server, serving
from tests.wheelhouse import CLEAN, NEEDED, Site, wheel

# Seconds of this process's CPU that one case may take, and by the clock, for what only waits. To
# trace its memory makes it five times as slow: 100,000 times `a and`, the longest, take 3 seconds
# without, and 14 to 20 with it. Bytes that Python may have made in it, and requests to a server.
MOST_SECONDS = 100
MOST_WAIT = 1000
MOST_BYTES = 200 << 20
# A list of tags has 200 pages at most, and a page may be asked for five times, each time refused,
# told a token and asked for again.
MOST_REQUESTS = 200 * 5 * 3
# A failing example is to be read, also where it is long.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
fuzz = settings(max_examples=EXAMPLES)
heavy = settings(max_examples=max(4, EXAMPLES // 10))

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**63, 10**30, 1.5, "", "x", "\n::add-mask::x", "\ud800", "../../x", "/",
     "9" * 5000, 10**400, float("inf"), float("nan"), "sha256:" + "0" * 64,
     "a/" * 3000, [], {}, [[]], {"x": []}, "linux", "file:///x"]
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
            holder[key] = copy.deepcopy(draw(ODD))
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
def ours(most: int = MOST_BYTES) -> Iterator[None]:
    """Errors of ours may come, one line each; no other, and no end of time or memory."""

    def late(*_: object) -> None:
        raise AssertionError(f"over {MOST_SECONDS} s of work, or {MOST_WAIT} s of waiting")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF), (signal.SIGALRM, signal.ITIMER_REAL))
    before = [signal.signal(number, late) for number, _ in timers]
    for (_, timer), seconds in zip(timers, (MOST_SECONDS, MOST_WAIT), strict=True):
        signal.setitimer(timer, seconds)
    tracemalloc.start()
    try:
        yield
    except PatcherError as error:
        if not str(error).isprintable() or str(error).startswith("::") or SECRET in str(error):
            raise AssertionError(str(error)) from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for (number, timer), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    assert peak < most, f"{peak >> 20} MiB"


# What the registry gets to log in with, and nobody is shown.
SECRET = "hunter2-of-the-registry"  # noqa: S105


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
        plan = place.plan(Recipe((only.digest,), changes, {}, ("a", "b")))
        assert plan.outline.digest
        place.plan(Recipe((only.digest,), {}, {}, ("a",)))
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


[PATCH] = select(["kv-b-proj-dtype"])

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


@functools.cache
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


# Where the central directory begins (APPNOTE.TXT, 4.3.16).
NAMES = struct.unpack("<I", WHEEL[-6:-2])[0]


@fuzz
@given(altered_bytes(WHEEL[NAMES:]), st.lists(st.integers(0, 60), max_size=3))
def test_central_directories(server: Server, names: bytes, largest: list[int]) -> None:
    """The list of a wheel's files: lengths, offsets and counts that lie, the largest of all too."""
    made = bytearray(names)
    for place in largest:
        made[4 * place : 4 * place + 4] = b"\xff" * 4
    served(server, WHEEL[:NAMES] + bytes(made))
    with ours():
        open_wheel(f"{server.url}/vllm-0.23.0-py3-none-any.whl", http=quiet()).read(TARGET)


@heavy
@given(
    st.sampled_from(["\n", ",\n", "a,\n", "a,b,c\n", f"{TARGET},sha256=x,1\n", '"', "é,b\n"]),
    st.sampled_from([1, 1000, 1 << 20, 3 << 20, 5 << 20]),
)
def test_records_of_a_wheel(server: Server, row: str, size: int) -> None:
    """What packs to a thousandth and unpacks to lists of nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(TARGET, CLEAN)
        out.writestr("vllm-0.23.0.dist-info/RECORD", row * (size // len(row)))
    served(server, buffer.getvalue())
    with ours():
        open_wheel(f"{server.url}/vllm-0.23.0-py3-none-any.whl", http=quiet()).read(TARGET)


def served(server: Server, data: bytes) -> None:
    """Let a server have a file, and know ranges."""

    def script(seen: Any) -> Reply:
        first, _, last = seen.headers["range"].removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = int(last) if first else len(data) - 1
        span = f"bytes {start}-{end}/{len(data)}"
        return Reply(206, {"Content-Range": span}, data[start : end + 1])

    server.script = script


LINKS = b'<!DOCTYPE html><a href="vllm-0.23.0-py3-none-any.whl#sha256=00" data-yanked="no">x</a>\n'
TAGS = [
    b"<a ",
    b"<a>",
    b"<!--",
    b"-->",
    b"</a>",
    b'"',
    b"'",
    b"<",
    b">",
    b"&#0;",
    b"<b>",
    b"\0",
    b"<![",
]


@heavy
@given(altered_bytes(LINKS), st.sampled_from(TAGS), st.sampled_from([0, 1, 5000, 50_000]))
def test_pages_of_an_index(server: Server, page: bytes, tag: bytes, times: int) -> None:
    body = page + tag * times + LINKS
    server.script = lambda _: Reply(200, {"Content-Type": "text/html"}, body)
    with ours():
        releases(f"{server.url}/simple", quiet())


TOKEN = {"token": "t0ken", "access_token": "t0ken", "expires_in": 300, "issued_at": "2026-01-01"}


@fuzz
@given(altered_json(TOKEN))
def test_tokens(server: Server, token: Any) -> None:
    def script(seen: Any) -> Reply:
        if seen.path.startswith("/token"):
            return Reply(body=json.dumps(token).encode())
        if "authorization" not in seen.headers:
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})
        return Reply(200, {"Content-Type": OCI[1]}, BASE.data[ROOT["digest"]])

    server.script = script
    with ours():
        assert registry_at(server).manifest("v1").descriptor.digest == ROOT["digest"]


ROOT = add_image(BASE, OCI)
INDEX = BASE.add({"schemaVersion": 2, "mediaType": OCI[0], "manifests": [ROOT]}, OCI[0])
HERE = "http://{host}"
PLACES = [
    "/v2/a/blobs/uploads/1",
    "/v2/a/blobs/uploads/1?x=y",
    HERE,
    f"{HERE}/v2/a/manifests/v1",
    "?n=1",
    f"{HERE}:0/x",
    "http://127.0.0.1:1/",
    "http://user:word@127.0.0.1:1/",
    "file:///etc/passwd",
    "//",
    "http://[x",
    "http://169.254.1.1/",
    "http://[::ffff:127.0.0.1]:1/",
    "http://0x7f.1:1/",
    "x" * 9000,
]
REALMS = [
    f'Bearer realm="{place}",service="s\\"",scope="repository:b:pull"' for place in PLACES[2:]
]
NUMBERS = ["0", "-1", "+1", "1_0", "9" * 5000, "1e9", "inf", "nan", "x", "", "5", "1, 2", "\xb2"]
SPANS = ["bytes 0-1/2", "bytes 5-1/2", f"bytes 0-{'9' * 19}/*", "0-0", f"0-{'9' * 18}", "bytes=0-4"]
DATES = [
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wed, 21 Oct 99999 07:28:00 GMT",
    "Mon, 0 0 0 :: x",
    "1 2 3",
]
HEADERS = {
    "WWW-Authenticate": [
        *REALMS,
        "Basic",
        "Digest x",
        "Bearer",
        "=,=,",
        'Bearer realm="',
        '"\\' * 3000,
    ],
    "Location": PLACES,
    "Link": [f'<{place}>; rel="next"' for place in PLACES]
    + ["<", "rel=next", "<>;rel=next", ",<" * 3000],
    "Retry-After": [*NUMBERS, *DATES],
    "Content-Length": NUMBERS,
    "Transfer-Encoding": ["chunked", "gzip", "x"],
    "Content-Encoding": ["gzip", "deflate", "zstd", "x", "gzip, gzip, gzip"],
    "Content-Type": [*OCI, "text/html", "application/json; charset=x", "/", ""],
    "Docker-Content-Digest": [
        ROOT["digest"],
        INDEX["digest"],
        "sha256:",
        "sha512:" + "0" * 128,
        "x",
    ],
    "Content-Range": SPANS,
    "Range": SPANS,
    "OCI-Chunk-Min-Length": NUMBERS,
    "X-Long": ["x" * 60_000, "x" * 70_000],
}
ERRORS = {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": f"\n::x {SECRET}", "detail": {}}]}
BODIES = st.one_of(
    st.sampled_from(
        [
            b"",
            BASE.data[ROOT["digest"]],
            BASE.data[INDEX["digest"]],
            BASE.data[MANIFEST["config"]["digest"]],
            LAYER,
            b"[" * 100_000,
            b'{"errors": ' * 50_000,
            b"5\r\nhello\r\nzz\r\n",
            b"f" * 20 + b"\r\n",
            b"\x1f\x8b",
        ]
    ),
    *(
        altered_json(document).map(lambda made: json.dumps(made).encode())
        for document in (ERRORS, TOKEN, {"name": "a", "tags": ["v1", "v2"]}, MANIFEST)
    ),
    st.binary(max_size=50),
)
STATUSES = [
    *(200, 200, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 400, 401, 401, 403, 404, 405),
    *(408, 413, 416, 429, 500, 501, 502, 503, 599),
]


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """An answer that may be of any kind; one whose length lies is cut off where its bytes end."""
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=4, unique=True))
    headers: dict[str, str | None] = {name: draw(st.sampled_from(HEADERS[name])) for name in names}
    body = draw(BODIES)
    if "Transfer-Encoding" in headers:
        headers["Content-Length"] = None
    lies = "Content-Length" in headers or draw(st.integers(0, 9)) == 0
    sent = draw(st.integers(0, len(body))) if lies else None
    return (
        HANG_UP
        if draw(st.integers(0, 30)) == 0
        else Reply(draw(st.sampled_from(STATUSES)), headers, body, sent)
    )


BLOB = part(b"a blob of ours", OCI_LAYER)
ASKED: list[Callable[[Repository], object]] = [
    lambda there: there.tags(),
    lambda there: there.head("v1"),
    lambda there: there.manifest("v1"),
    lambda there: there.manifest(ROOT["digest"]),
    lambda there: read_blob(there, BASE.descriptor(MANIFEST["config"])),
    lambda there: there.put(BLOB.descriptor, BLOB.data),
    lambda there: there.put_manifest("v1", Part(BASE.descriptor(ROOT), BASE.data[ROOT["digest"]])),
    lambda there: there.mount(BLOB.descriptor, "b"),
    lambda there: there.check([BLOB.descriptor, BASE.descriptor(ROOT)]),
    lambda there: load_family(there, there.manifest("v1").descriptor),
]


@fuzz
@given(st.lists(replies(), min_size=1, max_size=6), st.sampled_from(ASKED))
def test_answers_of_a_registry(
    server: Server, answers: list[Reply], ask: Callable[[Repository], object]
) -> None:
    """The replies in turn, and again from the first, whatever is asked for."""

    def script(seen: Any) -> Reply:
        reply = answers[len(server.seen) % len(answers)]
        headers = {
            name: value and value.replace("{host}", server.host)
            for name, value in reply.headers.items()
        }
        if reply is HANG_UP:
            return HANG_UP
        # It can only say what it was sent.
        was_told = any("authorization" in request.headers for request in server.seen)
        secret = SECRET.encode()
        body = reply.body if was_told else reply.body.replace(secret, b"x" * len(secret))
        return Reply(reply.status, headers, body, reply.sent)

    server.seen.clear()
    server.script = script
    with ours():
        ask(registry_at(server))
    assert len(server.seen) < MOST_REQUESTS


def registry_at(server: Server) -> Repository:
    login = base64.b64encode(f"me:{SECRET}".encode()).decode()
    os.environ["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {server.host: {"auth": login}}})
    return Repository(parse_reference(f"{server.host}/a:v1"), quiet(), push=True, mount_from=("b",))


NESTS = [
    "(",
    "[",
    "{1:",
    "-",
    "not ",
    "a.b.",
    "f(",
    "lambda: ",
    "x if y else ",
    "1+",
    "a and ",
    "'' ",
    "f'{",
    "if 1:\n ",
    "@x\n",
]


@fuzz
@given(
    altered_bytes(NEEDED),
    st.sampled_from(NESTS),
    st.sampled_from([0, 1, 90, 300, 5000, 100_000]),
    st.sampled_from(["", "self.kv_b_proj.weight.dtype\n", "1\n"]),
)
def test_sources(data: bytes, nest: str, times: int, end: str) -> None:
    """The parsers of both readings recurse, one of them in native code."""
    source = data + f"\n{nest * times}{end}".encode()
    # Python's own parser takes up to 900 bytes for one, whether it is Python or not.
    with ours(MOST_BYTES + 900 * len(source)):
        found = judge_bytes(PATCH, source, "x")
        if found.status is Status.NEEDED:
            apply(PATCH, source)


@heavy
@given(
    st.sampled_from(
        [b"\n", b"x=[0,0,0]\n", b"0;", b"a.b.c.d\n", b"''", b"#", b"kv_b_proj.weight.dtype\n"]
    ),
    st.sampled_from([1000, 50_000]),
)
def test_long_sources(piece: bytes, size: int) -> None:
    with ours():
        judge_bytes(PATCH, piece * (size // len(piece)), "x")
