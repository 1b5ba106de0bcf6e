"""Real parts for the tests: vLLM's files from PyPI, a Docker daemon, a registry.

vLLM's source never enters the repository: it is fetched once and cached outside the tree.
Where a part is missing a test is skipped with the reason; with CI=true it fails instead.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import os
import py_compile
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

# A busy machine is slow, and not wrong. The examples are the same on every run: a new one that
# shows a fault would turn a change red that has nothing to do with it. `make fuzz` draws new ones.
settings.register_profile(
    "patient",
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
)
settings.register_profile("quick", settings.get_profile("patient"), max_examples=10)
settings.load_profile("patient")


def _takes_all(folder: Path) -> bool:
    """Whether a folder has room for the tests' files, and takes attributes (memory: Linux 6.6)."""
    try:
        with TemporaryFile(dir=folder) as file:
            os.setxattr(file.fileno(), "user.note", b"")
    except OSError:
        return False
    return shutil.disk_usage(folder).free > 2 << 30


# The tests' files lie in memory, where there is a place for them: on a disk each is synced when the
# program has written it, which was two fifths of the time of the tests that bake and cut.
_MEMORY = Path("/dev/shm")  # noqa: S108
if _takes_all(_MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


# Whose coverage of the rules is counted. To count costs three times what is counted, so what runs
# thousands of programs or whole files of vLLM goes without: the examples, snippets and faults
# reach the same lines.
COUNTED = (Path(__file__).parent / "rules", Path(__file__).parent / "patches")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Let `no_cover` end the counting in a worker of xdist too.

    pytest-cov 7.1 counts twice there: as if it was alone, and then as a worker. What it pauses is
    the second; the first goes on, and nobody reads it.
    """
    counting = session.config.pluginmanager.getplugin("_cov")
    if hasattr(session.config, "workerinput") and counting and counting.cov_controller:
        counting.cov_controller.cov.stop()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark the tests before pytest picks some by their marks, and put them in order after xdist."""
    _mark(items)
    yield
    _tell_groups(items)
    # A group is one worker's: at the end the other one would wait for it.
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def _mark(items: list[pytest.Item]) -> None:
    """Mark as `quick` what needs this process alone: no other program, daemon, registry, network.

    It is read off the names that a test's code uses, so that nobody keeps a list.
    """
    known: dict[object, bool] = {}
    for path, own in itertools.groupby(items, lambda item: item.path):
        counted = any(path.is_relative_to(folder) for folder in COUNTED)
        for item in own:
            if not counted:
                item.add_marker(pytest.mark.no_cover)
            # The fuzzer has a target of its own, and costs a tenth of all that is quick.
            if isinstance(item, pytest.Function) and path.name != "test_fuzz.py":
                fixtures = item._fixtureinfo.name2fixturedefs.values()
                functions = [item.function, *(each.func for found in fixtures for each in found)]
                if not any(_leaves_the_process(function, known) for function in functions):
                    item.add_marker(pytest.mark.quick)


def _tell_groups(items: list[Any]) -> None:
    """Where pytest has a test's name since 9.2, write the one that xdist gave it: with its group.

    xdist 3.8 writes it where pytest had it before, and runs no group on one worker
    (github.com/pytest-dev/pytest-xdist/issues/1386).
    """
    for item in items:
        if hasattr(item, "_id") and hasattr(item, "_nodeid"):
            item._id = type(item._id).parse(item._nodeid)


def _leaves_the_process(function: Any, known: dict[object, bool]) -> bool:
    """Whether a function or class of tests/, or one that it names, may run a program or skip."""
    function = inspect.unwrap(function)
    if function in (missing, subprocess):
        return True
    if not getattr(function, "__module__", "").startswith("tests."):
        return False
    if function not in known:
        known[function] = False  # while it is being read: functions may name each other
        if inspect.isfunction(function):
            names = _names(function.__code__)
            named = [function.__globals__[name] for name in names if name in function.__globals__]
        else:
            named = list(vars(function).values()) if inspect.isclass(function) else []
        known[function] = any(
            _leaves_the_process(each, known)
            for each in named
            if inspect.isroutine(each) or inspect.isclass(each) or each is subprocess
        )
    return known[function]


def _names(code: CodeType) -> set[str]:
    """The global names in a function's code, and in that of the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


# A job in a shell's background ignores Ctrl-C, one under nohup SIGHUP, and their children with
# them; some tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TARGET = "vllm/model_executor/layers/attention/mla_attention.py"

# What the tests' containers run, and what Python itself loads at its start.
_MODULES = "encodings.ascii, importlib.util, json, py_compile, runpy, site, stat"

_LIST_FILES = (
    f"import {_MODULES}, sys, json\n"
    "names = [getattr(module, '__file__', None) for module in sys.modules.values()]\n"
    "print(json.dumps([name for name in names if name]))"
)


def missing(reason: str) -> NoReturn:
    """Skip with the reason, or fail where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where fetched vLLM files are kept between runs, outside the tree."""
    named = os.environ.get("VLLM_PATCHER_TEST_CACHE")
    path = Path(named) if named else Path.home() / ".cache" / "vllm-patcher-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the program keeps between runs stays out of this user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def release_file(cache_dir: Path) -> Callable[..., bytes]:
    """`release_file("0.23.0")` -> the target file's bytes, out of the real wheel on PyPI."""
    from patcher.errors import FileAbsent, Unreadable
    from patcher.sources.wheel import open_release

    def fetch(version: str, target: str = TARGET) -> bytes:
        cached = cache_dir / version / target
        absent = cached.with_name(f"{cached.name}.absent")
        if absent.exists():
            raise FileAbsent(f"vLLM {version} has no {target}", next_step="-")
        if not cached.exists():
            try:
                data = open_release(version).read(target)
            except FileAbsent:
                absent.parent.mkdir(parents=True, exist_ok=True)
                absent.touch()
                raise
            except Unreadable as error:
                missing(f"vLLM {version} cannot be fetched: {error}")
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(f".{os.getpid()}")
            partial.write_bytes(data)
            partial.replace(cached)
        return cached.read_bytes()

    return fetch


@pytest.fixture(scope="session")
def daemon() -> Iterator[docker.DockerClient]:
    """A client of the real daemon that DOCKER_HOST names."""
    import docker

    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://"):
        # Asked first: docker-py never closes a socket that it could not connect.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(host.removeprefix("unix://")):
                missing(f"no Docker daemon answers at {host}")
    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture
def nothing_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier test's folder may have had the inode number that this one's has now."""
    monkeypatch.setattr("patcher.files._cleared", set())


def free_port() -> int:
    """A loopback port that nobody listens on, and that nobody else is given: this process holds it.

    Bound and not listened on, it refuses connections. A program that sets SO_REUSEADDR, as
    docker-registry does, can listen there all the same. Let go, it could be the other worker's by
    then, or a later server's of this one, which a client that found nobody there does not ask.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    held.detach()
    return port


def wait_for_socket(address: int | str, process: subprocess.Popen[bytes]) -> None:
    """Return when something listens on a port or a file; fail when the process ends first."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    there = ("127.0.0.1", address) if isinstance(address, int) else address
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(family) as probe:
            if probe.connect_ex(there) == 0:
                return
        time.sleep(0.01)
    pytest.fail(f"{process.args!r} never listened on {address}")


@contextmanager
def real_registry(root: Path, *, tls: str = "", auth: str = "") -> Iterator[str]:
    """`127.0.0.1:PORT` of a real, empty registry (Debian's docker-registry) that lives in `root`.

    Of the same `root` it is the same. `tls` and `auth` are those sections of its config.
    """
    program = shutil.which("docker-registry")
    if program is None:
        missing("docker-registry is not installed (apt-get install docker-registry)")
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config, data = root / "config.yml", root / "data"
    # It allocates some megabytes; to collect them at once is half of what it computes.
    environment = {**os.environ, "GOGC": "800"}
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'{f', tls: {tls}' if tls else ''}}}\n"
        f"{f'auth: {auth}' if auth else ''}\n"
    )
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(config)], stdout=log, stderr=log, env=environment
        )
    try:
        wait_for_socket(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a real registry."""
    with real_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def _copy(source: Path, root: Path, destination: str) -> None:
    target = root / destination.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def shared_libraries(binary: Path) -> list[str]:
    """The absolute paths that the loader takes for a binary, the loader itself included."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", listed)


@pytest.fixture(scope="session")
def python_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory (under 30 MB) that, as an image's root, runs `/usr/local/bin/python3`.

    It is this interpreter without site-packages: point PYTHONPATH at what a test adds. Copy it
    (`shutil.copytree`) or add to it in a layer; never write into it.
    """
    if shutil.which("ldd") is None:
        missing("ldd is not here: no Linux base image can be made of this interpreter")
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    root = tmp_path_factory.mktemp("python-rootfs")
    listed = subprocess.run(
        [interpreter, "-I", "-S", "-c", _LIST_FILES], capture_output=True, text=True, check=True
    )
    stdlib = Path(json.__file__).parents[1]
    home = f"/usr/local/lib/{stdlib.name}"
    # Compiled, whatever times the files get in an image: else each start does it, for 0.13 seconds.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for name in map(Path, json.loads(listed.stdout)):
        inside = f"{home}/{name.relative_to(stdlib)}"
        _copy(name, root, inside)
        if name.suffix == ".py":
            compiled = f"{root}{importlib.util.cache_from_source(inside)}"
            py_compile.compile(str(name), compiled, inside, invalidation_mode=unchecked)
    (root / home.lstrip("/") / "lib-dynload").mkdir(exist_ok=True)
    _copy(interpreter, root, "/usr/local/bin/python3")
    for binary in [interpreter, *root.glob(f".{home}/lib-dynload/*.so")]:
        for library in shared_libraries(binary):
            _copy(Path(library), root, library)
    return root
