"""What a patched image is called, and what its labels say.

A derived image inherits its base's labels; those that would now be wrong are set anew (OCI
image-spec, annotations.md: `base.name`, `base.digest`, `version`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patcher.errors import BrokenImage
from patcher.oci.reference import Platform, Reference, is_tag
from patcher.versions import base, parsed, same_commit
from patcher.web.github import VLLM

# Part of every fixed tag. Whoever lets the same base and patches come to other bytes (a label
# more, another layer format) raises it: a fixed tag never moves.
_FORM = 2

_FIXED = re.compile(r".+-[0-9a-f]{12}(?:-[a-z0-9]+)?")

OURS = "dev.vllm-patcher"
# What was applied, as `name@version,...`.
PATCHES_LABEL = f"{OURS}.patches"
# Which image another one was made from.
BASE_LABELS = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
# The name of a base that no registry has: it means nothing on another machine.
LOCAL_BASE = f"{OURS}.base.local"
# Where the software comes from: what update bots read (Renovate, "docker datasource"; Dependabot).
_SOURCE, _REVISION = "org.opencontainers.image.source", "org.opencontainers.image.revision"
_VERSION = "org.opencontainers.image.version"
# vLLM's own builds state it: then what they say of source and revision is of vLLM.
_BUILD_COMMIT = "ai.vllm.build.commit"
# Labels of vLLM's images that name the tag they were published under.
TAG_LABELS = ("ai.vllm.image.tag", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class Patched:
    """One patched file, as labels and tags tell it: sha256 of its bytes before and after.

    `preimage` is None for a file that the base does not have.
    """

    patch: str
    patch_version: int
    target: str
    preimage: str | None
    postimage: str


@dataclass(frozen=True, slots=True)
class Names:
    """`fixed` names this content for ever; `moving` names the newest patched build of a version."""

    fixed: str
    moving: str


def base_of(inherited: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Name and digest of the image that one of ours was made from, as its labels say."""
    name, digest = (inherited.get(key) for key in BASE_LABELS)
    return name or inherited.get(LOCAL_BASE), digest


def names(
    vllm: str, patched: Sequence[Patched], base_image: str, platform: Platform | None
) -> Names:
    """The two tags: `<vllm version, + as ->-<hash of base and patches>` and `<version>-patched`.

    `base_image` identifies the base: its name and digest. `platform` is appended to
    both where one tag cannot hold several. Raises `BrokenImage` for a version that the image
    states and that is not one, or that a tag cannot hold.
    """
    version = parsed(vllm)
    if version is None:
        raise BrokenImage(
            f"the image states {vllm!r} as vLLM's version, which is not a version (PEP 440)",
            next_step="Take an image that was built from vLLM's own sources.",
        )
    suffix = f"-{platform.architecture}" if platform else ""
    full = str(version).replace("+", "-")
    made = Names(
        f"{full}-{_content(patched, base_image)}{suffix}", f"{base(version)}-patched{suffix}"
    )
    if not (is_tag(made.fixed) and is_tag(made.moving)):
        raise BrokenImage(
            f"the image states {vllm!r} as vLLM's version, which makes no tag",
            next_step="Take an image that was built from vLLM's own sources.",
        )
    return made


def is_fixed(tag: str) -> bool:
    """Is a tag made as the fixed ones are?"""
    return _FIXED.fullmatch(tag) is not None


def annotations_of(inherited: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """What the labels say that tools look for, to be said again where a registry shows it."""
    known = {**inherited, **said}
    wanted = (*BASE_LABELS, _SOURCE, _REVISION, _VERSION)
    return {key: known[key] for key in wanted if key in known}


def _content(patched: Sequence[Patched], base_image: str) -> str:
    """Twelve hex digits that identify a base, a set of patches and the files they made."""
    lines = sorted(f"{p.patch} {p.patch_version} {p.target} {p.postimage}\n" for p in patched)
    stated = f"{_FORM} {base_image}\n{''.join(lines)}"
    return hashlib.sha256(stated.encode()).hexdigest()[:12]


def labels(
    inherited: Mapping[str, str],
    base_name: Reference | None,
    base_digest: str,
    vllm: tuple[str, str | None],
    patched: Sequence[Patched],
    tag: str,
) -> dict[str, str]:
    """The labels to set on the patched image, over those that it inherits.

    `vllm` is version and commit as the image states them; `base_name` is None for a base that
    came from no registry. The program's own version is not among them: an update of it that makes
    the same files would give every image another digest.
    """
    version, commit = vllm
    said = {
        "org.opencontainers.image.base.digest": base_digest,
        _VERSION: tag,
        **_provenance(inherited, commit),
        f"{OURS}.vllm.version": version,
        PATCHES_LABEL: ",".join(sorted({f"{p.patch}@{p.patch_version}" for p in patched})),
    }
    if base_name is not None or BASE_LABELS[0] in inherited:
        # A base of no registry must not pass for the image that it was itself made from.
        said[BASE_LABELS[0]] = str(base_name or "")
    if commit is not None:
        said[f"{OURS}.vllm.commit"] = commit
    # Of several vLLMs in an image, the one that runs is named: it comes first.
    told: dict[str, list[str]] = {}
    for p in patched:
        targets = told.setdefault(p.patch, [])
        if p.target in targets:
            continue
        targets.append(p.target)  # a patch's second file is told as `.2.target`, and so on
        number = f".{len(targets)}" if len(targets) > 1 else ""
        about = f"{OURS}.patch.{p.patch}{number}"
        said[f"{about}.target"] = p.target
        if p.preimage is not None:
            said[f"{about}.preimage"] = f"sha256:{p.preimage}"
        said[f"{about}.postimage"] = f"sha256:{p.postimage}"
    return said | {label: tag for label in TAG_LABELS if label in inherited}


def _provenance(inherited: Mapping[str, str], commit: str | None) -> dict[str, str]:
    """Source and revision, where the base does not state vLLM's: images that vLLM was installed
    into inherit those of something else.
    """
    stated = inherited.get(_REVISION)
    trusted = same_commit(stated, commit) if stated and commit else _BUILD_COMMIT in inherited
    if trusted and _SOURCE in inherited:
        return {}
    ours = {_SOURCE: VLLM}
    return ours if trusted or commit is None else {**ours, _REVISION: commit}
