"""The proof beside an image, as oras, cosign and crane of Debian's sid show it: `make engines`.

The registry is Debian's, which has no referrers API: the tools find the proof by its fallback tag.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patcher.jobs.image import Order, Report
from patcher.jobs.opening import publish_job
from patcher.jobs.proof import KIND
from patcher.web.http import HttpSettings
from tests.conftest import TARGET, missing
from tests.engines.conftest import SOURCE, guard
from tests.engines.unpacked import NotHere, unpacked
from tests.indexes import add_index
from tests.installations import installed_file
from tests.memory import OCI, Memory
from tests.places.test_tools import write_lock
from tests.registries import upload

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("tools")]


@pytest.fixture(scope="module")
def made(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A patched image in the registry, with its proof."""
    blobs = Memory()
    stated = installed_file("vllm/_version.py", b"__version__ = version = '0.23.0'\n")
    root = add_index(blobs, OCI, [stated, installed_file(TARGET, SOURCE)], gzipped=True)
    upload(registry, "base/vllm", blobs.data, root)
    lock = write_lock(tmp_path_factory.mktemp("lock") / "images.lock", registry, root["digest"])
    order, to = Order((guard(),)), f"{registry}/made/referred"
    report = publish_job("0.23.0", to, lock, order, HttpSettings(), lambda _: None)
    assert report.proof is not None
    return report


@pytest.fixture
def tool(tmp_path: Path) -> Callable[..., str]:
    """Runs a tool of Debian's sid, and gives what it prints."""

    def run(name: str, *arguments: str) -> str:
        try:
            program = unpacked("sid", name) / "usr" / "bin" / name
        except NotHere as error:
            missing(f"no {name}: {error}")
        done = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env={"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_oras_discovers_the_proof_and_pulls_its_files(
    made: Report, tool: Callable[..., str], tmp_path: Path
) -> None:
    said = tool("oras", "discover", "--plain-http", "--format", "json", made.tags[-1])
    [found] = json.loads(said)["referrers"]
    assert (found["digest"], found["artifactType"]) == (made.proof, KIND)
    tool("oras", "pull", "--plain-http", f"{made.repository}@{made.proof}")
    document = json.loads((tmp_path / "proof.json").read_bytes())
    assert document["image"] == made.digest
    assert 'hasattr(self.kv_b_proj, "weight")' in (tmp_path / "proof.diff").read_text()


def test_cosign_shows_the_proof(made: Report, tool: Callable[..., str]) -> None:
    tree = tool("cosign", "tree", "--allow-http-registry", made.tags[-1])
    assert f"{made.repository}@{made.proof}" in tree


def test_crane_finds_every_part_of_the_image(made: Report, tool: Callable[..., str]) -> None:
    tool("crane", "validate", "--insecure", "--remote", made.tags[-1])
    assert tool("crane", "digest", "--insecure", made.tags[-1]).strip() == made.digest
