from __future__ import annotations

import base64
import io
import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.errors import AccessDenied, BrokenImage, PatcherError, RegistryFailed
from patcher.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, dump_json, part
from patcher.oci.reference import parse_reference
from patcher.registry.login import Challenge, Login, parse_challenges
from patcher.registry.repository import AT_ONCE, Repository
from patcher.web.http import Http, HttpSettings
from tests.auth_servers import (
    IDENTITY,
    PASSPHRASE,
    USER,
    TokenServer,
    basic_auth,
    docker_config,
    registry_with_login,
    token_auth,
    token_server,
    tunnels,
)
from tests.certificates import make_certificate
from tests.scripted import Reply, Seen, Server, serving

CONFIG = part(b"{}", OCI_CONFIG)
EMPTY = part(
    dump_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": CONFIG.descriptor.document,
            "layers": [],
        }
    ),
    OCI_MANIFEST,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of docker's config: empty, and not the one of who runs the tests."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture
def http(certificate: Path) -> Http:
    return Http(HttpSettings(certificate.with_name("ca.pem")), wait=lambda _: None)


def publish(registry: Repository) -> None:
    registry.put(CONFIG.descriptor, CONFIG.data)
    registry.put_manifest("x", EMPTY)


@pytest.fixture(scope="module")
def with_passwords(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[str]:
    root = tmp_path_factory.mktemp("passwords")
    with registry_with_login(root, certificate, basic_auth(root)) as host:
        yield host


@pytest.fixture(scope="module")
def with_tokens(
    tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[tuple[str, TokenServer, Server]]:
    root = tmp_path_factory.mktemp("tokens")
    with token_server(certificate) as (tokens, server):
        auth = token_auth(f"{server.url}/token", "tests", certificate.parent)
        with registry_with_login(root, certificate, auth) as host:
            yield host, tokens, server


@pytest.fixture
def asked(with_tokens: tuple[str, TokenServer, Server]) -> list[Seen]:
    """What the token server is asked in this test."""
    with_tokens[2].seen.clear()
    return with_tokens[2].seen


def test_a_password_out_of_dockers_config_logs_in(
    with_passwords: str, http: Http, config: Path
) -> None:
    docker_config(config, with_passwords)
    registry = Repository(parse_reference(f"{with_passwords}/a/b"), http, push=True)
    publish(registry)
    assert registry.tags() == ["x"]


def test_a_helper_gives_the_password(
    with_passwords: str, http: Http, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_helper(tmp_path / "bin", monkeypatch)
    settings = {"credHelpers": {with_passwords: "tests"}}
    (config / "config.json").write_text(json.dumps(settings))
    publish(Repository(parse_reference(f"{with_passwords}/a/b"), http, push=True))
    (config / "config.json").write_text(json.dumps({"credsStore": "tests"}))
    publish(Repository(parse_reference(f"{with_passwords}/a/b"), Http(http.settings), push=True))
    # The helper is a program, and both registries of a run may ask for the same.
    assert (tmp_path / "bin" / "calls").read_text() == f"get {with_passwords}\n" * 2


def install_helper(
    folder: Path, monkeypatch: pytest.MonkeyPatch, secret: str = PASSPHRASE, status: int = 0
) -> None:
    folder.mkdir()
    answer = json.dumps({"ServerURL": "", "Username": USER, "Secret": secret})
    program = folder / "docker-credential-tests"
    program.write_text(
        f'#!/bin/sh\nread server\necho "$1 $server" >> {folder}/calls\n'
        f"echo '{answer}'\nexit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_nobody_is_told_to_log_in(with_passwords: str, http: Http) -> None:
    registry = Repository(parse_reference(f"{with_passwords}/a/b"), http)
    with pytest.raises(AccessDenied, match="have no credentials for it") as raised:
        registry.manifest("x")
    assert f"docker login {with_passwords}" in raised.value.next_step


def test_a_wrong_password_is_denied(with_passwords: str, http: Http, config: Path) -> None:
    wrong = base64.b64encode(f"{USER}:wrong-s3cr3t".encode()).decode()
    docker_config(config, with_passwords, auth=wrong)
    registry = Repository(parse_reference(f"{with_passwords}/a/b"), http)
    with pytest.raises(AccessDenied, match=r"HTTP 401 \(UNAUTHORIZED: authentication required\)"):
        registry.manifest("x")


def test_a_token_is_fetched_once_for_all_that_is_done(
    with_tokens: tuple[str, TokenServer, Server], asked: list[Seen], http: Http, config: Path
) -> None:
    host = with_tokens[0]
    docker_config(config, host)
    registry = Repository(
        parse_reference(f"{host}/to"), http, push=True, mount_from=("public/from", "to")
    )
    publish(registry)
    assert registry.tags() == ["x"]
    [request] = asked
    query = parse_qs(urlsplit(request.path).query)
    assert query == {
        "service": ["tests"],
        "account": [USER],
        "scope": ["repository:to:pull,push", "repository:public/from:pull"],
    }
    assert request.headers["authorization"].startswith("Basic ")


def test_a_blob_is_mounted_with_the_right_to_both_repositories(
    with_tokens: tuple[str, TokenServer, Server], http: Http, config: Path
) -> None:
    host = with_tokens[0]
    docker_config(config, host)
    publish(Repository(parse_reference(f"{host}/mine/from"), http, push=True))
    target = Repository(
        parse_reference(f"{host}/mine/to"), http, push=True, mount_from=("mine/from",)
    )
    assert target.mount(CONFIG.descriptor, "mine/from") is None
    assert target.has(CONFIG.descriptor)


def test_what_is_public_is_read_without_a_login(
    with_tokens: tuple[str, TokenServer, Server], asked: list[Seen], http: Http, config: Path
) -> None:
    host = with_tokens[0]
    docker_config(config, host)
    publish(Repository(parse_reference(f"{host}/public/a"), http, push=True))
    (config / "config.json").unlink()
    asked.clear()
    reader = Repository(parse_reference(f"{host}/public/a"), Http(http.settings))
    assert reader.manifest("x") == EMPTY
    assert "authorization" not in asked[0].headers
    assert parse_qs(urlsplit(asked[0].path).query)["scope"] == ["repository:public/a:pull"]


def test_what_is_not_public_is_denied_without_a_login(
    with_tokens: tuple[str, TokenServer, Server], http: Http
) -> None:
    registry = Repository(parse_reference(f"{with_tokens[0]}/private"), http)
    with pytest.raises(AccessDenied, match="private: access is denied, HTTP 401"):
        registry.manifest("x")


def test_an_identity_token_is_traded_for_a_token(
    with_tokens: tuple[str, TokenServer, Server], asked: list[Seen], http: Http, config: Path
) -> None:
    host = with_tokens[0]
    docker_config(config, host, identitytoken=IDENTITY)
    publish(Repository(parse_reference(f"{host}/private"), http, push=True))
    form = parse_qs(asked[0].body.decode())
    assert (asked[0].method, form["grant_type"]) == ("POST", ["refresh_token"])
    assert (form["service"], form["scope"]) == (["tests"], ["repository:private:pull,push"])
    assert "authorization" not in asked[0].headers


def test_a_token_that_the_registry_no_longer_takes_is_renewed(
    with_tokens: tuple[str, TokenServer, Server], asked: list[Seen], http: Http, config: Path
) -> None:
    host, tokens, _ = with_tokens
    docker_config(config, host)
    registry = Repository(parse_reference(f"{host}/mine"), http, push=True)
    # Expired when it is given, beyond the leeway that docker-registry allows.
    tokens.life = -3600
    with pytest.raises(AccessDenied):
        registry.tags()
    tokens.life = 300
    publish(registry)
    assert len(asked) == 2


def test_a_token_is_renewed_before_its_end(http: Http) -> None:
    given: list[str] = []

    def script(seen: Seen) -> Reply:
        given.append(f"t0k3n-{len(given)}")
        return Reply(body=json.dumps({"token": given[-1], "expires_in": 100}).encode())

    now = [0.0]
    with serving(script) as server:
        auth = Login(http, server.host, "a", ("repository:a:pull",), clock=lambda: now[0])
        assert auth.header() is None
        auth.answer(f'Bearer realm="{server.url}/token",service="s"', None)
        assert auth.header() == "Bearer t0k3n-0"
        now[0] = 89.0
        assert auth.header() == "Bearer t0k3n-0"
        now[0] = 91.0
        assert auth.header() == "Bearer t0k3n-1"


def test_many_requests_at_a_time_log_in_once(http: Http) -> None:
    all_at_once = threading.Barrier(AT_ONCE)

    def script(seen: Seen) -> Reply:
        if seen.path.startswith("/token"):
            return Reply(body=b'{"token": "t0k3n-for-all"}')
        if "authorization" in seen.headers:
            return Reply(200 if seen.path.endswith("0" * 64) else 404)
        all_at_once.wait(timeout=30)
        realm = f"http://{seen.headers['host']}/token"
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})

    blobs = [Descriptor("x/y", f"sha256:{number:064}", 0) for number in range(AT_ONCE)]
    with serving(script) as server:
        registry = Repository(parse_reference(f"{server.host}/a"), http)
        assert registry.lacking(blobs) == blobs[1:]
        with pytest.raises(BrokenImage, match=f"has no {blobs[1].digest}"):
            registry.check(blobs)
        tokens = [seen for seen in server.seen if seen.path.startswith("/token")]
        assert len(tokens) == 1


def test_a_registry_may_know_a_repository_by_another_name(http: Http) -> None:
    with serving(lambda _: Reply(body=b'{"access_token": "t0k3n"}')) as server:
        auth = Login(http, server.host, "a", ("repository:a:pull",))
        scope = "repository:a:pull,push repository:remote/a:pull"
        auth.answer(f'Bearer realm="{server.url}/token?x=1",scope="{scope}"', None)
        query = parse_qs(urlsplit(server.seen[0].path).query)
    assert (query["x"], query["scope"]) == (
        ["1"],
        ["repository:a:pull", "repository:remote/a:pull"],
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"token": 5}',
        b'{"token": ""}',
        b'{"token": "a\\nb: c"}',
        b'{"token": "x", "expires_in": 1' + b"0" * 400 + b"}",
    ],
    ids=lambda body: body[:30].decode(),
)
def test_a_token_server_without_a_token_is_an_error(http: Http, body: bytes) -> None:
    def script(seen: Seen) -> Reply:
        if seen.path.startswith("/token"):
            return Reply(body=body)
        realm = f"http://{seen.headers['host']}/token"
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})

    with serving(script) as server:
        registry = Repository(parse_reference(f"{server.host}/a"), http)
        with pytest.raises(RegistryFailed, match="answers without a token"):
            registry.tags()


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ("", "a scheme that vllm-patcher does not support"),
        ("Negotiate", "a scheme that vllm-patcher does not support"),
        ('Bearer realm="http://tokens.test/token"', "tokens.test, which would be without TLS"),
        ('Bearer service="x"', "names no web address for a token"),
        ('Bearer realm="file:///etc/passwd"', "names no web address for a token"),
        ('Bearer realm="http://[bad"', "names no web address for a token"),
        ('Bearer realm="https://h:99999/"', "names no web address for a token"),
    ],
)
def test_a_challenge_that_cannot_be_met_safely_is_refused(
    http: Http, config: Path, challenge: str, said: str
) -> None:
    with serving(lambda _: Reply(401, {"WWW-Authenticate": challenge})) as server:
        docker_config(config, server.host)
        registry = Repository(parse_reference(f"{server.host}/a"), http)
        with pytest.raises(RegistryFailed, match=said):
            registry.tags()


def test_where_one_scope_of_two_is_refused_the_repositorys_own_is_asked_for(http: Http) -> None:
    """The base may be another's, and private: its blobs are copied then, not mounted."""

    def script(seen: Seen) -> Reply:
        if seen.path.startswith("/token"):
            wanted = parse_qs(urlsplit(seen.path).query)["scope"]
            return Reply(403) if len(wanted) > 1 else Reply(body=b'{"token": "t0k3n-of-target"}')
        if "mount=" in seen.path or seen.headers.get("authorization") != "Bearer t0k3n-of-target":
            asks = 'scope="repository:to:pull,push repository:from:pull"'
            challenge = f'Bearer realm="http://{seen.headers["host"]}/token",{asks}'
            return Reply(401, {"WWW-Authenticate": challenge})
        return Reply(202 if seen.method == "POST" else 201, {"Location": "/v2/to/blobs/uploads/1"})

    with serving(script) as server:
        target = Repository(
            parse_reference(f"{server.host}/to"), http, push=True, mount_from=("from",)
        )
        for _ in range(2):
            upload = target.mount(CONFIG.descriptor, "from")
            assert upload is not None
            target.upload(CONFIG.descriptor, lambda _: io.BytesIO(CONFIG.data), upload)
        mounts = [seen for seen in server.seen if "mount=" in seen.path]
        # Once without a token and once with the target's: the second blob is not tried any more.
        assert len(mounts) == 2
        assert len([seen for seen in server.seen if seen.path.startswith("/token")]) == 2


INWARDS = {
    "realm": lambda there: Reply(401, {"WWW-Authenticate": f'Bearer realm="{there}/token"'}),
    "Location": lambda there: Reply(202, {"Location": f"{there}/upload"}),
    "redirect": lambda there: Reply(307, {"Location": f"{there}/blob"}),
}


@pytest.mark.parametrize("way", INWARDS)
def test_no_registry_elsewhere_leads_to_services_of_this_machine(
    way: str, http: Http, certificate: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ghcr.io, which stands here for any name that is not loopback's."""
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host == "ghcr.io" else host, *rest, **named)

    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: resolved(host, *a, *k.values())
    )
    monkeypatch.setenv("NO_PROXY", "ghcr.io")
    with serving(lambda _: Reply(body=b"{}")) as inside:
        with serving(lambda _: INWARDS[way](inside.url), certificate) as server:
            host = f"ghcr.io:{server.host.partition(':')[2]}"
            docker_config(config, host)
            registry = Repository(parse_reference(f"{host}/a"), http, push=True)
            with pytest.raises(
                RegistryFailed, match=f"it leads to {inside.host}, which would leave"
            ):
                registry.put(CONFIG.descriptor, CONFIG.data)
        assert inside.seen == []


def test_docker_hub_is_asked_as_docker_asks_it(
    tmp_path: Path, certificate: Path, http: Http, config: Path
) -> None:
    auth = token_auth("https://auth.docker.io/token", "registry.docker.io", certificate.parent)
    with (
        token_server(certificate) as (_, server),
        registry_with_login(tmp_path / "hub", certificate, auth) as host,
        tunnels({"registry-1.docker.io:443": host, "auth.docker.io:443": server.host}),
    ):
        docker_config(config, "https://index.docker.io/v1/")
        publish(Repository(parse_reference("tests/image"), http, push=True))
        publish(Repository(parse_reference("alpine"), http, push=True))
        (config / "config.json").unlink()
        reader = Repository(parse_reference("alpine"), Http(http.settings))
        assert reader.manifest("x") == EMPTY
        asked = [parse_qs(urlsplit(seen.path).query) for seen in server.seen]
        assert asked[0] == {
            "account": [USER],
            "service": ["registry.docker.io"],
            "scope": ["repository:tests/image:pull,push"],
        }
        assert asked[-1] == {
            "service": ["registry.docker.io"],
            "scope": ["repository:library/alpine:pull"],
        }


def test_ghcr_gives_a_token_at_its_own_address(certificate: Path, http: Http, config: Path) -> None:
    def script(seen: Seen) -> Reply:
        """As ghcr.io answers: the token server is the registry, and anybody gets a token."""
        if seen.path.startswith("/token?"):
            return Reply(body=b'{"token": "t0k3n-of-ghcr"}')
        if seen.headers.get("authorization") != "Bearer t0k3n-of-ghcr":
            asks = 'service="ghcr.io",scope="repository:owner/a:pull"'
            challenge = f'Bearer realm="https://ghcr.io/token",{asks}'
            return Reply(401, {"WWW-Authenticate": challenge})
        headers: dict[str, str | None] = {"Content-Type": EMPTY.descriptor.media_type}
        return Reply(201 if seen.method == "PUT" else 200, headers, EMPTY.data)

    with serving(script, certificate) as server, tunnels({"ghcr.io:443": server.host}):
        assert Repository(parse_reference("ghcr.io/owner/a"), http).manifest("x") == EMPTY
        docker_config(config, "ghcr.io")
        again = Http(http.settings)
        Repository(parse_reference("ghcr.io/owner/a"), again, push=True).put_manifest("x", EMPTY)
        tokens = [seen for seen in server.seen if seen.path.startswith("/token?")]
    assert ["authorization" in seen.headers for seen in tokens] == [False, True]
    assert parse_qs(urlsplit(tokens[1].path).query)["scope"] == ["repository:owner/a:pull,push"]


def test_no_secret_is_in_any_error_log_or_traceback(
    with_tokens: tuple[str, TokenServer, Server],
    with_passwords: str,
    certificate: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    host, tokens, _ = with_tokens
    secret = "wr0ng-s3cr3t-passphrase"  # noqa: S105
    encoded = base64.b64encode(f"{USER}:{secret}".encode()).decode()
    right = base64.b64encode(f"{USER}:{PASSPHRASE}".encode()).decode()

    def fail(registry: str, **entry: str) -> str:
        docker_config(config, registry, **entry)
        if "credsStore" in entry:
            (config / "config.json").write_text(json.dumps(entry))
        settings = HttpSettings(certificate.with_name("ca.pem"))
        target = Repository(
            parse_reference(f"{registry}/a/b"), Http(settings, wait=lambda _: None), push=True
        )
        with pytest.raises(PatcherError) as raised:
            target.manifest("nothing")
        return "".join(traceback.format_exception(raised.value)) + repr(raised.value)

    echo = Reply(500)

    def script(seen: Seen) -> Reply:
        if "authorization" not in seen.headers:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
        said = {"errors": [{"code": "X", "message": str(seen.headers)}]}
        return Reply(echo.status, body=json.dumps(said).encode())

    shown = fail(host, auth=encoded) + fail(with_passwords, auth=encoded)
    shown += fail(host, identitytoken=secret)
    shown += fail(host, auth=right) + fail(with_passwords, auth=right)
    with serving(script) as echoing:
        shown += fail(echoing.host, auth=encoded)
        echo = Reply(403)
        shown += fail(echoing.host, auth=encoded)
    shown += fail(host, auth="%%%" + secret) + fail(host, auth=secret)
    install_helper(tmp_path / "bin", monkeypatch, secret, status=1)
    shown += fail(host, credsStore="tests")
    out = capfd.readouterr()
    shown += caplog.text + out.out + out.err
    assert "docker login" in shown
    for hidden in (secret, encoded, right, PASSPHRASE, IDENTITY, *tokens.given):
        assert hidden not in shown


def test_a_helper_that_is_not_there_is_named_by_its_config(
    with_passwords: str, http: Http, config: Path
) -> None:
    (config / "config.json").write_text(json.dumps({"credsStore": "nowhere"}))
    registry = Repository(parse_reference(f"{with_passwords}/a"), http)
    with pytest.raises(RegistryFailed, match=r"credentials for .* cannot be read") as raised:
        registry.tags()
    assert "credential helper" in raised.value.next_step


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a b"', [Challenge("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://x/t?a=1,2",service="s, t", Scope="repository:a:pull,push"',
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://x/t?a=1,2",
                        "service": "s, t",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (
            'BASIC realm=plain , bearer realm="say \\"x\\""',
            [Challenge("basic", {"realm": "plain"}), Challenge("bearer", {"realm": 'say "x"'})],
        ),
    ],
)
def test_challenges_are_read(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


@given(st.text(alphabet=st.sampled_from('Basic bearer realm="x\\,=;: \t\x00é'), max_size=60))
def test_no_challenge_is_too_odd_to_read(header: str) -> None:
    assert all(each.scheme == each.scheme.lower() for each in parse_challenges(header))
