"""One file out of a wheel by range requests: the real index, and a server that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

import patcher
from patcher.errors import FileAbsent, Unreadable, UsageError
from patcher.sources.wheel import WheelSource, open_release, open_wheel, open_wheel_file
from patcher.web import ranges
from patcher.web.http import Http
from tests.conftest import TARGET, free_port, missing
from tests.wheelhouse import wheel

RECORD = "vllm-0.23.0.dist-info/RECORD"
CONTENT = b"X = 1\n" * 1000


def make_wheel(*, record: str | None = None, name: str = RECORD, padding: int = 0) -> bytes:
    """A wheel with the target file in front, `padding` bytes after it, and RECORD at its end."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(CONTENT).digest()).decode().rstrip("=")
    stated = f"{TARGET},sha256={digest},{len(CONTENT)}\n{RECORD},,\n" if record is None else record
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(TARGET, CONTENT)
        wheel.writestr(zipfile.ZipInfo("vllm/_C.so"), bytes(padding))
        wheel.writestr(name, stated)
    return buffer.getvalue()


class Answer:
    """What a server does with one range request; the faults override a method."""

    status = 206
    announces = True
    cut = 0
    extra = b""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[str] = []

    def span(self, header: str) -> tuple[int, int]:
        self.asked.append(header)
        match = re.fullmatch(r"bytes=(\d*)-(\d+)", header)
        assert match, header
        if not match[1]:
            return max(0, len(self.data) - int(match[2])), len(self.data) - 1
        return int(match[1]), int(match[2])

    def content_range(self, first: int, last: int) -> str:
        return f"bytes {first}-{last}/{len(self.data)}"


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server on loopback that answers as told; yields the wheel's address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = answer.span(self.headers["Range"])
            self.send_response(answer.status)
            self.send_header("Content-Range", answer.content_range(first, last))
            body = answer.data[first : last + 1]
            if answer.announces:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - answer.cut] + answer.extra)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/vllm.whl"
        finally:
            server.shutdown()
            thread.join()


def patient() -> Http:
    """Retries that do not wait."""
    return Http(wait=lambda _: None)


@pytest.fixture
def from_server() -> Callable[[Answer], bytes]:
    """Open the wheel that a server offers and read its target."""

    def read(answer: Answer) -> bytes:
        with serving(answer) as url:
            return open_wheel(url, http=patient()).read(TARGET)

    return read


def release(version: str) -> WheelSource:
    try:
        return open_release(version)
    except Unreadable as error:
        return missing(f"vLLM {version} cannot be fetched: {error}")


def test_a_real_release_is_read_with_a_fraction_of_its_bytes() -> None:
    source = release("0.23.0")
    data = source.read(TARGET)
    assert data.count(b"kv_b_proj.weight.dtype") == 3
    assert (source.label, source.version()) == ("pypi:0.23.0", "0.23.0")
    assert source.size > 250_000_000
    assert source.bytes_read < 1_000_000


def test_a_file_is_read_as_from_a_server_and_held_to_its_record(tmp_path: Path) -> None:
    path = tmp_path / "vllm-0.23.0-py3-none-any.whl"
    path.write_bytes(make_wheel())
    source = open_wheel_file(path)
    assert (source.read(TARGET), source.version()) == (CONTENT, "0.23.0")
    assert [*source.read_folder("vllm/model_executor")] == [(TARGET, CONTENT)]
    assert (source.size, source.bytes_read) == (0, 0)
    path.write_bytes(make_wheel(record=f"{TARGET},sha256=AAAA,6000\n"))
    with pytest.raises(Unreadable, match="is not what its RECORD states"):
        open_wheel_file(path).read(TARGET)
    path.write_bytes(b"no zip")
    with pytest.raises(Unreadable, match="it is not a zip file"):
        open_wheel_file(path)


def test_a_second_file_of_an_open_wheel_costs_its_own_bytes_only() -> None:
    source = release("0.33.0")
    source.read(TARGET)
    before = source.bytes_read
    assert b"0.33.0" in source.read("vllm/_version.py")
    assert source.bytes_read - before < 10_000


def test_a_short_version_means_the_same_release() -> None:
    assert release("0.23").label == "pypi:0.23.0"


def test_an_older_release_has_no_such_file() -> None:
    with pytest.raises(FileAbsent, match=r"pypi:0\.14\.1 has no vllm/"):
        release("0.14.1").read(TARGET)


@pytest.mark.parametrize(
    ("version", "near"),
    [
        ("0.23.1rc1", "0.22.1, 0.23.0, 0.24.0, 0.25.0"),
        ("0.0.0", "0.0.1, 0.1.0"),
    ],
)
def test_no_such_release_names_the_near_ones(version: str, near: str) -> None:
    release("0.23.0")
    with pytest.raises(UsageError) as caught:
        open_release(version)
    assert f"Near it: {near}" in str(caught.value)


@pytest.mark.parametrize("version", ["nonsense", "\x1b[31m"])
def test_what_is_no_version_is_near_to_none(version: str) -> None:
    release("0.23.0")
    with pytest.raises(UsageError, match="The newest is") as caught:
        open_release(version)
    assert str(caught.value).isprintable()


def test_without_a_network_a_release_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreadable, match="list of vLLM's releases"):
        open_release("0.23.0", http=patient())


def test_a_wheel_at_an_address_is_read_and_its_bytes_counted(
    from_server: Callable[[Answer], bytes],
) -> None:
    answer = Answer(make_wheel(padding=3 << 20))
    assert from_server(answer) == CONTENT
    assert answer.asked[0] == "bytes=-524288"
    assert len(answer.asked) == 2


def test_no_byte_crosses_the_network_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patcher.sources.wheel._TAIL", 64)
    answer = Answer(make_wheel())
    with serving(answer) as url:
        source = open_wheel(url, http=patient())
        source.read(TARGET)
        asked = list(answer.asked)
        assert source.read(TARGET) == CONTENT
        assert answer.asked == asked
        assert source.bytes_read <= source.size == len(answer.data)


class NoRanges(Answer):
    """It sends the whole file, whatever part was asked for."""

    status = 200

    def span(self, header: str) -> tuple[int, int]:
        super().span(header)
        return 0, len(self.data) - 1


class NoRangesNoLength(NoRanges):
    announces = False


class Gone(Answer):
    status = 404


class Busy(Answer):
    status = 503


class Truncated(Answer):
    cut = 10


class Unannounced(Answer):
    announces = False
    cut = 10


class Overflowing(Answer):
    announces = False
    extra = bytes(10)


class OtherRange(Answer):
    def content_range(self, first: int, last: int) -> str:
        return f"bytes {first + 1}-{last + 1}/{len(self.data) + 1}"


class NonsenseRange(Answer):
    def content_range(self, *_: int) -> str:
        return "bytes */*"


class LongerRange(Answer):
    def span(self, header: str) -> tuple[int, int]:
        first, last = super().span(header)
        return first - 1, last


class NotTheEnd(Answer):
    def span(self, header: str) -> tuple[int, int]:
        first, last = super().span(header)
        return (first - 1, last - 1) if header.startswith("bytes=-") else (first, last)


class Changing(Answer):
    def content_range(self, first: int, last: int) -> str:
        return f"bytes {first}-{last}/{len(self.data) + len(self.asked) - 1}"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Gone, "404"),
        (Busy, "503"),
        (Truncated, "the connection broke, 5 times"),
        (Unannounced, "bytes were announced"),
        (Overflowing, "bytes were announced"),
        (OtherRange, "another"),
        (NonsenseRange, "answered the range"),
        (LongerRange, "another range"),
        (NotTheEnd, "another part"),
        (Changing, "were stated before"),
    ],
)
def test_a_server_that_answers_wrongly_is_unreadable(
    from_server: Callable[[Answer], bytes], kind: type[Answer], reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        from_server(kind(make_wheel(padding=1 << 20)))


def test_a_fault_that_may_pass_is_tried_again_and_one_that_will_not_is_not(
    from_server: Callable[[Answer], bytes],
) -> None:
    for kind, attempts in ((Busy, 5), (Truncated, 5), (Gone, 1)):
        answer = kind(make_wheel())
        with pytest.raises(Unreadable):
            from_server(answer)
        assert len(answer.asked) == attempts, kind


@pytest.mark.parametrize("kind", [NoRanges, NoRangesNoLength])
def test_a_server_without_ranges_is_read_whole_once(kind: type[Answer]) -> None:
    answer = kind(make_wheel(padding=1 << 20))
    with serving(answer) as url:
        source = open_wheel(url, http=patient())
        assert (source.read(TARGET), source.version()) == (CONTENT, "0.23.0")
        assert source.bytes_read == source.size == len(answer.data)
    assert len(answer.asked) == 1


@pytest.mark.parametrize(("kind", "read"), [(NoRanges, 0), (NoRangesNoLength, 2 << 20)])
def test_a_server_without_ranges_is_not_read_past_the_limit(
    monkeypatch: pytest.MonkeyPatch, kind: type[Answer], read: int
) -> None:
    monkeypatch.setattr(ranges, "WHOLE_LIMIT", 1 << 20)
    with serving(kind(bytes(4 << 20))) as url:
        part = ranges.Ranges(url, Http())
        with pytest.raises(Unreadable, match=r"does not answer range requests, and .* 1 MiB"):
            part.fetch((-10, None))
        assert part.bytes_read <= read


@pytest.mark.parametrize(
    ("sha256", "size", "reason"),
    [("ab" * 32, None, "sha256 is not the one"), (None, 5, "and 5 were stated before")],
)
def test_a_whole_file_that_is_not_what_the_index_states_is_unreadable(
    sha256: str | None, size: int | None, reason: str
) -> None:
    with serving(NoRanges(make_wheel())) as url:
        part = ranges.Ranges(url, Http(), sha256=sha256, stated_size=size)
        with pytest.raises(Unreadable, match=reason):
            part.fetch((-10, None))


def test_a_full_disk_under_a_whole_file_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb+", buffering=0) as full:
        monkeypatch.setattr("patcher.web.ranges.tempfile.TemporaryFile", lambda: full)
        with serving(NoRanges(make_wheel())) as url:  # noqa: SIM117
            with pytest.raises(Unreadable, match="no room for it: No space left"):
                open_wheel(url, http=patient())


def test_a_folder_is_read_in_one_request(from_server: Callable[[Answer], bytes]) -> None:
    files = {f"vllm/models/{name}.py": name.encode() * 9000 for name in ("a", "b", "c")}
    others = {"vllm/_C.so": os.urandom(1 << 20), "vllm/models/readme.md": b"x"}
    answer = Answer(wheel("0.23.0", {"vllm/a.py": b"", **files, **others}))
    with serving(answer) as url:
        source = open_wheel(url, http=patient())
        assert dict(source.read_folder("vllm/models")) == files
        assert list(source.read_folder("vllm/no")) == []
    assert len(answer.asked) == 2


class BusyOnce(Answer):
    @property
    def status(self) -> int:  # type: ignore[override]
        return 503 if len(self.asked) == 1 else 206


def test_a_server_that_recovers_is_read(from_server: Callable[[Answer], bytes]) -> None:
    assert from_server(BusyOnce(make_wheel())) == CONTENT


def test_nobody_listening_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="the connection is refused, 5 times"):
        open_wheel(f"http://127.0.0.1:{free_port()}/vllm.whl", http=patient())


@pytest.mark.parametrize("url", ["vllm.whl", "ftp://127.0.0.1/vllm.whl", "http://", "file:///x"])
def test_what_is_no_web_address_is_unreadable(url: str) -> None:
    with pytest.raises(UsageError, match="is not a web address"):
        open_wheel(url, http=patient())


def test_credentials_in_an_address_are_never_shown() -> None:
    with pytest.raises(Unreadable) as caught:
        open_wheel(f"http://me:hunter2@127.0.0.1:{free_port()}/vllm.whl", http=patient())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (b"", "answered the range"),
        (b"no zip at all" * 100, "BadZipFile"),
        (make_wheel()[:-40], "BadZipFile"),
        (make_wheel(name="torch-2.0.dist-info/RECORD"), "not a wheel of vllm"),
        (make_wheel(record=""), "states no hash"),
        (make_wheel(record=f"{TARGET},,\n"), "states no hash"),
        (make_wheel(record=f"{TARGET},md5=AAAA,1\n"), "states no hash"),
        (make_wheel(record=f"{TARGET},sha256=AAAA,1\n"), "is not what its RECORD states"),
        (make_wheel(record="x" * 200_000), "RECORD is damaged"),
        (make_wheel(padding=0).replace(b"PK\x03\x04", b"PK\x03\x05"), "is damaged"),
    ],
)
def test_a_damaged_wheel_is_unreadable(
    from_server: Callable[[Answer], bytes], wheel: bytes, reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        from_server(Answer(wheel))


def stored(tmp_path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A wheel on this machine with the target and these files; RECORD is right about all."""
    path = tmp_path / "vllm-0.23.0-py3-none-any.whl"
    data = wheel("0.23.0", {TARGET: CONTENT, **files})
    with zipfile.ZipFile(io.BytesIO(data)) as read, zipfile.ZipFile(path, "w", method) as out:
        for info in read.infolist():
            out.writestr(info.filename, read.read(info))
    return path


MODULE = TARGET.removesuffix(".py")
FOLDER, _, STEM = MODULE.rpartition("/")


@pytest.mark.parametrize(
    "name",
    [
        f"{MODULE}/__init__.py",
        f"{MODULE}.abi3.so",
        f"{FOLDER}.py",
        f"{FOLDER}/__pycache__/{STEM}.cpython-312.opt-1.pyc",
        f"{MODULE}.abi3t.so",
        f"{MODULE}.cpython-313td-x86_64-linux-gnu.so",
        f"{MODULE}.pypy310-pp73-x86_64-linux-gnu.so",
        "vllm.py",
        "vllm.abi3.so",
    ],
)
def test_a_file_that_python_runs_instead_makes_the_target_unreadable(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(Unreadable, match=re.escape(f"Python runs its {name}, and not {TARGET}")):
        open_wheel_file(stored(tmp_path, {name: b""})).read(TARGET)


@pytest.mark.parametrize(
    "name", [f"{MODULE}/data.json", f"{MODULE}_2.py", f"{MODULE}.pyi", f"{FOLDER}/__init__.py"]
)
def test_what_lies_beside_a_target_and_does_not_take_its_place_is_harmless(
    tmp_path: Path, name: str
) -> None:
    assert open_wheel_file(stored(tmp_path, {name: b""})).read(TARGET) == CONTENT


def test_a_module_beside_a_package_is_harmless(tmp_path: Path) -> None:
    """Unless the package has no `__init__`."""
    files = {"vllm/__init__.py": b"", "vllm.py": b""}
    assert open_wheel_file(stored(tmp_path, files)).read(TARGET) == CONTENT


@pytest.mark.parametrize(
    "name", ["vllm.pth", "sitecustomize.py", "usercustomize/__init__.py", "x.data/purelib/y.pth"]
)
def test_what_runs_when_python_starts_makes_a_wheel_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(f"its {name} is run whenever Python starts")):
        open_wheel_file(stored(tmp_path, {name: b""}))


@pytest.mark.parametrize(
    "name",
    [
        f"vllm-0.23.0.data/purelib/{TARGET}",
        f"VLLM-0.data/platlib/{TARGET}",
        "x.data/platlib/vllm.py",
        f"x.data/data/lib/python3.12/site-packages/{TARGET}",
        TARGET.replace("/", "\\", 1),
        TARGET.replace("/", "//", 1),
        f"./{TARGET}",
        f"vllm/../{TARGET}",
        f"/{TARGET}",
        "..",
        "vllm/.",
    ],
)
def test_a_file_that_is_put_over_another_makes_a_wheel_unreadable(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(Unreadable, match=re.escape(f"its {name} is put where another file")):
        open_wheel_file(stored(tmp_path, {name: b"# other"}))


def test_a_wheel_with_two_files_of_one_name_is_unreadable(tmp_path: Path) -> None:
    path = stored(tmp_path, {})
    with zipfile.ZipFile(path, "a") as out, pytest.warns(UserWarning, match="Duplicate name"):
        out.writestr(TARGET, "# other")
    with pytest.raises(Unreadable, match="two files of one name"):
        open_wheel_file(path)


@pytest.mark.parametrize("where", ["before", "in the comment"])
def test_a_wheel_with_another_in_it_is_unreadable(tmp_path: Path, where: str) -> None:
    """Installers would take one or the other."""
    path = stored(tmp_path, {})
    data, other = path.read_bytes(), wheel("0.23.0", {TARGET: b"# other"})
    if where == "before":
        path.write_bytes(other + data)
    else:
        path.write_bytes(data[:-2] + len(other).to_bytes(2, "little") + other)
    with pytest.raises(Unreadable, match="it holds more than one archive"):
        open_wheel_file(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_inflates_a_part_at_once_is_not_inflated(tmp_path: Path, method: int) -> None:
    """700 bytes of bzip2 were 300 MB."""
    with pytest.raises(Unreadable, match=f"is packed by method {method}"):
        open_wheel_file(stored(tmp_path, {}, method)).read(TARGET)


def test_no_more_is_inflated_than_a_file_claims(tmp_path: Path) -> None:
    path = stored(tmp_path, {"vllm/bomb.py": bytes(64 << 20)})
    size = (64 << 20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, b"\1\0\0\0"))
    source = open_wheel_file(path)
    tracemalloc.start()
    with pytest.raises(Unreadable, match="Bad CRC-32"):
        source.read("vllm/bomb.py")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_folder_that_claims_too_much_in_all_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has less than one may have, and packed they are nothing."""
    files = {f"vllm/models/{number}.py": bytes(1000) for number in range(9)}
    source = open_wheel_file(stored(tmp_path, files))
    assert len(list(source.read_folder("vllm/models"))) == 9
    monkeypatch.setattr("patcher.sources.wheel._FOLDER_LIMIT", 8999)
    with pytest.raises(Unreadable, match="vllm/models claims 9000 bytes"):
        list(source.read_folder("vllm/models"))


def test_a_list_of_files_without_end_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path, {f"vllm/{number}.py": b"" for number in range(50)})
    monkeypatch.setattr("patcher.sources.wheel.PART_LIMIT", 2000)
    with pytest.raises(Unreadable, match="a part of more than"):
        open_wheel_file(path)


def test_a_file_that_claims_to_be_huge_is_not_inflated(
    from_server: Callable[[Answer], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patcher.sources.wheel._MEMBER_LIMIT", len(CONTENT) - 1)
    with pytest.raises(Unreadable, match="claims 6000 bytes"):
        from_server(Answer(make_wheel()))


def test_a_part_that_is_huge_is_not_fetched(
    from_server: Callable[[Answer], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patcher.sources.wheel._TAIL", 64)
    monkeypatch.setattr(ranges, "PART_LIMIT", 16)
    answer = Answer(make_wheel())
    with pytest.raises(Unreadable, match="a part of more than"):
        from_server(answer)
    assert len(answer.asked) == 1


WHEEL = make_wheel()
HTTP = Http()


class FromMemory(HTTPAdapter):
    """A server that is a bytes object: thousands of damaged wheels, no sockets."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.answer = Answer(data)

    def send(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        first, last = self.answer.span(str(request.headers["Range"]))
        response = requests.Response()
        response.status_code = 206
        response.url = str(request.url)
        response.headers["Content-Range"] = self.answer.content_range(first, last)
        response.raw = io.BytesIO(self.answer.data[first : last + 1])
        return response


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHEEL) - 1), st.binary(min_size=1, max_size=4)), max_size=4
    )
)
def test_any_damage_is_found_or_harmless(damages: list[tuple[int, bytes]]) -> None:
    data = bytearray(WHEEL)
    for position, change in damages:
        data[position : position + len(change)] = change
    HTTP._session.mount("http://localhost/", FromMemory(bytes(data)))
    try:
        read = open_wheel("http://localhost/vllm.whl", http=HTTP).read(TARGET)
    except (Unreadable, FileAbsent):
        return
    assert read == CONTENT


def test_importing_the_module_loads_no_network_library() -> None:
    program = (
        "import sys, patcher.sources.wheel\n"
        "print({'requests', 'pypi_simple', 'remotezip'} & sys.modules.keys())"
    )
    root = Path(patcher.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "set()"
