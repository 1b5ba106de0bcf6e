"""Reading files out of layers: against a plain model, and against hostile tars."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import functools
import gzip
import importlib.util
import io
import lzma
import re
import tarfile
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.errors import BrokenImage, FileAbsent, PatcherError, Unreadable
from patcher.oci.image import load_image
from patcher.oci.installation import ImageDirectory, ImageFile, Installation
from patcher.oci.layer import write_tar
from patcher.oci.model import OCI_LAYER, part
from patcher.oci.rootfs.filesystem import Filesystem
from patcher.oci.rootfs.layers import StoredImage
from patcher.oci.rootfs.running import find_installation
from patcher.oci.rootfs.scan import Traces, Wanted, scan_layer
from patcher.oci.rootfs.start import Start
from tests.installations import CACHE, SITE, TARGET, installed_file, vllm_files
from tests.memory import OCI, Memory, add_image

if TYPE_CHECKING:
    from collections.abc import Iterable

Entry = tuple[str, bytes, str]
"""A tar entry: name, type, and the data of a file or the target of a link."""

FILE, DIRECTORY, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def tar(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, text in entries:
            header = tarfile.TarInfo(name)
            header.type = kind
            header.uid, header.gid, header.mode, header.mtime = 7, 8, 0o751, 9
            data = text.encode() if kind == FILE else b""
            header.size = len(data)
            header.linkname = "" if kind == FILE else text
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def scan(layer: bytes, wanted: Wanted) -> Traces:
    return scan_layer(lambda: io.BytesIO(layer), part(layer, OCI_LAYER).descriptor, wanted)


def find(*layers: bytes, targets: tuple[str, ...] = (TARGET,)) -> Installation:
    """The installation in these layers, the lowest first."""
    return find_installation(
        lambda wanted: [scan(layer, wanted) for layer in reversed(layers)], Start({}), targets
    )


def vllm(site: str = SITE) -> bytes:
    names = [file.path.replace(SITE, site).lstrip("/") for file in vllm_files()]
    texts = [file.data.decode() for file in vllm_files()]
    return tar((name, FILE, text) for name, text in zip(names, texts, strict=True))


PATH = f"{SITE}/{TARGET}"
NAME = PATH.lstrip("/")
PYC = f"{CACHE}/probe.cpython-312.pyc"


# --- The model: a dictionary, to which layers are applied from the bottom up.

NAMES = st.sampled_from("abc")
TREES: st.SearchStrategy[object] = st.recursive(
    st.just("file"), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
LAYERS = st.lists(
    st.tuples(
        st.dictionaries(NAMES, TREES, max_size=3),
        st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=2),
        st.lists(st.lists(NAMES, max_size=2), max_size=1),
    ),
    min_size=1,
    max_size=4,
)
Tree = dict[str, object]


def flatten(tree: Tree, above: str = "") -> dict[str, bool]:
    """Each path of a tree, and whether it is a file."""
    flat: dict[str, bool] = {}
    for name, inner in tree.items():
        flat[f"{above}/{name}"] = not isinstance(inner, dict)
        if isinstance(inner, dict):
            flat |= flatten(inner, f"{above}/{name}")
    return flat


def remove(model: dict[str, tuple[bool, int]], path: str, *, itself: bool) -> None:
    for known in list(model):
        if known.startswith(f"{path}/") or (itself and known == path):
            del model[known]


def apply(
    model: dict[str, tuple[bool, int]],
    number: int,
    layer: tuple[Tree, list[list[str]], list[list[str]]],
) -> None:
    tree, whiteouts, opaque = layer
    for parts in whiteouts:
        remove(model, "/" + "/".join(parts), itself=True)
    for parts in opaque:
        remove(model, "".join(f"/{part}" for part in parts), itself=False)
    for path, is_file in flatten(tree).items():
        if is_file or model.get(path, (False, 0))[0]:
            remove(model, path, itself=True)
        model[path] = (is_file, number)


def render(number: int, layer: tuple[Tree, list[list[str]], list[list[str]]]) -> bytes:
    tree, whiteouts, opaque = layer
    entries: list[Entry] = [
        (path, FILE if is_file else DIRECTORY, str(number) if is_file else "")
        for path, is_file in flatten(tree).items()
    ]
    entries += [("/".join([*parts[:-1], f".wh.{parts[-1]}"]), FILE, "") for parts in whiteouts]
    entries += [("/".join([*parts, ".wh..wh..opq"]), FILE, "") for parts in opaque]
    return tar((name.lstrip("/"), kind, text) for name, kind, text in entries)


@given(LAYERS)
def test_layers_show_what_applying_them_from_the_bottom_up_shows(
    layers: list[tuple[Tree, list[list[str]], list[list[str]]]],
) -> None:
    model: dict[str, tuple[bool, int]] = {}
    for number, layer in enumerate(layers):
        apply(model, number, layer)
    every = {path for layer in layers for path in flatten(layer[0])}
    wanted = Wanted((), frozenset(every))
    scanned = [scan(render(number, layer), wanted) for number, layer in enumerate(layers)]
    files = Filesystem(scanned[::-1])
    for path in every:
        entry = files.at(path)
        if path not in model:
            assert entry is None, path
        elif model[path][0]:
            assert isinstance(entry, ImageFile)
            assert entry.data == str(model[path][1]).encode()
        else:
            assert isinstance(entry, ImageDirectory)


# --- What images hold.


@pytest.mark.parametrize("site", [SITE, "/opt/venv/lib/python3.13/site-packages"])
def test_the_root_is_found_wherever_it_is(site: str) -> None:
    assert find(tar([]), vllm(site), tar([("etc/x", FILE, "")])).root == site


@pytest.mark.parametrize("prefix", ["", "./"])
def test_owner_mode_and_time_are_the_entrys(prefix: str) -> None:
    upper = tar([(f"{prefix}usr/", DIRECTORY, ""), (f"{prefix}{NAME}", FILE, "new")])
    found = find(vllm(), upper)
    assert found.files == {TARGET: ImageFile(PATH, b"new", 7, 8, 0o751, 9)}
    assert found.directories[0] == ImageDirectory("/usr", 7, 8, 0o751, 9)
    assert found.directories[1] == ImageDirectory("/usr/local", 0, 0, 0o755, 0)
    assert found.directories[-1].path == PATH.rpartition("/")[0]


def test_bytecode_of_any_layer_counts_until_a_whiteout() -> None:
    cache = CACHE.lstrip("/")
    lower = tar([(PYC.lstrip("/"), FILE, "x"), (f"{cache}/probe.cpython-313.pyc", FILE, "x")])
    assert find(lower, vllm()).bytecode == {
        TARGET: (PYC, PYC.replace("312", "313")),
    }
    upper = tar([(f"{cache}/.wh.probe.cpython-312.pyc", FILE, "")])
    assert find(lower, vllm(), upper).bytecode == {TARGET: (PYC.replace("312", "313"),)}
    opaque = tar([(f"{cache}/.wh..wh..opq", FILE, "")])
    assert find(lower, vllm(), opaque).bytecode == {TARGET: ()}
    assert find(lower, vllm(), opaque).directories[-1].path == PATH.rpartition("/")[0]


def test_what_may_lead_the_import_elsewhere_is_told() -> None:
    """What runs at a Python's start, and archives, which are looked into first."""
    python = installed_file("x", b"#!")
    own = [*vllm_files(), dataclasses.replace(python, path="/usr/bin/python3.12")]
    for path, data, said in (
        (f"{SITE}/a.pth", b"import sys; sys.meta_path.insert(0, x)\n", "runs code that speaks of"),
        (f"{SITE}/sitecustomize.py", b"import vllm\n", "runs code that speaks of"),
        (f"{SITE}/b.pth", b"/opt/vllm.egg\n", None),
        ("/usr/lib/python312.zip", b"PK", None),
        ("/opt/vllm.zip", b"PK", None),
    ):
        layer = write_tar([*own, dataclasses.replace(python, path=path, data=data)])
        start = Start({"PYTHONPATH": "/opt/vllm.zip"} if path == "/opt/vllm.zip" else {})
        read = functools.partial(scan, layer)
        found = find_installation(lambda wanted, read=read: [read(wanted)], start, [TARGET])  # type: ignore[misc]
        named = "/opt/vllm.egg" if path.endswith("b.pth") else path
        expected = (
            f"{named} {said or 'is an archive on sys.path: whether it holds vLLM is not seen'}"
        )
        assert any(note.startswith(expected) for note in found.notes), (path, found.notes)


def test_a_target_that_was_removed_is_absent() -> None:
    folder, name = NAME.rsplit("/", 1)
    assert find(vllm(), tar([(f"{folder}/.wh.{name}", FILE, "")])).files == {}


def test_vllm_that_was_removed_is_absent() -> None:
    with pytest.raises(FileAbsent):
        find(vllm(), tar([(f"{SITE.lstrip('/')}/.wh.vllm", FILE, "")]))


def test_vllm_whose_directory_became_a_file_is_absent() -> None:
    with pytest.raises(FileAbsent):
        find(vllm(), tar([("usr/local/lib", FILE, "")]))


def test_two_roots_are_both_looked_at_and_named() -> None:
    found = find(vllm(), vllm("/opt/site-packages"))
    assert [each.root for each in found.all] == ["/opt/site-packages", SITE]
    assert all(TARGET in each.files for each in found.all)
    assert [(copy.root, copy.looked_at) for copy in found.copies] == [
        ("/opt/site-packages", True),
        (SITE, True),
    ]


def test_files_that_are_hard_links_into_a_cache() -> None:
    """As uv installs them: the cache's name may come first, and is nothing that is looked for."""
    cached = [("root/.cache/a", FILE, "data"), ("root/.cache/b", HARD, "root/.cache/a")]
    assert find(vllm(), tar([*cached, (NAME, HARD, "root/.cache/b")])).files[TARGET].data == b"data"


def test_files_that_are_symbolic_links_into_a_cache() -> None:
    links = [("cache", LINK, "root/.cache"), ("root/.cache/a", FILE, "data")]
    upper = tar([*links, (NAME, LINK, "/cache/../.cache/./a")])
    file = find(vllm(), upper).files[TARGET]
    assert (file.path, file.data) == (PATH, b"data")
    relative = tar([*links, (NAME, LINK, "../" * 20 + "cache/a")])
    assert find(vllm(), relative).files[TARGET].data == b"data"


def test_a_name_given_twice_counts_the_last_time() -> None:
    assert find(vllm(), tar([(NAME, FILE, "1"), (NAME, FILE, "2")])).files[TARGET].data == b"2"


def test_a_link_that_takes_a_files_place_in_the_same_layer_counts() -> None:
    upper = tar([("opt/a", FILE, "there"), (NAME, FILE, "old"), (NAME, LINK, "/opt/a")])
    assert find(vllm(), upper).files[TARGET].data == b"there"


def test_memory_does_not_grow_with_the_files_of_a_layer() -> None:
    assert peak(2_500) < peak(100) + 250_000


def peak(files: int) -> int:
    """The most bytes that the search of a layer with so many files holds at once."""
    layer = tar((f"usr/share/{number}", FILE, "") for number in range(files))
    tracemalloc.start()
    scan(layer, Wanted((TARGET,)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_of_one_member_and_of_several(members: int) -> None:
    plain = vllm()
    size = len(plain) // members + 1
    parts = [gzip.compress(plain[place : place + size]) for place in range(0, len(plain), size)]
    assert len(parts) == members
    assert find(b"".join(parts)).version == "0.23.0"


@pytest.mark.parametrize("packer", [bz2, lzma])
def test_what_docker_reads_besides_is_read(packer: Any) -> None:
    packed = packer.compress(vllm())
    assert find(packed).version == "0.23.0"
    with pytest.raises(BrokenImage):
        find(packed[:40] + bytes(20) + packed[60:])


def zstd() -> Any:
    names = [name for name in ("compression.zstd", "backports.zstd") if has_module(name)]
    return importlib.import_module(names[0]) if names else None


def has_module(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(name) is not None
    return False


def test_zstd_is_read_where_python_can_and_else_refused_with_the_way_out() -> None:
    if zstd() is None:
        with pytest.raises(Unreadable, match=r"pip install backports\.zstd"):
            find(b"\x28\xb5\x2f\xfd" + bytes(20))
        return
    packed = zstd().compress(vllm())
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert find(packed).version == find(skippable + packed).version == "0.23.0"
    for damaged in (packed[:-9], packed[:40] + bytes(20) + packed[60:]):
        with pytest.raises(BrokenImage):
            find(damaged)


# --- Hostile and damaged layers.

DEVICE = tarfile.CHRTYPE

HOSTILE: list[tuple[str, list[Entry]]] = [
    ("named 'a/../../b'", [("a/../../b", FILE, "")]),
    ("whiteout named 'a/.wh.'", [("a/.wh.", FILE, "")]),
    ("whiteout named '.wh...'", [(".wh...", FILE, "")]),
    ("not a regular file", [(NAME, DEVICE, "")]),
    ("not a regular file", [(NAME, DIRECTORY, "")]),
    ("hard link to /etc/shadow", [(NAME, HARD, "etc/shadow")]),
    ("hard link", [(NAME, HARD, NAME)]),
    ("named '../x'", [(NAME, HARD, "../x")]),
    ("in a circle", [(NAME, LINK, NAME.rsplit("/", 1)[1])]),
    ("is not a directory", [(NAME.rsplit("/", 1)[0], LINK, "/elsewhere"), (NAME, FILE, "x")]),
]


@pytest.mark.parametrize(("said", "entries"), HOSTILE)
def test_a_hostile_layer_is_one_clear_error(said: str, entries: list[Entry]) -> None:
    with pytest.raises(BrokenImage, match=re.escape(said)):
        find(vllm(), tar(entries))


def test_a_symbolic_link_below_the_root_is_refused() -> None:
    with pytest.raises(BrokenImage, match="/usr/local is not a directory"):
        find(tar([("usr/local", LINK, "/opt")]), vllm())


def test_a_layer_that_inflates_without_end_is_refused_in_little_memory() -> None:
    header = tarfile.TarInfo("big")
    header.size = 1 << 40
    zeros = gzip.compress(bytes(1 << 24))
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT)) + zeros * 40
    tracemalloc.start()
    with pytest.raises(BrokenImage, match="over 200 times its size"):
        find(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_pax_record_that_claims_any_size_is_not_believed() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 34
    with pytest.raises(BrokenImage, match="17179869184 bytes, where a few are expected"):
        find(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def pax(records: bytes) -> bytes:
    """A pax header of these bytes, before a file of a site's."""
    header, file = tarfile.TarInfo("x"), tarfile.TarInfo("usr/x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = records + bytes(-len(records) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + blocks + file.tobuf() + bytes(1024)


def record(text: str) -> bytes:
    size = len(text) + 2
    while len(f"{size} {text}\n") != size:
        size = len(f"{size} {text}\n")
    return f"{size} {text}\n".encode()


@pytest.mark.parametrize(
    ("said", "records"),
    [
        ("damaged pax header", b"1" * 60_000),
        ("damaged pax header", b"0 path=a\n"),
        ("damaged pax header", b"99 path=a\n"),
        ("header of 1000448 bytes", b"1" * 1_000_000),
        ("a uid of 5000 characters", record("uid=" + "1" * 5000)),
        ("a path of 5000 characters", record("path=" + "1" * 5000)),
    ],
)
def test_a_pax_header_of_digits_costs_no_time(said: str, records: bytes) -> None:
    """tarfile's own reader is quadratic in them until 3.11.10 (CVE-2024-6232)."""
    with pytest.raises(BrokenImage, match=said):
        find(vllm(), pax(records))


def test_what_a_pax_header_says_counts() -> None:
    name = f"{SITE[1:]}/vllm/{'n' * 300}.py"
    header = tarfile.TarInfo(name)
    header.uid, header.gid, header.mtime = 1 << 40, 1 << 41, 7.5
    header.pax_headers = {"SCHILY.xattr.user.a": "1" * 2000, "comment": "x"}
    layer = header.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    traces = scan(layer, Wanted((), frozenset({f"/{name}"})))
    assert traces.files == {f"/{name}": ImageFile(f"/{name}", b"", 1 << 40, 1 << 41, 0o644, 7)}


def test_a_global_pax_header_is_passed_over_as_docker_does() -> None:
    header = tarfile.TarInfo("x")
    header.type, records = tarfile.XGLTYPE, record("path=elsewhere")
    header.size = len(records)
    block = header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    assert find(block + vllm()).root == SITE


def test_names_are_taken_as_docker_takes_them() -> None:
    names = [
        (f"/{name}" if number % 2 else f"a/.././{name}", kind, text)
        for number, (name, kind, text) in enumerate(
            (file.path[1:], FILE, file.data.decode()) for file in vllm_files()
        )
    ]
    assert find(tar(names)).files[TARGET].data == b"ANSWER = 'old'\n"


def test_the_cost_of_deep_paths_and_links_has_a_bound() -> None:
    """2,000 parts took 40 s, and 100,000 parts 6 GB."""
    deep = "a/" * 2000 + "lib/python3.12/site-packages"
    assert find(vllm(f"/{deep}")).root == f"/{deep}"
    linked = tar([(NAME, LINK, "a/" * 2000 + "x")])
    with pytest.raises(BrokenImage, match="a link to nothing, or in a circle"):
        find(vllm(), linked)
    for entry in (("b/" * 2500 + "x", FILE, ""), ("x", LINK, "b/" * 2500)):
        with pytest.raises(BrokenImage, match="and Linux takes 4095"):
            find(vllm(), tar([entry]))


def test_links_to_links_end() -> None:
    chain = [(f"l{n}", LINK, f"/l{n + 1}/" + "a/" * 1000) for n in range(200)]
    with pytest.raises(BrokenImage, match="a link to nothing"):
        find(vllm(), tar([*chain, (NAME, LINK, "/l0")]))


def test_a_long_chain_of_pax_records_is_refused() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 0
    with pytest.raises(BrokenImage, match="recursion"):
        find(header.tobuf(tarfile.GNU_FORMAT) * 5000)


@pytest.mark.parametrize("time", ["inf", "nan", "1e400"])
def test_a_time_that_is_no_time_is_no_traceback(time: str) -> None:
    header = tarfile.TarInfo(NAME)
    header.pax_headers = {"mtime": time}
    with pytest.raises(BrokenImage):
        find(vllm(), header.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


def test_an_entry_of_negative_size_is_no_endless_loop() -> None:
    header = tarfile.TarInfo("x")
    header.pax_headers = {"size": "-2048"}
    with pytest.raises(BrokenImage):
        find(header.tobuf(tarfile.PAX_FORMAT) + bytes(4096))


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_that_ends_early_is_never_half_believed(packed: bool) -> None:
    whole = gzip.compress(vllm()) if packed else vllm()
    descriptor = part(whole, OCI_LAYER).descriptor
    for end in range(0, len(whole), 37 if packed else 256):
        with pytest.raises(BrokenImage):
            scan_layer(functools.partial(io.BytesIO, whole[:end]), descriptor, Wanted((TARGET,)))


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    plain = vllm()
    assert find(plain).files
    place = plain.index(NAME.encode())
    with pytest.raises(BrokenImage, match="damaged header"):
        find(plain[:place] + b"X" + plain[place + 1 :])


@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(PatcherError):
        find(data)


@given(st.data())
def test_any_damage_to_a_layer_is_read_or_refused(data: st.DataObject) -> None:
    layer = bytearray(vllm())
    for place in data.draw(st.lists(st.integers(0, len(layer) - 1), min_size=1, max_size=4)):
        layer[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PatcherError):
        assert find(bytes(layer)).root


def test_other_entries_stand_in_the_way_as_such() -> None:
    traces = scan(tar([("a", DEVICE, ""), ("b", FILE, "unwanted")]), Wanted(()))
    assert not traces.names
    assert len(traces.others) == 2


def test_what_many_files_and_links_come_to_in_all_has_a_bound() -> None:
    """Each is in order: 2 MiB of settings, a link of 4 KB, and there are thousands of them."""
    settings = [installed_file(f"{n}/sitecustomize.py", b"#" * (1 << 20)) for n in range(70)]
    with pytest.raises(BrokenImage, match="over 64 MiB of one layer would have to be kept"):
        scan(write_tar(settings), Wanted((TARGET,)))


def test_what_many_layers_come_to_in_all_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is listed many times is applied many times."""
    monkeypatch.setattr("patcher.oci.rootfs.layers._MOST_NAMES", 40)
    blobs = Memory()
    manifest = blobs.json(add_image(blobs, OCI)["digest"])
    layers = manifest["layers"] * 9
    config = blobs.json(manifest["config"]["digest"])
    config["rootfs"]["diff_ids"] *= 9
    root = blobs.add({**manifest, "layers": layers, "config": blobs.add(config, OCI[2])}, OCI[1])
    image = load_image(blobs, blobs.descriptor(root))
    with pytest.raises(BrokenImage, match="the layers hold"):
        StoredImage(blobs, image.digest, image).installation([TARGET])


def test_an_xz_header_that_asks_for_gigabytes_is_refused() -> None:
    """And several streams with zeros between them are one file, as xz has it."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    large = lzma.compress(b"x" * 1024, filters=filters)
    with pytest.raises(BrokenImage, match="cannot be read"):
        scan(large, Wanted((TARGET,)))
    tar = write_tar(vllm_files())
    packed = lzma.compress(tar[:700]) + bytes(8) + lzma.compress(tar[700:])
    # Where in the packed bytes a file was read is not the same: that is for gzip.
    one, other = (scan(data, Wanted((TARGET,))) for data in (packed, tar))
    assert dataclasses.replace(one, read=other.read) == other
    with pytest.raises(BrokenImage, match="cannot be read"):
        scan(packed[: len(packed) // 2], Wanted((TARGET,)))
