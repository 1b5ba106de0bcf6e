"""What every command prints with --json, against its schema in docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from referencing import Registry as Schemas
from referencing import Resource

from tests.bases import Base, write_lock
from tests.clones import workshop
from tests.commands import ONE, run
from tests.conftest import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"
CLEAN = b"class MLA:\n    def dtype(self):\n        return None\n"


def strict(schema: Any) -> Any:
    """The schema, with nothing allowed that it does not name: a new field must be written down."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed["additionalProperties"] = False
    return closed


DOCUMENTS = {path.name: strict(json.loads(path.read_text())) for path in FOLDER.glob("*.json")}
SCHEMAS: Schemas[Any] = Schemas().with_resources(
    [(name, Resource.from_contents(document)) for name, document in DOCUMENTS.items()]
)


def check(output: str, code: int, *expected: int) -> Any:
    """The document, if it fits the schema of the command that it names."""
    document = json.loads(output)
    assert code in (expected or (0,)), document
    name = document["command"].replace(" ", "-")
    validator = jsonschema.Draft202012Validator(DOCUMENTS[f"{name}.json"], registry=SCHEMAS)
    validator.validate(document)
    return document


def said(*arguments: str | Path, cwd: Path, codes: tuple[int, ...] = (0,)) -> Any:
    one = ONE if arguments[0] in ("verify", "diff", "patch", "image", "landed") else ()
    done = run(*arguments, *one, "--json", cwd=cwd)
    document = check(done.stdout, done.returncode, *codes)
    wanted = " ".join(map(str, arguments[: document["command"].count(" ") + 1]))
    assert document["command"] in {"error", wanted}
    return document


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENTS[name])


def test_a_field_that_no_schema_names_is_noticed() -> None:
    text = json.dumps({"schema": 2, "command": "cache clear", "cleared": 1, "more": 1})
    with pytest.raises(jsonschema.ValidationError, match="more"):
        check(text, 0)


def test_files_and_trees(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(NEEDED)
    (tmp_path / "b.py").write_bytes(b"(")
    said("verify", "a.py", "b.py", cwd=tmp_path, codes=(1,))
    said("diff", "a.py", cwd=tmp_path)
    said("landed", "a.py", "--check", cwd=tmp_path, codes=(3,))
    said("patch", "a.py", "--in-place", "--backup", cwd=tmp_path)
    assert said("revert", "a.py", cwd=tmp_path)["files"][0]["changed"]
    assert said("verify", "none.py", cwd=tmp_path, codes=(2,))["command"] == "error"


def test_the_demo_and_a_layout(tmp_path: Path, release_file: Callable[[str], bytes]) -> None:
    release_file("0.23.0")
    said("demo", "-o", "layout", cwd=tmp_path)
    baked = said("image", "oci:layout:0.23.0", cwd=tmp_path)
    assert baked["platforms"][0]["files"][0]["patches"]
    assert baked["moved"] == [], "the demo has made it already"
    moved = said("image", "oci:layout:0.23.0", "--to", "oci:other", cwd=tmp_path)
    assert moved["platforms"] == baked["platforms"]
    assert moved["digest"] == baked["digest"]


def test_commits(tmp_path: Path, release_file: Callable[[str], bytes]) -> None:
    clone = workshop(tmp_path)
    for version in ("0.17.1", "0.18.0", "0.20.0"):
        clone.commit(f"Work for {version}", release_file(version))
    document = said("landed", "--git", ".", cwd=tmp_path)
    assert len(document["histories"][0]["steps"]) == 3


def test_a_tree_with_reads_elsewhere(tmp_path: Path) -> None:
    package = tmp_path / "vllm"
    for path in (TARGET, "vllm/models/other.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(NEEDED)
    (package / "__init__.py").touch()
    (package / "_version.py").write_text("__version__ = version = '0.23.0'\n")
    said("verify", ".", "--everywhere", cwd=tmp_path, codes=(1,))
    document = said("landed", ".", "--check", "--everywhere", cwd=tmp_path)
    assert document["patches"][0]["findings"][0]["elsewhere"]
    assert document["checks"][0]["held"] == 1


def test_images_and_their_lock(registry: str, tmp_path: Path) -> None:
    place = f"{registry}/schemas/vllm"
    bases = [Base("v0.23.0", "0.23.0", NEEDED), Base("v0.28.0", "0.28.0", CLEAN)]
    digests = [base.push(registry, "schemas/vllm") for base in bases]
    write_lock(tmp_path / "images.lock", bases[0].entry(place, f"sha256:{'0' * 64}"))
    assert said("lock", "check", cwd=tmp_path, codes=(1,))["drifts"]
    said("lock", "add", "0.23.0", f"{place}:v0.23.0", cwd=tmp_path)
    assert len(said("lock", "update", cwd=tmp_path)["added"]) == 1
    assert len(said("lock", "list", cwd=tmp_path)["images"]) == 2
    (tmp_path / "other").mkdir()
    assert len(said("lock", "remove", "0.23.0", cwd=tmp_path / "other")["removed"]) == 1
    target = f"{registry}/schemas/patched"
    tried = said("image", "0.23.0", "--to", target, "--dry-run", cwd=tmp_path)
    done = said("image", "0.23.0", "--to", target, cwd=tmp_path)
    assert (tried["dry_run"], tried["digest"]) == (True, done["digest"])
    clean = said("image", "0.28.0", "--to", target, cwd=tmp_path, codes=(1,))
    assert (clean["error"]["kind"], clean["error"]["base"]) == ("AlreadyClean", f"{place}:v0.28.0")
    said("image", "0.28.0", "--to", target, "--allow-clean", cwd=tmp_path)
    write_lock(tmp_path / "images.lock", bases[0].entry(place, f"sha256:{'0' * 64}"))
    assert said("lock", "prune", cwd=tmp_path)["gone"][0]["whole"]
    assert digests[0] == done["base_digest"]


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "vllm-patcher" / "layers").mkdir(parents=True)
    assert said("cache", "info", cwd=tmp_path)["kinds"][0]["entries"] == 0
    assert said("cache", "dir", cwd=tmp_path)["path"] == str(tmp_path / "vllm-patcher")
    said("cache", "clear", cwd=tmp_path)
