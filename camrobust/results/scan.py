"""Score files as one lazy polars table."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.run_files import partition_of


def check_scores(files: Sequence[str]) -> None:
    """Refuse a run without score files.

    Raises:
        UserError: there are none.
    """
    if not files:
        raise UserError("scores: the run holds no score rows; see its failures, or run it again")


def scan_scores(files: Sequence[str], storage_options: dict[str, Any] | None = None) -> pl.LazyFrame:
    """The score rows of some files, read when they are collected.

    Args:
        files: addresses of the files; the two folders above a file name its dataset and its model.
        storage_options: options with which polars opens the files.

    Raises:
        UserError: files is empty.
    """
    check_scores(files)
    parts: dict[tuple[str, str], list[str]] = {}
    for file in files:
        parts.setdefault(partition_of(file), []).append(file)
    # Without globs and hive partitions: a folder above may be called run[1] or lr=0.1.
    scans = [
        pl.scan_parquet(addresses, glob=False, hive_partitioning=False, storage_options=storage_options).select(
            pl.lit(dataset).alias("dataset"), pl.lit(model).alias("model"), pl.all()
        )
        for (dataset, model), addresses in parts.items()
    ]
    return pl.concat(scans)
