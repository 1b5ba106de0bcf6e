"""What a person types for a base and for the place of the result, opened; and the job run.

A base is a name in images.lock, read from its registry or pulled by the Docker daemon, or
`oci:DIR[:NAME]`. A place is `REGISTRY/REPO[:TAG]`, `oci:DIR[:TAG]`, the daemon, or a folder for
the Dockerfile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import (
    BadReference,
    BrokenImage,
    DaemonFailed,
    NoDaemon,
    NotLocked,
    PatcherError,
    Unreadable,
    WrongPlatform,
)
from patcher.files import is_there, scratch_folder
from patcher.jobs.base import Base
from patcher.jobs.image import Order, Report, make_image
from patcher.layer_cache import LayerCache
from patcher.lock.file import load
from patcher.lock.picking import Standing, resolve, standing, whole
from patcher.oci.image import load_family
from patcher.oci.layout import if_layout, split_spec
from patcher.oci.reference import (
    EXAMPLE,
    Platform,
    Reference,
    host_platform,
    parse_reference,
)
from patcher.oci.rootfs.layers import StoredImage
from patcher.oci.rootfs.located import LocatedImage
from patcher.places.layout import PREFIX, layout_place, open_named
from patcher.places.registry import RepositoryStore, Tally, registry_place
from patcher.places.stored import Stored
from patcher.progress import pulling
from patcher.registry.image import open_remote
from patcher.registry.repository import Repository
from patcher.versions import parsed
from patcher.web.http import Http, HttpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient

    from patcher.daemon.engine import DockerImage
    from patcher.lock.entries import Entry, Lock, Locked
    from patcher.oci.image import Image
    from patcher.oci.installation import BaseImage
    from patcher.places.place import Place
    from patcher.progress import Say

_PLACE = "Write the place as REGISTRY/REPO, REGISTRY/REPO:TAG or oci:DIR."


def publish_job(
    name: str, to: str | None, lock: Path, order: Order, settings: HttpSettings, say: Say
) -> Report:
    """Patch a base where it is kept, and put the result at `to`, a registry or a layout.

    None for `to` is the layout that the base is in. `order` needs no tag and no standing: `to`
    and the lock say them. Raises `BadReference`, `NotLocked`, and as `make_image`.
    """
    http, tally = Http(settings, say=say), Tally()
    where, tag = _parse_place(to or f"{PREFIX}{split_spec(name.removeprefix(PREFIX))[0]}")
    stored, entry, place_in_lock = _open_stored(name, lock, order.platform, http, tally, say)
    originals: Mapping[str, str] = {}
    place: Place
    if isinstance(where, Path):
        stored, originals = _in_oci(stored)
        place = layout_place(where, stored)
    else:
        place = registry_place(where, stored, http, tally, dry_run=order.dry_run)
    base = _stored_base(stored, entry, originals)
    done = _make(base, dataclasses.replace(order, tag=tag, standing=place_in_lock), place, say)
    return dataclasses.replace(done, received=tally.received)


def daemon_job(
    name: str, repository: str, lock: Path, order: Order, settings: HttpSettings, say: Say
) -> Report:
    """Pull a base of the lock by its digest, and bake on it in the local Docker daemon.

    A name that the lock does not know may be that of an image which only the daemon has; it is
    built on by its id. Raises as `publish_job`.
    """
    from patcher.places.daemon import DaemonPlace

    _expect_repository(repository)  # before a pull of 9 GB
    platform = order.platform or host_platform()
    image, base = _daemon_base(name, load(lock), platform, Http(settings, say=say), say)
    return _make(base, _for_one(order, platform), DaemonPlace(repository, image), say)


def _expect_repository(name: str) -> None:
    """Raise `BadReference` for what is no repository's name alone."""
    named = parse_reference(name)
    if named.tag or named.digest:
        raise BadReference(
            f"{name!r} has a tag or digest",
            next_step="Leave it out: the tags are made of vLLM's version and the patches.",
        )


def context_job(
    name: str,
    folder: Path,
    repository: str,
    lock: Path,
    order: Order,
    settings: HttpSettings,
    say: Say,
) -> Report:
    """Patch one platform of a base of the lock, and write the Dockerfile and its files to `folder`.

    Nothing is pulled or built; `repository` names what is to be built of it. Raises as
    `publish_job`, and `Unwritable` for a folder that holds something.
    """
    from patcher.places.context import ContextPlace, expect_free

    _expect_repository(repository)
    folder = folder.absolute()
    expect_free(folder)
    http, platform = Http(settings, say=say), order.platform or host_platform()
    stored, entry, _ = _open_stored(name, lock, platform, http, Tally(), say)
    if entry is None:
        raise BadReference(
            f"{name!r} is a layout, which no Dockerfile can name as its base",
            next_step="Name an image in images.lock, or use --to.",
        )
    base = _stored_base(stored, entry, {})
    pinned = str(entry.original.reference.pinned(base.digest))
    with scratch_folder(folder) as scratch:
        place = ContextPlace(repository, folder, scratch, pinned, platform)
        done = _make(base, _for_one(order, platform), place, say)
    say(f"written to {folder}")
    return done


def _make(base: Base, order: Order, place: Place, say: Say) -> Report:
    with _about(base.name):
        return make_image(base, order, place, say)


@contextlib.contextmanager
def _about(reference: Reference | None) -> Iterator[None]:
    """An error names the base by its reference: who called it by a version can tell which it is."""
    try:
        yield
    except PatcherError as error:
        error.base = str(reference) if reference else None
        raise


def _for_one(order: Order, platform: Platform) -> Order:
    """The order for one platform: one local tag holds one, and another machine's image must not
    take over this one's.
    """
    suffix = None if platform == host_platform() else platform
    return dataclasses.replace(order, platform=platform, standing=Standing(suffix, newest=True))


def _daemon_base(
    name: str, lock: Lock, platform: Platform, http: Http, say: Say
) -> tuple[DockerImage, Base]:
    """The daemon's image that a name means, pulled where it is in the lock; and the base it is."""
    from patcher.daemon.client import connect

    try:
        entry, digest = resolve(lock, name, platform)
    except NotLocked as unknown:
        own = _only_in_daemon(name, platform, unknown)
        say(f"{name} is not in images.lock: the daemon's own image {own.digest}")
        return own, Base(own.digest, (own,), local=name)
    reference, locked = entry.original.reference, entry.locked
    pinned = reference.pinned(digest)
    say(f"{_called(name, locked)} for {platform}: {pinned}")
    documents = functools.cache(lambda: open_remote(pinned, platform, http).image)
    with _about(reference):
        try:
            client = connect()
        except NoDaemon as error:
            step = f"{error.next_step} Or publish without one: --to REGISTRY/REPO or --to oci:DIR."
            raise NoDaemon(error.problem, next_step=step) from error
        image = _pulled(client, pinned, platform, documents)
    pin = locked.platforms.get(platform)
    there: BaseImage = image
    if pin is not None and pin.located and pin.digest == image.digest:
        there = LocatedImage(image, pin.located)
    # Known by its index, as in a registry or a layout: the same base and patches, the same tag.
    originals = {image.digest: locked.index.digest} if locked.index else {}
    return image, Base(image.digest, (there,), reference, locked.version, originals, locked.root)


def _called(name: str, locked: Locked) -> str:
    """Which vLLM a name means, where it does not say so itself."""
    version = f"vLLM {locked.version}"
    return version if parsed(name) == locked.version else f"{name} is {version}"


def _only_in_daemon(name: str, platform: Platform, unknown: NotLocked) -> DockerImage:
    """The image that the daemon has under a name which the lock does not know, as `unknown` says.

    Raises `NotLocked` where it has none.
    """
    from patcher.daemon.client import connect
    from patcher.daemon.engine import local_image, named_image

    next_step = _if_here(Path(name)) or unknown.next_step
    try:
        parse_reference(name)
    except BadReference:
        raise NotLocked(unknown.problem, next_step=next_step) from None
    client = connect()
    if named_image(client, name) is not None:
        return local_image(client, name, platform)
    if parsed(name) is not None:
        raise unknown
    raise NotLocked(
        f"{name!r} is neither in images.lock nor in the Docker daemon", next_step=next_step
    )


def _if_here(path: Path) -> str | None:
    """What to do with a folder or file that was named in an image's place."""
    if not is_there(path):
        return None
    patching = f"It is a path here: `vllm-patcher patch {shlex.quote(str(path))} --in-place`."
    return if_layout(path) or patching


def _pulled(
    client: DockerClient, pinned: Reference, platform: Platform, documents: Callable[[], Image]
) -> DockerImage:
    """The image of an index or manifest for a platform, under the name that pins it.

    Where the daemon cannot tell an index's images apart, the one wanted is pulled by its own
    digest, which the registry tells. Raises as `pull` does.
    """
    from patcher.daemon.engine import keeps_indexes, pull

    def pull_as(reference: Reference) -> DockerImage:
        with pulling() as show:
            image = pull(client, str(reference), platform, show)
        return dataclasses.replace(image, reference=str(pinned), documents=documents)

    def own() -> Reference:
        return pinned.pinned(documents().digest)

    if keeps_indexes(client):
        with contextlib.suppress(Unreadable, WrongPlatform, BrokenImage):
            return pull_as(own())
    try:
        return pull_as(pinned)
    except (DaemonFailed, WrongPlatform):
        # Docker's overlay store keeps one platform of an index.
        with contextlib.suppress(Unreadable, WrongPlatform, BrokenImage):
            if own() != pinned:
                return pull_as(own())
        raise


def _open_stored(
    name: str, path: Path, platform: Platform | None, http: Http, tally: Tally, say: Say
) -> tuple[Stored, Entry | None, Standing]:
    """The base that a name means, in its layout or registry; its entry in the lock, None for a
    layout; and its place among the locked builds.
    """
    if name.startswith(PREFIX):
        layout, root = open_named(name)
        say(f"{name} is {root.digest}")
        return Stored(layout, load_family(layout, root)), None, Standing(platform, newest=True)
    lock = load(path)
    entry, digest = whole(lock, name, platform)
    reference = entry.original.reference
    pinned = reference.pinned(digest)
    say(f"{_called(name, entry.locked)}: {pinned}")
    with _about(reference):
        repository = Repository(pinned, http)
        store = RepositoryStore(repository, tally)
        stored = Stored(store, load_family(store, repository.manifest(digest).descriptor))
    return stored, entry, standing(lock, entry, platform)


def _in_oci(stored: Stored) -> tuple[Stored, Mapping[str, str]]:
    """The base as a layout must hold it, and the digests that its documents had."""
    from patcher.oci.convert import as_oci

    blobs, family = as_oci(stored.blobs, stored.family)
    return Stored(blobs, family), blobs.originals


def _stored_base(stored: Stored, entry: Entry | None, originals: Mapping[str, str]) -> Base:
    """The base with each of its images, and what the lock knows of them.

    What their layers say is kept between runs; where the lock says where vLLM is, they need not
    be read. See `Base` for `originals`.
    """
    pins = entry.locked.platforms.values() if entry else ()
    located = {pin.digest: pin.located for pin in pins if pin.located}
    cache = LayerCache()
    images: list[BaseImage] = []
    for each in stored.family.images:
        image = StoredImage(stored.blobs, each.digest, each, cache)
        there = located.get(originals.get(each.digest, each.digest))
        images.append(LocatedImage(image, there) if there else image)
    base = Base(stored.family.root.digest, tuple(images), originals=originals)
    if entry is None:
        return base
    locked = entry.locked
    return dataclasses.replace(
        base, name=entry.original.reference, version=locked.version, root=locked.root
    )


def _parse_place(to: str) -> tuple[Path | Reference, str | None]:
    """A layout's folder, or a repository; and the tag."""
    if to.startswith(PREFIX):
        folder, name = split_spec(to.removeprefix(PREFIX))
        if to.removeprefix(PREFIX)[:1] in ("", ":"):
            raise BadReference(f"{to!r} names no folder", next_step="Write it as oci:DIR[:TAG].")
        return folder, name
    try:
        reference = parse_reference(to)
    except BadReference as error:
        helps = _PLACE if error.next_step == EXAMPLE else error.next_step
        if to.startswith((".", "/", "~")):
            helps = f"Write a folder as {PREFIX}{to}."
        raise BadReference(error.problem, next_step=helps) from error
    if reference.digest:
        raise BadReference(f"{to!r} is a digest, which only content decides", next_step=_PLACE)
    return parse_reference(reference.name), reference.tag
