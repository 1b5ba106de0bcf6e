"""The compose file is one, and vLLM's own parser takes its arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import missing

FOLDER = Path(__file__).parents[2] / "examples" / "glm-4.7-flash"
COMPOSE = FOLDER / "compose.yaml"


def service() -> Any:
    return yaml.safe_load(COMPOSE.read_text())["services"]["vllm"]


def compose(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        missing("docker-compose is not installed (apt-get install docker-compose)")
    called = [program, "--file", str(file), "config", "--quiet"]
    return subprocess.run(called, capture_output=True, text=True, check=False)


def test_compose_takes_the_file(tmp_path: Path) -> None:
    done = compose(COMPOSE)
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("entrypoint:", "entry:"))
    assert "Unsupported config option" in compose(broken).stderr


def test_the_page_has_a_line_for_every_choice() -> None:
    page = (FOLDER / "README.md").read_text()
    own = {"--served-model-name", "--host", "--port"}
    for argument in service()["command"][1:]:
        name, _, value = argument.partition("=")
        inner = value.strip("{}").partition('"')[2].partition('"')[0]
        assert name in own or name in page or inner in page, argument
    for name in service()["environment"]:
        assert name in page
