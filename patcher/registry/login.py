"""Authentication to a registry: HTTP Basic, or a bearer token from its token server.

The flows are those of the distribution project's documents ("Token Authentication Specification",
"Oauth2 Token Authentication"), which Docker Hub and ghcr.io follow: without credentials a token
for public images is given all the same; an identity token is an OAuth 2 refresh token.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from patcher.errors import AccessDenied
from patcher.web.http import Request, explanation
from patcher.web.trust import host_of, joined

if TYPE_CHECKING:
    from patcher.web.http import Answer, Http
    from patcher.web.keyring import Credentials

_CLIENT = "vllm-patcher"

# Seconds: what the specification has a token live where the server states nothing, and how long
# before its end it is no longer used.
_LIFE = 60.0
_MARGIN = 10.0

# What a token server says to credentials or scopes that it does not like.
_REFUSALS = frozenset({400, 401, 403})

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
    """The challenges of a WWW-Authenticate header (RFC 9110, section 11.6.1).

    There may be several; what cannot be read is left out.
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


class Login:
    """The Authorization header for one repository and its scopes, the repository's own first.

    Nothing is sent before the registry asks for it. `clock` gives seconds.
    """

    def __init__(
        self,
        http: Http,
        registry: str,
        repository: str,
        scopes: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._registry = registry
        self._repository = repository
        self._scopes = scopes
        self._clock = clock
        self._held: _Held | None = None
        # Whether the token server has refused the other scopes beside the first.
        self._alone = False
        # Several threads meet the same challenge: one login serves them all.
        self._lock = threading.Lock()

    @property
    def held(self) -> str | None:
        """What was sent last, near its end or not."""
        return self._held.header if self._held else None

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
            if self._held is not None and self._held.header != refused:
                return
            challenges = {
                each.scheme: each for each in reversed(parse_challenges(www_authenticate))
            }
            challenge = challenges.get("bearer") or challenges.get("basic")
            if challenge is None:
                raise denied(
                    self._registry,
                    "it asks for a login by a scheme that vllm-patcher does not support",
                    "It must offer Basic or Bearer, as docker needs it; ask whoever runs it.",
                )
            self._held = self._meet(challenge)

    def _meet(self, challenge: Challenge) -> _Held:
        keyring = self._http.keyring
        credentials = keyring.credentials(self._registry, self._repository)
        if challenge.scheme == "bearer":
            return self._fetch(challenge, credentials)
        if credentials is None or not credentials.password:
            raise denied(
                self._registry, "it wants a login, and docker and podman have no credentials for it"
            )
        return _Held(keyring.basic(credentials.user, credentials.password), challenge)

    def _fetch(self, challenge: Challenge, credentials: Credentials | None) -> _Held:
        """A token from the server that the challenge names.

        Where it refuses several scopes at once, the repository's own is asked for alone: the
        others are for mounting blobs, which can be copied instead.
        """
        base = self._http.base(self._registry)
        stated = joined("", challenge.parameters.get("realm", ""))
        if stated is None:
            raise self._http.failure(base, "it names no web address for a token")
        realm = self._http.follow(base, stated)
        if not self._http.may_send_secret(realm):
            raise self._http.failure(
                base,
                f"it names {host_of(realm)} for a token, without TLS",
                f"If that is meant to be, give --plain-http {host_of(realm)}.",
            )
        service = challenge.parameters.get("service", "")
        scopes = _joined(self._scopes, challenge.parameters.get("scope", ""), self._alone)
        answer = self._http.ask(_token_request(realm, service, scopes, credentials, self._http))
        if answer.status in _REFUSALS and len(scopes) > 1:
            self._alone = True
            scopes = scopes[:1]
            answer = self._http.ask(_token_request(realm, service, scopes, credentials, self._http))
        if answer.status in _REFUSALS:
            who = " the credentials that docker or podman has for it" if credentials else ""
            said = f"HTTP {answer.status}{explanation(answer.body)}"
            reason = f"its token server {host_of(realm)} refuses{who}: {said}"
            raise denied(self._registry, self._http.keyring.hide(reason))
        token, life = _read_token(answer)
        if token is None:
            said = f"its token server answers without a token (HTTP {answer.status})"
            raise self._http.failure(base, said)
        self._http.keyring.keep(token)
        return _Held(f"Bearer {token}", challenge, self._clock() + life - _MARGIN)


def _token_request(
    realm: str, service: str, scopes: list[str], credentials: Credentials | None, http: Http
) -> Request:
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
    basic = None
    if credentials:
        query.insert(0, ("account", credentials.user))
        basic = http.keyring.basic(credentials.user, credentials.password)
    glue = "&" if urlsplit(realm).query else "?"
    return Request("GET", f"{realm}{glue}{urlencode(query)}", authorization=basic)


def denied(registry: str, reason: str, next_step: str | None = None) -> AccessDenied:
    """The error of a registry that does not allow it."""
    return AccessDenied(
        f"{registry}: {reason}",
        next_step=next_step
        or f"`docker login {registry}` (or podman's) with an account that may, and check the "
        "name: registries deny what does not exist.",
    )


def _joined(own: tuple[str, ...], asked: str, alone: bool) -> list[str]:
    """Our scopes, and what the registry asks for under another name: some rewrite names."""
    if alone:
        return [own[0]]
    names = {wanted.rpartition(":")[0] for wanted in own}
    return [*own, *(each for each in asked.split() if each.rpartition(":")[0] not in names)]


def _read_token(answer: Answer) -> tuple[str | None, float]:
    """The token and its life in seconds; None where the answer holds none."""
    try:
        document: Any = json.loads(answer.body) if answer.status == 200 else {}
        token = document.get("token") or document.get("access_token")
        life = float(document.get("expires_in") or _LIFE)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None, _LIFE
    usable = isinstance(token, str) and _TOKEN.fullmatch(token)
    return (token if usable else None), max(life, _LIFE)
