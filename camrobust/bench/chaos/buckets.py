"""A bucket of one's own in the S3 store that the environment names."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from camrobust.contract.errors import UserError
from camrobust.io.s3_client import client
from camrobust.io.store import open_store

THREADS = 8


@contextmanager
def own_bucket(prefix: str) -> Iterator[str]:
    """A new bucket while the block runs; afterwards it is deleted with all that is in it.

    A store that fails then keeps the bucket, and nobody is told: this is about the outcome, not about the broom.
    """
    name = f"{prefix}-{time.time_ns()}"
    client().create_bucket(Bucket=name)
    try:
        yield name
    finally:
        with suppress(UserError):
            _empty(name)


def _empty(name: str) -> None:
    store = open_store(f"s3://{name}/")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.delete, [entry.key for entry in store.list()]))
    client().delete_bucket(Bucket=name)
