"""What the process has imported that the program is forked from: see `tests.commands`."""

import gc
import importlib
import pkgutil

import patcher

for module in pkgutil.walk_packages(patcher.__path__, "patcher."):
    importlib.import_module(module.name)

# The program imports these where it needs them.
for name in (
    "docker", "jinja2", "libcst", "platformdirs", "pypi_simple", "remotezip", "rich.progress",
    "tomli_w",
):  # fmt: skip
    importlib.import_module(name)

# Else a fork's first collection of garbage writes to every page, and has it copied.
gc.freeze()
