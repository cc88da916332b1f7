"""A limit on the memory of this process while it decodes untrusted bytes.

`decoding_memory` refuses a file whose header announces too much. A file may contradict its header, so a decoder
can still take more. Under the limit its next allocation fails, and only that image fails with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

STATM = Path("/proc/self/statm")
DATA = 5
"""Index of the field of statm that counts writable private pages, touched or not."""


def private_bytes() -> int | None:
    """Private memory of this process as the kernel counts it for RLIMIT_DATA; None if the system does not tell."""
    if resource is None or not STATM.exists():
        return None
    return int(STATM.read_text().split()[DATA]) * resource.getpagesize()


@contextmanager
def memory_limit(most_bytes: int | None) -> Iterator[None]:
    """Make allocations fail that would take this process above a number of private bytes.

    Args:
        most_bytes: the most private memory; None for no limit.
    """
    if most_bytes is None or resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (most_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
