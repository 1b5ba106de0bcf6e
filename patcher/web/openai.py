"""A server that speaks OpenAI's API, asked once for each thing, its answer timed as it comes.

`Http` does not fit: it tries again, which would hide a server that fails every other time; it reads
a stream in pieces of a size, where a token counts when it arrives; and what a server says beside a
status of 500 is the finding here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from patcher.errors import UsageError
from patcher.text import printable
from patcher.web.http import Fault, HttpSettings, faults, open_session
from patcher.web.keyring import Keyring
from patcher.web.trust import host_of, is_loopback, joined, shown

if TYPE_CHECKING:
    import requests

_MOST_BYTES = 8 << 20

# One event of a stream. A token's has 300 bytes, an error's a few thousand.
_MOST_EVENT = 1 << 20

_MOST_COUNT = 10**15

# Small, so that a server that sends without chunks is timed well too; a token's line has 300 bytes.
_PIECE = 64


class Refused(Fault):
    """A request that was not taken (HTTP 3xx, 4xx): that says nothing about an engine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a GET. `leads_to` is where a redirect leads, without what is secret."""

    status: int
    body: bytes
    leads_to: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one prompt.

    `first` and `last` are the seconds until the first and the last token came, `tokens_first` and
    `tokens` how many had come by then (several at once where the model predicts ahead).
    `prompt_tokens` and `cached_tokens` are as the server counts; None where it does not say.
    """

    first: float
    last: float
    tokens_first: int
    tokens: int
    prompt_tokens: int | None
    cached_tokens: int | None

    @property
    def speed(self) -> float | None:
        """Tokens a second after the first; None where one moment brought all of them."""
        took, made = self.last - self.first, self.tokens - self.tokens_first
        return made / took if took > 0 and made > 0 else None


@dataclass(frozen=True, slots=True)
class Server:
    """A server at an address; `key` goes to it alone. `limit` is in seconds, for one answer."""

    url: str
    key: str | None = field(repr=False)
    limit: float
    session: requests.Session = field(repr=False)
    _keyring: Keyring = field(default_factory=Keyring, repr=False)

    def __post_init__(self) -> None:
        """The key is a secret from here on."""
        if self.key:
            self._keyring.keep(self.key)

    @property
    def host(self) -> str:
        """What may be shown of the address."""
        return host_of(self.url)

    def hide(self, text: str) -> str:
        """A text of the server's without the key: it may send back what it was sent."""
        return self._keyring.hide(text)

    def get(self, path: str) -> Reply:
        """What is at a path. No redirect is followed. Raises `Fault`."""
        with self._asking("GET", path, None) as response:
            body = response.raw.read(_MOST_BYTES, decode_content=True)
            return Reply(response.status_code, body, _leads_to(response))

    def complete(self, model: str, prompt: str, tokens: int) -> Generation:
        """Exactly so many greedy tokens after a prompt, streamed. Raises `Fault`, `Refused`."""
        asked = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        start = time.monotonic()
        with self._asking("POST", "/v1/completions", asked) as response:
            status = response.status_code
            if status != 200:
                body = response.raw.read(_MOST_BYTES, decode_content=True)
                to = f" to {leads_to}" if (leads_to := _leads_to(response)) else ""
                kind = Refused if 300 <= status < 500 else Fault
                raise kind(f"HTTP {status}{to}{_said(body)}", transient=False)
            return _generation(_events(response), start)

    @contextmanager
    def _asking(self, method: str, path: str, asked: Any) -> Iterator[requests.Response]:
        from patcher.web.connections import Patience, waiting

        host = urlsplit(self.url).hostname or ""
        with faults(), waiting(Patience(self.limit)):
            response = self.session.request(
                method,
                f"{self.url}{path}",
                json=asked,
                headers={"Authorization": f"Bearer {self.key}"} if self.key else None,
                stream=True,
                allow_redirects=False,
                timeout=(min(10.0, self.limit), self.limit),
                proxies={"no_proxy": host} if is_loopback(host) else None,
            )
            with response:
                yield response


def open_server(url: str, key: str | None, limit: float) -> Server:
    """The server at an address, with or without `/v1` at its end. Raises `UsageError`."""
    clean = joined("", url)
    if clean is None or urlsplit(url).username is not None:
        raise UsageError(
            f"{host_of(url) or url!r} is not the plain address of a server",
            next_step="Give it as http://HOST:PORT; a key goes into VLLM_API_KEY.",
        )
    session = open_session(HttpSettings())
    return Server(clean.rstrip("/").removesuffix("/v1").rstrip("/"), key, limit, session)


def _leads_to(response: requests.Response) -> str:
    address = response.headers.get("Location", "") if response.is_redirect else ""
    return shown(joined(response.url, address) or "") if address else ""


def _events(response: requests.Response) -> Iterator[Any]:
    """The documents of an event stream, to its `[DONE]`. Raises `Fault` where it ends before."""
    for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            yield json.loads(data)
        except (ValueError, RecursionError):
            raise Fault("its stream holds something that is not JSON", transient=False) from None
    raise Fault("its stream ended before it was done", transient=False)


def _lines(response: requests.Response) -> Iterator[bytes]:
    """The lines of a stream, each when it is whole, in time that is linear in their bytes.

    requests' own `iter_lines` copies all that it has of a line for each piece that comes.
    """
    seen, line = 0, bytearray()
    for piece in response.iter_content(_PIECE):
        seen += len(piece)
        if seen > _MOST_BYTES or len(line) > _MOST_EVENT:
            raise Fault("its stream has no end", transient=False)
        *whole, rest = piece.split(b"\n")
        for each in whole:
            line += each
            yield bytes(line).rstrip(b"\r")
            line.clear()
        line += rest
    if line:
        yield bytes(line)


def _generation(events: Iterator[Any], start: float) -> Generation:
    first = last = 0.0
    tokens_first = tokens = 0
    usage: Mapping[str, Any] = {}
    for event in events:
        if not isinstance(event, dict) or event.get("error"):
            raise Fault(f"its stream says{_said(json.dumps(event).encode())}", transient=False)
        said = event.get("usage")
        usage = said if said and isinstance(said, dict) else usage
        if event.get("choices"):
            last = time.monotonic() - start
            tokens = _count(usage, "completion_tokens") or tokens + 1
            if not first:
                first, tokens_first = last, tokens
    if not tokens:
        raise Fault("it ended its stream without a token", transient=False)
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    return Generation(first, last, tokens_first, tokens, _count(usage, "prompt_tokens"), cached)


def _count(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if type(value) is int and 0 <= value <= _MOST_COUNT else None


def _said(body: bytes) -> str:
    """What an error's document says, in brackets: vLLM and OpenAI have `error.message`."""
    try:
        document = json.loads(body)
        error = document.get("error", document)
        message = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        return ""
    return f" ({printable(str(message))})" if message else ""
