"""Files of releases, kept: the second time nothing is asked of a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from patcher.cache import Cache
from patcher.errors import FileAbsent, Unreadable
from patcher.sources.upstream import Releases
from tests.conftest import TARGET, missing


def test_a_release_is_asked_once_and_then_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Releases(Cache(tmp_path / "kept"))
    try:
        data = first.read("0.23.0", TARGET)
    except Unreadable as error:
        missing(f"PyPI cannot be reached: {error}")
    assert b"kv_b_proj" in data
    with pytest.raises(FileAbsent):
        first.read("0.23.0", "vllm/no_such_file.py")
    # Where nothing can be reached, what is kept is still there.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Releases(Cache(tmp_path / "kept")).read("0.23.0", TARGET) == data
