"""The requests to one repository: signed, and with every answer that is an error raised as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from patcher.errors import NotInRegistry, PatcherError, RegistryFailed
from patcher.registry.login import Login, denied, scope
from patcher.web.http import (
    ALL_ATTEMPTS,
    MOST_BYTES,
    MOST_ERROR_BYTES,
    Fault,
    Request,
    explanation,
)
from patcher.web.trust import host_of, origin

if TYPE_CHECKING:
    from patcher.web.http import Answer, Body, Http

_NONE: Mapping[str, str] = {}

# To cancel one upload, in seconds. Registries drop what is left open after some days anyway.
_CANCEL = 5.0
_CANCEL_ALL = 10.0


class Session:
    """Sends the requests about one repository of a registry.

    `push` asks for the right to write, `beside` for that to read other repositories of it.
    Every call takes the statuses that it has a use for; for any other it raises `AccessDenied`,
    `NotInRegistry` or `RegistryFailed`.
    """

    def __init__(
        self, http: Http, registry: str, name: str, *, push: bool, beside: tuple[str, ...]
    ) -> None:
        self.http = http
        self.registry = registry
        self.name = name
        scopes = (scope(name, push=push), *(scope(other) for other in beside if other != name))
        self._login = Login(http, registry, name, scopes)
        # The uploads that are open, by address; what is being sent begins none once `ended`.
        self.uploads: set[str] = set()
        self.ended = threading.Event()

    @property
    def root(self) -> str:
        """The address of the repository, without a slash at its end."""
        return f"{self.http.base(self.registry)}/v2/{self.name}"

    def ask(
        self,
        method: str,
        path: str,
        good: Collection[int],
        headers: Mapping[str, str] = _NONE,
    ) -> Answer:
        """A whole answer about `path`, which follows `root`; transient faults are tried again."""
        url = f"{self.root}{path}"
        return self.http.persist(
            url,
            lambda: self.take(self.send(method, url, good, headers)),
            most_seconds=ALL_ATTEMPTS,
        )

    def take(self, answer: Answer) -> Answer:
        """The answer with its body read whole. Raises `Fault`, `RegistryFailed`."""
        answer.take(MOST_BYTES + 1)
        if len(answer.body) > MOST_BYTES:
            raise self.failure(f"an answer has more than {MOST_BYTES} bytes")
        return answer

    def send(
        self,
        method: str,
        url: str,
        good: Collection[int],
        headers: Mapping[str, str] = _NONE,
        body: bytes | Body | None = None,
        *,
        stream: bool = False,
    ) -> Answer:
        """One attempt, its body still to be read. Raises `Fault` besides.

        The registry alone sees the token, wherever an upload goes on. A stream as the body cannot
        be sent again: what precedes it has brought the right along.
        """
        request = Request(method, url, headers, body=body)
        ours = origin(url) == origin(self.root)
        signed = replace(request, authorization=self._login.header() if ours else None)
        answer = self.http.send(signed, stream=stream)
        if answer.status == 401 and ours and (body is None or isinstance(body, bytes)):
            answer.close()
            self._login.answer(answer.headers.get("WWW-Authenticate", ""), signed.authorization)
            signed = replace(request, authorization=self._login.header())
            answer = self.http.send(signed, stream=stream)
        if answer.status in good:
            return answer
        answer.take(MOST_ERROR_BYTES)
        raise self.error(answer, url)

    def place(self, answer: Answer) -> str | None:
        """Where an answer's Location leads, from the address that answered. Raises
        `RegistryFailed` where that is not followed.
        """
        there = answer.headers.get("Location")
        if there is None:
            return None
        place = self.http.follow(answer.url, there)
        if not self.http.may_send_secret(place):
            # What goes there is the image, which may be private.
            raise self.failure(f"its place for uploads is at {host_of(place)}, without TLS")
        return place

    def cancel(self, *places: str) -> None:
        """Drop uploads that will not go on (distribution specification, "Cancel a blob upload").

        One that cannot be dropped within a few seconds is the registry's to clear.
        """
        until = time.monotonic() + _CANCEL_ALL
        for place in places:
            self.uploads.discard(place)
            left = until - time.monotonic()
            if left > 0:
                ours = origin(place) == origin(self.root)
                signed = self._login.held if ours else None
                with suppress(Fault, PatcherError):
                    request = Request("DELETE", place, authorization=signed)
                    self.http.send(request, seconds=min(_CANCEL, left)).close()

    def failure(self, reason: str) -> RegistryFailed:
        """The error for something that the registry should not have answered."""
        return self.http.failure(self.root, f"{self.name}: {reason}")

    def error(self, answer: Answer, url: str) -> PatcherError | Fault:
        """The error for a status that the caller has no use for; the body must have been read."""
        reason = self.http.keyring.hide(f"HTTP {answer.status}{explanation(answer.body)}")
        if origin(answer.url) != origin(url):
            # No login helps there, and a new address from the registry may.
            return Fault(f"its storage {host_of(answer.url)} answers {reason}")
        if answer.status in (401, 403):
            return denied(self.registry, f"{self.name}: access is denied, {reason}")
        if answer.status == 404:
            return self.absent(url.rpartition("/")[2], reason)
        return self.failure(reason)

    def absent(self, what: str, reason: str) -> NotInRegistry:
        """The error for a manifest, a blob, a list or, for "", the repository itself."""
        what = what.partition("?")[0]
        if not what:
            # Some registries (Amazon's ECR) want a repository to be made before it is pushed to.
            return NotInRegistry(
                f"{self.registry} has no repository {self.name}: {reason}",
                next_step="Check the name, or make the repository there first.",
            )
        return NotInRegistry(
            f"{self.registry}/{self.name} has no {what}: {reason}",
            next_step="Check the name, the tag or the digest: old nightlies are deleted.",
        )
