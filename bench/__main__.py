"""`python -m bench`: all measurements, with the machine that they were made on."""

from __future__ import annotations

import os
import platform

from bench import landed, rivals, speed


def main() -> None:
    """Print everything."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"machine: {machine}")
    speed.report()
    rivals.report()
    landed.report()


if __name__ == "__main__":
    main()
