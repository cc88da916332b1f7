"""When, with which libraries and on what machine a run is measured, as run.json records it."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from camrobust.contract.defaults import PACKAGES


def utc() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which the numbers depend."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def hardware() -> dict[str, str]:
    """The driver's machine in words, without its host name."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "interpreter": sys.implementation.name,
        "cpus": f"{os.cpu_count()} CPUs",
        "memory": f"{memory_bytes / 2**30:.0f} GiB of memory",
    }
