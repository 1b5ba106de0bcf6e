"""The credentials that docker users have, and the promise that none of them is ever shown.

`docker.auth` reads them: docker's config file (`DOCKER_CONFIG`, `~/.docker/config.json`), the
programs that `credsStore` and `credHelpers` name, identity tokens.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from patcher.errors import RegistryFailed

if TYPE_CHECKING:
    from docker.auth import AuthConfig

# A shorter text stands in too many messages by chance to be taken for a secret.
_LEAST_SECRET = 6


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token (an OAuth 2 refresh token)."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Keyring:
    """Credentials by registry, each looked up once, and every secret that was met.

    A credential helper is a program of its own, and may take a second to answer.
    """

    def __init__(self) -> None:
        self._found: dict[str, Credentials | None] = {}
        self._secrets: set[str] = set()

    def credentials(self, registry: str) -> Credentials | None:
        """What docker would log in with at this registry; None for nobody.

        Raises `RegistryFailed` for a config file or a helper that cannot be used.
        """
        if registry not in self._found:
            found = self._found[registry] = _look_up(registry)
            if found is not None:
                self.keep(found.password, found.identity_token)
        return self._found[registry]

    def keep(self, *secrets: str) -> None:
        """Remember what `hide` must take out, also as a form or an address spells it."""
        spelled = [form for secret in secrets for form in (secret, quote_plus(secret))]
        self._secrets.update(form for form in spelled if len(form) >= _LEAST_SECRET)

    def hide(self, text: str) -> str:
        """The text with every known secret taken out: a server may send back what it was sent."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def _look_up(registry: str) -> Credentials | None:
    try:
        with warnings.catch_warnings():
            # It warns of a helper that is not installed, and then raises.
            warnings.simplefilter("ignore")
            found = _load().resolve_authconfig(registry)
    except RegistryFailed:
        raise
    except Exception as error:
        # What stands in the error may be a part of the secret. Its type says enough.
        problem = f"the credentials for {registry} cannot be read ({type(error).__name__})"
        raise _unusable(problem) from None
    return _credentials(found) if found else None


def _load() -> AuthConfig:
    from docker import auth
    from docker.utils import config

    path = config.find_config_file()
    if path is not None:
        # docker-py takes a file that is no JSON for an empty one.
        json.loads(Path(str(path)).read_bytes())
    return auth.load_config()


def _credentials(found: dict[str, Any]) -> Credentials | None:
    """docker.auth spells the keys as the file or as the helper does."""
    stated = {key.lower(): str(value or "") for key, value in found.items()}
    credentials = Credentials(
        stated.get("username", ""), stated.get("password", ""), stated.get("identitytoken", "")
    )
    return credentials if credentials.password or credentials.identity_token else None


def _unusable(problem: str) -> RegistryFailed:
    return RegistryFailed(
        problem,
        next_step="Check docker's config.json and the credential helper that it names "
        "(`docker login` writes both), or point DOCKER_CONFIG at another folder.",
    )
