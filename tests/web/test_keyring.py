"""Where credentials are looked for, and which one counts."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from patcher.errors import RegistryFailed
from patcher.web.keyring import Credentials, Keyring


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def auths(**entries: str) -> str:
    """A configuration with these passwords; a `__` in a name is a slash."""
    encoded = {
        name.replace("__", "/").replace("_", "."): {
            "auth": base64.b64encode(f"me:{password}".encode()).decode()
        }
        for name, password in entries.items()
    }
    return json.dumps({"auths": encoded})


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


PLACES = (
    ".docker/config.json",
    ".dockercfg",
    "run/containers/auth.json",
    ".config/containers/auth.json",
)


@pytest.mark.parametrize("place", PLACES)
def test_dockers_and_podmans_files_are_read(home: Path, place: str) -> None:
    put(home / place, auths(reg_test="hunter2"))
    assert Keyring().credentials("reg.test", "a/b") == Credentials("me", "hunter2")
    assert Keyring().credentials("other.test", "a/b") is None


def test_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    for place in reversed(PLACES):
        put(home / place, auths(reg_test=place))
        found.append(Keyring().credentials("reg.test"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "named.json"))
    found.append(Keyring().credentials("reg.test"))
    put(home / "named.json", auths(reg_test="named"))
    found.append(Keyring().credentials("reg.test"))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", auths(reg_test="stated"))
    found.append(Keyring().credentials("reg.test"))
    names = [*reversed(PLACES), PLACES[0], "named", "stated"]
    assert [each.password for each in found] == names


def test_a_namespaces_credentials_serve_it_alone(home: Path) -> None:
    put(
        home / PLACES[-1],
        auths(reg_test="all", reg_test__team="team", reg_test__team__app="app"),
    )
    keyring = Keyring()
    repositories = ("team/app", "team/app/x", "team/other", "teams/app", "x")
    found = [keyring.credentials("reg.test", repository) for repository in repositories]
    assert [each.password for each in found if each] == ["app", "app", "team", "all", "all"]
    put(home / PLACES[-1], auths(reg_test__team="team"))
    assert Keyring().credentials("reg.test", "other/app") is None


def test_docker_hubs_entry_has_many_names(home: Path) -> None:
    put(home / PLACES[0], json.dumps({"auths": {"https://index.docker.io/v1/": {}}}))
    put(home / PLACES[-1], auths(docker_io="hub"))
    assert Keyring().credentials("docker.io", "library/x") == Credentials("me", "hub")
    encoded = base64.b64encode(b"me:docker").decode()
    entry = {"https://index.docker.io/v1/": {"auth": encoded}}
    put(home / PLACES[0], json.dumps({"auths": entry}))
    assert Keyring().credentials("docker.io", "library/x") == Credentials("me", "docker")


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": {"reg.test": {"auth": "%%hunter2"}}}'])
def test_a_file_that_cannot_be_read_is_named_without_its_content(home: Path, content: str) -> None:
    put(home / PLACES[-1], content)
    with pytest.raises(RegistryFailed, match=r"cannot be read from .*auth\.json") as raised:
        Keyring().credentials("reg.test")
    assert "hunter2" not in str(raised.value)


def test_what_is_sent_is_hidden(home: Path) -> None:
    put(home / PLACES[0], auths(reg_test="hunter2/x"))
    keyring = Keyring()
    found = keyring.credentials("reg.test")
    assert found is not None
    header = keyring.basic(found.user, found.password)
    assert keyring.hide(f"hunter2/x hunter2%2Fx {header}") == "*** *** Basic ***"
