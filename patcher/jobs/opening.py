"""What a person types for a base and for the place to publish to, opened; and the job run.

A base is a name in images.lock, read where its reference lies, or `oci:DIR[:NAME]`. The place is
`REGISTRY/REPO[:TAG]` or `oci:DIR[:TAG]`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.errors import BadReference
from patcher.jobs.base import Origin
from patcher.jobs.image import Order, publish
from patcher.layer_cache import LayerCache, default_folder
from patcher.lock.file import load
from patcher.lock.whole import Standing, standing, whole
from patcher.oci.convert import as_oci
from patcher.oci.layout import Layout, create_layout, existing_layout, split_spec
from patcher.oci.model import REF_NAME
from patcher.oci.reference import Platform, parse_reference
from patcher.places.place import InLayout, InRegistry
from patcher.progress import moving
from patcher.registry.repository import open_registry
from patcher.web.http import Http, HttpSettings

if TYPE_CHECKING:
    from patcher.jobs.published import Published
    from patcher.oci.blobs import Blobs
    from patcher.places.place import Target
    from patcher.progress import Say

_LAYOUT = "oci:"
_PLACE = "Write the place as REGISTRY/REPO, REGISTRY/REPO:TAG or oci:DIR."


def publish_job(
    name: str, to: str, lock: Path, order: Order, settings: HttpSettings, say: Say
) -> Published:
    """Open both ends and publish. `order` needs no repository and no tag: `to` says them.

    Raises `BadReference`, `NotLocked`, and as `publish`.
    """
    http = Http(settings, say=say)
    repository, tag = _split_target(to)
    origin, place = _open_origin(name, lock, order.platform, http, say)
    target = _open_target(repository, origin.source, http, dry_run=order.dry_run)
    ends = [end for end in (origin.source, target) if isinstance(end, InRegistry)]
    if isinstance(target, InLayout):
        origin = _in_oci(origin)
    said = dataclasses.replace(order, repository=repository, tag=tag, standing=place)
    done = publish(origin, said, target, say, partial(moving, "copying"))
    return dataclasses.replace(done, received=sum(end.tally.received for end in ends))


def _open_origin(
    name: str, path: Path, platform: Platform | None, http: Http, say: Say
) -> tuple[Origin, Standing]:
    if name.startswith(_LAYOUT):
        return _layout_origin(name.removeprefix(_LAYOUT)), Standing(platform, newest=True)
    lock = load(path)
    entry, digest = whole(lock, name, platform)
    reference = entry.original.reference
    pinned = reference.pinned(digest)
    say(f"{name} is vLLM {entry.locked.version}: {pinned}")
    registry = open_registry(pinned, http)
    source = InRegistry(registry)
    root = registry.manifest(digest).descriptor
    cache = LayerCache(default_folder())
    origin = Origin(source, root, reference, entry.locked.version, cache)
    return origin, standing(lock, entry, platform)


def _in_oci(origin: Origin) -> Origin:
    """The base as a layout must hold it; its labels and the report keep the digests it had."""
    source, root = as_oci(origin.source, origin.root)
    return dataclasses.replace(origin, source=source, root=root, originals=source.originals)


def _layout_origin(spec: str) -> Origin:
    folder, name = split_spec(spec)
    layout = existing_layout(folder)
    named = [(each.annotations.get(REF_NAME), each) for each in layout.entries()]
    fitting = {each.digest: each for key, each in named if name in (None, key)}
    if len(fitting) != 1:
        there = sorted({key for key, _ in named if key})
        raise BadReference(
            f"{folder}: {'several images are' if fitting else 'no image is'} {name or 'not named'}",
            next_step=f"Give the name of one, as oci:{folder}:NAME. "
            f"It holds: {', '.join(there) or 'no names'}.",
        )
    source = InLayout(layout)
    [root] = fitting.values()
    return Origin(source, root, None, None)


def _split_target(to: str) -> tuple[str, str | None]:
    """The repository, or the layout's `oci:DIR`, and the tag."""
    if to.startswith(_LAYOUT):
        folder, name = split_spec(to.removeprefix(_LAYOUT))
        if to.removeprefix(_LAYOUT)[:1] in ("", ":"):
            raise BadReference(f"{to!r} names no folder", next_step="Write it as oci:DIR[:TAG].")
        return f"{_LAYOUT}{folder}", name
    try:
        reference = parse_reference(to)
    except BadReference as error:
        known = "lower case" in error.problem
        raise BadReference(error.problem, next_step=error.next_step if known else _PLACE) from error
    if reference.digest:
        raise BadReference(f"{to!r} is a digest, which only content decides", next_step=_PLACE)
    return reference.name, reference.tag


def _open_target(repository: str, source: Blobs, http: Http, *, dry_run: bool) -> Target:
    if repository.startswith(_LAYOUT):
        folder = Path(repository.removeprefix(_LAYOUT))
        return InLayout(Layout(folder) if dry_run else create_layout(folder))
    reference = parse_reference(repository)
    beside: tuple[str, ...] = ()
    if isinstance(source, InRegistry) and source.registry.repository.registry == reference.registry:
        beside = (source.registry.repository.name,)
    # A dry run asks for no right to write: it may be tried before one has it.
    return InRegistry(open_registry(reference, http, push=not dry_run, mount_from=beside))
