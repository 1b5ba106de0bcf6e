"""A small module before and after fixes of every kind."""

from __future__ import annotations

from patcher.errors import ProofFailed
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.merging.merge import merge_file
from patcher.rules.backport.merging.state import Said, overall
from patcher.rules.backport.proving.prove import prove
from patcher.rules.backport.scope import Sides

PATH = "vllm/engine.py"

BEFORE = '''\
"""An engine."""

import os
from collections import (
    deque,
)


def width(layer):
    return layer.width


class Drafter:
    """Proposes tokens."""

    limit = 4

    def __init__(self, model):
        self.model = model
        self.queue = deque()

    def share(self, target):
        # Whether the target's embeddings fit.
        if self.model.embeds:
            drafted = width(self.model)
            if drafted != width(target):
                raise ValueError("widths differ")
            self.model.embeds = target.embeds
        log(
            "shared",
            target=target,
        )
        for layer in target.layers:
            self.queue.append(layer)
        return self.model


class Verifier:
    limit = 4

    def share(self, target):
        # Whether the target's embeddings fit.
        if self.model.embeds:
            drafted = width(self.model)
            if drafted != width(target):
                raise ValueError("widths differ")
            self.model.embeds = target.embeds
        return self.model


def log(text, **more):
    os.write(1, text.encode())
'''

FIXES = {
    "condition": [("if self.model.embeds:\n", "if self.model.embeds and target.embeds:\n")],
    "inserted": [
        (
            "            drafted = width(self.model)\n",
            "            drafted = width(self.model)\n            drafted += 1\n",
        )
    ],
    "deleted": [("            self.queue.append(layer)\n", "            pass\n")],
    "argument": [
        ("            target=target,\n", "            target=target,\n            force=True,\n")
    ],
    "two places": [
        (
            "        for layer in target.layers:\n",
            "        for layer in reversed(target.layers):\n",
        ),
        ('raise ValueError("widths differ")', 'raise TypeError("widths differ")'),
    ],
    "import": [
        ("import os\n", "import os\nimport math\n"),
        ("            drafted = width(self.model)\n", "            drafted = math.floor(1.5)\n"),
    ],
    "calls": [
        (
            "            self.model.embeds = target.embeds\n        log(\n",
            "            log('embeds')\n"
            "            self.model.embeds = target.embeds\n        log(\n",
        )
    ],
    "own line": [("    limit = 4\n\n    def __init__", "    limit = 5\n\n    def __init__")],
    "new method": [
        (
            "    def share(self, target):\n",
            "    def wide(self):\n        return width(self.model)\n\n"
            "    def share(self, target):\n",
        ),
        ("            drafted = width(self.model)\n", "            drafted = self.wide()\n"),
    ],
    "appended": [
        (
            "    os.write(1, text.encode())\n",
            "    os.write(1, text.encode())\n\n\ndef flush():\n    os.fsync(1)\n",
        )
    ],
    "future": [
        ("import os\n", "from __future__ import annotations\nimport os\n"),
        ("            drafted = width(self.model)\n", "            drafted: int | None = 0\n"),
    ],
    "method gone": [
        (
            "    def __init__(self, model):\n        self.model = model\n"
            "        self.queue = deque()\n\n",
            "",
        )
    ],
}


def fixed(name: str, source: str = BEFORE) -> str:
    for old, new in FIXES[name]:
        assert old in source
        source = source.replace(old, new, 1)
    return source


def sides_of(name: str) -> list[Sides]:
    return changed_scopes(PATH, BEFORE.encode(), fixed(name).encode())


def verdict(source: str | bytes, sides: list[Sides]) -> Said:
    data = source.encode() if isinstance(source, str) else source
    return overall(merge_file(data, sides).said)


def is_proven(original: bytes, result: bytes, sides: list[Sides]) -> bool:
    try:
        prove(original, result, sides)
    except ProofFailed:
        return False
    return True
