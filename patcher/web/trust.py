"""What is trusted: certificates, and the addresses that a server names.

A person may name any web address. From there on servers say where to go next: a registry names a
token server and a place for an upload, an index names its wheels, anybody redirects. `refusal` is
the one rule for all of them (CWE-918, CWE-522). Where a secret may go besides is `Http`'s to say.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from patcher.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

# How far inside a host is. Link-local addresses count as this machine: cloud machines find their
# own credentials there.
_INTERNET, _PRIVATE, _THIS_MACHINE = range(3)


def joined(url: str, there: str) -> str | None:
    """The address that the server at `url` means by `there`, without a user or password in it.

    None where it is not a web address, such as `file:///x`, `http://[x` or `https://h:99999/`.
    """
    try:
        parts = urlsplit(urljoin(url, there))
        _ = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def host_of(url: str) -> str:
    """The `host` or `host:port` of an address: all of it that an error may show."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "?"


def shown(url: str) -> str:
    """An address as a label may show it: without user, password, query and fragment.

    A password may hold any character, `/` too: everything before the last `@` is left out.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].partition('#')[0].rpartition('@')[2]}"


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what a secret belongs to (RFC 6454)."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def is_loopback(host: str) -> bool:
    """Whether `host` or `host:port` says by itself that it is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_named(url: str, hosts: Collection[str]) -> bool:
    """Whether an address's `host` or `host:port` is among these."""
    return host_of(url) in hosts or urlsplit(url).hostname in hosts


def refusal(here: str, there: str, plain_http: Collection[str] = ()) -> str | None:
    """Why the server at `here` may not send us to the address `there`; None if it may.

    No address leaves TLS, and none leads further inwards: from the internet into a private
    network, or from either to this machine's own services. The hosts in `plain_http` were named
    by the user, and are free. Names are resolved as the connection will resolve them; what does
    not resolve (behind a proxy) counts as the internet. A name server that gives another answer a
    moment later is not caught.
    """
    before, after = urlsplit(here), urlsplit(there)
    if (before.scheme, before.hostname) == (after.scheme, after.hostname):
        return None
    if is_named(there, plain_http):
        return None
    if after.scheme == "http":
        if before.scheme == "https":
            return "which would leave TLS"
        # Loopback needs no TLS: whoever named it has not chosen to do without elsewhere.
        if is_loopback(before.netloc) and not is_loopback(after.netloc):
            return "which would be without TLS"
    depth = _depth(before.hostname or "")
    if not is_loopback(before.netloc):
        # A public name that leads to this machine gives nobody a right to its other services.
        depth = min(depth, _PRIVATE)
    if _depth(after.hostname or "") > depth:
        return "which leads into a private network"
    return None


def _depth(host: str) -> int:
    """How far inside the innermost of a host's addresses is."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return _THIS_MACHINE if is_loopback(host) else _INTERNET
    return max(_depth_of(str(address[0])) for *_, address in found)


def _depth_of(text: str) -> int:
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return _THIS_MACHINE
    return _INTERNET if address.is_global else _PRIVATE


def trusted(ca_file: Path | None, host: str | None = None) -> ssl.SSLContext:
    """A TLS context for clients.

    SSL_CERT_FILE, as OpenSSL and Go read it, or else REQUESTS_CA_BUNDLE takes the place of the
    usual certificates; `ca_file` adds to them, for a base may come from a public registry and go
    to one with its own authority. For a `host`, docker's folder for it adds its authorities and
    the client certificate. Raises `UsageError` for a file that holds none.
    """
    if ca_file is None and host is None:
        return _usual(_bundle())
    context = _of(_bundle())
    if ca_file is not None:
        _load(context, ca_file)
    for folder in certificate_folders(host) if host else ():
        for authority in sorted(folder.glob("*.crt")):
            _load(context, authority)
        for certificate in sorted(folder.glob("*.cert")):
            _load(context, certificate, certificate.with_suffix(".key"))
    return context


def trusted_later(ca_file: Path | None) -> Callable[[], ssl.SSLContext]:
    """What gives `trusted(ca_file)` when it is called: many a run speaks no TLS. A file that is
    missing, or was named for this run, is told at once.
    """
    if ca_file is None and os.access(_bundle(), os.R_OK):
        return _shared
    context = trusted(ca_file)
    return lambda: context


_turn = threading.Lock()


def _shared() -> ssl.SSLContext:
    with _turn:  # the threads of a survey begin at once
        return trusted(None)


def _bundle() -> Path:
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return Path(named or DEFAULT_CA_BUNDLE_PATH)


@functools.cache
def _usual(path: Path) -> ssl.SSLContext:
    """One for all sessions: to read some 150 authorities takes longer than a request."""
    return _of(path)


def _of(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, path)
    return context


def certificate_folders(host: str) -> Iterator[Path]:
    """The folders that docker and podman have for a registry: `certs.d/HOST[:PORT]`.

    In them, `*.crt` are authorities and `NAME.cert` with `NAME.key` client certificates
    (docs.docker.com/engine/security/certificates, containers-certs.d(5)).
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for top in (home / "containers", home / "docker", Path("/etc/containers"), Path("/etc/docker")):
        folder = top / "certs.d" / host
        if "/" not in host and os.path.isdir(folder):  # noqa: PTH112 - /etc/docker may be root's alone
            yield folder


def _load(context: ssl.SSLContext, path: Path, key: Path | None = None) -> None:
    try:
        if key is not None:
            # Else OpenSSL asks for a passphrase on the terminal.
            context.load_cert_chain(path, key, password="")
        elif os.path.isdir(path):  # noqa: PTH112 - what cannot be read is told below
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        what = "a client certificate with its .key" if key else "certificates"
        raise UsageError(
            f"{path} cannot be read as {what}: {error.strerror or 'it holds none'}",
            next_step="Give a file of certificates in PEM (--ca-file, SSL_CERT_FILE, certs.d).",
        ) from error
