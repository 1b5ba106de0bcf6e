from __future__ import annotations

import gc
import json
import os
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path

import pytest

from patcher.errors import RegistryFailed, UsageError
from patcher.talk import Volume, set_volume
from patcher.web.connections import Patience
from patcher.web.http import Fault, Http, HttpSettings, Request, explanation
from patcher.web.trust import is_loopback
from tests.certificates import make_certificate
from tests.conftest import free_port
from tests.scripted import HANG_UP, Reply, Seen, Server, in_turn, serving

AUTHORIZATION = "Bearer s3cr3t-t0k3n"
OK = Reply(body=b"fine")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def http(waits: list[float]) -> Http:
    return Http(wait=waits.append)


def get(server: Server, authorization: str | None = None) -> Request:
    return Request("GET", f"{server.url}/v2/", authorization=authorization)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 524])
def test_what_may_pass_is_tried_again(http: Http, waits: list[float], status: int) -> None:
    with serving(in_turn(Reply(status), Reply(status), OK)) as server:
        assert http.ask(get(server)).body == b"fine"
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("status", [400, 401, 404, 405, 501, 505])
def test_what_stays_is_not_tried_again(http: Http, waits: list[float], status: int) -> None:
    with serving(in_turn(Reply(status))) as server:
        assert http.ask(get(server)).status == status
        assert (len(server.seen), waits) == (1, [])


def test_trying_ends_and_says_how_often_and_what_the_server_said(
    http: Http, waits: list[float]
) -> None:
    said = b'{"errors": [{"code": "UNAVAILABLE", "message": "being\\u001b[31m repaired"}]}'
    with serving(in_turn(Reply(503, body=said))) as server:
        with pytest.raises(RegistryFailed) as raised:
            http.ask(get(server))
        assert len(server.seen) == 5
    assert waits == [0.5, 1.0, 2.0, 4.0]
    wanted = r"HTTP 503 (UNAVAILABLE: being\x1b[31m repaired), 5 times"
    assert raised.value.problem == f"{server.host}: {wanted}"


@pytest.mark.parametrize(
    ("stated", "waited"),
    [("7", 7.0), ("0", 0.5), (" 3 ", 3.0), ("soon", 0.5), ("-1", 0.5), ("1e999", 0.5), ("", 0.5)],
)
def test_a_wish_to_wait_is_honoured(
    http: Http, waits: list[float], stated: str, waited: float
) -> None:
    with serving(in_turn(Reply(429, {"Retry-After": stated}), OK)) as server:
        http.ask(get(server))
    assert waits == [waited]


def test_a_long_wait_is_told_once_with_its_reason(waits: list[float]) -> None:
    told: list[str] = []
    http = Http(wait=waits.append, say=told.append)
    busy = Reply(429, {"Retry-After": "7"})
    with serving(in_turn(busy, busy, Reply(503), OK)) as server:
        http.ask(get(server))
        assert told == [f"{server.host}: HTTP 429; trying again in 7 s"]
    assert waits == [7.0, 7.0, 2.0]


def test_a_wish_to_wait_may_be_a_date(http: Http, waits: list[float]) -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    with serving(in_turn(Reply(503, {"Retry-After": date}), OK)) as server:
        http.ask(get(server))
    assert 30 < waits[0] <= 60


def test_a_wish_to_wait_may_be_a_time(http: Http, waits: list[float]) -> None:
    stated = str(int(time.time()) + 60)
    with serving(in_turn(Reply(429, {"Retry-After": stated}), OK)) as server:
        http.ask(get(server))
    assert 30 < waits[0] <= 60


def test_a_wish_to_wait_for_hours_is_the_error(http: Http, waits: list[float]) -> None:
    with serving(in_turn(Reply(429, {"Retry-After": "21600"}))) as server:
        with pytest.raises(RegistryFailed, match="HTTP 429; it asks to wait 21600 s"):
            http.ask(get(server))
        assert (len(server.seen), waits) == (1, [])


def test_a_connection_that_breaks_is_made_anew(http: Http, waits: list[float]) -> None:
    with serving(in_turn(HANG_UP, Reply(body=b"fine", sent=2), OK)) as server:
        assert http.ask(get(server)).body == b"fine"
    assert waits == [0.5, 1.0]


def test_a_body_that_always_ends_early_is_an_error(http: Http) -> None:
    with (
        serving(in_turn(Reply(headers={"Content-Length": "9"}, body=b"fine", sent=4))) as server,
        pytest.raises(RegistryFailed, match="the connection broke, 5 times"),
    ):
        http.ask(get(server))


def test_nobody_listening_is_an_error_that_says_so(http: Http) -> None:
    with pytest.raises(RegistryFailed, match="the connection is refused, 5 times"):
        http.ask(Request("GET", f"http://127.0.0.1:{free_port()}/"))


def test_who_was_not_reached_is_not_waited_for_again(http: Http, waits: list[float]) -> None:
    for _ in range(2):
        with pytest.raises(RegistryFailed, match="the connection is refused, 5 times"):
            http.ask(Request("GET", "http://127.0.0.1:1/"))
    assert len(waits) == 4
    with serving(in_turn(Reply(503))) as server:
        for _ in range(2):
            with pytest.raises(RegistryFailed, match="HTTP 503, 5 times"):
                http.ask(get(server))
        assert len(server.seen) == 10, "one that answers may do better the next time"


def test_verbose_tells_each_request_and_no_secret(
    http: Http, capsys: pytest.CaptureFixture[str]
) -> None:
    http.keyring.keep("hunter2")
    set_volume(Volume.VERBOSE)
    try:
        with serving(in_turn(Reply(503, body=b'{"message": "hunter2"}'), OK)) as server:
            url = http.named(server.url.replace("//", "//me:pass@") + "/blob?sig=hunter2")
            http.ask(Request("GET", url, authorization=AUTHORIZATION))
    finally:
        set_volume(Volume.USUAL)
    said = capsys.readouterr().err
    assert re.fullmatch(
        rf"\s*[\d.]+ s  GET {server.url}/blob: 503, [\d.]+ s\n"
        rf"\s*[\d.]+ s  {server.host}: HTTP 503 \(\*\*\*\), attempt 1\n"
        rf"\s*[\d.]+ s  GET {server.url}/blob: 200, [\d.]+ s\n",
        said,
    ), said


def test_an_answer_without_end_is_cut_off(http: Http) -> None:
    with (
        serving(in_turn(Reply(body=bytes((8 << 20) + 1)))) as server,
        pytest.raises(RegistryFailed, match="more than 8388608 bytes"),
    ):
        http.ask(get(server))


def test_a_secret_follows_a_redirect_on_the_same_host_only(http: Http) -> None:
    with serving(in_turn(OK)) as storage:
        there = Reply(307, {"Location": f"{storage.url}/blob"})
        script = in_turn(Reply(307, {"Location": "/elsewhere"}), there)
        with serving(script) as server:
            assert http.ask(get(server, AUTHORIZATION)).body == b"fine"
            assert [seen.headers.get("authorization") for seen in server.seen] == [
                AUTHORIZATION,
                AUTHORIZATION,
            ]
        assert [seen.headers.get("authorization") for seen in storage.seen] == [None]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("/v2/", "redirects without end"),
        ("http://registry.test/x", "leads to registry.test, which would be without TLS"),
        ("file:///etc/passwd", "not a web address"),
        ("http://user:s3cr3t-p4ss@registry.test/x", "leads to registry.test, which"),
        ("http://[bad", "the address cannot be used"),
        ("https://registry.test:99999/x", "the address cannot be used"),
    ],
)
def test_a_redirect_that_leads_nowhere_good_is_refused(http: Http, there: str, said: str) -> None:
    with (
        serving(in_turn(Reply(302, {"Location": there}))) as server,
        pytest.raises(RegistryFailed, match=said) as raised,
    ):
        http.ask(get(server))
    assert "s3cr3t" not in str(raised.value)


def test_an_answer_of_two_lengths_is_refused_and_its_socket_closed(
    http: Http, waits: list[float]
) -> None:
    with serving(in_turn(Reply(200, {"Content-Length": "1, 2"}))) as server:
        gc.collect()  # what other tests have left
        before = open_sockets()
        with pytest.raises(RegistryFailed, match="the Content-Length of its answer is no number"):
            http.ask(get(server))
        assert open_sockets() == before
    assert waits == []


def open_sockets() -> int:
    """Those that this process asked servers by, closed ones that are still open below included."""
    return sum(
        type(each).__name__ == "_Bounded" and each.fileno() >= 0 for each in gc.get_objects()
    )


def test_a_redirect_makes_no_other_request_of_a_post(http: Http) -> None:
    with (
        serving(in_turn(Reply(302, {"Location": "/x"}))) as server,
        pytest.raises(RegistryFailed, match="redirects a POST"),
    ):
        http.ask(Request("POST", f"{server.url}/v2/", body=b"data"))


def test_a_307_repeats_a_post_with_its_body(http: Http) -> None:
    with serving(in_turn(Reply(307, {"Location": "/x"}), OK)) as server:
        http.ask(Request("POST", f"{server.url}/v2/", body=b"data"))
        assert [(seen.path, seen.body) for seen in server.seen] == [
            ("/v2/", b"data"),
            ("/x", b"data"),
        ]


def test_what_is_sent_goes_to_no_other_host(http: Http) -> None:
    with serving(in_turn(OK)) as other:
        with (
            serving(in_turn(Reply(307, {"Location": f"{other.url}/x"}))) as server,
            pytest.raises(RegistryFailed, match=f"redirects a POST to {other.host}"),
        ):
            http.ask(Request("POST", f"{server.url}/token", body=b"refresh_token=s3cr3t"))
        assert other.seen == []


def test_no_cookie_is_kept(http: Http) -> None:
    """Harbor answers a request that brings its `sid` back with 403, "CSRF token invalid"."""
    cookie = Reply(headers={"Set-Cookie": "sid=1; Path=/; HttpOnly"})
    with serving(in_turn(cookie, OK)) as server:
        for _ in range(2):
            http.ask(get(server))
        assert ["cookie" in seen.headers for seen in server.seen] == [False, False]


def test_an_address_that_is_a_key_to_a_blob_is_never_shown(http: Http) -> None:
    key = "X-Amz-Signature=abcdef0123456789"
    dead = f"http://127.0.0.1:{free_port()}/blob?{key}"
    with (
        serving(in_turn(Reply(307, {"Location": dead}))) as server,
        pytest.raises(RegistryFailed) as raised,
    ):
        http.ask(get(server))
    shown = "".join(traceback.format_exception(raised.value))
    assert "abcdef0123456789" not in shown
    assert "refused" in shown


def test_a_server_that_sends_a_secret_back_does_not_make_us_show_it(http: Http) -> None:
    http.keyring.keep("s3cr3t/t0k3n")
    said = b'{"errors": [{"code": "X", "message": "bad: s3cr3t/t0k3n token=s3cr3t%2Ft0k3n"}]}'
    with serving(in_turn(Reply(500, body=said))) as server:
        with pytest.raises(RegistryFailed, match=r"bad: \*\*\* token=\*\*\*") as raised:
            http.ask(get(server))
        assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_nor_does_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(seen: Seen) -> Reply:
        sent = seen.headers["proxy-authorization"]
        said = {"code": "X", "message": f"bad: me, pr0xy/p4ss, {sent}"}
        return Reply(501, body=json.dumps({"errors": [said]}).encode())

    with serving(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:pr0xy%2Fp4ss@{proxy.host}")
        monkeypatch.delenv("no_proxy", raising=False)
        http = Http(HttpSettings(plain_http=frozenset({"registry.example"})), wait=lambda _: None)
        answer = http.ask(Request("GET", "http://registry.example/v2/"))
    said = str(http.failure(answer.url, explanation(answer.body)))
    assert said.startswith("registry.example:  (X: bad: me, ***, Basic ***)"), said


def test_netrc_gives_no_password_away(
    http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cr3t-p4ss\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(in_turn(OK)) as server:
        http.ask(get(server))
        assert "authorization" not in server.seen[0].headers


def test_no_proxy_stands_before_loopback(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with serving(in_turn(OK)) as server:
        assert http.ask(get(server)).body == b"fine"


def test_a_certificate_that_is_not_trusted_ends_it_at_once(
    http: Http, waits: list[float], certificate: Path
) -> None:
    with serving(in_turn(OK), certificate) as server:
        with pytest.raises(RegistryFailed, match="certificate is not trusted") as raised:
            http.ask(get(server, AUTHORIZATION))
        assert (server.seen, waits) == ([], [])
    assert "--ca-file" in raised.value.next_step


def test_a_certificate_of_another_name_is_not_trusted(certificate: Path) -> None:
    http = Http(HttpSettings(certificate.with_name("ca.pem")), wait=lambda _: None)
    with serving(in_turn(OK), certificate) as server:
        port = server.host.partition(":")[2]
        with pytest.raises(RegistryFailed, match="certificate is not trusted"):
            http.ask(Request("GET", f"https://localhost:{port}/"))


def test_an_authority_is_trusted_that_is_named(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = certificate.with_name("ca.pem")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with serving(in_turn(OK), certificate) as server:
        assert Http(HttpSettings(authority)).ask(get(server)).body == b"fine"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        assert Http().ask(get(server)).body == b"fine"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
        assert Http().ask(get(server)).body == b"fine"


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_file_of_no_certificates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=r"ca\.pem cannot be read as certificates"):
        Http(HttpSettings(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(UsageError, match=r"ca\.pem cannot be read as certificates"):
        Http().ask(Request("GET", "https://127.0.0.1:1/"))


def test_tls_is_told_from_plain_http_on_loopback(http: Http, certificate: Path) -> None:
    with serving(in_turn(OK)) as plain, serving(in_turn(OK), certificate) as tls:
        assert http.base(plain.host) == plain.url
        assert http.base(tls.host) == tls.url
        assert (plain.seen, tls.seen) == ([], [])


def test_plain_http_is_spoken_only_where_asked() -> None:
    http = Http(HttpSettings(plain_http=frozenset({"registry.test", "other.test:5000"})))
    assert http.base("ghcr.io") == "https://ghcr.io"
    assert http.base("docker.io") == "https://registry-1.docker.io"
    assert http.base("registry.test:80") == "http://registry.test:80"
    assert http.base("other.test:5000") == "http://other.test:5000"
    assert http.base("other.test") == "https://other.test"
    assert not http.may_send_secret("http://ghcr.io/token")
    assert not http.may_send_secret("http://127.0.0.1.evil.test/")
    assert not http.may_send_secret("ftp://ghcr.io/")


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("a.localhost:5000", True),
        ("127.8.9.1", True),
        ("[::1]:5000", True),
        ("localhost.evil.test", False),
        ("10.0.0.1:5000", False),
        ("ghcr.io", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


@contextmanager
def trickling(first: bytes, certificate: Path | None = None) -> Iterator[str]:
    """The host of a server that sends these bytes, and then one now and then for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if certificate:
        context.load_cert_chain(certificate)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                with context.wrap_socket(connection, True) if certificate else connection as client:
                    client.recv(1 << 16)
                    client.sendall(first)
                    while not over.wait(0.01):
                        client.sendall(b"1")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\n"
TRICKLES = [b"", HEAD, HEAD + b"Content-Length: 9000000\r\n\r\n"]
TRICKLES.append(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize("first", TRICKLES)
@pytest.mark.parametrize("tls", [False, True])
def test_a_trickle_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, first: bytes, tls: bool
) -> None:
    for name in ("_WHOLE", "ALL_ATTEMPTS", "_SILENCE"):
        monkeypatch.setattr(f"patcher.web.http.{name}", 0.15)
    waits: list[float] = []
    http = Http(HttpSettings(certificate.with_name("ca.pem")), wait=waits.append)
    with trickling(first, certificate if tls else None) as host:
        request = Request("GET", f"{'https' if tls else 'http'}://{host}/")
        with pytest.raises(RegistryFailed, match="does not answer in time"):
            http.ask(request)
        with pytest.raises(Fault, match="does not answer in time"):
            list(iter(lambda: http.send(request, stream=True).read(1 << 20), b""))
    assert len(waits) < 2


def test_a_stream_earns_its_time_and_a_reader_may_be_slow() -> None:
    patience = Patience(10.0, per_byte=0.001)
    for _ in range(100):
        patience.spend(1.0, 1000)
    assert patience.left == 10.0
    patience.spend(9.0, 1000)
    assert patience.left == 2.0


def test_all_that_a_registry_says_of_an_error_is_shown_and_each_once(http: Http) -> None:
    unknown = {"code": "MANIFEST_BLOB_UNKNOWN", "message": "unknown", "detail": {"x": 1}}
    errors = [{"code": "DIGEST_INVALID", "message": "digest"}, unknown, unknown]
    assert explanation(json.dumps({"errors": errors}).encode()) == (
        " (DIGEST_INVALID: digest; MANIFEST_BLOB_UNKNOWN: unknown)"
    )
    many = [{"code": str(number)} for number in range(1000)]
    assert explanation(json.dumps({"errors": many}).encode()).endswith("; 7; and 792 more)")
    assert explanation(b'{"message": "Not Found"}') == " (Not Found)"
    for nothing in (b"", b"<html>", b"[]", b"3", b'{"errors": 3}', b'{"errors": [3]}'):
        assert explanation(nothing) == ""


def test_what_was_typed_before_a_host_goes_there_alone(http: Http) -> None:
    with serving(in_turn(OK)) as other:
        there: dict[str, str | None] = {"Location": f"{other.url}/x"}
        with serving(in_turn(OK, Reply(302, there))) as server:
            url = http.named(server.url.replace("//", "//me:hunt%2Fer2@") + "/x")
            assert "me" not in url
            for _ in range(2):
                http.ask(Request("GET", url))
            sent = [seen.headers["authorization"] for seen in server.seen]
        assert sent == ["Basic bWU6aHVudC9lcjI="] * 2
        assert "authorization" not in other.seen[0].headers
    assert http.keyring.hide("hunt/er2 bWU6aHVudC9lcjI=") == "*** ***"


@pytest.mark.parametrize("folder", ["docker", "containers"])
def test_a_client_certificate_comes_from_certs_d(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    authority, key = certificate.with_name("ca.pem"), certificate.with_name("key.pem")
    with serving(in_turn(OK), certificate, authority) as server:
        bare = Http(HttpSettings(authority), wait=lambda _: None)
        assert bare.base(server.host) == server.url
        with pytest.raises(RegistryFailed, match=r"no TLS connection|the connection broke"):
            bare.ask(get(server))
        certificates = tmp_path / folder / "certs.d" / server.host
        certificates.mkdir(parents=True)
        for name, source in (("ca.crt", authority), ("a.cert", authority), ("a.key", key)):
            (certificates / name).write_bytes(source.read_bytes())
        http = Http(wait=lambda _: None)
        assert http.base(server.host) == server.url
        assert http.ask(get(server)).body == b"fine"
        (certificates / "a.key").unlink()
        with pytest.raises(UsageError, match=r"a\.cert cannot be read as a client certificate"):
            Http().base(server.host)


def test_a_server_that_is_silent_is_tried_once_more(http: Http, waits: list[float]) -> None:
    def once() -> None:
        raise Fault("it does not answer in time", silent=True)

    with pytest.raises(RegistryFailed, match="it does not answer in time, 2 times"):
        http.persist("https://x/", once)
    assert waits == [0.5]


def test_a_fault_that_cannot_pass_is_not_repeated(http: Http, waits: list[float]) -> None:
    def once() -> None:
        raise Fault("no", transient=False)

    with pytest.raises(RegistryFailed, match=r"^x: no\."):
        http.persist("https://x/", once)
    assert waits == []


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:{port}", "the proxy that HTTPS_PROXY or HTTP_PROXY names: the connec"),
        ("socks5://127.0.0.1:{port}", "the proxy speaks SOCKS"),
    ],
)
def test_what_a_proxy_did_is_said_of_the_proxy(
    http: Http, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    if said.endswith("SOCKS") and find_spec("socks"):
        pytest.skip("PySocks is installed")
    monkeypatch.setenv("https_proxy", proxy.format(port=free_port()))
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RegistryFailed, match=said) as caught:
        http.ask(Request("GET", "https://registry.example/v2/"))
    assert ("NO_PROXY" in caught.value.next_step) is said.startswith("the proxy that")
