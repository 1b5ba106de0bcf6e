"""HTTP as a registry needs it: certain ends, patience where it helps, secrets kept at home."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How to reach registries.

    `ca_file` is a PEM file of certificates to trust besides the usual ones. `plain_http` are the
    hosts (`host` or `host:port`) to speak to without TLS; loopback needs no asking.
    """

    ca_file: Path | None = None
    plain_http: frozenset[str] = frozenset()


class Http:
    """One session for all registries of a run: connections, credentials and tokens are shared."""

    def __init__(self, settings: HttpSettings = HttpSettings()) -> None:  # noqa: B008
        self.settings = settings
