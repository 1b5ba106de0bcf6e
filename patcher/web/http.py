"""The HTTP client: bounded reads, retries, redirects that never leak credentials.

Registries, package indexes, wheels and GitHub are all reached through `Http`. No exception of
requests or urllib3 is shown: their texts hold whole addresses, and an address that a registry
redirects to is a key to the blob for whoever reads it.
"""

from __future__ import annotations

import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from patcher import __version__
from patcher.errors import RegistryFailed, UsageError
from patcher.oci.reference import DEFAULT_REGISTRY
from patcher.talk import detail
from patcher.web.keyring import Keyring
from patcher.web.trust import (
    certificate_folders,
    host_of,
    is_loopback,
    is_named,
    joined,
    origin,
    refusal,
    shown,
    trusted,
    trusted_later,
)

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from patcher.web.connections import Patience

_Result = TypeVar("_Result")

# Seconds to connect, and seconds without a byte. To close an upload, a registry may first have
# to copy some GB from one place of its storage to another.
_CONNECT = 10.0
_SILENCE = 60.0
_SILENCE_AFTER_UPLOAD = 600.0

# Seconds to wait for all of a small answer, in one attempt and in all of them.
_WHOLE = 60.0
ALL_ATTEMPTS = 120.0

# A stream may be slower than this many bytes a second for a minute in all.
_SLOWEST = 4 << 10

# The waits between attempts, in seconds, where the server asks for none.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_LONG_PAUSE = 4.0
_MOST_SILENCES = 2

# Seconds. Docker Hub's pull limit asks for hours: then the answer is the error.
_LONGEST_PAUSE = 120.0

# A Retry-After beyond this (31 years) is a point in time, not a number of seconds.
_A_DATE = 1e9

# RFC 9110: a request timeout, too many requests. Of a server's and its gateway's own errors
# (Cloudflare's are 520 to 527) only these two do not pass: not implemented, version not supported.
_PASSING = frozenset({408, 429, *range(500, 600)} - {501, 505})

# Docker Hub's API has another name than its images.
_DOCKER_HUB = "https://registry-1.docker.io"

_MOST_HOPS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

# The distribution specification asks registries to take manifests of 4 MiB at least.
MOST_BYTES = 8 << 20

MOST_ERROR_BYTES = 64 << 10
_MOST_ERRORS = 8

_PROXY = "Correct that variable, or name the host in NO_PROXY to go there without the proxy."
NETWORK = "Check the address and the network, then try again."
TRUST = (
    "Name the authority's certificate with --ca-file or SSL_CERT_FILE, if you trust it; "
    "nothing is sent to a server that cannot prove its name."
)
_CLIENT_CERTIFICATE = (
    "Put the client certificate and its key into docker's folder for this registry: "
    "/etc/docker/certs.d/HOST/client.cert and client.key, or the same below ~/.config/docker."
)


class Fault(Exception):
    """A failed attempt. `transient`: a retry may succeed. `silent`: a whole wait has passed without
    an answer. `unreached`: nobody was there to answer. `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: str,
        *,
        transient: bool = True,
        silent: bool = False,
        unreached: bool = False,
        retry_after: float | None = None,
        next_step: str = NETWORK,
    ) -> None:
        super().__init__(reason)
        self.silent = silent
        self.unreached = unreached or silent
        self.reason = reason
        self.transient = transient
        self.retry_after = retry_after
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How to reach servers.

    `ca_file` is a PEM file of certificates to trust besides the usual ones. `plain_http` are the
    hosts (`host` or `host:port`) to speak to without TLS; loopback needs no asking.
    """

    ca_file: Path | None = None
    plain_http: frozenset[str] = frozenset()


class Body(Protocol):
    """A stream to send, of known length."""

    def __len__(self) -> int:
        """The bytes in all."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `authorization` goes to this host alone, whatever it redirects to."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: bytes | Body | None = field(default=None, repr=False)


class Answer:
    """A response: its status and headers, and its body once `take` has read it.

    `url` is the address that answered, which a redirect may have led to. A body may instead be
    read as a stream; `close` it then.
    """

    body: bytes = b""

    def __init__(self, response: requests.Response, patience: Patience) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = str(response.url)
        self._response = response
        self._patience = patience

    @property
    def length(self) -> int | None:
        """The Content-Length; None for none, and for what no file has: Python reads no number of
        5,000 digits.
        """
        stated = self.headers.get("Content-Length", "")
        return int(stated) if stated.isdecimal() and len(stated) < 20 else None

    def read(self, size: int) -> bytes:
        """The next bytes as they were sent; none at the end. Raises `Fault`."""
        from patcher.web.connections import waiting

        with faults(), waiting(self._patience):
            data: bytes = self._response.raw.read(size)
        return data

    def take(self, limit: int) -> Answer:
        """Read the whole body, decoded; of a longer one, `limit` bytes. Raises `Fault`."""
        from patcher.web.connections import waiting

        with self._response, faults(), waiting(self._patience):
            self.body = self._response.raw.read(limit, decode_content=True)
        return self

    def close(self) -> None:
        """Give the connection back, or cut it off."""
        self._response.close()


class Http:
    """One session for all servers of a run: connections and credentials are shared.

    `wait` sleeps for seconds between two attempts; `say` is called with what a person would wonder
    about. Any number of threads may use it.
    """

    def __init__(
        self,
        settings: HttpSettings | None = None,
        wait: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings = settings or HttpSettings()
        self.keyring = Keyring()
        self.wait = wait
        self._say = say
        self._said: set[str] = set()
        # Hosts that did not answer, though they were asked again: nobody waits for them twice.
        self._lost: dict[str, RegistryFailed] = {}
        self._bases: dict[str, str] = {}
        # What was typed before the host of an address, as the header that it makes.
        self._typed: dict[tuple[str, str | None, int | None], str] = {}
        self._lock = threading.Lock()
        self._session = open_session(self.settings)

    def base(self, registry: str) -> str:
        """The address of a registry's API, without a slash at its end. Raises `UsageError` for
        a certificate in certs.d that cannot be read.
        """
        with self._lock:
            if registry not in self._bases:
                self._bases[registry] = self._find_base(registry)
            return self._bases[registry]

    def named(self, url: str) -> str:
        """A web address that a person typed, ready to be asked.

        A user and password in it are taken out, kept for that server alone, and never shown.
        Raises `UsageError` for anything but a web address.
        """
        clean = joined("", url)
        if clean is None:
            raise UsageError(
                f"{host_of(shown(url)) or url.partition(':')[0]!r} is not a web address",
                next_step="Give an address that begins with https:// or http://.",
            )
        parts = urlsplit(url)
        if parts.username:
            user, password = unquote(parts.username), unquote(parts.password or "")
            self._typed[origin(clean)] = self.keyring.basic(user, password)
        return clean

    def follow(self, here: str, there: str) -> str:
        """The address that the server at `here` names, relative or not.

        Raises `RegistryFailed` where it may not send us there; see `trust.refusal`.
        """
        url = joined(here, there)
        if url is None:
            raise self.failure(here, "it names something that is not a web address")
        reason = refusal(here, url, self.settings.plain_http)
        if reason:
            raise RegistryFailed(
                f"{host_of(here)}: it leads to {host_of(url)}, {reason}: not followed",
                next_step="If that is meant to be, name that host with --plain-http or give its "
                "address yourself; otherwise tell whoever runs the server.",
            )
        return url

    def may_send_secret(self, url: str) -> bool:
        """Whether a password may go to this address: by TLS, to this machine, or where plain
        HTTP was asked for.
        """
        plain = is_named(url, self.settings.plain_http) or is_loopback(host_of(url))
        return url.startswith("https://") or (url.startswith("http://") and plain)

    def ask(self, request: Request, limit: int = MOST_BYTES) -> Answer:
        """The whole, small answer, whatever its status; a transient fault is tried again.

        Raises `RegistryFailed`, also for an answer of more than `limit` bytes.
        """
        return self.persist(
            request.url, lambda: self.ask_once(request, limit), most_seconds=ALL_ATTEMPTS
        )

    def ask_once(self, request: Request, limit: int = MOST_BYTES) -> Answer:
        """As `ask`, in one attempt. Raises `Fault` besides."""
        answer = self.send(request).take(limit + 1)
        if len(answer.body) > limit:
            raise self.failure(request.url, f"its answer has more than {limit} bytes")
        return answer

    def send(
        self, request: Request, *, stream: bool = False, seconds: float | None = None
    ) -> Answer:
        """One attempt; redirects are followed. The body is still to be read, as a `stream` if it
        may last. `seconds` bounds the wait otherwise than usual.

        Raises `Fault`, and `RegistryFailed` for a redirect that is not followed.
        """
        from patcher.web.connections import Patience, waiting

        sending = request.body is not None and not isinstance(request.body, bytes)
        uploading = sending or request.method == "PUT"
        silence = seconds or (_SILENCE_AFTER_UPLOAD if uploading else _SILENCE)
        patience = Patience(seconds or max(silence, _WHOLE), stream / _SLOWEST)
        for _ in range(_MOST_HOPS):
            host = urlsplit(request.url).hostname or ""
            headers = dict(request.headers)
            signed = request.authorization or self._typed.get(origin(request.url))
            if signed:
                headers["Authorization"] = signed
            start = time.monotonic()
            with faults(), waiting(patience):
                response = self._session.request(
                    request.method,
                    request.url,
                    headers=headers,
                    data=request.body,
                    stream=True,
                    allow_redirects=False,
                    # urllib3 holds the sending of a body to the limit for connecting, and a
                    # registry that flushes to its storage may take nothing for half a minute.
                    timeout=(seconds or (_SILENCE if sending else _CONNECT), silence),
                    # As in Go: no proxy can reach this machine's own loopback.
                    proxies={"no_proxy": host} if is_loopback(host) else None,
                )
            answer = Answer(response, patience)
            told = f"{request.method} {shown(request.url)}: {answer.status}"
            detail(f"{told}, {time.monotonic() - start:.2f} s")
            there = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or there is None:
                # A HEAD that fails may be one that the server does not know.
                if answer.status in _PASSING and (answer.status, request.method) != (500, "HEAD"):
                    raise _fault_of(answer)
                return answer
            answer.close()
            request = self._redirected(request, answer.status, there)
        raise self.failure(request.url, "it redirects without end")

    def _redirected(self, request: Request, status: int, there: str) -> Request:
        """The request that a redirect means (RFC 9110, section 15.4), with no secret for others."""
        url = self.follow(request.url, there)
        if status < 307 and request.method not in ("GET", "HEAD"):
            raise self.failure(request.url, f"it redirects a {request.method} (HTTP {status})")
        if request.body is not None and not isinstance(request.body, bytes):
            raise self.failure(request.url, "it redirects an upload that has begun")
        same = origin(url) == origin(request.url)
        if request.body is not None and not same:
            # A token server's form holds a secret.
            raise self.failure(request.url, f"it redirects a {request.method} to {host_of(url)}")
        return replace(request, url=url, authorization=request.authorization if same else None)

    def persist(
        self,
        url: str,
        once: Callable[[], _Result],
        pauses: Sequence[float] | None = None,
        most_seconds: float = math.inf,
    ) -> _Result:
        """Do something with the host of `url` until it works, or until more makes no sense.

        Transient faults are tried again after the next of `pauses`, or the pause that the server
        asks for, if it is not too long; but not once the attempts have taken `most_seconds`, and a
        server that is silent is tried once more. A host that was not reached in all of them is
        not asked again by this session.
        Raises `RegistryFailed` where `once` ends with a `Fault`.
        """
        host = host_of(url)
        if host in self._lost:
            raise self._lost[host]
        left = list(_PAUSES if pauses is None else pauses)
        spent, tries, silences = 0.0, 0, 0
        while True:
            start = time.monotonic()
            try:
                return once()
            except Fault as fault:
                spent, tries = spent + time.monotonic() - start, tries + 1
                silences += fault.silent
                pause = max(left.pop(0), fault.retry_after or 0.0) if left else math.inf
                enough = spent >= most_seconds or silences == _MOST_SILENCES
                if not fault.transient or pause > _LONGEST_PAUSE or enough:
                    failed = self.failure(url, _reason(fault, tries), fault.next_step)
                    if fault.unreached:
                        self._lost[host] = failed
                    raise failed from None
                detail(f"{host}: {self.keyring.hide(fault.reason)}, attempt {tries}")
                said = f"{host}: {self.keyring.hide(fault.reason)}; trying again in"
                self._tell(f"{said} {pause:.0f} s", pause)
            self.wait(pause)

    def _tell(self, said: str, pause: float) -> None:
        """Say it once: several threads meet the same."""
        if pause >= _LONG_PAUSE and said not in self._said:
            self._said.add(said)
            self._say(said)

    def failure(self, url: str, reason: str, next_step: str = NETWORK) -> RegistryFailed:
        """The error of a host, with no secret in it."""
        return RegistryFailed(f"{host_of(url)}: {self.keyring.hide(reason)}", next_step=next_step)

    def _find_base(self, registry: str) -> str:
        if any(certificate_folders(registry)):
            from patcher.web.connections import Adapter

            trust = trusted(self.settings.ca_file, registry)
            host = host_of(_DOCKER_HUB) if registry == DEFAULT_REGISTRY else registry
            self._session.mount(f"https://{host}/", Adapter(lambda: trust))
        if registry == DEFAULT_REGISTRY:
            return _DOCKER_HUB
        asked = is_named(f"//{registry}", self.settings.plain_http)
        plain = asked or (is_loopback(registry) and not _speaks_tls(registry))
        return f"{'http' if plain else 'https'}://{registry}"


def _reason(fault: Fault, tries: int) -> str:
    """Why nothing came of so many attempts, the last of which ended in this fault."""
    if fault.retry_after and fault.retry_after > _LONGEST_PAUSE:
        return f"{fault.reason}; it asks to wait {math.ceil(fault.retry_after)} s"
    return f"{fault.reason}, {tries} times" if fault.transient and tries > 1 else fault.reason


def _speaks_tls(registry: str) -> bool:
    """Whether it answers a TLS handshake: with a certificate, which nobody trusts here, or by
    refusing us.
    """
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    address = urlsplit(f"https://{registry}")
    host = address.hostname or ""
    try:
        with socket.create_connection((host, address.port or 443), _CONNECT) as connection:
            nobody.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError:
        return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True


def open_session(settings: HttpSettings) -> requests.Session:
    """A session as `Http` has it."""
    import requests

    from patcher.web.connections import Adapter

    trust = trusted_later(settings.ca_file)
    session = requests.Session()
    session.mount("https://", Adapter(trust))
    session.mount("http://", Adapter(trust))
    session.headers["User-Agent"] = f"vllm-patcher/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    # No cookies: Harbor takes a request that brings its own back for a browser's, and refuses it.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    # Else requests looks into ~/.netrc, and into addresses, for a password to send.
    session.auth = lambda request: request
    return session


@contextmanager
def faults() -> Iterator[None]:
    """Turn what requests and urllib3 raise into a `Fault`; a ValueError is a bad address."""
    import requests
    import urllib3

    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _fault(error) from None


def _fault(error: BaseException) -> Fault:
    import requests
    import urllib3

    causes = list(_causes(error))
    by_proxy = any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes)
    # Else a person looks for what is wrong with a server that was never asked.
    who = "the proxy that HTTPS_PROXY or HTTP_PROXY names: " if by_proxy else ""
    where = _PROXY if by_proxy else NETWORK
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted ({cause.verify_message})"
            return Fault(reason, transient=False, next_step=TRUST)
        if isinstance(cause, socket.gaierror):
            again = cause.errno == socket.EAI_AGAIN
            return Fault(
                f"{who}there is no such host", transient=again, unreached=True, next_step=where
            )
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.InvalidHeader):
            return Fault("the Content-Length of its answer is no number", transient=False)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            said = cause.reason or "it does not speak TLS"
            # RFC 8446, section 6.2; before TLS 1.3 the other two say it.
            wants_ours = "CERTIFICATE" in said or said.endswith("HANDSHAKE_FAILURE")
            step = _CLIENT_CERTIFICATE if "ALERT" in said and wants_ours else TRUST
            return Fault(f"no TLS connection is made ({said})", transient=False, next_step=step)
        if isinstance(cause, TimeoutError | requests.Timeout):
            return Fault("it does not answer in time", silent=True)
        if isinstance(cause, ConnectionRefusedError):
            return Fault(f"{who}the connection is refused", unreached=True, next_step=where)
    if isinstance(error, ValueError) and "SOCKS" in str(error):
        return Fault(
            "the proxy speaks SOCKS, which needs one more package",
            transient=False,
            next_step="Install it: pip install pysocks.",
        )
    if isinstance(error, ValueError):
        return Fault("the address cannot be used", transient=False)
    return Fault("the connection broke")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps: urllib3 keeps causes as arguments, and as `reason`."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [*cause.args, getattr(cause, "reason", None)]
            waiting += [cause.__cause__, cause.__context__]


def _fault_of(answer: Answer) -> Fault:
    """The fault that a response with a transient status amounts to."""
    answer.take(MOST_ERROR_BYTES)
    # GitHub says when its limit ends, as seconds since 1970.
    is_out = answer.headers.get("X-RateLimit-Remaining") == "0"
    end = answer.headers.get("X-RateLimit-Reset") if is_out else None
    seconds = _seconds(answer.headers.get("Retry-After") or end)
    return Fault(f"HTTP {answer.status}{explanation(answer.body)}", retry_after=seconds)


def explanation(body: bytes) -> str:
    """What an error's JSON says, in brackets, to follow a status: all errors, each once.

    Registries list them (distribution specification, error codes); GitHub and some token servers
    have one message. Empty where it says nothing: an error page of a proxy explains nothing.
    """
    try:
        document = json.loads(body)
        errors = document.get("errors") or [document]
        found = [_error_text(each) for each in errors[: 100 * _MOST_ERRORS]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    said = list(dict.fromkeys(filter(None, found)))
    more = [f"and {len(said) - _MOST_ERRORS} more"] if len(said) > _MOST_ERRORS else []
    return f" ({'; '.join([*said[:_MOST_ERRORS], *more])})" if said else ""


def _error_text(error: Mapping[str, Any]) -> str:
    parts = [error.get(key) for key in ("code", "message", "detail", "details")]
    return ": ".join(part for part in parts if part and isinstance(part, str))


def _seconds(stated: str | None) -> float | None:
    """A Retry-After in seconds from now (RFC 9110, section 10.2.3: a number, or a date)."""
    if stated is None:
        return None
    try:
        if stated.strip().isdecimal():
            seconds = float(stated)
            # Docker Hub has sent the time itself, as seconds since 1970.
            seconds -= time.time() if seconds > _A_DATE else 0
        else:
            seconds = parsedate_to_datetime(stated).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
