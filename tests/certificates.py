"""A certificate authority of one certificate, and tokens signed with its key, by openssl."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

from tests.conftest import missing

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "tests"

_NAMES = (
    "IP:127.0.0.1,DNS:registry-1.docker.io,DNS:auth.docker.io,DNS:ghcr.io,"
    "DNS:github.com,DNS:api.github.com,DNS:patch-diff.githubusercontent.com,DNS:pypi.org"
)


def make_certificate(folder: Path) -> Path:
    """`tls.pem` with key and certificate, which is its own authority; `ca.pem` beside it."""
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "ca.pem"
    options = (
        f"-newkey rsa:2048 -nodes -days 2 -subj /CN=tests -addext subjectAltName={_NAMES}".split()
    )
    subprocess.run(
        ["openssl", "req", "-x509", *options, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    both = folder / "tls.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


def signed_token(
    folder: Path, service: str, access: list[dict[str, object]], life: float = 300
) -> str:
    """A JSON Web Token as docker-registry takes it, for so many seconds."""
    der = ssl.PEM_cert_to_DER_cert((folder / "ca.pem").read_text())
    header = {"alg": "RS256", "typ": "JWT", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "",
        "aud": service,
        "exp": now + int(life),
        "nbf": now - 60,
        "iat": now,
        "jti": str(time.monotonic_ns()),
        "access": access,
    }
    text = b".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    signature = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(folder / "key.pem")],
        input=text,
        check=True,
        capture_output=True,
    ).stdout
    return (text + b"." + _encoded(signature)).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
