"""Where an index or a redirect may lead: addresses that somebody else chose.

A person may name any web address. From there on a server says where to go next: the index names
its wheels, a server redirects. Such a hop never leaves TLS, never leads to a file, and never
further inwards: from the internet into a private network, or from there to this machine's own
services (CWE-918).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

from patcher.errors import Unreadable

# How far inside a host is. Link-local addresses count as this machine: cloud machines find their
# own credentials there.
_INTERNET, _PRIVATE, _THIS_MACHINE = range(3)


def check_hop(here: str | None, there: str) -> None:
    """May the server at `here` send us to `there`? None: a person named the address.

    `there` may be relative to `here`.
    Names are resolved as the connection will resolve them; where they cannot be (behind a proxy)
    they count as the internet's. A name server that answers otherwise a moment later is not
    caught. Raises `Unreadable`.
    """
    before = urlsplit(here) if here else None
    try:
        after = urlsplit(urljoin(here or "", there))
        host = after.hostname
    except ValueError as error:
        raise _refused(there, f"it is no address ({error})") from error
    if after.scheme not in ("http", "https") or not host:
        raise _refused(there, "it is no web address")
    if before is None or (before.scheme, before.hostname) == (after.scheme, host):
        return
    if before.scheme == "https" and after.scheme == "http":
        raise _refused(there, f"{before.hostname} leads from https to http")
    if _depth(host) > _depth(before.hostname or ""):
        raise _refused(there, f"{before.hostname} leads into a private network")


def _refused(there: str, reason: str) -> Unreadable:
    return Unreadable(
        f"{there} is not followed: {reason}",
        next_step="If you trust that address, name it yourself.",
    )


def _depth(host: str) -> int:
    """How far inside the innermost of a host's addresses is."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return _INTERNET
    return max(_depth_of(str(address[0])) for *_, address in found)


def _depth_of(text: str) -> int:
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return _THIS_MACHINE
    return _INTERNET if address.is_global else _PRIVATE
