"""The two ways to get a base and bake upon it: the Docker daemon, or an OCI layout on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from patcher.daemon.engine import connect, pull
from patcher.jobs.build import Base, Order, Report, bake
from patcher.lock.drift import Drifted, check_pins
from patcher.lock.entries import Entry, Lock, add, entry_for
from patcher.lock.file import edit, load
from patcher.lock.picking import resolve
from patcher.oci.reference import Platform, host_platform, parse_reference
from patcher.progress import Say, pulling
from patcher.registry.image import ask_registry
from patcher.registry.repository import open_registry
from patcher.rules.catalogue import Patch
from patcher.sources.spec import open_oci
from patcher.web.http import Http, HttpSettings


def docker_job(
    name: str,
    lock: Path,
    platform: Platform | None,
    patches: Sequence[Patch],
    repository: str,
    allow_clean: bool,
    say: Say,
) -> Report:
    """Resolve a name in images.lock, pull it by digest, bake, and tag in the local daemon."""
    # Before a pull of 9 GB.
    parse_reference(repository)
    here = host_platform()
    wanted = platform or here
    entry, digest = resolve(load(lock), name, wanted)
    pinned = entry.original.reference.pinned(digest)
    say(f"{name} is vLLM {entry.locked.version} for {wanted}: {pinned}")
    client = connect()
    with pulling() as show:
        image = pull(client, str(pinned), wanted, show)
    base = Base(image, entry.original.reference, entry.locked.version)
    # One local tag holds one platform: another machine's image must not take over this one's.
    suffix = None if wanted == here else wanted
    return bake(base, Order(patches, repository, suffix, allow_clean), say)


def layout_job(
    spec: str, platform: Platform | None, patches: Sequence[Patch], allow_clean: bool, say: Say
) -> Report:
    """Append to an image in an OCI layout, and name the result in the same layout."""
    image = open_oci(spec, platform)
    say(f"{spec} is {image.digest} for {image.platform}")
    return bake(Base(image, None, None), Order(patches, "", platform, allow_clean), say)


def add_to_lock(
    path: Path, start: Path, version: str, reference: str, settings: HttpSettings | None
) -> Entry:
    """Lock a version to an image, as its registry has it; no `settings`: nobody is asked.

    A lock that is not there yet begins with what `start` has: a new one must hide no pin.
    """
    asked = parse_reference(reference)
    answer = ask_registry(asked, Http(settings)) if settings else None
    entry = entry_for(version, asked, answer)
    edit(path, start, lambda known: add(known, entry))
    return entry


def others_of(path: Path, version: str, reference: str) -> tuple[str, ...]:
    """Other references that the lock has for a version: a name can mean but one of them."""
    if not path.exists():
        return ()
    asked = str(parse_reference(reference))
    known = [entry for entry in load(path).entries if entry.original.version == version]
    references = [str(entry.original.reference) for entry in known]
    return tuple(other for other in references if other != asked)


def drifts_of(lock: Lock, settings: HttpSettings) -> tuple[Drifted, ...]:
    """What the registries say of the lock's pins today."""
    return tuple(check_pins(lock, partial(open_registry, http=Http(settings))))
