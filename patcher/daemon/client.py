"""Asking a Docker daemon: reach it, follow what it streams, turn its errors into ours.

The daemon reports most failures of a pull, push or build inside the stream of a call that began
with status 200 (Docker Engine API, ImageCreate, ImagePush, ImageBuild): `{"error": "..."}`.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from patcher.errors import DaemonFailed, NoDaemon
from patcher.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

    import requests
    from docker import DockerClient

# Seconds. A socket that is there answers at once; a daemon that unpacks or copies a layer of
# some GB on a slow disk may say nothing for minutes.
_REACH = 10
_SILENCE = 300

# Bytes and seconds of an answer that is no stream (an inspection has some 10 KB); bytes of a
# stream of events in all, and of one event. A pull for twelve hours tells some 200 MB.
_MOST_BYTES = 8 << 20
_WHOLE = 600
_MOST_EVENTS = 256 << 20
_MOST_EVENT = 256 << 10

_CONTEXT = "`docker context ls` lists them; DOCKER_CONTEXT or `docker context use` picks one."

_STRANGE = "Is it a Docker daemon? See what 'docker version' and the daemon's own log say."

# Where the daemon is, unless a host or context is named.
DEFAULT = "unix:///var/run/docker.sock"


def connect() -> DockerClient:
    """A client of the daemon at `address`.

    Raises `NoDaemon`, also where this user may not use the socket.
    """
    import docker
    from docker.constants import MINIMUM_DOCKER_API_VERSION
    from docker.errors import DockerException

    place = address()
    try:
        # docker-py would ask for the version before there is a bound on the answer.
        client = docker.from_env(timeout=_REACH, version=MINIMUM_DOCKER_API_VERSION)
        client.api.hooks["response"].append(_bounded)
        version = _version(client)
        client.close()
        client = docker.from_env(timeout=_SILENCE, version=version)
    except DockerException as error:
        raise _no_daemon(error, place) from error
    client.api.hooks["response"].append(_bounded)
    return client


def _version(client: DockerClient) -> str:
    """The version of the API that the daemon speaks. Raises `NoDaemon`, `DaemonFailed`."""
    from requests import RequestException

    doing = "the daemon cannot be asked for its version"
    try:
        with asking(doing, next_step=_STRANGE):
            stated = client.api.version(api_version=False)["ApiVersion"]
            if not re.fullmatch(r"\d{1,3}\.\d{1,3}", stated):
                raise ValueError
    except DaemonFailed as error:
        if isinstance(error.__cause__, RequestException):
            raise _no_daemon(error, address()) from error
        raise
    return str(stated)


def _bounded(answer: requests.Response, *_: object, stream: bool = False, **__: object) -> None:
    """A hook of docker-py's session: what a daemon says has an end. Raises `DaemonFailed`."""
    if stream and answer.ok:
        if answer.headers.get("Content-Type", "").startswith("application/json"):
            answer.raw.read = _counted(answer)  # type: ignore[method-assign]
        return
    from requests import ConnectionError as Broken
    from urllib3.exceptions import HTTPError

    try:
        body = _whole(answer)
    except HTTPError as error:  # as requests itself calls it
        raise Broken(error) from error
    # What requests itself would have read, had it been asked for the content.
    answer._content = body


def _whole(answer: requests.Response) -> bytes:
    """All of a body, within its bounds. Raises `DaemonFailed`, and urllib3's errors."""
    # Until a container has ended, the answer to the question for that is its headers alone.
    body = bytearray(answer.raw.read1(1 << 16, decode_content=True))
    until, going = time.monotonic() + _WHOLE, bool(body)
    while going:
        piece = answer.raw.read1(1 << 16, decode_content=True)
        body += piece
        going = bool(piece)
        if len(body) > _MOST_BYTES or time.monotonic() > until:
            answer.close()
            raise DaemonFailed("a daemon's answer has no end", next_step=_STRANGE)
    return bytes(body)


def _counted(answer: requests.Response) -> Callable[..., bytes]:
    """The `read` of a stream of events, one a line. Raises `DaemonFailed` where one has no end, or
    all of them: docker-py keeps what it has of an event, and looks through it after each read.
    """
    read = answer.raw.read
    whole = event = 0

    def counted(amt: int | None = None, **options: Any) -> bytes:
        nonlocal whole, event
        most = min(_MOST_EVENT - event, _MOST_EVENTS - whole) + 1
        data = read(most if amt is None else min(amt, most), **options)
        whole += len(data)
        event = event + len(data) if b"\n" not in data else len(data) - data.rindex(b"\n")
        if event > _MOST_EVENT or whole > _MOST_EVENTS:
            answer.close()
            raise DaemonFailed("what a daemon tells has no end", next_step=_STRANGE)
        return data

    return counted


def address() -> str:
    """Where the daemon is: as DOCKER_HOST says, or else DOCKER_CONTEXT or docker's current context.

    Raises `NoDaemon` for a context that is not there: docker-py would ask the default socket, and
    a person's image would come to be in another daemon.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return host
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises that type itself for a file that it cannot read
        raise NoDaemon(f"the Docker context {name!r} cannot be read", next_step=_CONTEXT) from error
    if context is None:
        raise NoDaemon(f"there is no Docker context {name!r}", next_step=_CONTEXT)
    return str(context.Host or DEFAULT)


def _no_daemon(error: BaseException, place: str) -> NoDaemon:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PermissionError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return NoDaemon(
            f"the Docker daemon's socket denies access to this user: {cause}",
            next_step="Join the docker group and log in again, or run as a user who may.",
        )
    return NoDaemon(
        f"no Docker daemon answers at {place}",
        next_step="Start Docker, or set DOCKER_HOST to its socket ('docker context ls' shows it).",
    )


@contextmanager
def asking(doing: str, *, next_step: str) -> Iterator[None]:
    """What goes wrong between us and the daemon becomes `DaemonFailed`, with the daemon's text."""
    from docker.errors import APIError, DockerException, StreamParseError
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except APIError as error:
        text = error.explanation or str(error)
        raise DaemonFailed(f"{doing}: {text}", next_step=next_step) from error
    except (DockerException, RequestException, HTTPError) as error:
        raise DaemonFailed(f"{doing}: {error}", next_step=next_step) from error
    # A number of thousands of digits; deep nesting; a list in an object's place, into which
    # docker-py looks as the API describes it, and so do we.
    except (
        StreamParseError, ValueError, RecursionError, TypeError, AttributeError, LookupError
    ) as error:  # fmt: skip
        said = f"its answer makes no sense: {type(error).__name__}"
        raise DaemonFailed(f"{doing}: {said}", next_step=next_step) from error


# What is used of an inspection, and the value of what is left out or null (Docker Engine API,
# ImageInspect).
_EMPTY: dict[str, Any] = {
    "Id": "",
    "Os": "",
    "Architecture": "",
    "Config": {},
    "RootFS": {},
    "RepoDigests": [],
}


def inspect(client: DockerClient, name: str, doing: str, *, next_step: str) -> Mapping[str, Any]:
    """What a daemon says of an image. Raises `DaemonFailed`, of which docker-py's `ImageNotFound`
    is the cause where it has none.
    """
    with asking(doing, next_step=next_step):
        answer = client.api.inspect_image(name)  # type: ignore[no-untyped-call]
    return inspection(answer, name)


def inspection(answer: object, name: str) -> Mapping[str, Any]:
    """The answer of a daemon, with all of `_EMPTY` in it. Raises `DaemonFailed` where it makes no
    sense.
    """
    attrs = answer if isinstance(answer, dict) else {}
    found = {key: attrs.get(key) or empty for key, empty in _EMPTY.items()}
    wrong = [key for key, empty in _EMPTY.items() if type(found[key]) is not type(empty)]
    if not wrong:
        layers = found["RootFS"].get("Layers") or []
        found["RootFS"] = {**found["RootFS"], "Layers": layers}
        labels, environment = (found["Config"].get(key) or () for key in ("Labels", "Env"))
        texts = [
            attrs.get("Variant") or "",
            *found["RepoDigests"],
            *(layers if isinstance(layers, list) else [0]),
            *(environment if isinstance(environment, list | tuple) else [0]),
            *(labels.values() if isinstance(labels, dict) else labels and [0]),
        ]
        wrong = [] if all(isinstance(each, str) for each in texts) else ["text"]
    if wrong or not found["Id"]:
        raise DaemonFailed(
            f"image {name!r} cannot be inspected: the daemon's answer has no {(*wrong, 'Id')[0]} "
            "that makes sense",
            next_step="See 'docker image inspect', and what the daemon itself says.",
        )
    return {**attrs, **found}


def is_podman(client: DockerClient) -> bool:
    """Does podman answer at the socket, and not Docker? Raises `DaemonFailed`."""
    with asking("the daemon cannot be asked what it is", next_step="Try again."):
        parts = client.api.version().get("Components") or []
        return any(part.get("Name") == "Podman Engine" for part in parts)


def follow(
    events: Iterable[dict[str, Any]], doing: str, *, next_step: str
) -> Iterator[dict[str, Any]]:
    """The events of a stream; one that carries an error raises `DaemonFailed`."""
    coming = iter(events)
    for event in coming:
        if "error" in event:
            # It is the last one. docker-py closes the connection only where it saw the end.
            deque(coming, maxlen=0)
            raise DaemonFailed(f"{doing}: {event['error']}", next_step=next_step)
        yield event


def progress_of(event: dict[str, Any]) -> Progress | None:
    """The step that an event of a pull or push tells of; None for an event that tells none."""
    if "status" not in event:
        return None
    detail = event.get("progressDetail")
    # A pull begins with the tag or digest in the place of the layer's id.
    layer = event.get("id") if "progressDetail" in event else None
    known = detail if isinstance(detail, dict) else {}
    done, total = (_bytes(known.get(key)) for key in ("current", "total"))
    return Progress(layer if isinstance(layer, str) else None, str(event["status"]), done, total)


def _bytes(stated: object) -> int | None:
    """A number of bytes as a bar can show it; None for anything else that a daemon may send."""
    return stated if type(stated) is int and 0 <= stated < 2**63 else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold a Ctrl-C, SIGTERM or SIGHUP back until the daemon has answered: for calls that make
    something, and short.

    A call that is cut off leaves something in the daemon whose id is not known. A second Ctrl-C is
    meant, and ends it at once.
    """
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Signals reach the main thread alone, and only a handler of Python's can be put off.
    is_main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in endings if is_main}
    handlers = {number: each for number, each in found.items() if callable(each)}
    came: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            handlers[signal.SIGINT](number, frame)
        came.append((number, frame))

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            handlers[signal.Signals(came[0][0])](*came[0])
