"""Who answers at an address: is it vLLM, which one, and does it call itself healthy?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import AccessDenied, Undecided, Unreadable
from patcher.web.http import NETWORK, TRUST, Fault

if TYPE_CHECKING:
    from patcher.web.openai import Reply, Server

KEY = "VLLM_API_KEY"
"""The variable that vLLM itself reads a server's key from."""

# No model's context comes near it, in tokens.
_MOST_LENGTH = 10**9

_NOBODY = {
    NETWORK: "Start it, wait until it is ready, and check the address.",
    TRUST: "Name its authority's certificate with SSL_CERT_FILE, if you trust it; a server without "
    "TLS is at http://.",
}
_NEXT = "See the server's own log; `vllm-patcher verify` says whether its vLLM has the bug."


@dataclass(frozen=True, slots=True)
class Identity:
    """A vLLM server. `health` is the HTTP status of its /health, `model` the first that it serves,
    `max_model_len` the most tokens that this takes; None for what it does not say.
    """

    health: int
    model: str
    max_model_len: int | None
    vllm: str | None


def identify(server: Server) -> Identity:
    """The vLLM at an address.

    Raises `Unreadable` where nothing answers, `AccessDenied` where another key is wanted,
    `Undecided` for a server that is not seen to be vLLM.
    """
    health = _health(server)
    model, most = _model(server, _models(server))
    return Identity(health, model, most, _version(server))


def _health(server: Server) -> int:
    """The status of /health. Raises `Unreadable`."""
    try:
        return server.get("/health").status
    except Fault as fault:
        raise Unreadable(
            f"{server.host}: no server to try: {fault.reason}",
            next_step=_NOBODY.get(fault.next_step, fault.next_step),
        ) from None


def _models(server: Server) -> Reply:
    """What /v1/models answers. Raises `AccessDenied`, `Undecided`, `Unreadable`."""
    try:
        reply = server.get("/v1/models")
    except Fault as fault:
        raise Unreadable(f"{server.host}: /v1/models: {fault.reason}", next_step=_NEXT) from None
    if reply.status in (401, 403):
        wants = f"does not take the key in {KEY}" if server.key else "wants a key"
        raise AccessDenied(
            f"{server.host} {wants} (HTTP {reply.status})",
            next_step=f"Set {KEY} to the key that its vLLM was started with.",
        )
    if reply.leads_to:
        raise Undecided(
            f"{server.host} leads to {server.hide(reply.leads_to)} (HTTP {reply.status}), where "
            "nothing is sent",
            next_step="Give that address, if the vLLM that you mean is there.",
        )
    if reply.status >= 500:
        raise Undecided(
            f"{server.host}: /v1/models: HTTP {reply.status}: whether it is vLLM cannot be seen",
            next_step="Wait until it is ready, or see its own log.",
        )
    return reply


def _model(server: Server, reply: Reply) -> tuple[str, int | None]:
    """The first model, and the most tokens that it takes. Raises `Undecided`."""
    models = _document(reply.body).get("data") if reply.status == 200 else None
    first = models[0] if isinstance(models, list) and models else None
    owner = first.get("owned_by") if isinstance(first, dict) else None
    if not isinstance(first, dict) or owner != "vllm" or not isinstance(first.get("id"), str):
        lists = f"/v1/models lists no model of vLLM's (HTTP {reply.status})"
        told = f"its models are owned by {owner!r}" if owner else lists
        raise Undecided(
            f"{server.host} is not a vLLM server: {server.hide(told)}",
            next_step="Give the address of vLLM itself, not of what is in front of it.",
        )
    most = first.get("max_model_len")
    return first["id"], most if type(most) is int and 0 < most < _MOST_LENGTH else None


def _version(server: Server) -> str | None:
    try:
        version = _document(server.get("/version").body).get("version")
    except Fault:
        return None
    return version if isinstance(version, str) else None


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
