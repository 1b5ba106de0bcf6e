"""The oldest release of each direct dependency that pyproject.toml allows, as pip's constraints."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def constraints(project: Path) -> list[str]:
    """`name==version` for each `name>=version`, markers kept."""
    document = tomllib.loads(project.read_text())
    stated = document["project"]["dependencies"]
    assert all(">=" in each for each in stated), "a dependency without a lower bound"
    return [re.sub(r">=([^,;\s]+)[^;]*", r"==\1 ", each).strip() for each in stated]


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(Path("pyproject.toml"))) + "\n")
