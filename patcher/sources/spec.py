"""What a person types for a vLLM artifact, and the source that it names.

====================  =======================================================
what is typed         what it names
====================  =======================================================
a path that exists    a file, a site-packages tree, a virtual environment
a `.whl` that exists  that wheel
`https://.../x.whl`   a wheel on a server, read without a download
`pypi:0.23.0`         a release's wheel on PyPI
`git:DIR@REF`         a commit of a local clone
`oci:DIR[:NAME]`      an image in an OCI image layout
`docker:NAME`         an image in the local Docker daemon
`registry:NAME`       an image in its registry, read without a pull
a name in the lock    that image, by its pinned digest
anything else         an image
====================  =======================================================

An image is looked for in the local Docker daemon first, and then in its registry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from patcher.errors import (
    BadSource,
    BrokenImage,
    DaemonFailed,
    NoDaemon,
    NotLocked,
    PatcherError,
    WrongPlatform,
)
from patcher.files import is_file, is_there
from patcher.sources.images import ImageSource

if TYPE_CHECKING:
    from patcher.daemon.engine import DockerImage
    from patcher.lock.entries import Pin
    from patcher.oci.installation import BaseImage
    from patcher.oci.reference import Platform
    from patcher.oci.rootfs.layers import StoredImage
    from patcher.rules.source import Source
    from patcher.web.http import Http, HttpSettings

    # Asked for when a registry is: a file needs none.
    Settings = Callable[[], HttpSettings | None]


_KINDS = ("pypi", "git", "oci", "docker", "registry")

# As skopeo and podman name an image (containers-transports(5)), and pip a release.
_STORES = ("docker-daemon", "containers-storage")
_PACKED = ("docker-archive", "oci-archive", "dir")
_REQUIREMENT = re.compile(r"(?:pypi:)?vllm *[=@]+ *(.+)")


def open_source(
    spec: str,
    lock: Path,
    platform: Platform | None = None,
    settings: Settings | None = None,
    root: str | None = None,
    *,
    whole: bool = False,
) -> Source:
    """The source that `spec` names. `lock` is images.lock; `platform` is the host's for None;
    `root` picks one vLLM of an image that holds several; `whole` is for who wants more of an image
    than the lock says of it.

    Raises `BadSource` where nothing can be meant, and what opening the artifact raises.
    """
    if meant := _meant(spec):
        raise BadSource(f"{spec!r} is how another program names it", next_step=meant)
    kind, _, rest = spec.partition(":")
    if kind == "pypi":
        from patcher.sources.wheel import open_release

        return open_release(rest, http=_http(settings))
    if kind in ("https", "http") and rest.startswith("//"):
        return _wheel_at(spec, settings)
    if kind == "git":
        from patcher.sources.git import open_git

        return open_git(rest)
    if kind == "oci":
        from patcher.oci.layout import open_image, split_spec

        return ImageSource(spec, open_image(*split_spec(rest), platform), root)
    if kind == "docker":
        return ImageSource(spec, _local(rest, platform), root)
    if kind == "registry":
        return ImageSource(spec, _remote(rest, platform, settings), root)
    if spec.endswith(".whl") and is_file(Path(spec)):
        from patcher.sources.wheel import open_wheel_file

        return open_wheel_file(Path(spec))
    if is_there(Path(spec)):
        from patcher.sources.path import open_path

        return open_path(Path(spec))
    if spec.endswith((".py", ".whl")) or spec.startswith((".", "~", os.sep)):
        raise BadSource(f"there is no {spec}", next_step="Check the path.")
    pinned = _pinned(spec, lock, platform)
    if pinned is None:
        return ImageSource(spec, _image(spec, platform, settings), root)
    reference, stated, pin = pinned
    image = _image(reference, platform, settings)
    return ImageSource(spec, image if whole else _located(image, pin), root or stated)


def _http(settings: Settings | None) -> Http:
    from patcher.web.http import Http

    return Http(settings() if settings else None)


def _wheel_at(url: str, settings: Settings | None) -> Source:
    from patcher.sources.wheel import open_wheel

    if not urlsplit(url).path.endswith(".whl"):
        raise BadSource(
            f"{url} is not the address of a wheel",
            next_step="Name one that ends in .whl, or an image as registry.example/repository:tag.",
        )
    return open_wheel(url, _http(settings))


def _local(name: str, platform: Platform | None) -> DockerImage:
    from patcher.daemon.client import connect
    from patcher.daemon.engine import local_image

    return local_image(connect(), name, platform)


def _remote(name: str, platform: Platform | None, settings: Settings | None) -> StoredImage:
    from patcher.layer_cache import LayerCache
    from patcher.oci.reference import parse_reference
    from patcher.registry.image import open_remote

    return open_remote(parse_reference(name), platform, _http(settings), LayerCache())


def _image(
    name: str, platform: Platform | None, settings: Settings | None
) -> DockerImage | StoredImage:
    """In the daemon, or else in the registry. A name without a slash is a local one."""
    try:
        return _local(name, platform)
    except (NoDaemon, DaemonFailed) as error:
        if "/" not in name:
            raise _nothing(name, error) from error
    except (WrongPlatform, BrokenImage):
        # A daemon may have a name for another platform, or only part of an index.
        if "/" not in name:
            raise
    return _remote(name, platform, settings)


def _meant(spec: str) -> str | None:
    """The next step for a name as another program writes it; None for any other."""
    kind, _, rest = spec.partition(":")
    if spec.startswith("docker://"):
        return f"Write it as {rest.removeprefix('//')}."
    if kind in _STORES and rest:
        return f"Write it as docker:{rest}."
    if kind in _PACKED and is_there(Path(rest)):
        return f"Unpack it with `skopeo copy {spec} oci:DIR:NAME`, and name that: oci:DIR:NAME."
    if found := _REQUIREMENT.fullmatch(spec):
        return f"Write it as pypi:{found[1]}."
    return "Write it as pypi:0.23.0." if spec in ("pypi", "pypi:") else None


def _nothing(name: str, error: NoDaemon | DaemonFailed) -> PatcherError:
    """What to say of a name that is nothing here, where the daemon was the last to be asked."""
    from difflib import get_close_matches

    from patcher.versions import parsed

    kind, _, rest = name.partition(":")
    near = get_close_matches(kind, _KINDS, 1, 0.5) if rest else []
    next_step = f"Did you mean {near[0]}:{rest}?" if near else error.next_step
    if parsed(name) is not None:
        next_step = f"`vllm-patcher lock list` shows what is there; a release is pypi:{name}."
    return type(error)(
        f"{name!r} is no path here and no name in images.lock, and {error.problem}",
        next_step=next_step,
    )


def _pinned(
    spec: str, lock: Path, platform: Platform | None
) -> tuple[str, str | None, Pin | None] | None:
    """What the lock pins a name to, with the root that it states and the platform's pin; None
    where it does not know the name.
    """
    from patcher.lock.file import load
    from patcher.lock.picking import resolve
    from patcher.oci.reference import host_platform

    wanted = platform or host_platform()
    try:
        entry, digest = resolve(load(lock), spec, wanted)
    except NotLocked:
        return None
    pin = entry.locked.platforms.get(wanted)
    return str(entry.original.reference.pinned(digest)), entry.locked.root, pin


def _located(image: DockerImage | StoredImage, pin: Pin | None) -> BaseImage:
    """The image with what the lock says of where its vLLM is, if it is the one that is pinned."""
    from patcher.oci.rootfs.layers import StoredImage
    from patcher.oci.rootfs.located import LocatedImage

    own = image.image.digest if isinstance(image, StoredImage) else image.digest
    if pin is None or pin.located is None or pin.digest != own:
        return image
    return LocatedImage(image, pin.located)
