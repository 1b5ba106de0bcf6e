# ruff: noqa: S108 -- paths in images
"""Which vLLM is run: forty shapes of image, asked of a layout, a registry, a daemon, and Python.

Python's own answer comes out of one container for all shapes: each is a folder in one image, its
layers are that image's layers, and a process changes its root into it and starts the command that
the shape's config states. What the program reads has the same names; the interpreter's files are
empty there, for nothing is run.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patcher.daemon.engine import local_image
from patcher.errors import PatcherError
from patcher.oci.layout import existing_layout, open_image
from patcher.oci.model import OCI_LAYER, dump_json
from patcher.oci.reference import host_platform, parse_reference
from patcher.registry.image import open_remote
from patcher.web.http import Http
from tests.memory import OCI, Memory, add_image
from tests.registries import upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from patcher.oci.installation import Installation

TARGET = "vllm/model_executor/layers/attention/mla_attention.py"
LIB = f"python3.{sys.version_info.minor}"
EXTENSION = f"cpython-3{sys.version_info.minor}-x86_64-linux-gnu.so"
SITE = f"/usr/local/lib/{LIB}/site-packages"
VENV = f"/opt/venv/lib/{LIB}/site-packages"
OTHER = f"/opt/other/lib/{LIB}/site-packages"
PATH = "PATH=/usr/local/bin:/usr/bin"
IN_VENV = "PATH=/opt/venv/bin:/usr/local/bin:/usr/bin"

# Where the package that is imported lies, links followed, and what its module is loaded from.
ASK = (
    "import importlib.util, os, json\n"
    "answer = [None, None]\n"
    "try:\n"
    " import vllm\n"
    " answer[0] = os.path.realpath(list(vllm.__path__)[0])\n"
    " spec = importlib.util.find_spec('vllm.model_executor.layers.attention.mla_attention')\n"
    " file = os.path.split(spec.origin)\n"
    " answer[1] = os.path.realpath(file[0]) + '/' + file[1]\n"
    "except (ImportError, AttributeError): pass\n"
    "print(json.dumps(answer))\n"
)


@dataclass(frozen=True)
class Entry:
    """A file, a folder (`data` None), or a link: `-> x` a symbolic, `=> x` a hard one."""

    path: str
    data: str | None = ""


def package(root: str, source: str = "x = 1\n", *, init: bool = True) -> list[Entry]:
    """A vLLM under a root; without `init` its folders are namespace packages."""
    folders = ["vllm", "vllm/model_executor", "vllm/model_executor/layers"]
    folders.append("vllm/model_executor/layers/attention")
    inits = [Entry(f"{root}/{folder}/__init__.py") for folder in folders if init]
    version = Entry(f"{root}/vllm/_version.py", "__version__ = version = '0.23.0'\n")
    return [*inits, version, Entry(f"{root}/{TARGET}", source)]


def venv(prefix: str = "/opt/venv", **settings: str) -> list[Entry]:
    """A virtual environment of the image's Python, without packages."""
    stated = {"home": "/usr/local/bin", **settings}
    lines = "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in stated.items())
    return [
        Entry(f"{prefix}/pyvenv.cfg", lines),
        Entry(f"{prefix}/bin/python", "-> /usr/local/bin/python3"),
        Entry(f"{prefix}/bin/python3", "-> python"),
        Entry(f"{prefix}/lib/{LIB}/site-packages", None),
    ]


@dataclass(frozen=True)
class Shape:
    """An image: the layers upon the interpreter's, the config, and what is right.

    `runs` is the root of the vLLM that runs, None for none, or `refused` where it is another
    file that runs; `may` are the roots of all that are looked at, the first one first.
    `asked` is whether Python is asked too: where it is here to be asked.
    """

    layers: tuple[list[Entry], ...]
    runs: str | None
    may: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=lambda: {"Env": [PATH]})
    refused: str = ""
    named: tuple[str, ...] = ()
    asked: bool = True


def shape(*layers: list[Entry], runs: str | None, **more: Any) -> Shape:
    config = {"Env": [PATH], **more.pop("config", {})}
    may = more.pop("may", (runs,) if runs else ())
    return Shape(layers, runs, tuple(may), config, **more)


def env(*lines: str) -> dict[str, Any]:
    return {"Env": [PATH, *lines]}


FINDER = (
    "import sys\n"
    "from importlib.util import spec_from_file_location\n"
    "MAPPING: dict[str, str] = {'vllm': '/src/vllm/vllm'}\n"
    "NAMESPACES: dict[str, list[str]] = {}\n"
    "class Finder:\n"
    " @classmethod\n"
    " def find_spec(cls, name, path=None, target=None):\n"
    "  if name in MAPPING:\n"
    "   return spec_from_file_location(name, MAPPING[name] + '/__init__.py',\n"
    "     submodule_search_locations=[MAPPING[name]])\n"
    "def install(): sys.meta_path.append(Finder)\n"
)
EDITABLE = [
    Entry(f"{SITE}/__editable___vllm_0_23_0_finder.py", FINDER),
    Entry(
        f"{SITE}/__editable__.vllm-0.23.0.pth",
        "import __editable___vllm_0_23_0_finder; __editable___vllm_0_23_0_finder.install()",
    ),
]
LIBRARY = f"{SITE}/vllm/model_executor/layers"
MODULE = f"{LIBRARY}/attention/mla_attention"
SCRIPT = "import sys; exec(open('/ask.py').read())\n"

SHAPES: dict[str, Shape] = {
    # --- Installed packages.
    "site-packages": shape(package(SITE), runs=SITE),
    "packages of a Python that is not here": shape(
        package("/usr/local/lib/python3.12/dist-packages"),
        runs=None,
        may=("/usr/local/lib/python3.12/dist-packages",),
    ),
    "none at all": shape([Entry(f"{SITE}/other/vllm/__init__.py")], runs=None, refused="no vLLM"),
    "a package of that name that is another": shape(
        [Entry(f"{SITE}/vllm/__init__.py")], package("/opt/src"), runs=SITE, named=("/opt/src",)
    ),
    "a hard link into a cache": shape(
        [*package("/root/.cache/a"), *package(SITE)[:-1]],
        [Entry("/root/.cache/a/f", "x = 2\n"), Entry(f"{SITE}/{TARGET}", "=> /root/.cache/a/f")],
        runs=SITE,
        named=("/root/.cache/a",),
    ),
    "a file that is a link into a cache": shape(
        [*package(SITE)[:-1], Entry(f"{SITE}/{TARGET}", "-> /root/.cache/f")],
        [Entry("/root/.cache/f", "x = 2\n")],
        runs=SITE,
    ),
    "the package is a link": shape(
        package("/src"), [Entry(f"{SITE}/vllm", "-> /src/vllm")], runs="/src"
    ),
    "the package is a link to another name": shape(
        [
            Entry(entry.path.replace("/src/vllm", "/src/fork"), entry.data)
            for entry in package("/src")
        ],
        [Entry(f"{SITE}/vllm", "-> /src/fork")],
        runs="/src",
    ),
    "its folder is a link": shape(
        package("/data/packages"), [Entry(SITE, "-> /data/packages")], runs="/data/packages"
    ),
    "lib64 is a link to lib": shape(
        package(SITE), [Entry("/usr/local/lib64", "-> lib")], runs=SITE
    ),
    # --- Layers.
    "a second copy that was removed": shape(
        [*package(SITE), *package(VENV)], [Entry("/opt/venv/lib/.wh." + LIB)], runs=SITE
    ),
    "a second copy below an opaque folder": shape(
        [*package(SITE), *package(VENV)], [Entry("/opt/.wh..wh..opq")], runs=SITE
    ),
    "an upper layer brings another copy": shape(
        package(SITE),
        [*venv(), *package(VENV)],
        runs=VENV,
        may=(VENV, SITE),
        config={"Env": [IN_VENV]},
    ),
    "an upper layer makes a file of it": shape(
        [*package(SITE), *package(VENV)], [Entry("/opt/venv/lib", "x")], runs=SITE
    ),
    # --- Virtual environments.
    "a virtual environment": shape([*venv(), *package(VENV)], runs=VENV, config={"Env": [IN_VENV]}),
    "a virtual environment beside": shape(
        [*venv(), *package(VENV)], package(SITE), runs=SITE, may=(SITE, VENV)
    ),
    "an environment of several": shape(
        *([*venv(f"/ray/w{n}"), *package(f"/ray/w{n}/lib/{LIB}/site-packages")] for n in range(3)),
        runs=None,
        may=tuple(f"/ray/w{n}/lib/{LIB}/site-packages" for n in range(3)),
    ),
    "an environment that sees the system's": shape(
        [*venv(include_system_site_packages="true"), *package(SITE)],
        runs=SITE,
        config={"Env": [IN_VENV]},
    ),
    "an environment that does not": shape(
        [*venv(include_system_site_packages="false"), *package(SITE)],
        runs=None,
        may=(SITE,),
        config={"Env": [IN_VENV]},
    ),
    "an environment behind a link": shape(
        [*venv("/data/env"), *package(f"/data/env/lib/{LIB}/site-packages")],
        [Entry("/opt/venv", "-> /data/env")],
        runs=f"/data/env/lib/{LIB}/site-packages",
        config={"Env": [IN_VENV]},
    ),
    "another Python on PATH": shape(
        [
            Entry("/opt/other/bin/python3", "=> /usr/local/bin/python3"),
            Entry(f"/opt/other/lib/{LIB}", f"=> /usr/local/lib/{LIB}"),
            *package(OTHER),
            *package(SITE),
        ],
        runs=OTHER,
        may=(OTHER, SITE),
        config={"Env": ["PATH=/opt/other/bin:/usr/local/bin"]},
    ),
    # --- Variables.
    "PYTHONPATH": shape(
        [*package(SITE), *package("/opt/src")],
        runs="/opt/src",
        may=("/opt/src", SITE),
        config=env("PYTHONPATH=/nowhere:/opt/src/"),
    ),
    "a relative PYTHONPATH": shape(
        [*package(SITE), *package("/opt/src")],
        runs="/opt/src",
        may=("/opt/src", SITE),
        config={**env("PYTHONPATH=../src"), "WorkingDir": "/opt/work"},
    ),
    "PYTHONPATH through a link": shape(
        [*package("/data/src"), Entry("/opt/src", "-> ../data/./src")],
        runs="/data/src",
        config=env("PYTHONPATH=/opt/src"),
    ),
    "a user's own packages": shape(
        [*package(SITE), *package(f"/home/me/.local/lib/{LIB}/site-packages")],
        runs=f"/home/me/.local/lib/{LIB}/site-packages",
        may=(f"/home/me/.local/lib/{LIB}/site-packages", SITE),
        config=env("HOME=/home/me"),
    ),
    "a user's own packages by /etc/passwd": shape(
        [Entry("/etc/passwd", "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n")],
        [*package(SITE), *package(f"/home/me/.local/lib/{LIB}/site-packages")],
        runs=f"/home/me/.local/lib/{LIB}/site-packages",
        may=(f"/home/me/.local/lib/{LIB}/site-packages", SITE),
        config={**env(), "User": "me:1000"},
    ),
    "a user's own packages, switched off": shape(
        [*package(SITE), *package(f"/home/me/.local/lib/{LIB}/site-packages")],
        runs=SITE,
        may=(SITE, f"/home/me/.local/lib/{LIB}/site-packages"),
        config=env("HOME=/home/me", "PYTHONNOUSERSITE=1"),
    ),
    "PYTHONUSERBASE": shape(
        package(f"/base/lib/{LIB}/site-packages"),
        runs=f"/base/lib/{LIB}/site-packages",
        config=env("PYTHONUSERBASE=/base"),
    ),
    # --- The working directory.
    "the working directory": shape(
        [*package(SITE), *package("/work")],
        runs="/work",
        may=("/work", SITE),
        config={"WorkingDir": "/work"},
    ),
    "the working directory is safe": shape(
        [*package(SITE), *package("/work")],
        runs=SITE,
        may=(SITE, "/work"),
        config={**env("PYTHONSAFEPATH=1"), "WorkingDir": "/work"},
    ),
    "a folder of that name there": shape(
        [*package(SITE), Entry("/work/vllm/notes.txt")],
        runs=SITE,
        config={"WorkingDir": "/work"},
    ),
    "a module of that name there": shape(
        [*package(SITE), Entry("/work/vllm.py")],
        runs=None,
        refused="imports /work/vllm.py",
        config={"WorkingDir": "/work"},
    ),
    # --- .pth files and editable installs.
    "a .pth file": shape(
        [Entry(f"{SITE}/a.pth", "# a\n\n/nowhere\n/src\n"), *package("/src")], runs="/src"
    ),
    "a relative .pth file": shape(
        [Entry(f"{SITE}/a.pth", "../../../../../src/x/.."), *package("/src"), Entry("/src/x/y")],
        runs="/src",
    ),
    "two .pth files": shape(
        [Entry(f"{SITE}/b.pth", "/one"), Entry(f"{SITE}/a.pth", "/two"), *package("/one")],
        package("/two"),
        runs="/two",
        may=("/two", "/one"),
    ),
    "an editable install": shape(
        [Entry(f"{SITE}/__editable__.vllm-0.23.0.pth", "/src/vllm\n"), *package("/src/vllm")],
        runs="/src/vllm",
    ),
    "an editable install with a finder": shape(
        [*EDITABLE, *package("/src/vllm")], runs="/src/vllm"
    ),
    "an editable install that a folder hides": shape(
        [*EDITABLE, *package("/src/vllm"), Entry("/work/vllm/notes.txt")],
        runs=None,
        may=("/src/vllm",),
        config={"WorkingDir": "/work"},
    ),
    "an editable install that is not here": shape(
        [
            Entry(f"{SITE}/__editable__.vllm-0.23.0.pth", "/src/vllm\n"),
            Entry(
                f"{SITE}/vllm-0.23.0.dist-info/direct_url.json",
                '{"url": "file:///src/vllm", "dir_info": {"editable": true}}',
            ),
        ],
        runs=None,
        refused="editable install of /src/vllm",
    ),
    "a source that nobody imports": shape(
        [*package(SITE), *package("/tmp/build")], runs=SITE, named=("/tmp/build",)
    ),
    "only a source that nobody imports": shape(
        package("/tmp/build"), runs=None, may=("/tmp/build",)
    ),
    "two sources that nobody imports": shape(
        [*package("/tmp/a"), *package("/tmp/b")], runs=None, refused="--root /tmp/a"
    ),
    # --- Namespace packages.
    "no __init__.py": shape(package(SITE, init=False), runs=SITE),
    "two portions of a namespace": shape(
        [Entry("/one/vllm/other.py"), *package("/two", init=False)],
        runs="/one",
        config=env("PYTHONPATH=/one:/two"),
    ),
    # --- How it starts.
    "a script of an environment": shape(
        [*venv(), *package(VENV), Entry("/opt/venv/bin/vllm", f"#!/opt/venv/bin/python\n{SCRIPT}")],
        package(SITE),
        runs=VENV,
        may=(VENV, SITE),
        config={"Env": [PATH], "Entrypoint": ["/opt/venv/bin/vllm"], "Cmd": ["serve"]},
    ),
    "a script does not look into the working directory": shape(
        [
            *package(SITE),
            *package("/work"),
            Entry("/usr/local/bin/vllm", f"#!/usr/local/bin/python3\n{SCRIPT}"),
        ],
        runs=SITE,
        may=(SITE, "/work"),
        config={"Entrypoint": ["vllm", "serve"], "WorkingDir": "/work"},
    ),
    "a script's own folder": shape(
        [*package(SITE), *package("/app"), Entry("/app/main.py", SCRIPT)],
        runs="/app",
        may=("/app", SITE),
        config={"Entrypoint": ["python3", "main.py"], "WorkingDir": "/app"},
    ),
    "an isolated Python": shape(
        [*package(SITE), *package("/opt/src")],
        runs=SITE,
        may=(SITE, "/opt/src"),
        config={**env("PYTHONPATH=/opt/src"), "Entrypoint": ["python3", "-I", "-c", ASK]},
    ),
    "a shell's script": shape(
        [*package(SITE), Entry("/start.sh", "#!/bin/sh\nexec vllm serve\n")],
        runs=SITE,
        config={"Entrypoint": ["/start.sh"]},
        asked=False,
    ),
    "pip's script for a long path": shape(
        [
            *venv(),
            *package(VENV),
            Entry("/opt/venv/bin/vllm", "#!/bin/sh\n'''exec' /opt/venv/bin/python \"$0\" \"$@\"\n"),
        ],
        package(SITE),
        runs=VENV,
        may=(VENV, SITE),
        config={"Entrypoint": ["/usr/bin/env", "A=b", "/opt/venv/bin/vllm"]},
        asked=False,
    ),
    # --- What runs in the file's place.
    "a package beside the module": shape(
        [*package(SITE), Entry(f"{MODULE}/__init__.py")],
        runs=SITE,
        refused=f"runs {MODULE}/__init__.py",
    ),
    "a folder beside the module": shape([*package(SITE), Entry(f"{MODULE}/notes.txt")], runs=SITE),
    "an extension module beside": shape(
        [*package(SITE), Entry(f"{MODULE}.{EXTENSION}", "ELF")],
        runs=SITE,
        refused=f"runs {MODULE}.{EXTENSION}",
    ),
    "an extension module of another Python": shape(
        [*package(SITE), Entry(f"{MODULE}.cpython-39-x86_64-linux-gnu.so", "ELF")], runs=SITE
    ),
    "bytecode without source": shape(
        [*package(SITE)[:-1], Entry(f"{MODULE}.pyc", "pyc")],
        runs=SITE,
        refused=f"runs {MODULE}.pyc",
    ),
    "a module in a package's place": shape(
        [*package(SITE, init=False), Entry(f"{LIBRARY}.py")],
        runs=SITE,
        refused=f"runs {LIBRARY}.py",
    ),
}


def tar_of(entries: list[Entry]) -> bytes:
    """A layer with these entries, and every folder above them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders: set[str] = set()
        for entry in entries:
            parts = entry.path.split("/")[1:]
            above = ["/".join(parts[:end]) for end in range(1, len(parts))]
            for folder in [*above, *([entry.path[1:]] if entry.data is None else [])]:
                if folder not in folders:
                    folders.add(folder)
                    header = tarfile.TarInfo(folder)
                    header.type, header.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(header)
            if entry.data is None:
                continue
            header = tarfile.TarInfo(entry.path[1:])
            header.mode, header.mtime = 0o755, 1_700_000_000
            data = entry.data.encode("latin-1")
            if entry.data[:3] in ("-> ", "=> "):
                is_hard = entry.data[0] == "="
                header.type = tarfile.LNKTYPE if is_hard else tarfile.SYMTYPE
                header.linkname, data = entry.data[3:].lstrip("/" if is_hard else ""), b""
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def interpreter(python_rootfs: Path) -> list[Entry]:
    """The image's Python, and what a shape's script runs."""
    files = sorted(path for path in python_rootfs.rglob("*") if path.is_file())
    entries = [
        Entry(f"/{path.relative_to(python_rootfs)}", path.read_bytes().decode("latin-1"))
        for path in files
    ]
    return [*entries, Entry("/ask.py", ASK), Entry("/opt/work", None)]


def spread(layer: list[Entry], interpreter: list[Entry]) -> list[Entry]:
    """A hard link to a folder stands for links to each file of the interpreter below it."""
    spread = []
    for entry in layer:
        below = (entry.data or "")[3:] + "/"
        if (entry.data or "")[:3] == "=> " and any(e.path.startswith(below) for e in interpreter):
            inner = [e.path for e in interpreter if e.path.startswith(below)]
            spread += [Entry(f"{entry.path}/{p.removeprefix(below)}", f"=> {p}") for p in inner]
        else:
            spread.append(entry)
    return spread


def layers_of(shape: Shape, interpreter: list[Entry]) -> list[bytes]:
    """A shape's layers. The lowest has the interpreter's names, and what is linked to them."""
    names = {entry.path for entry in interpreter}
    first = [Entry(e.path, e.data and "") for e in interpreter]
    upper: list[list[Entry]] = []
    for layer in shape.layers:
        upper.append([])
        for entry in spread(layer, interpreter):
            is_first = (entry.data or "")[:3] == "=> " and entry.data[3:] in names  # type: ignore[index]
            (first if is_first else upper[-1]).append(entry)
    return [tar_of(entries) for entries in (first, *upper)]


RUN = """
import json, os, sys
answers = {}
for name, (command, environment, folder, user) in json.load(open('/shapes.json')).items():
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.chroot('/s/' + name)
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
        if user and 'HOME' not in environment:
            lines = [line.split(':') for line in open('/etc/passwd').read().split()]
            environment['HOME'] = next(line[5] for line in lines if line[0] == user)
        environment.setdefault('HOME', '/root')
        os.environ.clear()
        os.environ.update(environment)
        try: os.execvpe(command[0], command, environment)
        except OSError as error: os.write(2, str(error).encode())
        os._exit(99)
    os.close(writing)
    answers[name] = os.fdopen(reading).read()
    os.waitpid(child, 0)
print(json.dumps(answers))
"""


def python_says(
    client: docker.DockerClient, interpreter: list[Entry]
) -> dict[str, tuple[str | None, str | None]]:
    """What the Python of each shape imports: one image, one container."""
    asked = {f"{n}": shape for n, shape in enumerate(SHAPES.values()) if shape.asked}
    names = {entry.path for entry in interpreter}
    stated = {}
    # The interpreter's files are there once, and linked into each root.
    layers: list[list[Entry]] = [[*interpreter], [], [], []]
    for name, shape in asked.items():
        config = shape.config
        command = [*config.get("Entrypoint", ["python3", "-c", ASK]), *config.get("Cmd", [])]
        lines = dict(line.split("=", 1) for line in config["Env"])
        user = config.get("User", "").partition(":")[0]
        stated[name] = (command, lines, config.get("WorkingDir", "/"), user)
        above = f"/s/{name}"
        layers[0] += [
            Entry(f"{above}{e.path}", f"=> {e.path}" if e.data else e.data) for e in interpreter
        ]
        for layer, entries in zip(layers[1:], shape.layers, strict=False):
            for entry in spread(entries, interpreter):
                path, data = f"{above}{entry.path}", entry.data
                if (data or "")[:3] == "=> ":
                    inside = data[3:] not in names  # type: ignore[index]
                    data = f"=> {above}{data[3:]}" if inside else data  # type: ignore[index]
                    (layer if inside else layers[0]).append(Entry(path, data))
                else:
                    layer.append(Entry(path, data))
    layers[0] += [Entry("/shapes.json", json.dumps(stated)), Entry("/run.py", RUN)]
    image = load(client, {"oracle": (list(map(tar_of, layers)), {"Env": [PATH]})})["oracle"]
    try:
        said = client.containers.run(
            image, ["python3", "/run.py"], network_mode="none", remove=True
        )
    finally:
        client.images.remove(image, force=True)
    answers = json.loads(said)
    bad = {told: text for told, text in answers.items() if not text.startswith("[")}
    assert not bad, bad
    told = list(SHAPES)
    return {told[int(key)]: tuple(json.loads(text)) for key, text in answers.items()}


def load(
    client: docker.DockerClient, images: dict[str, tuple[list[bytes], dict[str, Any]]]
) -> dict[str, str]:
    """Load images into the daemon at once; their ids."""
    from hashlib import sha256

    ids, manifests = {}, []
    files: dict[str, bytes] = {}
    for name, (layers, run) in images.items():
        digests = [sha256(layer).hexdigest() for layer in layers]
        config = {
            "architecture": host_platform().architecture,
            "os": "linux",
            "config": {**run, "Labels": {"unique": uuid.uuid4().hex}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
            "history": [{"created_by": name} for _ in layers],
        }
        encoded = dump_json(config)
        ids[name] = f"sha256:{sha256(encoded).hexdigest()}"
        files[f"{sha256(encoded).hexdigest()}.json"] = encoded
        files |= {f"{digest}.tar": layer for digest, layer in zip(digests, layers, strict=True)}
        manifests.append(
            {
                "Config": f"{sha256(encoded).hexdigest()}.json",
                "RepoTags": None,
                "Layers": [f"{digest}.tar" for digest in digests],
            }
        )
    files["manifest.json"] = json.dumps(manifests).encode()
    client.images.load(
        tar_of([Entry(f"/{name}", data.decode("latin-1")) for name, data in files.items()])
    )
    return ids


@dataclass(frozen=True)
class Asked:
    """What the shapes are asked of: a layout, a registry, and Python's own answers."""

    folder: Path
    registry: str
    digests: dict[str, str]
    client: docker.DockerClient
    ids: dict[str, str]
    python: dict[str, tuple[str | None, str | None]]


@pytest.fixture(scope="module")
def asked(
    daemon: docker.DockerClient,
    registry: str,
    interpreter: list[Entry],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("shapes")
    blobs, digests, loaded, entries = Memory(), {}, {}, []
    for number, (name, shape) in enumerate(SHAPES.items()):
        layers = layers_of(shape, interpreter)
        stored = [blobs.add(layer, OCI_LAYER) for layer in layers]
        settings = {
            "config": shape.config,
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in stored]},
        }
        root = add_image(blobs, OCI, layers=stored, settings=settings)
        digests[name] = root["digest"]
        upload(registry, "shapes", blobs.data, root)
        named = {"org.opencontainers.image.ref.name": f"s{number}"}
        entries.append({**root, "annotations": named})
        loaded[name] = (layers, shape.config)
    write_layout(folder, blobs, entries)
    ids = load(daemon, loaded)
    yield Asked(folder, registry, digests, daemon, ids, python_says(daemon, interpreter))
    for image in ids.values():
        daemon.images.remove(image, force=True)


def write_layout(folder: Path, blobs: Memory, entries: list[dict[str, Any]]) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for digest, data in blobs.data.items():
        (folder / "blobs" / digest.replace(":", "/")).write_bytes(data)
    (folder / "oci-layout").write_bytes(dump_json({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "mediaType": OCI[0], "manifests": entries}
    (folder / "index.json").write_bytes(dump_json(index))
    assert existing_layout(folder)


def answer(find: Callable[[], Installation]) -> tuple[Any, ...] | str:
    """All that an image's content decides."""
    try:
        found = find()
    except PatcherError as error:
        return f"{error.problem}; {error.next_step}"
    return (
        [(each.root, each.version, dict(each.files), dict(each.bytecode)) for each in found.all],
        found.copies,
        found.notes,
    )


@pytest.mark.xdist_group("shapes")  # they share what takes half a minute to set up
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_one_answer_which_is_pythons(name: str, asked: Asked) -> None:
    shape, number = SHAPES[name], list(SHAPES).index(name)
    layout = answer(lambda: open_image(asked.folder, f"s{number}", None).installation([TARGET]))
    reference = parse_reference(f"{asked.registry}/shapes@{asked.digests[name]}")
    remote = answer(lambda: open_remote(reference, None, Http()).installation([TARGET]))
    local = answer(lambda: local_image(asked.client, asked.ids[name]).installation([TARGET]))
    assert layout == remote == local
    python = asked.python.get(name, (None, None))
    if shape.refused:
        assert isinstance(layout, str)
        assert shape.refused in layout
        assert python[1] is None or python[1] in layout
        return
    assert isinstance(layout, tuple)
    copies = {copy.root: copy for copy in layout[1]}
    assert [root for root, *_ in layout[0]] == list(shape.may)
    assert [copy.root for copy in layout[1] if copy.runs] == ([shape.runs] if shape.runs else [])
    assert {root for root, copy in copies.items() if copy.idle and root not in shape.may} == set(
        shape.named
    )
    if shape.asked and shape.runs:
        files = layout[0][0][2]
        assert python[0] is not None
        assert Path(python[0]).parent == Path(shape.runs)
        assert (files[TARGET].path if files else None) == python[1]
    elif shape.asked:
        assert python[1] is None
