"""The requests to one repository: with the right to make them, and answers that are not errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from patcher.errors import NotInRegistry, PatcherError
from patcher.registry.login import Authorizer, denied, scope
from patcher.web.addresses import joined, origin
from patcher.web.faults import explanation
from patcher.web.http import Answer, Opened, Request

if TYPE_CHECKING:
    from patcher.web.http import Body, Http

_NONE: Mapping[str, str] = {}


class _Result(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


_Kind = TypeVar("_Kind", bound=_Result)


class Calls:
    """Asks about one repository of a registry.

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
        self._auth = Authorizer(http, registry, scopes)

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
        body: bytes | None = None,
    ) -> Answer:
        """A whole answer about `path`, which follows `root`; what may pass is tried again."""
        request = Request(method, f"{self.root}{path}", headers, body=body)
        return self._good(self._with_right(request, self.http.ask), good, path)

    def ask_once(
        self,
        method: str,
        url: str,
        good: Collection[int],
        headers: Mapping[str, str] = _NONE,
        body: bytes | Body | None = None,
    ) -> Answer:
        """As `ask`, for a whole address and in one attempt. Raises `Fault` besides."""
        request = Request(method, url, headers, body=body)
        if body is None or isinstance(body, bytes):
            return self._good(self._with_right(request, self.http.ask_once), good, "")
        # A stream cannot be sent again: what precedes it has brought the right along.
        return self._good(self.http.ask_once(self._signed(request)), good, "")

    def open_once(self, path: str, good: Collection[int], headers: Mapping[str, str]) -> Opened:
        """The stream of a GET, in one attempt. Raises `Fault` besides."""

        def attempt(request: Request) -> Opened:
            opened = self.http.open_once(request)
            if opened.status not in good:
                opened.close()
            return opened

        request = Request("GET", f"{self.root}{path}", headers)
        return self._good(self._with_right(request, attempt), good, path)

    def place(self, answer: Answer, url: str) -> str | None:
        """Where an answer's Location leads. Raises `RegistryFailed` where it is not safe to go."""
        there = answer.headers.get("Location")
        if there is None:
            return None
        place = joined(url, there)
        if place is None or not self.http.may_send_to(place):
            raise self.http.failure(url, "it names a place for uploads that is not safe")
        return place

    def failure(self, reason: str) -> PatcherError:
        """The error for something that the registry should not have answered."""
        return self.http.failure(self.root, f"{self.name}: {reason}")

    def _with_right(self, request: Request, send: Callable[[Request], _Kind]) -> _Kind:
        """Send it; where the registry asks who we are, say so and send it again."""
        signed = self._signed(request)
        answer = send(signed)
        if answer.status == 401 and self._ours(request):
            self._auth.answer(answer.headers.get("WWW-Authenticate", ""), signed.authorization)
            answer = send(self._signed(request))
        return answer

    def _signed(self, request: Request) -> Request:
        return replace(request, authorization=self._auth.header() if self._ours(request) else None)

    def _ours(self, request: Request) -> bool:
        """Only the registry itself may see the token, wherever an upload goes on."""
        return origin(request.url) == origin(self.root)

    def _good(self, answer: _Kind, good: Collection[int], path: str) -> _Kind:
        if answer.status in good:
            return answer
        said = explanation(answer.body) if isinstance(answer, Answer) else ""
        reason = self.http.keyring.hide(f"HTTP {answer.status}{said}")
        if answer.status in (401, 403):
            raise denied(self.registry, f"{self.name}: access is denied, {reason}")
        if answer.status == 404:
            raise self._absent(path.rpartition("/")[2], reason)
        raise self.failure(reason)

    def _absent(self, what: str, reason: str) -> NotInRegistry:
        if not what:
            # Some registries (Amazon's ECR) want a repository to be made before it is pushed to.
            return NotInRegistry(
                f"{self.registry} has no repository {self.name}: {reason}",
                next_step="Check the name, or make the repository there first.",
            )
        return NotInRegistry(
            f"{self.registry}/{self.name} has no {what}: {reason}",
            next_step="Check the name, the tag or the digest: a nightly may be gone.",
        )
