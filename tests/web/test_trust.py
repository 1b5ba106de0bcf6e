"""Where a server may send us: one rule for realms, Locations, redirects and an index's files."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from patcher.errors import RegistryFailed
from patcher.web.http import Http, HttpSettings
from patcher.web.trust import shown


@pytest.fixture
def http() -> Http:
    return Http(wait=lambda _: None)


PUBLIC, PRIVATE, HERE = "https://1.1.1.1/a", "https://10.1.2.3/a", "https://127.0.0.1/a"


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (PUBLIC, PRIVATE),
        (PUBLIC, HERE),
        (PRIVATE, HERE),
        (PUBLIC, "https://localhost/a"),
        (PUBLIC, "https://127.1/a"),
        (PUBLIC, "https://2130706433/a"),
        (PUBLIC, "https://0x7f.1/a"),
        (PUBLIC, "https://[::1]/a"),
        (PUBLIC, "https://[::ffff:127.0.0.1]/a"),
        (PRIVATE, "https://[::ffff:127.0.0.1]/a"),
        (PUBLIC, "https://[fe80::1]/a"),
        (PUBLIC, "https://[fd00::1]/a"),
        (PUBLIC, "https://0.0.0.0/a"),
        (PUBLIC, "https://169.254.169.254/latest/meta-data"),
        (PRIVATE, "https://169.254.169.254/latest/meta-data"),
        (PUBLIC, "https://100.64.0.1/a"),
        (PUBLIC, "https://user@192.168.0.1:8443/a"),
        (PUBLIC, "http://1.1.1.1/a"),
        (HERE, "http://127.0.0.1/a"),
        ("http://1.1.1.1/a", "http://127.0.0.1/a"),
        (PUBLIC, "file:///etc/passwd"),
        (HERE, "file:///etc/passwd"),
        ("http://127.0.0.1/a", "http://1.1.1.1/a"),
        # A public name that leads to this machine gives nobody a right to its other services.
        ("https://this-machine.test/a", "https://127.0.0.1/a"),
        ("https://this-machine.test/a", "https://localhost/a"),
    ],
)
def test_no_hop_leads_inwards_or_leaves_tls(
    http: Http, here: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host == "this-machine.test" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(RegistryFailed, match=r"not followed|not a web address"):
        http.follow(here, there)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (PUBLIC, "https://1.0.0.1/b"),
        ("http://1.1.1.1/a", "https://1.0.0.1/b"),
        (PRIVATE, PUBLIC),
        (PRIVATE, "https://192.168.0.1/b"),
        (HERE, PRIVATE),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b"),
        ("http://localhost/a", "http://[::1]/b"),
        ("http://10.0.0.1/a", "http://10.0.0.2/b"),
        (PUBLIC, "https://name.that.does.not.resolve.invalid/b"),
    ],
)
def test_other_hops_are_free(http: Http, here: str, there: str) -> None:
    assert http.follow(here, there) == there


def test_a_host_that_was_named_for_plain_http_is_free() -> None:
    http = Http(HttpSettings(plain_http=frozenset({"10.0.0.1:80", "10.0.0.2"})))
    assert http.follow(PUBLIC, "http://10.0.0.1:80/a") == "http://10.0.0.1:80/a"
    assert http.follow(PUBLIC, "https://10.0.0.2:8443/a") == "https://10.0.0.2:8443/a"
    with pytest.raises(RegistryFailed, match=r"10\.0\.0\.1:81, which would leave TLS"):
        http.follow(PUBLIC, "http://10.0.0.1:81/a")


def test_a_user_and_password_that_a_server_names_are_not_used(http: Http) -> None:
    assert http.follow(PUBLIC, "https://me:secret@1.0.0.1/a") == "https://1.0.0.1/a"


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("https://h/x.whl", "https://h/x.whl"),
        ("https://me:hunter2@h/x.whl?token=hunter2#hunter2", "https://h/x.whl"),
        ("https://me:hunter/2@h:1/x.whl", "https://h:1/x.whl"),
    ],
)
def test_a_label_has_no_secret(url: str, label: str) -> None:
    assert shown(url) == label
