"""The pictures of this folder, made anew: the terminal as SVG, the page as PNG.

    python docs/images/make.py

It needs PyPI, and chromium for the page. Commands run on a pseudo-terminal, as a person sees them.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

FOLDER = Path(__file__).parent
COLUMNS = 96
PAGE = "900,450"

TERMINALS = {
    "verify": ["verify", "pypi:0.23.0", "pypi:0.28.0", "--patch", "kv-b-proj-dtype"],
    "landed": ["landed", "--patch", "kv-b-proj-dtype", "--quiet"],
}


def printed(arguments: list[str]) -> str:
    """What a command prints on a terminal."""
    outer, inner = pty.openpty()
    ran = subprocess.Popen(
        [sys.executable, "-m", "patcher", *arguments],
        env={**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(outer, 1 << 16)
        except OSError:  # on Linux, the end: nobody has the terminal open
            break
        if not piece:
            break
        pieces.append(piece)
    ran.wait()
    os.close(outer)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def draw(name: str, arguments: list[str]) -> None:
    """One terminal with a command and what it prints."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        call = " ".join(["$ vllm-patcher", *arguments]).removesuffix(" --quiet")
        console.print(call, highlight=False, style="bold")
        console.print(Text.from_ansi(printed(arguments).rstrip("\n")))
        text = console.export_svg(title="vllm-patcher", theme=MONOKAI, unique_id=name)
    # Every line is set apart by blanks at its end, and nothing may fetch a font.
    kept = [line.rstrip() for line in text.splitlines()]
    start, end = (
        next(number for number, line in enumerate(kept) if mark in line)
        for mark in ("@font-face", f".{name}-matrix")
    )
    (FOLDER / f"{name}.svg").write_text("\n".join([*kept[:start], *kept[end:]]) + "\n")


def photograph() -> None:
    """The page of `landed`, as a browser shows its beginning."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "landed.html"
        printed([*TERMINALS["landed"], "-o", str(page)])
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--window-size={PAGE}", f"--user-data-dir={folder}/profile",
                f"--screenshot={FOLDER / 'landed.png'}", page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    for name, arguments in TERMINALS.items():
        draw(name, arguments)
    photograph()
