"""The seam between "a vLLM artifact" and "the bytes of one of its files".

One interface, one file for each implementation. A source never decides anything about the
bytes it hands out.
"""

from __future__ import annotations

from typing import Protocol

# No source hands out a larger file. vLLM's largest Python file has under 1 MB.
MOST_BYTES = 16 << 20


class Source(Protocol):
    """Something that can hand out a file of vLLM by its path under site-packages."""

    @property
    def label(self) -> str:
        """The artifact's name as a person would type it: `pypi:0.23.0`, a path, a reference."""
        ...

    def read(self, target: str) -> bytes:
        """The bytes of `target`, a posix path under site-packages (`vllm/...`).

        Raises `FileAbsent` where the artifact was read and holds no such file, `Unreadable`
        where it could not be read.
        """
        ...

    def version(self) -> str | None:
        """vLLM's version as the artifact itself states it; None where it states none."""
        ...
