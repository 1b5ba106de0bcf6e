"""The connections to an index and its wheels. Importing this loads requests: do it late."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter

from patcher import __version__
from patcher.errors import Unreadable
from patcher.web.hops import check_hop

# As many connections to one host as a survey has threads, and some.
_POOL = 16

_MOST_REDIRECTS = 5


class _Session(requests.Session):
    """A session that goes where a redirect leads only if `check_hop` lets it."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            try:
                check_hop(resp.url, target)
            except Unreadable:
                resp.close()  # nobody else holds it
                raise
        return target


def new_session() -> requests.Session:
    """A session for an index and its wheels; any number of threads may share it."""
    session = _Session()
    session.max_redirects = _MOST_REDIRECTS
    session.headers["User-Agent"] = f"vllm-patcher/{__version__}"
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_POOL))
    return session
