"""Whom to trust: the certificates that requests trusts, or the user's own, and one file more."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from patcher.errors import UsageError

if TYPE_CHECKING:
    import requests


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """A TLS context for clients.

    SSL_CERT_FILE, as OpenSSL and Go read it, or else REQUESTS_CA_BUNDLE takes the place of the
    usual certificates; `ca_file` adds to them, for a base may come from a public registry and go
    to one with its own authority. Raises `UsageError` for a file that holds no certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    for path in (named or DEFAULT_CA_BUNDLE_PATH, ca_file):
        if path is not None:
            _load(context, Path(path))
    return context


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        if path.is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read as certificates: {error.strerror or 'it holds none'}",
            next_step="Give a file of certificates in PEM (--ca-file, SSL_CERT_FILE).",
        ) from error


class TrustingAdapter(HTTPAdapter):
    """Verifies every server by one context, and by nothing else that requests would add."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **options, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: bool | str, cert: Any = None
    ) -> Any:
        """See `HTTPAdapter`. `verify` may be a bundle from the environment: the context has it."""
        del verify
        return super().build_connection_pool_key_attributes(request, True, cert)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """See `HTTPAdapter`."""
        del url, verify, cert
        conn.cert_reqs = "CERT_REQUIRED"
