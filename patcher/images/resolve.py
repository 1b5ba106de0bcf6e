"""What a registry says of a reference today, asked through the Docker daemon.

The daemon's distribution endpoint (`GET /distribution/{name}/json`, Docker Engine API 1.30) asks
the registry with the daemon's own network and answers digest and platforms, without a pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import BadReference, DaemonFailed
from patcher.images.docker_calls import asking
from patcher.images.reference import parse_digest, parse_platform

if TYPE_CHECKING:
    from docker import DockerClient

    from patcher.images.reference import Platform, Reference

_INDEXES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


# A platform as the image index specification spells it.
_PLATFORM = ("os", "architecture", "variant")


@dataclass(frozen=True, slots=True)
class Answer:
    """The digest behind a reference, whether it is an index, and its platforms.

    `platforms` is empty where the daemon states none: Docker 20.10 does not look into the config
    of a single OCI manifest (seen), only of Docker's own kind.
    """

    digest: str
    is_index: bool
    platforms: tuple[Platform, ...]


def ask_daemon(client: DockerClient, reference: Reference) -> Answer:
    """What the registry answers about a reference. Raises `DaemonFailed`."""
    step = "Check the name, the network, and `docker login` for the registry."
    with asking(f"{reference} cannot be looked up", next_step=step):
        attributes = client.images.get_registry_data(str(reference)).attrs
    try:
        return _answer(attributes)
    except (KeyError, TypeError, AttributeError, BadReference) as error:
        raise DaemonFailed(
            f"the answer about {reference} cannot be read: {error!r}", next_step=step
        ) from error


def _answer(attributes: dict[str, Any]) -> Answer:
    descriptor = attributes["Descriptor"]
    platforms = [
        parse_platform("/".join(filter(None, (stated[key] for key in _PLATFORM if key in stated))))
        for stated in attributes["Platforms"] or ()
    ]
    # An index lists attestations too, for the platform unknown/unknown.
    runnable = {str(platform): platform for platform in platforms if platform.os != "unknown"}
    is_index = descriptor["mediaType"] in _INDEXES
    ordered = tuple(runnable[name] for name in sorted(runnable))
    return Answer(parse_digest(descriptor["digest"]), is_index, ordered)
