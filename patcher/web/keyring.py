"""The credentials that users of docker and podman have, and the promise never to show any.

They are looked for in this order, and the first file that knows the registry answers:
`DOCKER_AUTH_CONFIG` (the JSON itself, as GitLab gives it to jobs), the file in
`REGISTRY_AUTH_FILE`, docker's config.json (`DOCKER_CONFIG`, `~/.docker`), and podman's auth.json
in its three places (containers-auth.json(5)). `docker.auth` reads them, and asks the helper
programs that `credsStore` and `credHelpers` name; identity tokens count too.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote, urlsplit

from patcher.errors import RegistryFailed

# A shorter text occurs in too many messages by chance to be taken for a secret.
_LEAST_SECRET = 6

# A config.json has a few KB.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token (an OAuth 2 refresh token)."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Keyring:
    """Credentials by repository, each looked up once, and every secret that was met.

    A credential helper is a program of its own, and may take a second to answer.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Credentials | None] = {}
        self._secrets: set[str] = set()
        for user, password in _of_proxies():
            self.basic(user, password)

    def credentials(self, registry: str, repository: str = "") -> Credentials | None:
        """What docker or podman would log in with; None where neither has anything.

        Raises `RegistryFailed` for a config file or a helper that cannot be used.
        """
        key = registry, repository
        if key not in self._found:
            found = self._found[key] = _look_up(registry, repository)
            if found is not None:
                self.keep(found.password, found.identity_token)
        return self._found[key]

    def basic(self, user: str, password: str) -> str:
        """The Authorization header of a name and password (RFC 7617), which are secrets now."""
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.keep(password, encoded)
        return f"Basic {encoded}"

    def keep(self, *secrets: str) -> None:
        """Remember what `hide` must take out, also as a form or an address spells it."""
        spelled = [form for secret in secrets for form in (secret, quote_plus(secret))]
        self._secrets.update(form for form in spelled if len(form) >= _LEAST_SECRET)

    def hide(self, text: str) -> str:
        """The text with every known secret taken out: a server may send back what it was sent."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def _of_proxies() -> Iterator[tuple[str, str]]:
    """The users and passwords of the environment's proxies, as requests finds them."""
    from urllib.request import getproxies

    for proxy in getproxies().values():
        with contextlib.suppress(ValueError):
            parts = urlsplit(proxy)
            if parts.password:
                yield unquote(parts.username or ""), unquote(parts.password)


def _look_up(registry: str, repository: str) -> Credentials | None:
    for where, data in _configs():
        try:
            with warnings.catch_warnings():
                # docker.auth warns of a helper that is not installed, and then raises.
                warnings.simplefilter("ignore")
                found = _resolve(json.loads(data), registry, repository)
        except Exception as error:
            # The error's text may hold a part of the secret. Its type says enough.
            raise _unusable(registry, where, type(error).__name__) from None
        if found is not None:
            return found
    return None


def _configs() -> Iterator[tuple[str, bytes]]:
    """Each configuration that is there, and what to call it."""
    if stated := os.environ.get("DOCKER_AUTH_CONFIG"):
        yield "DOCKER_AUTH_CONFIG", stated.encode()
    for path in _files():
        try:
            with path.open("rb") as file:
                yield str(path), file.read(_MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unusable("registries", str(path), type(error).__name__) from None


def _resolve(config: dict[str, Any], registry: str, repository: str) -> Credentials | None:
    """What one configuration has for a repository: for itself or a namespace above it, as podman
    allows, or for the registry.
    """
    from docker.auth import AuthConfig

    sections = ("auths", "credsStore", "credHelpers")
    if not isinstance(config, dict):
        raise TypeError(type(config).__name__)
    # ~/.dockercfg was the section `auths` alone.
    config = config if any(key in config for key in sections) else {"auths": config}
    auths = AuthConfig.parse_auth(config.get("auths") or {}, raise_on_error=True)
    name = f"{registry}/{repository}"
    while "/" in name:
        if name in auths:
            return _credentials(auths[name])
        name = name.rpartition("/")[0]
    # docker.auth looks at the host of a key alone: a namespace's must not serve all of it.
    of_hosts = {key: entry for key, entry in auths.items() if not _is_namespace(key)}
    found = AuthConfig({**config, "auths": of_hosts}).resolve_authconfig(registry)
    return _credentials(found or {})


def _is_namespace(key: str) -> bool:
    path = key.partition("/")[2].strip("/")
    return "://" not in key and path not in ("", "v1", "v2")


def _files() -> Iterator[Path]:
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    docker = os.environ.get("DOCKER_CONFIG")
    yield Path(docker or Path.home() / ".docker") / "config.json"
    yield Path.home() / ".dockercfg"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(f"/run/containers/{os.getuid()}/auth.json")
    home = os.environ.get("XDG_CONFIG_HOME")
    yield Path(home or Path.home() / ".config") / "containers" / "auth.json"


def _credentials(found: dict[str, Any]) -> Credentials | None:
    """docker.auth spells the keys as the file or as the helper does."""
    stated = {key.lower(): str(value or "") for key, value in found.items()}
    credentials = Credentials(
        stated.get("username", ""), stated.get("password", ""), stated.get("identitytoken", "")
    )
    return credentials if credentials.password or credentials.identity_token else None


def _unusable(registry: str, where: str, reason: str) -> RegistryFailed:
    return RegistryFailed(
        f"the credentials for {registry} cannot be read from {where} ({reason})",
        next_step="Check that file and the credential helper that it names (`docker login` or "
        "`podman login` writes both), or move it away.",
    )
