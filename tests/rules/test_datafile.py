"""DataFile: what is there decides whether it may be put."""

from __future__ import annotations

import hashlib

import pytest

from patcher.errors import ProofFailed, RewriteRefused
from patcher.rules.datafile import DataFile
from patcher.rules.rule import Rewritten

PATH = "vllm/configs/E=128,device_name=NVIDIA_GB10.json"
NEW, OLD = b'{"1": {"warps": 4}}\n', b'{"1": {"warps": 8}}\n'
FRESH = DataFile(PATH, NEW)
REPLACING = DataFile(PATH, NEW, (hashlib.sha256(OLD).hexdigest(),))


@pytest.mark.parametrize(
    ("rule", "there", "said"),
    [
        (FRESH, None, True),
        (FRESH, NEW, False),
        (FRESH, OLD, f"{PATH} has another content than the patch knows"),
        (REPLACING, None, f"there is no {PATH}"),
        (REPLACING, OLD, True),
        (REPLACING, NEW, False),
        (REPLACING, b"{}", f"{PATH} has another content than the patch knows"),
    ],
)
def test_what_is_there_decides(rule: DataFile, there: bytes | None, said: bool | str) -> None:
    found = rule.find({PATH: there})
    assert (found.unknown or found.absent or found.places[0].needed) == said


@pytest.mark.parametrize(("rule", "there"), [(FRESH, None), (REPLACING, OLD)])
def test_it_is_put_whole(rule: DataFile, there: bytes | None) -> None:
    after = rule.rewrite({PATH: there})
    rule.prove({PATH: there}, after)
    assert after[PATH].data == NEW
    edit = after[PATH].edits[0]
    assert (edit.before, edit.after) == (there or b"", NEW)


def test_another_content_is_not_overwritten() -> None:
    with pytest.raises(RewriteRefused, match="another content"):
        FRESH.rewrite({PATH: b"{}"})
    with pytest.raises(ProofFailed):
        FRESH.prove({PATH: b"{}"}, {PATH: Rewritten(NEW, ())})
    with pytest.raises(ProofFailed):
        FRESH.prove({PATH: None}, {PATH: Rewritten(NEW + b" ", ())})


@pytest.mark.parametrize("path", ["vllm/a.py", "vllm/_C.abi3.so"])
def test_code_is_not_data(path: str) -> None:
    with pytest.raises(ValueError, match="is code"):
        DataFile(path, b"")


def test_what_it_may_take_the_place_of_is_explained() -> None:
    size = len(NEW)
    assert FRESH.explain() == (f"{PATH}: {size} bytes, where there is none",)
    assert REPLACING.explain() == (f"{PATH}: {size} bytes, in place of a known content",)
    two = DataFile(PATH, NEW, ("0" * 64, "1" * 64))
    assert two.explain() == (f"{PATH}: {size} bytes, in place of one of 2 known contents",)
