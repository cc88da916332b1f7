"""`camrobust bench shards N`: N small images in 64 tars, zips or parquet files of an S3 store, listed and loaded.

They are listed as a run lists them and loaded by the run's own Load in blocks of 64, in this process; all requests are
counted by a relay. Nothing is measured.
"""

import io
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.bench.chaos.buckets import own_bucket
from camrobust.bench.chaos.ending import ending_cleanly, unwinding
from camrobust.bench.chaos.processes import resident_mib
from camrobust.bench.scale.pictures import SIDE, jpeg
from camrobust.bench.scale.relay import Requests, counting, reached_through
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_dataset
from camrobust.io.store import open_store
from camrobust.run.batch_sizes import IMAGES_PER_BLOCK
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.load import Load

SHARDS = 64
FORMS = ("tar", "zip", "parquet")
ROWS = 100
"""Rows in a row group, as Hugging Face writes them."""
MOST_REQUESTS = 3
"""Per 100 images, for listing and loading together."""
CLASSES = 1000

Say = Callable[[str], None]
Sample = tuple[str, bytes, int]
"""Name up to its extension, picture and label."""


def shards(images: int, say: Say = lambda _: None) -> list[dict[str, Any]]:
    """List and load the images in each form, and delete what was written.

    Args:
        images: how many.
        say: takes a line when a form begins.

    Returns:
        For each form: requests of listing and of loading, requests per 100 images, seconds, this process's memory
        before the first block, after a tenth of the blocks and at the end, the most in between, MiB; and how many
        images failed or have another label.

    Raises:
        UserError: no store is named.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        raise UserError("bench: the shards need an S3 store on this machine; set AWS_ENDPOINT_URL")
    requests = Requests()
    with ending_cleanly(), own_bucket("camrobust-shards") as bucket, unwinding():
        say(f"writing {images:,} pictures in {SHARDS} files of each form …")
        _upload(bucket, images)
        with counting(endpoint, requests) as address, reached_through(address):
            rows = []
            for form in FORMS:
                say(f"{form} …")
                rows.append(_measured(f"s3://{bucket}/{form}", form, requests))
            return rows


def passed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether few requests were enough and every image was right."""
    return all(row["requests_per_100"] < MOST_REQUESTS and not row["wrong"] for row in rows)


def _upload(bucket: str, images: int) -> None:
    size = -(-images // SHARDS)
    for shard in range(SHARDS):
        numbers = range(shard * size, min(images, (shard + 1) * size))
        samples = [(f"{number:07}", jpeg(number), number % CLASSES) for number in numbers]
        for form, packed in zip(FORMS, (_tar(samples), _zip(samples), _table(samples)), strict=True):
            open_store(f"s3://{bucket}/{form}").write(f"train-{shard:05}-of-{SHARDS:05}.{form}", packed)


def _files(samples: Sequence[Sample]) -> Iterator[tuple[str, bytes]]:
    for key, picture, label in samples:
        yield f"{key}.cls", str(label).encode()
        yield f"{key}.jpg", picture


def _tar(samples: Sequence[Sample]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in _files(samples):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def _zip(samples: Sequence[Sample]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _files(samples):
            archive.writestr(name, content)
    return sink.getvalue()


def _table(samples: Sequence[Sample]) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": picture, "path": f"{key}.jpg"} for key, picture, _ in samples], kind)
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": cells, "label": [label for *_, label in samples]}), sink, row_group_size=ROWS)
    return sink.getvalue()


def _measured(images: str, form: str, requests: Requests) -> dict[str, Any]:
    """One form: listed, then loaded block by block."""
    requests.take()
    start = time.monotonic()
    listed = list_dataset("shards", images).images
    listed_s, listing = time.monotonic() - start, requests.take().total()
    pending = listed.with_columns(parts=pl.concat_list(pl.lit(0, pl.Int16)))
    number = pl.col("image_id").str.extract(r"(\d+)\.").cast(pl.Int32)
    wrong = listed.filter((pl.col("label") != number % CLASSES).fill_null(value=True)).height
    with tempfile.TemporaryDirectory(prefix="camrobust-shards-") as folder:
        load, memory = _load(Path(folder), images), [resident_mib(os.getpid())]
        start = time.monotonic()
        for block in pending.iter_slices(IMAGES_PER_BLOCK):
            loaded = load(pending_batch(block))
            wrong += loaded["pixels"].null_count
            memory.append(resident_mib(os.getpid()))
    loading = requests.take().total()
    return {
        "form": form, "images": listed.height, "files": listed["uri"].n_unique(), "listing_requests": listing,
        "loading_requests": loading, "requests_per_100": round(100 * (listing + loading) / listed.height, 2),
        "listing_s": round(listed_s, 1), "loading_s": round(time.monotonic() - start, 1),
        "mib_before": round(memory[0]), "after_a_tenth": round(memory[len(memory) // 10]),
        "at_end": round(memory[-1]), "highest": round(max(memory)), "wrong": wrong,
    }  # fmt: skip


def _load(folder: Path, images: str) -> Load:
    """The run's own Load for pictures of this size."""
    config = {
        "output": str(folder / "out"),
        "datasets": [{"name": "shards", "images": images}],
        "models": ["camrobust.bench.chaos.model:build"],
        "cams": ["gradcam"],
        "perturbations": ["contrast:1"],
        "image": {"resize": SIDE, "crop": SIDE},
        "segments": {"method": "grid"},
    }
    return Load(parse_config(config))
