"""A proof read back and held against its image, from the image's content alone.

The base's layers are below the one that was added, so that what the image was before is still in
it: both sides are read, judged and compared once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import (
    BadReference,
    BadSource,
    BrokenImage,
    FileAbsent,
    NotInRegistry,
    RegistryFailed,
    Unreadable,
)
from patcher.jobs.base import judge_all
from patcher.jobs.differences import Difference, differences
from patcher.jobs.held_base import held_base
from patcher.jobs.naming import PATCHES_LABEL, base_of
from patcher.jobs.proof import (
    DIFF,
    FORM,
    KIND,
    Content,
    changed_files,
    content_json,
    diff,
    file_digest,
    program_digest,
    removed_bytecode,
)
from patcher.layer_cache import LayerCache
from patcher.oci.image import Image, load_family
from patcher.oci.layer import LayerChange
from patcher.oci.model import broken, expect, parse_json
from patcher.oci.reference import parse_reference
from patcher.oci.referrer import Referred, read_artifact
from patcher.oci.rootfs.layers import StoredImage
from patcher.oci.validate import check_base, check_layer
from patcher.places.layout import PREFIX, open_named
from patcher.places.registry import RepositoryStore
from patcher.registry.repository import Repository
from patcher.sources.everywhere import searched_for
from patcher.web.http import Http, HttpSettings

if TYPE_CHECKING:
    from patcher.oci.image import Family
    from patcher.oci.installation import Installation
    from patcher.oci.model import Descriptor
    from patcher.rules.patch import Patch
    from patcher.rules.verdict import Verdict

_MOST_PATCHES = 1000

# More than anybody reads: a document of 8 MB can differ in a million places.
_MOST_DIFFERENCES = 1000


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """One proof of an image: what differs, and what the image's content says today.

    `notes` are for a person: what could not be compared. `undecided`: for one of them it is open
    whether the image is clean. `problem` is why the proof itself cannot be read; then nothing was
    compared.
    """

    image: str
    digest: str
    proof: str
    program: str | None = None
    differences: tuple[Difference, ...] = ()
    before: tuple[Verdict, ...] = ()
    after: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    undecided: bool = False
    problem: str | None = None


def check_proofs(
    name: str, settings: HttpSettings | None, known: Mapping[str, Patch]
) -> list[CheckedProof]:
    """Every proof of the image that `name` means, in a registry or a layout (`oci:DIR[:NAME]`).

    `known` are the patches to judge by, by name: those that a proof names are looked up there.
    One that is broken does not hide the others. Raises `FileAbsent` where there is none,
    `BadReference`, and what reading the image and judging raise.
    """
    store, root = _open(name, settings)
    proofs = store.referrers(root.digest, KIND)
    if not proofs:
        raise FileAbsent(
            f"{name} ({root.digest}) has no proof",
            next_step="Name the tag that 'image' printed; or make it again, which adds the proof.",
        )
    family = load_family(store, root)
    base, why = held_base(store, *base_of(family.images[0].labels), settings)
    held = _Held(name, store, family, base, why)
    return [_check(held, each, known) for each in {each.digest: each for each in proofs}.values()]


@dataclass(frozen=True, slots=True)
class _Held:
    """What proofs are held against: an image, and its base, or why that is not known."""

    name: str
    store: Referred
    family: Family
    base: Family | None
    why_no_base: str


def _check(held: _Held, proof: Descriptor, known: Mapping[str, Patch]) -> CheckedProof:
    try:
        return _compared(held, proof, known)
    except (BrokenImage, Unreadable) as error:
        if isinstance(error, RegistryFailed) and not isinstance(error, NotInRegistry):
            raise  # the others would fail in the same way
        digest = held.family.root.digest
        return CheckedProof(held.name, digest, proof.digest, problem=error.problem)


def _open(name: str, settings: HttpSettings | None) -> tuple[Referred, Descriptor]:
    if name.startswith(PREFIX):
        return open_named(name)
    short = name.removeprefix("registry:")
    if short.startswith("docker:") or "/" not in short:
        raise BadReference(
            f"{name!r} is not an image in a registry or a layout",
            next_step="A proof is kept there: write REGISTRY/REPO:TAG or oci:DIR:NAME.",
        )
    reference = parse_reference(short)
    store = RepositoryStore(Repository(reference, Http(settings)))
    try:
        return store, store.repository.manifest(reference.asked).descriptor
    except NotInRegistry as error:
        raise FileAbsent(error.problem, next_step=error.next_step) from error


def _compared(held: _Held, proof: Descriptor, known: Mapping[str, Patch]) -> CheckedProof:
    said, lines = _read(held, proof)
    patches, notes, undecided = _patches(said, known)
    platforms = _by_platform(said)
    looked = [
        _look(held, image, patches, platforms.get(str(image.platform)))
        for image in held.family.images
    ]
    contents = [each.content for each in looked]
    for each in looked:
        notes += [f"the vLLM in {root} is in the image too, and not judged" for root in each.beside]
    found = _document(held.family, contents)
    wrong = [each for image in looked for each in image.wrong]
    wrong += _unnamed(said, held.family)
    told = differences({key: said.get(key) for key in found}, found, "")
    wrong += itertools.islice(told, _MOST_DIFFERENCES)
    if next(told, None):
        notes.append(f"more than {_MOST_DIFFERENCES} differences, of which so many are told")
    if lines != diff(contents):
        wrong.append(Difference("diff", "other lines", "what the image's content gives"))
    program = expect(said.get("program"), dict, "proof: program")
    notes += _claims(held, program)
    return CheckedProof(
        image=held.name,
        digest=held.family.root.digest,
        proof=proof.digest,
        program=str(program.get("version")),
        differences=tuple(wrong),
        before=tuple(each for content in contents for each in _told(content, content.before)),
        after=tuple(each for content in contents for each in _told(content, content.after)),
        notes=tuple(notes),
        undecided=undecided or any(each.beside for each in looked),
    )


def _read(held: _Held, proof: Descriptor) -> tuple[dict[str, Any], bytes]:
    """The two parts of a proof: what it says, and its diff. Raises `BrokenImage`."""
    files = read_artifact(held.store, proof, KIND, held.family.root.digest)
    if sorted(file.media_type for file in files) != sorted((KIND, DIFF)):
        raise broken(f"proof {proof.digest}: it is not one document and one diff")
    document, lines = (
        next(file.data for file in files if file.media_type == kind) for kind in (KIND, DIFF)
    )
    said = parse_json(document, f"proof {proof.digest}")
    if expect(said.get("schema"), int, "proof: schema") != FORM:
        raise broken(f"proof {proof.digest}: it has a form that this program does not know")
    return said, lines


def _document(family: Family, contents: Sequence[Content]) -> dict[str, Any]:
    """What the proof would have to say of the image, as far as its content tells."""
    return {
        "image": family.root.digest,
        "base": dict(zip(("name", "digest"), base_of(family.images[0].labels), strict=True)),
        "platforms": [content_json(each) for each in contents],
    }


def _claims(held: _Held, program: Mapping[str, Any]) -> Iterator[str]:
    """What the proof or the image says, and nothing here shows."""
    if program.get("digest") != program_digest():
        made_by = f"{program.get('name')} {program.get('version')}"
        yield f"only claimed: that it was made by {made_by}; the one that runs here is another"
    if held.base is None:
        why = held.why_no_base
        yield f"only claimed: that all below its top layer is the base that it names: {why}"


def _patches(
    said: Mapping[str, Any], known: Mapping[str, Patch]
) -> tuple[list[Patch], list[str], bool]:
    """The patches that the proof is about; what cannot be judged as it was then, in words; and
    whether one cannot be judged at all.
    """
    entries = expect(said.get("patches"), list, "proof: patches")
    if not 0 < len(entries) <= _MOST_PATCHES:
        raise broken(f"proof: it names {len(entries)} patches")
    patches: list[Patch] = []
    notes: list[str] = []
    named: set[str] = set()
    for entry in entries:
        stated = expect(entry, dict, "proof: patches")
        name = expect(stated.get("name"), str, "proof: patches: name")
        if name in named:
            raise broken(f"proof: it names the patch {name} twice")
        named.add(name)
        patch = known.get(name)
        if patch is None:
            notes.append(
                f"{name}: this program does not have the patch: it is not judged, and what it "
                "changed is told as a difference; name its folder with --patches"
            )
            continue
        if (stated.get("version"), stated.get("digest")) != (
            patch.version,
            file_digest(patch),
        ):
            notes.append(f"{name}: judged by another text of the patch than the proof was made by")
        patches.append(patch)
    return patches, notes, len(patches) < len(entries)


def _unnamed(said: Mapping[str, Any], family: Family) -> Iterator[Difference]:
    """The patches that the image's labels state, and the proof does not."""
    named = {f"{each.get('name')}@{each.get('version')}" for each in said["patches"]}
    labels = (image.labels.get(PATCHES_LABEL, "") for image in family.images)
    for patch in dict.fromkeys(each for label in labels for each in label.split(",") if each):
        if patch not in named:
            yield Difference("patches", None, patch)


def _by_platform(said: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    entries = expect(said.get("platforms"), list, "proof: platforms")
    whole = [expect(entry, dict, "proof: platforms") for entry in entries]
    return {expect(each.get("platform"), str, "proof: platform"): each for each in whole}


def _told(content: Content, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """The verdicts on an image, which of several platforms is named."""
    for each in verdicts:
        yield dataclasses.replace(each, artifact=f"{content.platform} {each.artifact}")


@dataclass(frozen=True, slots=True)
class _Looked:
    """One image of the result: what it is, what its uppermost layer and what is below it have that
    they should not, and the roots of vLLMs beside those that the proof is about.
    """

    content: Content
    wrong: tuple[Difference, ...]
    beside: tuple[str, ...]


def _look(
    held: _Held, image: Image, patches: list[Patch], said: Mapping[str, Any] | None
) -> _Looked:
    """What an image of the result is, and was before its uppermost layer."""
    store = held.store
    base = _base_image(held.base, image)
    after, every = _found(store, image, patches, said)
    before, _ = _found(store, _below(image), patches, said)
    content = Content(
        platform=str(image.platform),
        image=image.digest,
        # The base's own manifest is not in the image.
        base=(said or {}).get("base") if held.base is None else base.digest if base else None,
        roots=tuple(each.root for each in after.all),
        vllm=after.version,
        commit=after.commit,
        before=judge_all(patches, before),
        after=judge_all(patches, after),
        changes=changed_files(before, after),
        removed=removed_bytecode(before, after),
    )
    wrong = [
        _layer_difference(store, image, before, after, content),
        _base_difference(held, base, image),
    ]
    beside = tuple(root for root in every if root not in content.roots)
    return _Looked(content, tuple(each for each in wrong if each), beside)


def _base_image(base: Family | None, image: Image) -> Image | None:
    """The base for the image's platform."""
    images = base.images if base else ()
    return next((each for each in images if each.platform == image.platform), None)


def _base_difference(held: _Held, base: Image | None, image: Image) -> Difference | None:
    """Where an image is on another base than the one it names, or was given other settings."""
    where = f"base of {image.platform}"
    if base_of(image.labels) != base_of(held.family.images[0].labels):
        return Difference(where, "the same for all platforms", str(base_of(image.labels)))
    if base is None:
        return Difference(where, "an image for it", None) if held.base else None
    try:
        check_base(base, image)
    except BrokenImage as error:
        return Difference(where, "the base, and one layer", error.problem)
    return None


def _found(
    store: Referred, image: Image, patches: list[Patch], said: Mapping[str, Any] | None
) -> tuple[Installation, tuple[str, ...]]:
    """The vLLM that the proof is about, and the roots of all that may be run.

    Where it was made for one of several, its one root says which.
    """
    targets = sorted({target for patch in patches for target in patch.targets})
    texts = searched_for(patches)
    opened = StoredImage(store, image.digest, image, LayerCache())
    found = opened.installation(targets, None, texts)
    every = tuple(each.root for each in found.all)
    roots: list[object] = []
    if said is not None:
        vllm = expect(said.get("vllm"), dict, "proof: vllm")
        roots = expect(vllm.get("roots"), list, "proof: vllm: roots")
    if len(roots) == 1 and isinstance(roots[0], str) and every != (roots[0],):
        with contextlib.suppress(BadSource):  # there is none: that is a difference
            found = opened.installation(targets, roots[0], texts)
    return found, every


def _layer_difference(
    store: Referred, image: Image, before: Installation, after: Installation, content: Content
) -> Difference | None:
    """What the uppermost layer holds beside the changes that the proof is about."""
    there = {
        file.path: file
        for each in (after, before)
        for one in each.all
        for file in one.files.values()
    }
    folders = {folder.path: folder for each in before.all for folder in each.directories}
    try:
        change = LayerChange(
            tuple(
                dataclasses.replace(there[each.path], data=each.after) for each in content.changes
            ),
            content.removed,
            tuple(folders[path] for path in sorted(folders)),
            {},
        )
        check_layer(store, image, change)
    except BrokenImage as error:
        return Difference(f"layer of {image.platform}", "the changes alone", error.problem)
    return None


def _below(image: Image) -> Image:
    """The image without its uppermost layer: the base, in all that says which vLLM is run."""
    manifest, config = image.manifest, image.config
    if len(manifest.layers) < 2:
        raise broken(f"{image.digest} has one layer: nothing was added to a base")
    return dataclasses.replace(
        image,
        manifest=dataclasses.replace(manifest, layers=manifest.layers[:-1]),
        config=dataclasses.replace(config, diff_ids=config.diff_ids[:-1]),
    )
