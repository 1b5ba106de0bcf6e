"""An image in a registry as a source: `registry:NAME`, read without a daemon and without a pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.oci.reference import Platform
    from patcher.sources.images import ImageSource
    from patcher.web.http import Http


def open_registry_source(
    spec: str,
    name: str,
    platform: Platform | None = None,
    http: Http | None = None,
    *,
    use_cache: bool = True,
    root: str | None = None,
) -> ImageSource:
    """The image that a reference names in its registry; `spec` is what a person typed for it.

    `platform` None is the image's only one, or else this machine's. Raises `BadReference`,
    `WrongPlatform`, `BrokenImage`, and `RegistryFailed` (an `Unreadable`) with its kinds.
    """
    from patcher.cache import LayerCache
    from patcher.oci.reference import parse_reference
    from patcher.registry.image import open_remote
    from patcher.sources.images import ImageSource
    from patcher.web.http import Http

    cache = LayerCache() if use_cache else None
    image = open_remote(parse_reference(name), platform, http or Http(), cache)
    return ImageSource(spec, image, root)
