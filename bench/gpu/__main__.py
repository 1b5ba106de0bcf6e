"""Stock and patched vLLM, every case, on this machine's GPU: `python -m bench.gpu OUT TREE...`.

A TREE is a folder that holds an installed vLLM (site-packages). It is copied, and the copy is
patched by `vllm-patcher patch --in-place`. Each case then runs by `vllm-patcher smoke --python` on
both, some at a time; and once more on the stock one with the long prompt in one piece, which says
what the tokens must be. Writes OUT/evidence.json and OUT/evidence.md.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.smoke import probe
from patcher.smoke.cases import CASES, read_probe

# What the cases are about.
_PATCHES = ("kv-b-proj-dtype", "kv-b-proj-integer-weights")

# At a time: each takes 10 % of the GPU's memory and one processor.
_AT_ONCE = 7
_LIMIT = 240
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Tree:
    """An installed vLLM and what to call it."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """This vLLM before every other."""
        others = os.environ.get("PYTHONPATH", "")
        return {**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{others}"}


def ours(*arguments: str, environment: dict[str, str] | None = None) -> Any:
    """`vllm-patcher ARGUMENTS --json`: its exit code, its document and its talk."""
    ran = subprocess.run(
        [sys.executable, "-m", "patcher", *arguments, "--json"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(ran.stdout) if ran.stdout.strip() else {}
    return {"exit": ran.returncode, "document": document, "talk": ran.stderr[-8000:]}


def patched(tree: Path, work: Path) -> Tree:
    """A copy that `vllm-patcher patch` has patched."""
    copy = work / f"{tree.name}-patched"
    shutil.copytree(tree, copy)
    named = [each for name in _PATCHES for each in ("--patch", name)]
    done = ours("patch", str(copy), "--in-place", *named)
    print(f"{copy.name}: exit {done['exit']}\n{done['talk']}", flush=True)
    return Tree("patched", copy)


def smoke(tree: Tree, case: str) -> Any:
    """One case by `vllm-patcher smoke`."""
    called = ("smoke", "--python", sys.executable, "--case", case, "--timeout", str(_LIMIT))
    done = ours(*called, environment=tree.environment)
    [found] = done["document"].get("cases") or [{"case": case, "state": "none", **done}]
    print(
        f"{tree.folder.name:24} {case:10} {found['state']} {found.get('reason') or ''}", flush=True
    )
    return {"tree": tree.folder.name, "kind": tree.name, "exit": done["exit"], **found}


def in_one_piece(tree: Tree, case: str) -> Any:
    """The same prompts with nothing cut: what the tokens are where no context is read."""
    command = [sys.executable, "-P", probe.__file__, case, "4096"]
    try:
        ran = subprocess.run(
            command, env=tree.environment, capture_output=True, text=True, timeout=_LIMIT, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return {"tree": tree.folder.name, "kind": "whole", "case": case}
    return {"tree": tree.folder.name, "kind": "whole", "case": case, **read_probe(ran.stdout)}


def table(rows: list[Any]) -> str:
    """The runs as Markdown, a line a case of a vLLM."""
    lines = [
        "| vLLM | case | stock | patched | tokens as in one piece |",
        "|---|---|---|---|---|",
    ]
    cells = {(row["tree"].removesuffix("-patched"), row["case"], row["kind"]): row for row in rows}
    for tree, case in dict.fromkeys((key[0], key[1]) for key in cells):
        stock, cured, whole = (
            cells.get((tree, case, kind), {}) for kind in ("stock", "patched", "whole")
        )
        pairs = list(zip(cured.get("long", ()), whole.get("long", ()), strict=False))
        same = f"{sum(one == other for one, other in pairs)} of {len(pairs)}" if pairs else "-"
        version = stock.get("vllm") or cured.get("vllm") or tree
        lines.append(f"| {version} | {case} | {_cell(stock)} | {_cell(cured)} | {same} |")
    return "\n".join(lines) + "\n"


def _cell(row: Any) -> str:
    error = (row.get("error") or "").splitlines()
    said = f": `{error[0][:120]}`" if error else ""
    return f"{row.get('state', '-')}{said}".replace("|", "\\|")


def main() -> None:
    out, *trees = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    began = datetime.datetime.now(datetime.UTC)
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = []
        for folder in trees:
            stock, cured = Tree("stock", folder), patched(folder, Path(work))
            for case in CASES:
                waiting += [pool.submit(smoke, tree, case.name) for tree in (stock, cured)]
            waiting += [pool.submit(in_one_piece, stock, case.name) for case in CASES]
        for each in waiting:
            rows.append(each.result())
            (out / "evidence.json").write_text(json.dumps(rows, indent=1))
            (out / "evidence.md").write_text(table(rows))
    took = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
    print(f"{began:%Y-%m-%d}, {took:.0f} s\n{table(rows)}")


if __name__ == "__main__":
    main()
