"""A run folder: run.json first, the manifest, the commits, done.json last."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any

import polars as pl

from camrobust.config import RunConfig, differing_keys
from camrobust.errors import UserError
from camrobust.io.clouds import Cloud, refuse_output
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.results import Committed, read_committed, read_small
from camrobust.io.s3 import polars_options
from camrobust.io.store import open_store
from camrobust.spreadsheet import csv_of

PACKAGES = (
    "camrobust",
    "torch",
    "torchvision",
    "timm",
    "ray",
    "polars",
    "pyarrow",
    "numpy",
    "scikit-image",
    "pillow",
    "imagecorruptions-imaug",
)


def utc() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """What the driver runs on, in words; no host name."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "interpreter": sys.implementation.name,
        "cpus": f"{os.cpu_count()} CPUs",
        "memory": f"{memory_bytes / 2**30:.0f} GiB of memory",
    }


@dataclass(frozen=True)
class RunFolder:
    """The place of one run, local or on S3."""

    store: Store

    @property
    def uri(self) -> str:
        """Its address."""
        return self.store.uri

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A document such as run.json; None where it is not there."""
        try:
            document = json.loads(self.store.read(name))
        except MissingObjectError:
            return None
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"run: {self.store.locate(name)} is damaged; run again with --fresh") from error
        if not isinstance(document, dict):
            raise UserError(f"run: {self.store.locate(name)} is damaged; run again with --fresh")
        return document

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Put a document there, all or nothing."""
        self.store.write(name, json.dumps(document, indent=2, ensure_ascii=False).encode())

    def run(self) -> dict[str, Any]:
        """run.json.

        Raises:
            UserError: there is no run in this folder.
        """
        document = self.read_json("run.json")
        if document is None:
            raise UserError(f"run: {self.uri} holds no run.json; give the output folder of a run")
        return document

    def done(self) -> dict[str, Any] | None:
        """done.json, None while the run is not complete."""
        return self.read_json("done.json")

    def manifest(self) -> pl.DataFrame:
        """The images as they were listed when the run began."""
        try:
            return pl.read_parquet(BytesIO(self.store.read("manifest.parquet")))
        except MissingObjectError as error:
            raise UserError(f"run: {self.uri} holds no manifest.parquet; run again with --fresh") from error

    def write_table(self, name: str, table: pl.DataFrame) -> str:
        """Write a parquet table and return its address."""
        sink = BytesIO()
        table.write_parquet(sink, compression="zstd")
        self.store.write(name, sink.getvalue())
        return self.store.locate(name)

    def write_csv(self, name: str, table: pl.DataFrame) -> None:
        """Write a csv table."""
        self.store.write(name, csv_of(table))

    def committed(self) -> Committed:
        """What the folder holds for certain."""
        return read_committed(self.store)

    def table(self, name: str, committed: Committed) -> pl.DataFrame:
        """The images, failures or maps table."""
        return read_small(self.store, name, committed.tables(name))

    def score_files(self, committed: Committed) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of the score files and what polars needs to open them."""
        return self.addresses(committed.tables("scores"))

    def addresses(self, keys: Sequence[str]) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of some files and what polars needs to open them."""
        return [self.store.locate(key) for key in keys], polars_options(self.uri)

    def check_same(self, run: Mapping[str, Any], config: RunConfig) -> None:
        """Refuse to go on in the folder of another configuration.

        Raises:
            UserError: naming the keys that differ.
        """
        if run.get("digest") == config.digest():
            return
        keys = differing_keys(run.get("numbers"), config.numbers())
        raise UserError(
            f"output: {self.uri} holds a run of another configuration (different: {', '.join(keys[:5]) or 'version'}); "
            "choose another output, or --fresh to start in a new folder beside it"
        )


def open_run(uri: str) -> RunFolder:
    """The run folder at an address.

    Raises:
        UserError: no run can be there.
    """
    store = open_store(uri)
    if isinstance(store, Cloud):
        refuse_output(uri)
    return RunFolder(store)


def fresh_folder(uri: str) -> RunFolder:
    """The first of URI, URI-2, URI-3, … that holds no run; nothing is deleted."""
    number = 1
    while True:
        folder = open_run(uri.rstrip("/") if number == 1 else f"{uri.rstrip('/')}-{number}")
        if folder.read_json("run.json") is None:
            return folder
        number += 1


def pending_units(manifest: pl.DataFrame, parts: int, committed: Committed) -> pl.DataFrame:
    """Images of which something is still to be done, with the numbers of the missing parts.

    Returns:
        The manifest's columns and `parts`, a list of part numbers, in the manifest's order.
    """
    placed = manifest.with_row_index("place")
    numbers = pl.DataFrame({"part": range(parts)}, schema={"part": pl.Int16})
    planned = placed.select("place", "dataset", "image_id").join(numbers, how="cross")
    missing = planned.join(committed.units, on=["dataset", "image_id", "part"], how="anti").sort("place", "part")
    gathered = missing.group_by("place", maintain_order=True).agg(parts="part")
    return manifest[gathered["place"]].with_columns(gathered["parts"])
