"""The proof beside an image: what it says, and that whatever differs from the image is seen."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from patcher.jobs.differences import differences
from patcher.jobs.naming import BASE_LABELS
from patcher.jobs.proof import DIFF, KIND
from patcher.oci.blobs import read_blob
from patcher.oci.image import load_family
from patcher.oci.installation import ImageFile
from patcher.oci.layer import write_tar
from patcher.oci.layout import existing_layout
from patcher.oci.model import Descriptor, part, read_descriptor
from patcher.oci.reference import parse_reference
from patcher.oci.referrer import (
    File,
    make_artifact,
    read_artifact,
    referrers_tag,
    with_artifact,
)
from patcher.oci.rootfs.layers import StoredImage
from patcher.places.registry import RepositoryStore
from patcher.registry.repository import Repository
from patcher.web.http import Http
from tests.bases import Base, write_lock
from tests.commands import ONE, run
from tests.conftest import TARGET
from tests.installations import SITE, installed_file
from tests.registry.test_image import push
from tests.test_schemas import DOCUMENTS, SCHEMAS, check

jsonschema = pytest.importorskip("jsonschema")

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"


@pytest.fixture
def made(registry: str, tmp_path: Path) -> dict[str, Any]:
    """What `image --to --json` said; two platforms, in a real registry."""
    name = f"proof/{tmp_path.name.replace('_', '-')}"
    base = Base("v0.23.0", "0.23.0", NEEDED)
    digest = base.push(registry, f"{name}/base")
    write_lock(tmp_path / "images.lock", base.entry(f"{registry}/{name}/base", digest))
    ran = run("image", "0.23.0", *ONE, "--to", f"{registry}/{name}", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def opened(report: dict[str, Any]) -> RepositoryStore:
    reference = parse_reference(report["tags"][0])
    return RepositoryStore(Repository(reference, Http(), push=True))


def documents(report: dict[str, Any]) -> dict[str, bytes]:
    store = opened(report)
    [proof] = store.referrers(report["digest"], KIND)
    assert proof.digest == report["proof"]
    files = read_artifact(store, proof, KIND, report["digest"])
    return {file.media_type: file.data for file in files}


def test_it_says_what_was_changed_and_judged_and_fits_its_schema(made: dict[str, Any]) -> None:
    files = documents(made)
    said = json.loads(files[KIND])
    validator = jsonschema.Draft202012Validator(DOCUMENTS["proof.json"], registry=SCHEMAS)
    validator.validate(said)
    assert said["image"] == made["digest"]
    assert [each["name"] for each in said["patches"]] == ["kv-b-proj-dtype"]
    assert len(said["platforms"]) == 2
    for each in said["platforms"]:
        [file] = each["files"]
        assert file["before"] == f"sha256:{hashlib.sha256(NEEDED).hexdigest()}"
        assert [verdict["status"] for verdict in each["before"]] == ["needed"]
        assert [verdict["status"] for verdict in each["after"]] == ["clean"]
    assert files[DIFF].count(b"\n-        return self.kv_b_proj.weight.dtype\n") == 1


def test_the_proof_holds_and_a_second_run_adds_none(made: dict[str, Any], tmp_path: Path) -> None:
    ran = run("verify", "--proof", *made["tags"])
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    assert ran.stderr.count(f"the proof {made['proof']} holds") == 2
    again = run("image", "0.23.0", *ONE, "--to", made["repository"], "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["proof"] == made["proof"]
    assert len(opened(made).referrers(made["digest"], KIND)) == 1


def altered(said: dict[str, Any], field: str) -> None:
    first = said["platforms"][0]
    if field == "after":
        first["files"][0]["after"] = f"sha256:{'0' * 64}"
    elif field == "verdict":
        first["before"][0]["needed"] = 2
    elif field == "platform":
        del said["platforms"][0]
    elif field == "base":
        said["base"]["name"] = "docker.io/somebody/else:1"
    elif field == "path":
        first["files"][0]["path"] = "/elsewhere.py"
    elif field == "base of a platform":
        first["base"] = f"sha256:{'0' * 64}"
    elif field == "many":
        said["base"] |= {str(number): number for number in range(3000)}
    elif field == "image":
        said["image"] = f"sha256:{'0' * 64}"


WHERE = {
    "after": "platforms[linux/amd64].files[",
    "verdict": "platforms[linux/amd64].before[kv-b-proj-dtype ",
    "platform": "platforms[linux/amd64]",
    "base": "base.name",
    "base of a platform": "platforms[linux/amd64].base",
    "path": "/elsewhere.py",
    "image": "image",
    "many": "base.997",
    "diff": "diff",
}


def test_what_differs_from_the_image_is_named(made: dict[str, Any]) -> None:
    files, store = documents(made), opened(made)
    subject = store.repository.manifest(made["digest"]).descriptor
    lies = {}
    for field in WHERE:
        said = json.loads(files[KIND])
        altered(said, field)
        diff = files[DIFF] if field != "diff" else files[DIFF].replace(b"+", b"-")
        lie = [File("proof.json", KIND, json.dumps(said).encode()), File("proof.diff", DIFF, diff)]
        artifact = make_artifact(KIND, subject, lie)
        lies[artifact.digest] = field
        store.attach(artifact)
    document = check(run("verify", "--proof", made["tags"][0], "--json").stdout, 1, 1)
    assert len(document["proofs"]) == len(WHERE) + 1
    for each in document["proofs"]:
        named = [one["where"] for one in each["differences"]]
        assert len(named) <= 1000
        assert (len(named) == 1000) == (lies.get(each["proof"]) == "many")
        if each["proof"] == made["proof"]:
            assert named == [], "the true one still holds"
        else:
            assert any(WHERE[lies[each["proof"]]] in one for one in named), each


# It would be judged as often as it is named.
TWICE = b'{"schema": 1, "patches": [{"name": "kv-b-proj-dtype"}, {"name": "kv-b-proj-dtype"}]}'


def test_what_nests_too_deep_is_a_difference() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    told = differences({"a": deep, "b": [{"path": deep}]}, {"a": "x", "b": []}, "")
    assert [each.where[:1] for each in told] == ["a", "b"]


def test_what_is_no_proof_is_named_and_hides_no_other(made: dict[str, Any]) -> None:
    store = opened(made)
    subject = store.repository.manifest(made["digest"]).descriptor
    bad = [
        make_artifact(KIND, subject, [File("proof.json", KIND, data), File("x", DIFF, b"")])
        for data in (b"", b"[]", b"{}", b'{"schema": 1, "patches": 1}', b"[" * 100_000, TWICE)
    ]
    for each in bad:
        store.attach(each)
    ran = run("verify", "--proof", made["tags"][0])
    assert ran.returncode == 3, ran.stderr
    assert f"the proof {made['proof']} holds: the image is as it says" in ran.stderr
    for each in bad:
        assert f"the proof {each.digest} cannot be held against it: " in ran.stderr
    document = check(run("verify", "--proof", made["tags"][0], "--json").stdout, 3, 3)
    problems = {each["proof"]: each["problem"] for each in document["proofs"]}
    assert {proof for proof, problem in problems.items() if not problem} == {made["proof"]}


def alone(made: dict[str, Any], said: Any, *more: File) -> Any:
    """What `verify --proof` says where this is the one proof there is."""
    files, store = documents(made), opened(made)
    subject = store.repository.manifest(made["digest"]).descriptor
    data = json.dumps(said).encode()
    lie = [File("proof.json", KIND, data), File("proof.diff", DIFF, files[DIFF]), *more]
    artifact = make_artifact(KIND, subject, lie)
    for blob in artifact.blobs:
        store.put(blob.descriptor, blob.data)
    store.repository.put_manifest(artifact.digest, artifact.manifest)
    tag = referrers_tag(made["digest"])
    store.repository.put_manifest(tag, with_artifact(None, artifact))
    return run("verify", "--proof", made["tags"][0])


NOWHERE = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda config: config["config"].update(Entrypoint=["/evil"]), "config's settings changed"),
        (lambda config: config["config"].update(User="root"), "config's settings changed"),
        (
            lambda config: config["config"]["Labels"].update({BASE_LABELS[1]: NOWHERE}),
            "base of linux/arm64",
        ),
    ],
)
def test_an_image_that_is_another_base_and_layer_is_told(
    made: dict[str, Any], alter: Callable[[dict[str, Any]], None], told: str
) -> None:
    """The same layers, and the proof says which image it is; only the config is another."""
    store = opened(made)
    root = store.repository.manifest(made["digest"])
    index = json.loads(root.data)
    entry = next(each for each in index["manifests"] if each["platform"]["architecture"] == "arm64")
    manifest = json.loads(store.repository.manifest(entry["digest"]).data)
    config = json.loads(read_blob(store, read_descriptor(manifest["config"], "config")))
    alter(config)
    new = part(json.dumps(config).encode(), manifest["config"]["mediaType"])
    store.put(new.descriptor, new.data)
    manifest["config"] = dict(new.descriptor.document)
    image = part(json.dumps(manifest).encode(), manifest["mediaType"])
    was = entry["digest"]
    entry |= {"digest": image.descriptor.digest, "size": image.descriptor.size}
    top = part(json.dumps(index).encode(), root.descriptor.media_type)
    store.repository.put_manifest(image.descriptor.digest, image)
    store.repository.put_manifest("forged", top)
    files = documents(made)
    lie = files[KIND].replace(was.encode(), image.descriptor.digest.encode())
    lie = lie.replace(made["digest"].encode(), top.descriptor.digest.encode())
    proof = [File("proof.json", KIND, lie), File("proof.diff", DIFF, files[DIFF])]
    store.attach(make_artifact(KIND, top.descriptor, proof))
    ran = run("verify", "--proof", f"{made['repository']}:forged")
    assert ran.returncode == 1, ran.stderr
    assert told in ran.stdout
    assert ran.stdout.count("\n") == 1


def test_what_is_only_claimed_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    """The base's own documents are in the registry, and not in a layout of the image alone."""
    ran = run("verify", "--proof", made["tags"][0])
    assert "only claimed" not in ran.stderr
    for image in made["platforms"]:
        assert f": {image['platform']} {image['root']}/vllm/" in ran.stderr
    to = f"oci:{tmp_path / 'out'}:x"
    assert run("image", "0.23.0", *ONE, "--to", to, cwd=tmp_path).returncode == 0
    ran = run("verify", "--proof", to)
    assert ran.returncode == 0, ran.stderr
    said = "only claimed: that all below its top layer is the base that it names: it is not in this"
    assert said in ran.stderr
    said = json.loads(documents(made)[KIND])
    said["program"]["digest"] = f"sha256:{'0' * 64}"
    assert "only claimed: that it was made by vllm-patcher" in alone(made, said).stderr


def emptied(said: dict[str, Any]) -> None:
    for each in said["platforms"]:
        each["files"] = each["removed"] = each["before"] = each["after"] = []


def unknown_alone(said: dict[str, Any]) -> None:
    said["patches"] = [{"name": "nope", "version": 1, "digest": None}]
    emptied(said)


def of_no_patch(said: dict[str, Any]) -> None:
    said["patches"] = []
    emptied(said)


@pytest.mark.parametrize(
    ("alter", "code", "told"),
    [
        (of_no_patch, 3, "names 0 patches"),
        (unknown_alone, 1, "kv-b-proj-dtype@"),
        (lambda said: said.update(schema=99), 3, "a form that this program does not know"),
        (lambda said: said["platforms"][0].update(vllm="x"), 3, "vllm is a text, not an object"),
        (lambda said: said["platforms"][0]["vllm"].update(roots=["/nowhere"]), 1, "/nowhere"),
        (lambda said: said["platforms"][0]["before"][0].update(needed=True), 1, "says True"),
        (lambda said: said["platforms"][0]["removed"].append(None), 1, "removed[0]"),
    ],
)
def test_a_proof_that_says_less_or_other_things_does_not_hold(
    made: dict[str, Any], alter: Callable[[dict[str, Any]], None], code: int, told: str
) -> None:
    said = json.loads(documents(made)[KIND])
    alter(said)
    ran = alone(made, said)
    assert ran.returncode == code, ran.stderr
    assert told in ran.stdout + ran.stderr
    assert " holds: " not in ran.stderr


def test_a_second_document_is_not_passed_over(made: dict[str, Any]) -> None:
    """Another reader may take the one that we do not."""
    said = json.loads(documents(made)[KIND])
    ran = alone(made, said, File("proof.json", KIND, b"{}"))
    assert (ran.returncode, "not one document and one diff" in ran.stderr) == (3, True)


def test_what_the_layer_holds_beside_the_changes_is_named(registry: str, tmp_path: Path) -> None:
    """The same files, verdicts and diff; and a program that runs as root."""
    made, report = altered_image(registry, tmp_path)
    ran = run("verify", "--proof", made)
    assert ran.returncode == 1, ran.stderr
    assert "/usr/bin/evil, which was not declared" in ran.stdout
    assert report["proof"] not in ran.stdout


def altered_image(registry: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """An image of ours in whose layer there is one file more, with a proof that tells the rest."""
    name = f"proof/{folder.name.replace('_', '-')}"
    stated = installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n")
    base = [stated, installed_file(TARGET, NEEDED)]
    place = push(registry, f"{name}/base", write_tar(base)).partition("@")
    write_base_lock(folder, f"{place[0]}@{place[2]}")
    ran = run("image", "0.23.0", *ONE, "--to", f"oci:{folder / 'out'}:x", "--json", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    layout = existing_layout(folder / "out")
    [proof] = layout.referrers(report["digest"], KIND)
    said = {f.media_type: f.data for f in read_artifact(layout, proof, KIND, report["digest"])}
    after = json.loads(said[KIND])["platforms"][0]["files"][0]
    family = load_family(layout, next(e for e in layout.entries() if e.digest == report["digest"]))
    image = StoredImage(layout, report["digest"], family.images[0])
    patched = next(iter(image.installation([TARGET]).files.values()))
    assert after["path"] == patched.path
    evil = ImageFile("/usr/bin/evil", b"#!/bin/sh\n", 0, 0, 0o755, 0)
    top = write_tar(sorted([patched, evil], key=lambda file: file.path))
    reference = push(registry, f"{name}/made", write_tar(base), top, form=gzip.compress)
    store = RepositoryStore(Repository(parse_reference(reference), Http(), push=True))
    subject = store.repository.manifest(reference.partition("@")[2]).descriptor
    document = json.loads(said[KIND]) | {"image": subject.digest}
    document["base"] = {"name": None, "digest": None}
    document["platforms"][0] |= {"image": subject.digest}
    files = [
        File("proof.json", KIND, json.dumps(document).encode()),
        File("proof.diff", DIFF, said[DIFF]),
    ]
    store.attach(make_artifact(KIND, subject, files))
    return reference, report


def write_base_lock(folder: Path, reference: str) -> None:
    (folder / "images.lock").write_text("schema = 1\n")
    ran = run("lock", "add", "0.23.0", reference, "--lock", folder / "images.lock")
    assert ran.returncode == 0, ran.stderr


def test_a_proof_about_one_of_two_vllms_leaves_it_open(registry: str, tmp_path: Path) -> None:
    """With --root one was patched: what of the other?"""
    stated = b"__version__ = version = '0.23.0'\n"
    other = "/opt/b/lib/python3.12/site-packages"
    files = [installed_file("vllm/_version.py", stated), installed_file(TARGET, NEEDED)]
    files += [
        dataclasses.replace(file, path=file.path.replace(SITE, other)) for file in list(files)
    ]
    reference = push(
        registry, f"proof/two-{tmp_path.name.replace('_', '-')}",
        write_tar(sorted(files, key=lambda file: file.path)),
    )  # fmt: skip
    write_base_lock(tmp_path, reference)
    to = f"oci:{tmp_path / 'out'}:x"
    made = run("image", "0.23.0", *ONE, "--root", other, "--to", to, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ran = run("verify", "--proof", to)
    assert ran.returncode == 3, ran.stderr
    assert f"the vLLM in {SITE} is in the image too, and not judged" in ran.stderr


def test_an_image_without_a_proof_says_so(made: dict[str, Any]) -> None:
    base = made["base_name"]
    ran = run("verify", "--proof", base)
    assert ran.returncode == 3
    assert "has no proof" in ran.stderr
    assert run("verify", "--proof", "0.23.0").returncode == 2
    assert run("verify", "--proof", base, "--everywhere").returncode == 2


def test_the_demo_has_one_that_is_the_same_each_time(
    tmp_path: Path, release_file: Callable[[str], bytes]
) -> None:
    release_file("0.23.0")
    proofs = [
        json.loads(run("demo", "-o", name, "--json", cwd=tmp_path).stdout)["proof"]
        for name in ("one", "two")
    ]
    assert proofs[0] == proofs[1]
    assert run("verify", "--proof", "oci:one:0.23.0-patched", cwd=tmp_path).returncode == 0
    layout = existing_layout(tmp_path / "one")
    index = json.loads((tmp_path / "one" / "index.json").read_bytes())
    [entry] = [each for each in index["manifests"] if each["digest"] == proofs[0]]
    assert layout.holds(Descriptor(entry["mediaType"], entry["digest"], entry["size"]))
