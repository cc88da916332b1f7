"""A run folder: the manifest and run.json first, the commits, what is made of them, done/NUMBER.json last.

docs/protocol.md says who may write what, and what a reader believes.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any

import polars as pl

from camrobust.contract.config import RunConfig, differing_keys
from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.record import MAX_BYTES, content_of
from camrobust.contract.run_documents import DoneRecord, FinishedRecord, ManifestRecord
from camrobust.contract.run_files import OTHERS, RESULTS, is_begun, numbered
from camrobust.contract.run_record import RunRecord
from camrobust.contract.schema import MANIFEST
from camrobust.io.addresses import refuse_odd
from camrobust.io.clouds import Cloud, refuse_output
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError
from camrobust.io.s3 import Bucket, polars_options
from camrobust.io.store import Folder, open_store
from camrobust.results.counted import Committed, read_committed, read_scores, read_small
from camrobust.results.documents import read_record
from camrobust.results.lease import newest_lease
from camrobust.results.tables import read_frame
from camrobust.summary.spreadsheet import csv_of

MOST_DATASETS = 1000
FENCED = "fenced-"
"""Before the digest of a run whose leases are fences: version 0.1, which knows nothing of them, refuses such a run."""
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


def _parquet(table: pl.DataFrame) -> bytes:
    sink = BytesIO()
    table.write_parquet(sink, compression="zstd")
    return sink.getvalue()


@dataclass(frozen=True)
class RunFolder:
    """The place of one run, local or on S3."""

    store: Store

    @property
    def uri(self) -> str:
        """Its address."""
        return self.store.uri

    def holds(self, name: str) -> bool:
        """Whether a document such as run.json is there, whatever it says."""
        try:
            self.store.read(name, MAX_BYTES)
        except MissingObjectError:
            return False
        except TooLargeObjectError:
            return True
        return True

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Put a document there, all or nothing."""
        self.store.write(name, json.dumps(document, indent=2, ensure_ascii=False).encode())

    def begin(self, record: RunRecord, manifest: pl.DataFrame) -> bool:
        """Write the manifest, then run.json, which names it by its hash.

        Args:
            record: run.json without its manifest.
            manifest: the images, `schema.MANIFEST`.

        Returns:
            False where another driver has begun here in the meantime.
        """
        content = _parquet(manifest)
        digest = sha256(content).hexdigest()
        key = f"manifest/{digest[:24]}.parquet"
        self.store.create(key, content)
        named = record.model_copy(update={"manifest": ManifestRecord(key=key, sha256=digest)})
        return self.store.create("run.json", content_of(named, defaults=True, indent=2))

    def record(self) -> RunRecord | None:
        """run.json, None where it is not there.

        Raises:
            UserError: it is not what camrobust writes there.
        """
        return read_record(self.store, "run.json", RunRecord, "is damaged; run again with --fresh")

    def run(self) -> RunRecord:
        """run.json.

        Raises:
            UserError: there is no run in this folder, or run.json is not what camrobust writes there.
        """
        record = self.record()
        if record is None:
            raise UserError(f"run: {self.uri} holds no run.json; give the output folder of a run")
        return record

    def done(self) -> FinishedRecord | None:
        """What declares the run complete; None while it is not, or no longer."""
        number = self.generation()
        if number:
            return read_record(self.store, f"done/{number:08}.json", DoneRecord)
        return read_record(self.store, "done.json", FinishedRecord)

    def finish(self, number: int, finished: FinishedRecord) -> None:
        """Declare the run complete under a lease: the counts, and the list of the files that count.

        Raises:
            RunFailed: something else stands there.
        """
        committed = self.committed()
        done = DoneRecord(
            **dict(finished), lease=number, commits=tuple(committed.commits), files=tuple(committed.records())
        )
        if not self.store.create(f"done/{number:08}.json", content_of(done, defaults=True)):
            raise RunFailed(f"run: {self.uri} was completed by another driver; run again to see what is there")

    def generation(self) -> int:
        """Number of the newest lease; 0 before the first, and in a run that only version 0.1 has written to."""
        return newest_lease(self.store).generation

    def place(self, name: str) -> str:
        """Folder of the summary or the report of the results that count now."""
        return numbered(name, self.generation())

    def manifest(self) -> pl.DataFrame:
        """The images as they were listed when the run began.

        Raises:
            UserError: it is not there, or is not the one that run.json names.
        """
        run = self.run()
        named = run.manifest
        try:
            if named.sha256 not in ("", sha256(self.store.read(named.key)).hexdigest()):
                raise UserError(f"run: {self.store.locate(named.key)} has changed since the run began; put it back")
            images, _ = read_frame(self.store, named.key, MANIFEST)
        except MissingObjectError as error:
            raise UserError(f"run: {self.uri} holds no {named.key}; run again with --fresh") from error
        if images.height != run.planned.images:
            raise UserError(
                f"run: {self.store.locate(named.key)} lists {images.height:,} images, but run.json plans "
                f"{run.planned.images:,}; put back the one that belongs to the other"
            )
        if images["dataset"].n_unique() > MOST_DATASETS:
            raise UserError(f"run: {self.store.locate(named.key)} names more than {MOST_DATASETS:,} datasets")
        return images

    def write_table(self, name: str, table: pl.DataFrame) -> str:
        """Write a parquet table and return its address."""
        self.store.write(name, _parquet(table))
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

    def scores(self, committed: Committed, images: pl.DataFrame | None = None) -> pl.DataFrame:
        """All score rows, or those of some images; raises as `read_scores` does."""
        return read_scores(self.store, committed, images)

    def score_files(self, committed: Committed) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of the score files and what polars needs to open them."""
        return self.addresses(committed.tables("scores"))

    def addresses(self, keys: Sequence[str]) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of some files and what polars needs to open them."""
        return [self.store.locate(key) for key in keys], polars_options(self.uri)

    def check_ours(self) -> None:
        """Refuse a folder that holds no run, but files where a run puts its own.

        Raises:
            UserError: naming some of them.
        """
        found = [
            entry.key for folder in (*RESULTS, *OTHERS) for entry in self.store.list(folder) if not is_begun(entry.key)
        ]
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"output: {self.uri} holds no run, but {', '.join(found[:3])}{more}, where a run puts its own files; "
                "choose an empty folder"
            )

    def check_links(self) -> None:
        """Refuse a folder in which something that a run writes would lie behind a link, before anything is measured.

        Raises:
            UserError: naming the link.
        """
        for folder in (*RESULTS, *OTHERS):
            self.store.locate(folder)

    def check_same(self, run: RunRecord, config: RunConfig) -> None:
        """Refuse to go on in the folder of another configuration.

        Raises:
            UserError: naming the keys that differ.
        """
        if run.digest.removeprefix(FENCED) == config.digest():
            return
        keys = differing_keys(run.numbers.plain, config.numbers())
        raise UserError(
            f"output: {self.uri} holds a run of another configuration (different: {', '.join(keys[:5]) or 'version'}); "
            "choose another output, or --fresh to start in a new folder beside it"
        )


def open_run(uri: str) -> RunFolder:
    """The run folder at an address, in which no link is followed.

    Raises:
        UserError: no run can be there.
    """
    store = open_store(uri)
    if isinstance(store, Cloud):
        refuse_output(uri)
    if isinstance(store, Bucket):
        refuse_odd(store.place, "output")
    return RunFolder(replace(store, links=False) if isinstance(store, Folder) else store)


def fresh_folder(uri: str) -> RunFolder:
    """The first of URI, URI-2, URI-3, … that holds no run; nothing is deleted."""
    folder = first = open_run(uri)
    number = 1
    while folder.holds("run.json"):
        if isinstance(first.store, Bucket) and not first.store.place.key:
            raise UserError(f"output: beside {uri} there are only other buckets; give a prefix in it")
        number += 1
        folder = open_run(f"{first.uri}-{number}")
    return folder


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
