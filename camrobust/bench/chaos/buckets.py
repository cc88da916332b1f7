"""A bucket of one's own in the S3 store that the environment names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from camrobust.io.objects import Entry
from camrobust.io.s3_client import client
from camrobust.io.store import open_store

AT_ONCE = 1000
"""S3 deletes no more objects by one request."""


@contextmanager
def own_bucket(prefix: str) -> Iterator[str]:
    """A new bucket while the block runs; afterwards it is deleted with all that is in it.

    If the store fails then, the bucket stays, and the outcome of the block stands.
    """
    name = f"{prefix}-{time.time_ns()}"
    client().create_bucket(Bucket=name)
    try:
        yield name
    finally:
        with suppress(Exception):
            _empty(name)


def _empty(name: str) -> None:
    for entries in _batched(open_store(f"s3://{name}/").list(), AT_ONCE):
        keys = [{"Key": entry.key} for entry in entries]
        client().delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
    client().delete_bucket(Bucket=name)


def _batched(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries in lists of at most so many."""
    while some := list(islice(entries, size)):
        yield some
