"""The proof that travels with an image: what was changed, and what was judged before and after.

It is an artifact whose subject is the image (see `patcher.oci.referrer`): a JSON document
(docs/schemas/proof.json) and the diff. No clock and no path of this machine is in it: the same
image, patches and program give the same digest. It is a statement and not a signature: all that
it says of the image can be computed again from the image, and `patcher.jobs.check_proof` does.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher import __version__
from patcher.diff import unified_diff
from patcher.oci.model import digest_of
from patcher.oci.referrer import File

if TYPE_CHECKING:
    from patcher.jobs.base import Base, Examined
    from patcher.oci.installation import Installation
    from patcher.rules.patch import Patch
    from patcher.rules.verdict import Verdict

# The artifact's type, and that of its JSON document. A new major form gets a new number.
KIND = "application/vnd.vllm-patcher.proof.v1+json"
DIFF = "text/x-diff"
FORM = 1


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """One file of the image, before and after."""

    path: str
    target: str
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """One image of the result, as the proof tells it. `image` and `base` are digests of manifests;
    `removed` are the paths of bytecode that is gone.
    """

    platform: str
    image: str
    base: str | None
    roots: tuple[str, ...]
    vllm: str
    commit: str | None
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]
    changes: tuple[ChangedFile, ...]
    removed: tuple[str, ...]


def content_of(
    examined: Examined, removed: Sequence[str], image: str, after: tuple[Verdict, ...]
) -> Content:
    """An image of the base and what was made of it, `image`, on which the verdicts `after` are."""
    changes = (
        ChangedFile(each.before.path, each.target, each.before.data, each.after)
        for each in examined.changes
    )
    return Content(
        platform=str(examined.image.platform),
        image=image,
        base=examined.base_digest,
        roots=tuple(each.root for each in examined.installation.all),
        vllm=examined.installation.version,
        commit=examined.installation.commit,
        before=examined.before,
        after=after,
        changes=tuple(sorted(changes, key=lambda change: change.path)),
        removed=tuple(sorted(removed)),
    )


def changed_files(before: Installation, after: Installation) -> tuple[ChangedFile, ...]:
    """The files that differ between the base's vLLM and the result's, by path."""
    was = {file.path: file.data for each in before.all for file in each.files.values()}
    found = {
        file.path: ChangedFile(file.path, target, was.get(file.path, b""), file.data)
        for each in after.all
        for target, file in each.files.items()
        if was.get(file.path) != file.data
    }
    return tuple(found[path] for path in sorted(found))


def removed_bytecode(before: Installation, after: Installation) -> tuple[str, ...]:
    """The bytecode that was there before and is gone."""
    there, left = (
        {path for each in found.all for paths in each.bytecode.values() for path in paths}
        for found in (before, after)
    )
    return tuple(sorted(there - left))


def proof_files(
    image: str, base: Base, patches: Sequence[Patch], contents: Sequence[Content]
) -> tuple[File, File]:
    """The documents of the proof about `image`, the digest of a manifest or an index."""
    name = str(base.name) if base.name else base.local
    document = {
        "schema": FORM,
        "image": image,
        "base": {"name": name, "digest": base.pin(base.digest)},
        "program": {"name": "vllm-patcher", "version": __version__, "digest": program_digest()},
        "patches": [
            {"name": each.name, "version": each.version, "digest": file_digest(each)}
            for each in patches
        ],
        "platforms": [content_json(each) for each in contents],
    }
    text = json.dumps(document, indent=1, ensure_ascii=True)
    return File("proof.json", KIND, f"{text}\n".encode()), File("proof.diff", DIFF, diff(contents))


def content_json(content: Content) -> dict[str, Any]:
    """One image of the proof, as plain data."""
    return {
        "platform": content.platform,
        "image": content.image,
        "base": content.base,
        "vllm": {
            "version": content.vllm,
            "commit": content.commit,
            "roots": list(content.roots),
        },
        "files": [
            {
                "path": each.path,
                "target": each.target,
                "before": digest_of(each.before),
                "after": digest_of(each.after),
            }
            for each in content.changes
        ],
        "removed": list(content.removed),
        "before": [_verdict(each) for each in content.before],
        "after": [_verdict(each) for each in content.after],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "patch": verdict.patch,
        "path": verdict.artifact,
        "status": verdict.status.value,
        "needed": verdict.needed,
        "clean": verdict.clean,
        "places": [dataclasses.asdict(place) for place in verdict.places],
    }


def diff(contents: Sequence[Content]) -> bytes:
    """What was changed, as `patch -p1 -d /` takes it; what platforms share is there once."""
    changes = dict.fromkeys(change for each in contents for change in each.changes)
    texts = [unified_diff(each.before, each.after, each.path.lstrip("/")) for each in changes]
    return "".join(texts).encode(errors="surrogateescape")


def file_digest(patch: Patch) -> str | None:
    """That of the file that the patch is written in; None for one that is in no file."""
    return f"sha256:{patch.sha256}" if patch.sha256 else None


@functools.cache
def program_digest() -> str:
    """A digest of the program's own source files: of their names and bytes, in order."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if not name.startswith("_data/"):  # the catalogue, in a wheel: it has digests of its own
            data = path.read_bytes()
            digest.update(f"{name} {len(data)}\n".encode() + data)
    return f"sha256:{digest.hexdigest()}"
