"""A terminal in a test's own process: a pseudo-terminal that stands for stdout or stderr."""

from __future__ import annotations

import os
import re
import sys
import termios
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass
class Terminal:
    """What was sent to it."""

    sent: str = ""

    @property
    def text(self) -> str:
        """Without colours and movements."""
        return _CONTROL.sub("", self.sent.replace("\r\n", "\n"))


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch, *streams: str, columns: int = 80
) -> Iterator[Terminal]:
    """These streams, `stdout` or `stderr`, are one terminal; what it got is known at the end."""
    outer, inner = os.openpty()
    termios.tcsetwinsize(inner, (24, columns))
    os.set_blocking(outer, False)
    got = Terminal()
    with monkeypatch.context() as patched, os.fdopen(inner, "w", buffering=1) as stream:
        patched.setenv("TERM", "xterm")
        patched.setenv("COLUMNS", str(columns))
        patched.delenv("NO_COLOR", raising=False)
        for each in streams:
            patched.setattr(sys, each, stream)
        try:
            yield got
        finally:
            stream.flush()
            with os.fdopen(outer, "rb", buffering=0) as reader:
                pieces = iter(lambda: reader.read(1 << 16), None)  # None: nothing more is there
                got.sent = b"".join(pieces).decode()
