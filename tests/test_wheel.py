"""What is released: an sdist, the wheel that is built from it, and what an installed one can do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

import patcher
from tests.conftest import missing

pytestmark = pytest.mark.xdist_group("wheel")  # it is built once

CHECKOUT = Path(patcher.__file__).parent.parent
# Of https://www.apache.org/licenses/LICENSE-2.0.txt, the whole text.
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    place = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*build, "--directory", place], cwd=CHECKOUT, check=True, capture_output=True)
    [archive] = place.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(place, filter="data")
    [unpacked] = [path for path in place.iterdir() if path.is_dir()]
    return unpacked


@pytest.fixture(scope="module")
def site(sdist: Path) -> Path:
    """A folder with what the wheel of that source distribution installs."""
    place = sdist.parent / "wheel"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(place)]
    built = subprocess.run([*build, str(sdist)], capture_output=True, text=True, check=False)
    if built.returncode:
        missing(f"the wheel cannot be built: {built.stderr[-300:]}")
    [wheel] = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")  # noqa: S202
    return place / "site"


def test_an_installed_wheel_has_its_patches_pins_and_templates(tmp_path: Path, site: Path) -> None:
    assert not (site / "patches").exists()

    def installed(*arguments: str) -> dict[str, object]:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "patcher", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
        )
        assert ran.stdout, ran.stderr
        document: dict[str, object] = json.loads(ran.stdout)
        return document

    (tmp_path / "a.py").write_text("x = kv_b_proj.weight.dtype\n")
    assert installed("verify", "a.py")["verdicts"]
    assert len(installed("lock", "list")["images"]) == 47  # type: ignore[arg-type]
    assert (site / "patcher" / "_data" / "dockerfiles" / "patched.Dockerfile.j2").is_file()


def test_licence_and_metadata_go_along(sdist: Path, site: Path) -> None:
    [information] = site.glob("*.dist-info")
    for text in (sdist / "LICENSE", information / "licenses" / "LICENSE"):
        assert hashlib.sha256(text.read_bytes()).hexdigest() == APACHE_2
    metadata = BytesParser().parsebytes((information / "METADATA").read_bytes())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    minor = {each.rpartition(" ")[2] for each in metadata.get_all("Classifier", []) if "3." in each}
    assert {"3.11", "3.14"} <= minor, "the oldest and the newest that CI runs"


def test_the_version_is_the_installed_ones(tmp_path: Path, sdist: Path, site: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "patcher", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert ran.stdout == f"vllm-patcher, version {sdist.name.partition('-')[2]}\n"


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v0.3.0", "0.3.0"),
        ("v1.0.0rc1", "1.0.0rc1"),
        ("v0", "0.1.0.dev1"),  # the moving tag that users of the action name; no release
        ("", "0.1.0.dev1"),
        (None, "0.1.0.dev0"),
    ],
)
def test_a_release_is_named_by_its_tag(
    tmp_path: Path, sdist: Path, tag: str | None, version: str
) -> None:
    """A clone at that tag; one without a tag to count from; and a tree without git."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((sdist / name).read_bytes())
    (tmp_path / "patcher").mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    commands = [["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "a"]]
    for command in commands if tag is not None else []:
        subprocess.run([*git, *command], check=True)
    if tag:
        subprocess.run([*git, "tag", tag], check=True)
    ran = subprocess.run(
        [sys.executable, "-m", "hatchling", "version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert ran.stdout.strip().partition("+")[0] == version
