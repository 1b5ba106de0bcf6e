"""Who we are to a registry: basic, or a bearer token from the server that the registry names.

The flows are those of the distribution project's documents ("Token Authentication Specification",
"Oauth2 Token Authentication"), which Docker Hub and ghcr.io follow: without credentials a token
for public images is given all the same; an identity token is an OAuth 2 refresh token.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from patcher.errors import AccessDenied
from patcher.web.addresses import host_of, joined
from patcher.web.faults import explanation
from patcher.web.http import Request

if TYPE_CHECKING:
    from patcher.web.http import Answer, Http
    from patcher.web.keyring import Credentials

_CLIENT = "vllm-patcher"

# Seconds: what the specification has a token live where the server states nothing, and how long
# before its end it is no longer used.
_LIFE = 60.0
_MARGIN = 10.0

_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_SCHEME = re.compile(r"[\w-]+")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a WWW-Authenticate header asks for. `scheme` and the parameters' names are in lower
    case.
    """

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header (RFC 9110, section 11.6.1), of which there may
    be several; what cannot be read of it is left out.
    """
    challenges: list[Challenge] = []
    place = 0
    while place < len(header):
        parameter, scheme = _PARAMETER.match(header, place), _SCHEME.match(header, place)
        if parameter and challenges:
            name, quoted, plain = parameter.groups()
            text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            challenges[-1].parameters.setdefault(name.lower(), text)
        elif scheme:
            challenges.append(Challenge(scheme[0].lower()))
        found = parameter or scheme
        place = found.end() if found else place + 1
    return challenges


def scope(repository: str, *, push: bool = False) -> str:
    """The right to pull from a repository, or to pull and push, as a token server names it."""
    return f"repository:{repository}:{'pull,push' if push else 'pull'}"


@dataclass(frozen=True, slots=True)
class _Held:
    """A header to send, until a time on `clock`; `challenge` is what it answers."""

    header: str = field(repr=False)
    challenge: Challenge
    until: float = float("inf")


class Authorizer:
    """The Authorization header for one registry and one set of scopes.

    Nothing is sent before the registry asks for it. `clock` gives seconds.
    """

    def __init__(
        self,
        http: Http,
        registry: str,
        scopes: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._registry = registry
        self._scopes = scopes
        self._clock = clock
        self._held: _Held | None = None
        # Several threads meet the same challenge: one login serves them all.
        self._lock = threading.Lock()

    def header(self) -> str | None:
        """What to send; a token near its end is renewed first. Raises as `answer`."""
        with self._lock:
            held = self._held
            if held is not None and held.until <= self._clock():
                held = self._held = self._meet(held.challenge)
            return held.header if held else None

    def answer(self, www_authenticate: str, refused: str | None) -> None:
        """Do what the registry's 401 asks for; `header` is another than the one it refused then.

        Raises `AccessDenied` where the credentials are missing or refused, `RegistryFailed` for
        a token server that does not answer.
        """
        with self._lock:
            if self._held is None or self._held.header == refused:
                self._held = self._meet(self._challenge(www_authenticate))

    def _challenge(self, www_authenticate: str) -> Challenge:
        challenges = {each.scheme: each for each in reversed(parse_challenges(www_authenticate))}
        challenge = challenges.get("bearer") or challenges.get("basic")
        if challenge is None:
            raise self._denied("it wants a login of a kind that is not known here")
        return challenge

    def _meet(self, challenge: Challenge) -> _Held:
        credentials = self._http.keyring.credentials(self._registry)
        if challenge.scheme == "bearer":
            return self._fetch(challenge, credentials)
        if credentials is None or not credentials.password:
            raise self._denied("it wants a login, and docker has no credentials for it")
        return _Held(self._basic(credentials), challenge)

    def _basic(self, credentials: Credentials) -> str:
        pair = f"{credentials.user}:{credentials.password}".encode()
        encoded = base64.b64encode(pair).decode()
        self._http.keyring.keep(encoded)
        return f"Basic {encoded}"

    def _fetch(self, challenge: Challenge, credentials: Credentials | None) -> _Held:
        """A token from the server that the challenge names."""
        realm = joined("", challenge.parameters.get("realm", ""))
        if realm is None or not self._http.may_send_to(realm):
            place = host_of(realm) if realm is not None else "no address"
            raise self._denied(f"it names {place!r} for a token, which is not safe")
        answer = self._http.ask(self._token_request(realm, challenge, credentials))
        if answer.status in (400, 401, 403):
            who = "its token server refuses docker's credentials"
            said = explanation(answer.body)
            raise self._denied(who + said if credentials else f"its token server refuses{said}")
        token, life = _read_token(answer)
        if token is None:
            said = f"its token server answers without a token (HTTP {answer.status})"
            raise self._http.failure(f"//{self._registry}", said)
        self._http.keyring.keep(token)
        return _Held(f"Bearer {token}", challenge, self._clock() + life - _MARGIN)

    def _token_request(
        self, realm: str, challenge: Challenge, credentials: Credentials | None
    ) -> Request:
        service = challenge.parameters.get("service", "")
        scopes = _joined(self._scopes, challenge.parameters.get("scope", ""))
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": _CLIENT,
                "scope": " ".join(scopes),
                "refresh_token": credentials.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Request("POST", realm, headers, body=urlencode(form).encode())
        query = [("service", service), *(("scope", wanted) for wanted in scopes)]
        account = [("account", credentials.user)] if credentials else []
        glue = "&" if urlsplit(realm).query else "?"
        url = f"{realm}{glue}{urlencode([*account, *query])}"
        return Request("GET", url, authorization=self._basic(credentials) if credentials else None)

    def _denied(self, reason: str) -> AccessDenied:
        return denied(self._registry, self._http.keyring.hide(reason))


def denied(registry: str, reason: str) -> AccessDenied:
    """The error of a registry that lets us not do it."""
    return AccessDenied(
        f"{registry}: {reason}",
        next_step=f"`docker login {registry}` with an account that may, and check the name: "
        "registries deny what does not exist.",
    )


def _joined(own: tuple[str, ...], asked: str) -> list[str]:
    """Our scopes, and what the registry asks for under another name: some rewrite names."""
    names = {wanted.rpartition(":")[0] for wanted in own}
    return [*own, *(each for each in asked.split() if each.rpartition(":")[0] not in names)]


def _read_token(answer: Answer) -> tuple[str | None, float]:
    """The token and its life in seconds; None where the answer holds none."""
    try:
        document: Any = json.loads(answer.body) if answer.status == 200 else {}
        token = document.get("token") or document.get("access_token")
        life = float(document.get("expires_in") or _LIFE)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None, _LIFE
    usable = isinstance(token, str) and _TOKEN.fullmatch(token)
    return (token if usable else None), max(life, _LIFE)
