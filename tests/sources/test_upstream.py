"""Files of releases, kept: the second time nothing is asked of a network."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from patcher.cache import Cache
from patcher.errors import FileAbsent, Unreadable
from patcher.sources.upstream import Releases
from tests.auth_servers import tunnels
from tests.certificates import make_certificate
from tests.commands import run
from tests.conftest import TARGET, missing
from tests.terminals import terminal
from tests.wheelhouse import Site, serving, wheel


def test_a_release_is_asked_once_and_then_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Releases(Cache(tmp_path / "kept"))
    with terminal(monkeypatch, "stderr") as shown:
        try:
            data = first.read("0.23.0", TARGET)
        except Unreadable as error:
            missing(f"PyPI cannot be reached: {error}")
    assert b"kv_b_proj" in data
    assert "reading vLLM 0.23.0" in shown.text
    with pytest.raises(FileAbsent):
        first.read("0.23.0", "vllm/no_such_file.py")
    assert first.names("0.23.0")[TARGET] == len(data)
    assert all(name.startswith("vllm/") and name.endswith(".py") for name in first.names("0.23.0"))
    # Where nothing can be reached, what is kept is still there, and what is not is known.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    again = Releases(Cache(tmp_path / "kept"))
    with terminal(monkeypatch, "stderr") as shown:
        assert again.read("0.23.0", TARGET) == data
    assert shown.text == ""
    with pytest.raises(FileAbsent, match=r"vLLM 0\.23\.0 has no vllm/no_such_file\.py"):
        again.read("0.23.0", "vllm/no_such_file.py")


def test_a_companys_authority_holds_for_all_that_is_read_of_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    old, new = (f"def f(self):\n    return {number}\n".encode() for number in (1, 2))
    site, file = Site(), tmp_path / Path(TARGET).name
    real = {
        "vllm/_version.py": b"__version__ = '0.3.0'\n",
        TARGET: b"def f(self):\n    return self.kv_b_proj.weight.dtype\n",
    }
    wheels = [site.put_wheel("0.1.0", old), site.put_wheel("0.2.0", new)]
    site.put_json([*wheels, site.put_bytes("0.3.0", wheel("0.3.0", real))])
    file.write_bytes(old)
    trusting = ("--ca-file", certificate.with_name("ca.pem"))
    draft = ("--before", "0.1.0", "--after", "0.2.0", "--function", f"{TARGET}:f")
    with (
        serving(site, certificate) as server,
        tunnels({"pypi.org:443": urlsplit(server).netloc}),
    ):
        # Each with a cache of its own: each asks.
        cache = iter(str(tmp_path / f"cache-{number}") for number in range(9))
        done = run("new", "two", *draft, "-o", tmp_path, *trusting, XDG_CACHE_HOME=next(cache))
        assert done.returncode == 0, done.stderr
        mine = ("--patch", tmp_path / "two.py")
        for call, code in (
            (("verify", file), 1),
            (("diff", file), 0),
            (("patch", file, "-o", tmp_path / "out.py"), 0),
            (("landed", file, "--no-cache"), 0),
        ):
            done = run(*call, *mine, *trusting, XDG_CACHE_HOME=next(cache))
            assert done.returncode == code, done.stderr
        assert (tmp_path / "out.py").read_bytes() == new
        shown = run("demo", "0.3.0", "-o", tmp_path / "demo", *trusting)
        assert shown.returncode == 0, shown.stderr
        lost = run("verify", file, *mine, XDG_CACHE_HOME=next(cache))
        assert lost.returncode == 3
        assert "pypi.org: its certificate is not trusted" in lost.stderr
