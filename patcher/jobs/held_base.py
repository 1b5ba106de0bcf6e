"""The base that an image's labels name, where the place that holds the image holds it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.errors import BadReference, NotInRegistry, PatcherError
from patcher.oci.image import load_family
from patcher.oci.layout import Layout
from patcher.oci.reference import parse_reference
from patcher.places.registry import RepositoryStore
from patcher.registry.repository import Repository
from patcher.web.http import Http, HttpSettings

if TYPE_CHECKING:
    from patcher.oci.image import Family
    from patcher.oci.referrer import Referred


def held_base(
    store: Referred, name: str | None, digest: str | None, settings: HttpSettings | None
) -> tuple[Family | None, str]:
    """The base of this name and digest, or None and why it is not known what it is.

    No other registry than the image's own is asked: its author could name any.
    """
    if digest is None:
        return None, "no label names it"
    try:
        if isinstance(store, Layout):
            root = next((each for each in store.entries() if each.digest == digest), None)
            return (load_family(store, root), "") if root else (None, "it is not in this layout")
        if isinstance(store, RepositoryStore):
            there = _beside(store, name, settings)
            return load_family(there, there.repository.manifest(digest).descriptor), ""
    except NotInRegistry:
        return None, "it is not in this registry"
    except PatcherError as error:
        return None, f"it cannot be read: {error.problem}"
    return None, "it is not here"


def _beside(
    store: RepositoryStore, name: str | None, settings: HttpSettings | None
) -> RepositoryStore:
    """The repository of the base, if it is in the same registry; else the image's own."""
    try:
        named = parse_reference(name or "")
    except BadReference:
        return store
    is_beside = named.registry == store.repository.registry
    return RepositoryStore(Repository(named, Http(settings))) if is_beside else store
