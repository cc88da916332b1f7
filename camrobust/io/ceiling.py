"""A ceiling over the memory of this process, while a stranger's bytes are decoded in it.

`codecs.admit` refuses what would take too much by its header. A decoder may still take more than it was ever measured
to, as files may contradict their headers. Under the ceiling its next allocation fails, and that image with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # not there on Windows
    resource = None  # type: ignore[assignment]

STATM = Path("/proc/self/statm")
DATA = 5
"""Field of statm: pages of private memory that can be written, whether they were touched or not."""


def private_bytes() -> int | None:
    """Private memory of this process as the kernel counts it against RLIMIT_DATA; None where it does not say."""
    if resource is None or not STATM.exists():
        return None
    return int(STATM.read_text().split()[DATA]) * resource.getpagesize()


@contextmanager
def ceiling(most_bytes: int | None) -> Iterator[None]:
    """Let allocations fail that would take this process above so many private bytes.

    Args:
        most_bytes: of private memory; None for no ceiling.
    """
    if most_bytes is None or resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [one for one in (most_bytes, soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
