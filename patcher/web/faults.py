"""What goes wrong between us and a server: what it is called, and whether it may pass.

No exception of requests or urllib3 is shown: their texts hold whole addresses, and an address
that a registry redirects to is a key to the blob for whoever reads it.
"""

from __future__ import annotations

import json
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from patcher.errors import RegistryFailed

if TYPE_CHECKING:
    import requests

# RFC 9110: a request timeout, too many requests. Of a server's and its gateway's own errors
# (Cloudflare's are 520 to 527) only these two are no matter of time: not implemented, no HTTP.
_PASSING = frozenset({408, 429, *range(500, 600)} - {501, 505})

# Seconds. Docker Hub's pull limit asks for hours: then the answer is the error.
_LONGEST_PAUSE = 120.0

# More than anybody waits, in seconds: 31 years.
_A_DATE = 1e9

_MOST_BYTES = 16 << 10

_NETWORK = "Check the name of the registry and the network, then try again."
_TRUST = (
    "Name the authority's certificate with --ca-file or SSL_CERT_FILE, if you trust it; "
    "nothing is sent to a registry that cannot prove its name."
)


class Fault(Exception):
    """One attempt that failed. `passing`: another may not. `retry_after` is in seconds."""

    def __init__(
        self,
        reason: str,
        *,
        passing: bool = True,
        retry_after: float | None = None,
        next_step: str = _NETWORK,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing
        self.retry_after = retry_after
        self.next_step = next_step


@contextmanager
def faults() -> Iterator[None]:
    """What requests and urllib3 raise becomes a `Fault`; a ValueError is a bad address, such as a
    redirect to `http://[x`.
    """
    import requests
    import urllib3

    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _fault(error) from None


def _fault(error: BaseException) -> Fault:
    import requests

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted ({cause.verify_message})"
            return Fault(reason, passing=False, next_step=_TRUST)
        if isinstance(cause, socket.gaierror):
            again = cause.errno == socket.EAI_AGAIN
            return Fault("there is no such host", passing=again)
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = f"no TLS connection is made ({cause.reason or 'it is no TLS'})"
            return Fault(reason, passing=False, next_step=_TRUST)
        if isinstance(cause, TimeoutError | requests.Timeout):
            return Fault("it does not answer in time")
        if isinstance(cause, ConnectionRefusedError):
            return Fault("the connection is refused")
    bad_address = isinstance(error, ValueError)
    return Fault(
        "the address cannot be used" if bad_address else "the connection broke",
        passing=not bad_address,
    )


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


def fault_of(response: requests.Response) -> Fault | None:
    """The fault that an answer is, if another attempt may have another answer."""
    if response.status_code not in _PASSING:
        return None
    with response, faults():
        body = response.raw.read(_MOST_BYTES, decode_content=True)
    reason = f"HTTP {response.status_code}{explanation(body)}"
    return Fault(reason, retry_after=_seconds(response.headers.get("Retry-After")))


def explanation(body: bytes) -> str:
    """What an error's JSON says (distribution specification, error codes), to put behind a status.

    Empty where it says nothing: an error page of a proxy is no explanation.
    """
    try:
        [first, *_] = json.loads(body)["errors"]
        said = ": ".join(str(first[key]) for key in ("code", "message") if first.get(key))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return f" ({said})" if said else ""


def _seconds(stated: str | None) -> float | None:
    """RFC 9110, section 10.2.3: a number of seconds, or a date."""
    if stated is None:
        return None
    try:
        seconds = float(stated) if stated.strip().isdecimal() else _until(stated)
        # Docker Hub has sent the time itself, as seconds since 1970.
        seconds -= time.time() if seconds > _A_DATE else 0
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


def wanted_pause(fault: Fault, pauses: list[float]) -> float | None:
    """The seconds to wait before the next attempt, one of `pauses` at least; None to give up."""
    if not (fault.passing and pauses):
        return None
    pause = max(pauses.pop(0), fault.retry_after or 0.0)
    return pause if pause <= _LONGEST_PAUSE else None


def end_of(fault: Fault, host: str, tries: int, hide: Callable[[str], str]) -> RegistryFailed:
    """The error to show once trying has ended; `tries` is how often it was tried at all."""
    reason = fault.reason
    if fault.retry_after and fault.retry_after > _LONGEST_PAUSE:
        reason += f"; it asks to wait {math.ceil(fault.retry_after)} s"
    elif fault.passing and tries > 1:
        reason += f", {tries} times"
    return RegistryFailed(f"{host}: {hide(reason)}", next_step=fault.next_step)
