"""Small pictures in a bucket, each of its own colours."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import polars as pl
from PIL import Image

from camrobust.io.store import open_store

ROOT = "pictures/"
SIDE = 40
PROCESSES, THREADS = 2, 8
IN_A_FOLDER = 1000


def name_of(number: int) -> str:
    """The key of a picture below `ROOT`."""
    return f"{number // IN_A_FOLDER:04}/picture-{number:07}.jpg"


def jpeg(number: int) -> bytes:
    """A JPEG file of 40 × 40 px and about 1 KiB, always the same for a number, and different for each."""
    corners = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    sink = BytesIO()
    Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def upload(bucket: str, count: int) -> None:
    """Write pictures 0 to count - 1, in a few processes with a few threads each."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        numbers = [range(start, min(count, start + IN_A_FOLDER)) for start in range(0, count, IN_A_FOLDER)]
        list(pool.map(_write, [bucket] * len(numbers), numbers))


def _write(bucket: str, numbers: Sequence[int]) -> None:
    store = open_store(f"s3://{bucket}/{ROOT}")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: store.write(name_of(number), jpeg(number)), numbers))


def write_manifest(bucket: str, objects: int, images: int) -> str:
    """List the pictures again and again under different names until there are enough.

    Returns:
        The address of the manifest.
    """
    numbers = range(images)
    table = pl.DataFrame(
        {
            "image_id": [f"image-{number:07}" for number in numbers],
            "uri": [f"s3://{bucket}/{ROOT}{name_of(number % objects)}" for number in numbers],
        }
    )
    store = open_store(f"s3://{bucket}/")
    sink = BytesIO()
    table.write_parquet(sink)
    store.write("manifest.parquet", sink.getvalue())
    return store.locate("manifest.parquet")
