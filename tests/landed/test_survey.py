"""The survey: the real index whole, and indexes of our own where things go wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from packaging.version import Version

from patcher.cache import default_folder
from patcher.errors import BadSource, Unreadable, UsageError
from patcher.landed import Finding, Scope
from patcher.landed.survey import survey
from patcher.lock.entries import Lock
from patcher.lock.file import save
from patcher.rules.catalogue import select
from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.patch import Patch
from patcher.rules.verdict import Status
from patcher.sources.everywhere import FOLDERS, Notice, everywhere
from patcher.threads import in_order
from patcher.web import http
from tests.conftest import TARGET, free_port, missing
from tests.landed.findings import TABLE
from tests.locks import entry
from tests.wheelhouse import CLEAN, NEEDED, Site, name_of, serving, wheel, wheels_asked

PATCH = select(["kv-b-proj-dtype"])[0]
NIGHTLY = "0.23.1rc1.dev672+g93d8f834d"


PAUSES = http._PAUSES


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, loopback without a proxy, retries that do not wait."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("patcher.web.http._PAUSES", ())


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def index(site: Site) -> Iterator[str]:
    with serving(site) as url:
        yield f"{url}/simple"


def found(scope: Scope, *patches: Patch, said: list[str] | None = None) -> tuple[Finding, ...]:
    talk: list[str] = [] if said is None else said
    findings = survey(patches or (PATCH,), scope, talk.append, lambda *_: None)
    assert re.match(r"\d+ artifacts?\b", talk.pop())
    if said is None:
        assert talk == []
    return findings


def verdicts(findings: tuple[Finding, ...]) -> dict[str, Status]:
    return {str(each.version): each.verdict.status for each in findings}


def from_pypi(since: str, until: str | None = None, *, wide: bool = False) -> tuple[Finding, ...]:
    scope = Scope(
        since=Version(since), until=Version(until) if until else None, everywhere=wide, cached=False
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            # A real index may be away for a moment.
            patch.setattr("patcher.web.http._PAUSES", PAUSES)
            findings = found(scope, said=[])
    except Unreadable as error:
        missing(f"no index: {error}")
    if any(each.verdict.status is Status.UNKNOWN for each in findings):
        missing(f"a wheel cannot be read: {findings}")
    return findings


def test_the_28_releases_give_the_designs_table_and_their_forerunner_is_absent() -> None:
    first, *rest = from_pypi("0.14.1", "0.33.0")
    assert first.verdict.status is Status.ABSENT
    assert first.verdict.reason == (
        f"pypi:0.14.1 has no {TARGET}; the newest that has it is pypi:0.33.0"
    )
    measured = {
        f"pypi:{version}": (unguarded, guarded)
        for versions, unguarded, guarded in TABLE
        for version in versions
    }
    counts = {each.artifact: (each.verdict.needed, each.verdict.clean) for each in rest}
    assert list(counts.items()) == list(measured.items())
    assert all(each.uploaded and each.uploaded.tzinfo for each in rest)


@pytest.mark.parametrize(
    ("version", "file", "needed"),
    [("0.17.1", "longcat_flash", True), ("0.33.0", "dots3_note", False)],
)
def test_a_read_in_another_file_of_a_real_wheel_is_noticed(
    version: str, file: str, needed: bool
) -> None:
    (finding,) = from_pypi(version, version, wide=True)
    assert {file in notice.path for notice in finding.elsewhere} == {True}
    assert {notice.needed for notice in finding.elsewhere} == {needed}
    assert all(notice.path != TARGET for notice in finding.elsewhere)
    assert all("kv_b_proj" in notice.text for notice in finding.elsewhere)


def test_a_nightly_index_answers_for_its_commit(site: Site) -> None:
    site.put_nightly("93d8f834d", NIGHTLY, NEEDED)
    with serving(site) as url:
        said: list[str] = []
        assert found(Scope(index=f"{url}/93d8f834d"), said=said) == ()
        assert said == ["1 pre-release or nightly left out (--pre)"]
        (finding,) = found(Scope(index=f"{url}/93d8f834d", pre=True))
    assert (finding.version, finding.verdict.status) == (Version(NIGHTLY), Status.NEEDED)


def test_the_bounds_are_inclusive_and_the_order_is_pep_440s(site: Site, index: str) -> None:
    versions = ["0.9.0", "0.10.0", "0.10.0+cu129", "0.10.1rc1", "0.10.1", "0.2.0"]
    site.put_json([site.put_wheel(version) for version in versions])
    scope = Scope(index=index, since=Version("0.9.0"), until=Version("0.10"))
    assert list(verdicts(found(scope))) == ["0.9.0", "0.10.0", "0.10.0+cu129"]
    with pytest.raises(
        UsageError, match=r"no release of vLLM from 0\.40\.0\. The newest is 0\.10\.1"
    ):
        found(Scope(index=index, since=Version("0.40.0")))
    site.files["/vllm.whl"] = wheel("0.9.1", {TARGET: CLEAN})
    address = index.replace("/simple", "/vllm.whl")
    everything = list(verdicts(found(Scope(index=index, pre=True, wheels=(address,)))))
    ordered = ["0.2.0", "0.9.0", "0.9.1", "0.10.0", "0.10.0+cu129", "0.10.1rc1", "0.10.1"]
    assert everything == ordered


def test_what_an_answer_cost_is_said(site: Site, index: str) -> None:
    site.put_json([site.put_wheel("0.1.0"), site.put_wheel("0.2.0")])
    said: list[str] = []
    for _ in range(2):
        survey((PATCH,), Scope(index=index, cached=True), said.append, lambda *_: None)
    assert re.fullmatch(r"2 artifacts; \d\.\d MB of wheels read", said[0])
    assert said[1:] == ["2 artifacts, 2 of them known from before"]


def without_its_end(data: bytes) -> bytes:
    return data[: len(data) // 2]


def test_whatever_is_wrong_with_one_wheel_is_its_verdict_and_the_rest_is_judged(
    site: Site, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patcher.web.ranges.WHOLE_LIMIT", 1 << 20)
    good = {TARGET: CLEAN}
    large = wheel("0.8.0", {TARGET: CLEAN, "vllm/_C.so": os.urandom(2 << 20)})
    entries: list[dict[str, object]] = [
        site.put_wheel("0.1.0"),
        site.put_wheel("0.2.0", yanked="oops"),
        {"filename": "vllm-0.3.0.tar.gz", "url": "x", "hashes": {}},
        site.put_bytes("0.4.0", without_its_end(wheel("0.4.0", good))),
        site.put_bytes("0.5.0", wheel("0.5.0", good, lies=TARGET)),
        site.put_bytes("0.6.0", wheel("0.6.0", good)) | {"size": 77},
        site.put_bytes("0.7.0", wheel("0.7.1", good)),
        site.put_bytes("0.8.0", large),
        site.put_wheel("0.9.0", b"def f(:\n"),
        site.put_wheel("0.10.0", None),
        {**site.put_wheel("0.11.0"), "url": "file:///etc/passwd"},
        {**site.put_wheel("0.12.0"), "url": "../../files/gone"},
        site.put_wheel("0.13.0", b"\xff\xfe"),
        site.put_wheel("0.14.0", NEEDED),
        site.put_wheel("0.15.0", CLEAN),
        site.put_wheel("0.16.0", CLEAN) | {"hashes": {"sha256": "ab" * 32}},
    ]
    site.rangeless |= {f"/files/{name_of(version)}" for version in ("0.8.0", "0.15.0", "0.16.0")}
    site.put_json(entries)
    findings = found(Scope(index=index))
    reasons = {str(each.version): each.verdict.reason for each in findings}
    wanted = {
        "0.1.0": None,
        "0.2.0": "yanked: oops",
        "0.3.0": "no wheel",
        "0.4.0": "BadZipFile",
        "0.5.0": "is not what its RECORD states",
        "0.6.0": "77 were stated before",
        "0.7.0": "it holds vllm 0.7.1",
        "0.8.0": "does not answer range requests",
        "0.9.0": "line 1: not Python source",
        "0.10.0": "the newest that has it is http://",
        "0.11.0": "not a web address",
        "0.12.0": "404",
        "0.13.0": "not Python source",
        "0.14.0": None,
        "0.15.0": None,
        "0.16.0": "sha256 is not the one that the index states",
    }
    assert list(reasons) == list(wanted)
    for version, reason in wanted.items():
        assert (reasons[version] is None) == (reason is None), reasons[version]
        assert (reason or "") in (reasons[version] or ""), version
    statuses = verdicts(findings)
    assert [v for v in wanted if statuses[v] is Status.CLEAN] == ["0.1.0", "0.15.0"]
    assert [v for v in wanted if statuses[v] is Status.NEEDED] == ["0.14.0"]
    assert [v for v in wanted if statuses[v] is Status.ABSENT] == ["0.10.0"]


def test_hostile_names_touch_no_path_and_no_terminal(
    site: Site, index: str, tmp_path: Path
) -> None:
    names = ["vllm-../../x-cp38-abi3-any.whl", "vllm-1.0\x1b[2J-py3-none-any.whl"]
    urls = ["../../files/\x1b[2J.whl", "../../../../../../etc/passwd", "http://127.0.0.1:1/\u202e"]
    entries: list[dict[str, object]] = [
        {"filename": name, "url": "x", "hashes": {"sha256": "../../../escape"}} for name in names
    ]
    entries += [
        {**site.put_wheel(f"0.{number}.0"), "url": url, "hashes": {"sha256": "../../../escape"}}
        for number, url in enumerate(urls)
    ]
    site.put_json(entries)
    findings = found(Scope(index=index))
    assert [each.verdict.status for each in findings] == [Status.UNKNOWN] * 3
    for finding in findings:
        assert finding.artifact.isprintable()
        assert (finding.verdict.reason or "").isprintable()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_absence_without_any_presence_says_so(site: Site, index: str) -> None:
    site.put_json([site.put_wheel("0.1.0", None)])
    (finding,) = found(Scope(index=index))
    assert (finding.verdict.reason or "").endswith("nothing that was read has it")


def test_an_index_that_cannot_be_read_is_an_error(index: str) -> None:
    with pytest.raises(Unreadable, match="404"):
        found(Scope(index=index))


def test_a_second_survey_reads_the_index_alone(site: Site, index: str) -> None:
    contents = {"0.1.0": NEEDED, "0.2.0": CLEAN, "0.3.0": None, "0.4.0": b"def f(:\n"}
    site.put_json([site.put_wheel(*each) for each in contents.items()])
    first = found(Scope(index=index))
    site.asked.clear()
    second = found(Scope(index=index))
    assert second == first
    # What could not be judged is read again.
    assert wheels_asked(site) == {name_of("0.4.0")}
    found(Scope(index=index, cached=False))
    assert len(wheels_asked(site)) == 4


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(PATCH, version=PATCH.version + 1),
        dataclasses.replace(PATCH, name="other"),
        dataclasses.replace(PATCH, targets=("vllm/__init__.py",)),
        dataclasses.replace(PATCH, rule=AttributeGuard("x", "weight", "dtype", "params_dtype")),
    ],
)
def test_another_patch_is_judged_anew(site: Site, index: str, other: Patch) -> None:
    site.put_json([site.put_wheel("0.1.0")])
    found(Scope(index=index))
    site.asked.clear()
    found(Scope(index=index), other)
    assert wheels_asked(site) == {name_of("0.1.0")}


def test_another_wheel_of_the_same_version_is_judged_anew(site: Site, index: str) -> None:
    site.put_json([site.put_wheel("0.1.0", CLEAN)])
    assert verdicts(found(Scope(index=index))) == {"0.1.0": Status.CLEAN}
    site.put_json([site.put_wheel("0.1.0", NEEDED)])
    assert verdicts(found(Scope(index=index))) == {"0.1.0": Status.NEEDED}


def test_a_corrupted_entry_is_read_again(site: Site, index: str) -> None:
    site.put_json([site.put_wheel("0.1.0", NEEDED)])
    first = found(Scope(index=index))
    (entry_path,) = (default_folder() / "verdicts").iterdir()
    whole = entry_path.read_bytes()
    entry_path.write_bytes(whole.replace(b"needed", b"clean "))
    site.asked.clear()
    assert found(Scope(index=index)) == first
    assert wheels_asked(site) == {name_of("0.1.0")}
    assert entry_path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_one_line(
    site: Site, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    site.put_json([site.put_wheel("0.1.0"), site.put_wheel("0.2.0", NEEDED)])
    said: list[str] = []
    findings = found(Scope(index=index), said=said)
    assert verdicts(findings) == {"0.1.0": Status.CLEAN, "0.2.0": Status.NEEDED}
    assert len(said) == 1


# Ctrl-C is caught: what an uncaught one makes the exit status is forgotten where another thread
# executes a string meanwhile, as a dataclass does when it is imported (CPython, pythonrun.c).
PROGRAM = """
import sys
from patcher.landed import Scope
from patcher.landed.survey import survey
from patcher.rules.catalogue import select
wanted, scope = select(["kv-b-proj-dtype"]), Scope(index=sys.argv[1])
try:
    for each in survey(wanted, scope, print, lambda *_: None):
        print(each.version, each.verdict.status)
except KeyboardInterrupt:
    sys.exit(130)
"""


def process(index: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, index],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_surveys_at_once_agree(site: Site, index: str) -> None:
    versions = [f"0.{minor}.0" for minor in range(12)]
    site.put_json([site.put_wheel(version, NEEDED) for version in versions])
    both = [process(index) for _ in range(2)]
    expected = "".join(f"{version} needed\n" for version in versions)
    said = [each.communicate() for each in both]
    # The first line says what it cost, which depends on who was first.
    assert [(out.partition("\n")[2], errors) for out, errors in said] == [(expected, "")] * 2
    assert len(list((default_folder() / "verdicts").iterdir())) == 12


def test_ctrl_c_ends_a_survey_that_waits_for_a_silent_server(site: Site, index: str) -> None:
    site.put_json([site.put_wheel("0.1.0"), site.put_wheel("0.2.0")])
    site.silent.add(f"/files/{name_of('0.2.0')}")
    running = process(index)
    assert site.reached.wait(30)
    running.send_signal(signal.SIGINT)
    # Under the 30 seconds after which the silent server would be given up.
    _, errors = running.communicate(timeout=15)
    assert (running.returncode, errors) == (130, "")
    kept = list(default_folder().rglob("*.tmp"))
    assert kept == []


def test_what_a_thread_raises_is_raised_and_nothing_more_is_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return 1 // (3 - number)

    results = in_order(work, range(1000), 1)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results, None) is None
    assert list(in_order(work, [], 8)) == []


def test_an_error_waits_for_no_item_before_it() -> None:
    over = threading.Event()

    def work(number: int) -> bool:
        return over.wait(60) if number == 0 else bool(1 // 0)

    try:
        with pytest.raises(ZeroDivisionError):
            next(in_order(work, range(2), 2))
        assert not over.is_set()
    finally:
        over.set()


def test_wheels_trees_and_files_are_judged_too(site: Site, index: str, tmp_path: Path) -> None:
    del index
    data = wheel("0.4.0", {"vllm/__init__.py": b"", TARGET: NEEDED, "vllm/a.py": NEEDED})
    zipfile.ZipFile(BytesIO(data)).extractall(tmp_path / "tree")
    (tmp_path / "alone.py").write_bytes(CLEAN)
    site.files["/vllm.whl"] = data
    tree, alone = str(tmp_path / "tree"), str(tmp_path / "alone.py")
    with serving(site) as url:
        address = f"{url}/vllm.whl"
        scope = Scope(releases=False, wheels=(address,), sources=(alone, tree), everywhere=True)
        said: list[str] = []
        findings = found(scope, said=said)
    assert said == [f"also reading {' and '.join(FOLDERS)}: 1 to 4 MB more for each wheel"]
    assert [(each.artifact, each.version) for each in findings] == [
        (address, Version("0.4.0")),
        (alone, None),
        (tree, None),
    ]
    assert findings[2].elsewhere == (
        Notice("vllm/a.py", 2, "self.kv_b_proj.weight.dtype", needed=True),
    )


def test_a_source_that_names_nothing_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(BadSource):
        found(Scope(releases=False, sources=(str(tmp_path / "no.py"),)))


def test_locked_images_that_cannot_be_reached_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    lock = tmp_path / "images.lock"
    name = f"127.0.0.1:{free_port()}/vllm"
    save(lock, Lock((entry("0.1.0", f"{name}:a", index=1), entry("0.2.0", f"{name}:b", amd64=2))))
    findings = found(Scope(releases=False, images=True, lock=lock))
    assert verdicts(findings) == {"0.1.0": Status.UNKNOWN, "0.2.0": Status.UNKNOWN}
    assert [each.artifact for each in findings] == [f"{name}:a", f"{name}:b"]
    within = Scope(releases=False, images=True, lock=lock, since=Version("0.2.0"))
    assert verdicts(found(within)) == {"0.2.0": Status.UNKNOWN}
    with pytest.raises(UsageError, match=r"images\.lock has no image of a vLLM from 0\.3"):
        found(dataclasses.replace(within, since=Version("0.3")))


def test_a_tree_is_searched_everywhere_but_in_the_target(tmp_path: Path) -> None:
    package = tmp_path / "vllm"
    (package / "models").mkdir(parents=True)
    (package / "models" / "a.py").write_bytes(NEEDED)
    (package / "target.py").write_bytes(NEEDED)
    (package / "broken.py").write_bytes(b"kv_b_proj = (\n")
    (package / "other.py").write_bytes(b"nothing of it = (\n")
    (package / "loop").symlink_to(package)
    (tmp_path / "torch.py").write_bytes(NEEDED)
    patch = dataclasses.replace(PATCH, targets=("vllm/target.py",))
    broken, read = everywhere(tmp_path, patch)
    assert (broken.path, broken.needed) == ("vllm/broken.py", True)
    assert broken.text.startswith("line 1: not Python source")
    assert read == Notice("vllm/models/a.py", 2, "self.kv_b_proj.weight.dtype", needed=True)


def test_a_tree_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    with (tmp_path / "vllm" / "huge.py").open("wb") as huge:
        huge.truncate(17 << 20)
    with pytest.raises(Unreadable, match="more than 16 MiB"):
        everywhere(tmp_path, PATCH)
