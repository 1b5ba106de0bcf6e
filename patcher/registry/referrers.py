"""What refers to an image in a registry: listed, and added (distribution-spec 1.1).

A registry that lists referrers says so when one is pushed (OCI-Subject). For any other, such as
docker-registry 2.8, the list is an index under a tag that is made of the subject's digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patcher.oci.model import INDEXES, Descriptor, broken, parse_json
from patcher.oci.referrer import Artifact, listed, referrers_tag, with_artifact

if TYPE_CHECKING:
    from patcher.registry.repository import Repository

# Two jobs that write the list at once: one of them finds that it lost, and writes again.
_ATTEMPTS = 5


def referrers(repository: Repository, subject: str, kind: str) -> list[Descriptor]:
    """See `Referred`."""
    listing = repository.list_referrers(subject, kind)
    if listing is None:
        listing = _under_tag(repository, subject)
    return listed(listing, kind) if listing else []


def attach(repository: Repository, artifact: Artifact) -> int:
    """Store an artifact beside the image that it is about; gives the bytes that were sent.

    The list is written last, and read back. Cut off anywhere, the image and all names are as they
    were, and a second run goes on. Raises as `Repository` does.
    """
    there = repository.has(artifact.manifest.descriptor)
    known = referrers(repository, artifact.subject, artifact.kind) if there else []
    if any(each.digest == artifact.digest for each in known):
        return 0
    for blob in repository.lacking([blob.descriptor for blob in artifact.blobs]):
        data = next(each.data for each in artifact.blobs if each.descriptor.digest == blob.digest)
        repository.put(blob, data)
    noted = repository.put_manifest(artifact.digest, artifact.manifest)
    if noted != artifact.subject:
        _enlist(repository, artifact)
    return artifact.size


def _enlist(repository: Repository, artifact: Artifact) -> None:
    """Put the artifact on the list under the tag."""
    for _ in range(_ATTEMPTS):
        there = _under_tag(repository, artifact.subject)
        known = listed(there, artifact.kind) if there else []
        if any(each.digest == artifact.digest for each in known):
            return
        repository.put_manifest(referrers_tag(artifact.subject), with_artifact(there, artifact))
    raise broken(f"the list of what refers to {artifact.subject} does not keep what is written")


def _under_tag(repository: Repository, subject: str) -> dict[str, Any] | None:
    """The list under the tag; None where there is none yet."""
    tag = referrers_tag(subject)
    if repository.head(tag) is None:
        return None
    found = repository.manifest(tag)
    if found.descriptor.media_type not in INDEXES:
        raise broken(f"{tag} is something else than a list of referrers")
    return parse_json(found.data, "list of referrers")
