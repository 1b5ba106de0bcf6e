"""Releases in an index: the real PyPI, both forms of the simple API, nightlies, hostile text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from patcher.errors import PatcherError, Unreadable, UsageError
from patcher.sources import index as index_module
from patcher.sources.index import Release, choose_wheel, releases
from patcher.sources.listing import Listed, of_json
from patcher.sources.wheel import open_listed, open_wheel
from patcher.web.http import Http, HttpSettings
from tests import scripted
from tests.certificates import make_certificate
from tests.conftest import TARGET, missing
from tests.wheelhouse import CLEAN, NEEDED, Site, name_of, serving, wheel, wheels_asked

NIGHTLY = "0.23.1rc1.dev672+g93d8f834d"


@pytest.fixture
def http() -> Http:
    return Http(wait=lambda _: None)


def listed(site: Site, http: Http, index: str = "/simple") -> tuple[Release, ...]:
    with serving(site) as url:
        return releases(url + index, http)


def test_pypi_lists_every_release_with_digest_size_and_time() -> None:
    try:
        # With its pauses: a real index may be away for a moment.
        known = {str(each.version): each for each in releases(None, Http())}
    except Unreadable as error:
        missing(f"no index: {error}")
    chosen = known["0.23.0"]
    assert chosen.label == "pypi:0.23.0"
    assert chosen.url is not None
    assert chosen.url.endswith("/vllm-0.23.0-2-cp38-abi3-manylinux_2_28_x86_64.whl")
    assert (chosen.size, len(chosen.sha256 or "")) == (274_070_565, 64)
    assert chosen.uploaded == datetime(2026, 6, 15, 5, 12, 54, 416128, tzinfo=UTC)
    assert known["0.2.1"].problem == "the release is yanked: A bug in tensor parallelism support."
    assert known["0.1.0"].problem == "the release has no wheel"
    assert sorted(known, key=Version) == list(known)


@pytest.mark.parametrize("form", ["json", "html"])
def test_both_forms_of_the_simple_api_are_read(http: Http, form: str) -> None:
    site = Site()
    entry = site.put_wheel("0.23.0")
    if form == "json":
        site.put_json([entry])
    else:
        fragment = f"#sha256={'ab' * 32}"
        site.put_html({str(entry["filename"]): f"{entry['url']}{fragment}"}, "/simple/vllm/")
    (release,) = listed(site, http)
    assert release.url is not None
    assert release.url.endswith(f"/files/{name_of('0.23.0')}")
    assert release.label == release.url
    assert release.sha256 is not None


def test_a_commits_own_index_of_nightlies_is_read(http: Http) -> None:
    site = Site()
    site.put_nightly("93d8f834d", NIGHTLY, NEEDED)
    with serving(site) as url:
        (release,) = releases(f"{url}/93d8f834d", http)
        source = open_listed(release, http)
        assert source.read(TARGET) == NEEDED
    assert release.version == Version(NIGHTLY)
    assert (release.sha256, release.uploaded, release.size) == (None, None, None)
    assert source.version() == NIGHTLY


def test_a_plus_is_sent_encoded_and_read_encoded(http: Http) -> None:
    site = Site()
    name = name_of(NIGHTLY)
    site.files[f"/{name.replace('+', '%2B')}"] = wheel(NIGHTLY, {TARGET: CLEAN})
    site.put_html({name.replace("+", "%2B"): f"../../{name}"}, "/simple/vllm/")
    with serving(site) as url:
        (release,) = releases(f"{url}/simple", http)
        assert open_listed(release, http).read(TARGET) == CLEAN
    assert release.version == Version(NIGHTLY)
    assert not any("+" in path for path in site.asked)


def test_an_index_and_its_wheels_are_trusted_as_registries_are(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "vllm", "files": []}).encode()
    reply = scripted.Reply(headers={"Content-Type": JSON}, body=body)
    with scripted.serving(lambda _: reply, certificate) as server:
        trusting = Http(HttpSettings(certificate.with_name("ca.pem")))
        assert releases(f"{server.url}/simple", trusting) == ()
        assert len(server.seen) == 1
        with pytest.raises(Unreadable, match="certificate is not trusted") as raised:
            releases(f"{server.url}/simple", Http())
        assert "--ca-file" in raised.value.next_step
        assert len(server.seen) == 1


def test_an_index_that_is_away_for_a_moment_is_asked_again(http: Http) -> None:
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "vllm", "files": []}).encode()
    away = scripted.Reply(503, {"Retry-After": "1"})
    there = scripted.Reply(headers={"Content-Type": JSON}, body=body)
    with scripted.serving(scripted.in_turn(away, away, there)) as server:
        assert releases(f"{server.url}/simple", http) == ()
        assert len(server.seen) == 3


def page(*files: tuple[str, str | bool]) -> list[Listed]:
    """What an index page (PEP 691) lists, with what each file says of being yanked."""
    entries: list[dict[str, object]] = [
        {"filename": name, "url": name, "hashes": {}, "yanked": yanked} for name, yanked in files
    ]
    body = {"meta": {"api-version": "1.0"}, "name": "vllm", "files": entries}
    return of_json(json.dumps(body), "http://localhost/vllm/")


def test_the_highest_build_for_x86_64_is_chosen_whatever_the_order() -> None:
    files: list[tuple[str, str | bool]] = [
        ("vllm-0.23.0-2-cp38-abi3-manylinux_2_28_aarch64.whl", False),
        ("vllm-0.23.0-2-cp38-abi3-manylinux_2_28_x86_64.whl", False),
        ("vllm-0.23.0-10-cp38-abi3-manylinux_2_28_x86_64.whl", "broken"),
        ("vllm-0.23.0-cp38-abi3-manylinux_2_28_x86_64.whl", False),
        ("vllm-0.23.0.tar.gz", False),
    ]
    for order in (files, files[::-1]):
        chosen = choose_wheel(page(*order))
        assert not isinstance(chosen, str)
        assert chosen.filename == files[1][0]


def test_an_architecture_without_x86_64_is_chosen_too() -> None:
    only = "vllm-0.23.0-cp38-abi3-manylinux_2_28_aarch64.whl"
    chosen = choose_wheel(page((only, False)))
    assert not isinstance(chosen, str)
    assert chosen.filename == only


def test_a_yanked_release_and_one_without_a_wheel_are_values_with_the_reason(
    http: Http,
) -> None:
    site = Site()
    yanked = site.put_wheel("0.23.0", yanked="wrong \x1b[31mCUDA")
    sdist: dict[str, object] = {"filename": "vllm-0.22.0.tar.gz", "url": "x", "hashes": {}}
    site.put_json([yanked, sdist])
    without, taken_back = listed(site, http)
    assert (without.url, without.problem) == (None, "the release has no wheel")
    assert taken_back.problem == "the release is yanked: wrong \\x1b[31mCUDA"
    with pytest.raises(Unreadable, match="yanked: wrong"):
        open_listed(taken_back, http)


HOSTILE = [
    "vllm-../../../etc/cron.d/x-cp38-abi3-any.whl",
    "vllm-0.99.0\x1b[2J-cp38-abi3-any.whl",
    "vllm-0.99.0\n-cp38-abi3-any.whl",
    "vllm-\u0661.0-cp38-abi3-any.whl",
    f"vllm-{'9' * 5000}-cp38-abi3-any.whl",
    "torch-2.0-cp38-abi3-any.whl",
    "vllm- 0.99.0-cp38-abi3-any.whl",
    "vllm.whl",
    "",
    "\x00",
    "vllm-0.99.0.exe",
]


def test_what_is_no_release_of_vllm_is_passed_over(http: Http) -> None:
    site = Site()
    entries: list[dict[str, object]] = [
        {"filename": name, "url": "../x", "hashes": {}} for name in HOSTILE
    ]
    site.put_json([*entries, site.put_wheel("0.23.0")])
    assert [str(each.version) for each in listed(site, http)] == ["0.23.0"]


@given(st.lists(st.text() | st.from_regex(r"vllm-.{0,20}-cp38-abi3-any\.whl"), max_size=4))
def test_no_name_in_an_index_breaks_the_choice(names: list[str]) -> None:
    packages = page(*((name, False) for name in names))
    for package in packages:
        version = index_module._version_of(package)
        if version is not None and package.filename.endswith(".whl"):
            assert not isinstance(choose_wheel([package]), str)
            assert str(version).isprintable()


def deep() -> Site:
    site = Site(types={"/simple/vllm/": "application/vnd.pypi.simple.v1+json"})
    site.files["/simple/vllm/"] = b"[" * 200_000
    return site


def plain(body: bytes, kind: str) -> Callable[[], Site]:
    return lambda: Site({"/simple/vllm/": body}, {"/simple/vllm/": kind})


JSON = "application/vnd.pypi.simple.v1+json"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Site, "404"),
        (deep, "RecursionError|ValueError|JSONDecodeError"),
        (plain(b"{}", JSON), "meta is not what the simple API says"),
        (plain(b'{"meta": {"api-version": "1.0"}, "files": [[]]}', JSON), "a file is not what"),
        (plain(b"{", JSON), "JSONDecodeError"),
        (
            plain(b'{"meta": {"api-version": "9.0"}, "name": "x", "files": []}', JSON),
            "version '9.0' of the simple API",
        ),
        (plain(b"%PDF", "application/pdf"), "of the type 'application/pdf'"),
        (plain(bytes(9 << 20), "text/html"), "more than 8388608 bytes"),
        (lambda: Site({"/simple/vllm/": "file:///etc/passwd"}), "not a web address"),
        (lambda: Site({"/simple/vllm/": "ftp://127.0.0.1/x"}), "not a web address"),
        (lambda: Site({"/simple/vllm/": "http://["}), "the address cannot be used"),
        (lambda: Site({"/simple/vllm/": "/simple/vllm/"}), "redirects without end"),
    ],
)
def test_a_broken_index_is_unreadable(http: Http, make: Callable[[], Site], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as caught:
        listed(make(), http)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        *((each, "does not end") for each in ("<a ", "<!--", "</", "<!", f"<{9000 * 'a'}>")),
        *((each, "a link inside another") for each in ("<a href='>", "<A\thref=x>", "<a>")),
    ],
    ids=lambda text: text[:9],
)
def test_a_page_that_pythons_parser_takes_days_for_is_refused(
    http: Http, piece: str, reason: str
) -> None:
    """8 MiB of `<a ` would be twelve days of html.parser (CVE-2025-6069)."""
    site = Site(files={"/simple/vllm/": piece.encode() * ((1 << 20) // len(piece))})
    site.types["/simple/vllm/"] = "text/html"
    with (
        serving(site) as url,
        pytest.raises(Unreadable, match=f"line 1: .*{reason}"),
    ):
        releases(f"{url}/simple", http)


@pytest.mark.parametrize(
    "around",
    [
        '<!-- <a href="x"> -- -->{}<!---->',
        '<p title="a > b" class=\'it"s\'>{}</p>',
        "<!DOCTYPE html>\n<meta name=x>{}\n<br/>",
    ],
)
def test_a_page_that_is_written_otherwise_is_read(http: Http, around: str) -> None:
    name = name_of("0.23.0")
    link = f'<a href="{name}" data-requires-python=">=3.9" data-yanked="it\'s <b>old">{name}</a>'
    site = Site(files={"/simple/vllm/": around.format(link).encode()})
    site.types["/simple/vllm/"] = "text/html"
    with serving(site) as url:
        [release] = releases(f"{url}/simple", http)
    assert str(release.version) == "0.23.0"


def test_a_name_of_many_tags_is_passed_over(http: Http) -> None:
    """Each Python with each ABI and platform: 27 million tags, of 4 KB."""
    tags = "-".join(".".join(f"{each}{at}" for at in range(300)) for each in ("py", "abi", "any"))
    site = Site()
    site.put_json(
        [site.put_wheel("0.23.0"), site.put_wheel("0.24.0", filename=f"vllm-1-{tags}.whl")]
    )
    assert [str(each.version) for each in listed(site, http)] == ["0.23.0"]


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_utc_does_not_have_is_none(http: Http, time: str) -> None:
    site = Site()
    site.put_json([{**site.put_wheel("0.23.0"), "upload-time": time}])
    (release,) = listed(site, http)
    assert release.uploaded is None


@pytest.mark.parametrize("size", [True, -1, 1.5, "1"])
def test_a_size_that_is_none_makes_an_index_unreadable(http: Http, size: object) -> None:
    site = Site()
    site.put_json([site.put_wheel("0.23.0", size=size)])
    with pytest.raises(Unreadable, match="size is not what the simple API says"):
        listed(site, http)


def test_an_index_at_a_file_is_unreadable(http: Http, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a web address"):
        releases(tmp_path.as_uri(), http)


def test_a_redirect_on_the_same_machine_is_followed(http: Http) -> None:
    site = Site()
    site.put_json([site.put_wheel("0.23.0")])
    site.files["/old/vllm/"] = "/simple/vllm/"
    (release,) = listed(site, http, "/old")
    assert release.url is not None
    assert release.url.endswith(f"/files/{name_of('0.23.0')}")


def test_a_wheels_redirect_to_a_file_is_not_followed(http: Http, tmp_path: Path) -> None:
    real = tmp_path / "vllm.whl"
    real.write_bytes(wheel("0.23.0", {TARGET: CLEAN}))
    with serving(Site({"/vllm.whl": real.as_uri()})) as url:  # noqa: SIM117
        with pytest.raises(Unreadable, match="names something that is not a web address"):
            open_wheel(f"{url}/vllm.whl", http=http)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "javascript:alert(1)", "//", "http://", "http://[", "x:y"]
)
def test_a_wheels_address_that_is_none_of_the_web_is_not_followed(http: Http, url: str) -> None:
    site = Site()
    site.put_json([{**site.put_wheel("0.23.0"), "url": url}])
    with serving(site) as base, pytest.raises(PatcherError):
        open_listed(releases(f"{base}/simple", http)[0], http)
    assert wheels_asked(site) == set()


def test_an_index_elsewhere_cannot_send_us_to_this_machine(http: Http) -> None:
    site = Site({"/vllm.whl": wheel("0.23.0", {TARGET: CLEAN})})
    release = Release("x", Version("0.23.0"), page="http://1.1.1.1/simple/vllm/")
    with serving(site) as url, pytest.raises(Unreadable, match="leads into a private network"):
        open_listed(dataclasses.replace(release, url=f"{url}/vllm.whl"), http)
    assert site.asked == []


def test_credentials_in_an_indexs_address_are_never_shown(http: Http) -> None:
    site = Site()
    site.put_json(
        [site.put_wheel("0.23.0"), {"filename": "vllm-0.1.tar.gz", "url": "x", "hashes": {}}]
    )
    with serving(site) as url:
        known = releases(url.replace("//", "//me:hunter2@") + "/simple", http)
        assert open_listed(known[1], http).read(TARGET) == CLEAN
    assert len(known) == 2
    assert not any("hunter2" in release.label for release in known)
