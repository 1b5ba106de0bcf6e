"""What an address says of where it leads: all that may be shown of it, and whom to trust there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urljoin, urlsplit


def joined(url: str, there: str) -> str | None:
    """The address that a server means by `there`; None for what is none, as `http://[x`."""
    try:
        place = urljoin(url, there)
        _ = urlsplit(place).port
    except ValueError:
        return None
    return place


def host_of(url: str) -> str:
    """`host` or `host:port` of an address: all of it that may be shown."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_loopback(registry: str) -> bool:
    """Does this `host` or `host:port` name this machine itself?"""
    host = urlsplit(f"//{registry}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what a secret belongs to (RFC 6454)."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
