"""A run folder: first the manifest and run.json, then commits, summaries and the report, done/NUMBER.json last.

docs/protocol.md says who may write which file, and which files a reader trusts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from typing import Any

import polars as pl

from camrobust.contract.config import RunConfig, differing_keys
from camrobust.contract.config_file import parse_config
from camrobust.contract.defaults import METRIC
from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.record import MAX_BYTES, content_of
from camrobust.contract.run_documents import DoneRecord, FinishedRecord, ManifestRecord
from camrobust.contract.run_files import OTHERS, RESULTS, is_begun, numbered
from camrobust.contract.run_record import RunRecord
from camrobust.contract.schema import MANIFEST, SCORES
from camrobust.contract.sharding import SHARDS, ShardRecord
from camrobust.io.addresses import refuse_odd
from camrobust.io.clouds import Cloud
from camrobust.io.local_folder import Folder
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError
from camrobust.io.s3 import Bucket
from camrobust.io.s3_client import polars_options
from camrobust.io.store import open_store
from camrobust.results.counted import Committed, read_committed, read_scores, read_small
from camrobust.results.documents import read_record
from camrobust.results.lease import newest_lease
from camrobust.results.run_yaml import save_configuration
from camrobust.results.tables import read_frame
from camrobust.summary.spreadsheet import csv_of

MOST_DATASETS = 1000
TOGETHER = "camrobust.together"
"""Key in the metadata of tables that were written together."""
FENCED = "fenced-"
"""Prefix of a run's digest since leases fence off late writers. Version 0.1 does not know such leases; the prefix makes
it refuse the run."""


def _parquet(table: pl.DataFrame, metadata: dict[str, str] | None = None) -> bytes:
    sink = BytesIO()
    table.write_parquet(sink, compression="zstd", metadata=metadata)
    return sink.getvalue()


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, on any store. It deletes nothing: only `results.commits.delete_uncounted` does."""

    store: Store

    @property
    def uri(self) -> str:
        """Address of the folder."""
        return self.store.uri

    @property
    def folders(self) -> Sequence["RunFolder"]:
        """The folders in which drivers measured: this one; see `results.shards` for a run in several."""
        return (self,)

    def holds(self, name: str) -> bool:
        """Whether a document such as run.json exists, valid or not."""
        try:
            self.store.read(name, MAX_BYTES)
        except MissingObjectError:
            return False
        except TooLargeObjectError:
            return True
        return True

    def begin(self, record: RunRecord, manifest: pl.DataFrame | bytes, document: str = "run.json") -> bool:
        """Write the manifest, then run.json with the hash of the manifest, then run.yaml.

        Args:
            record: run.json without its manifest.
            manifest: the images, `schema.MANIFEST`, or the content of their file.
            document: the name under which the record is written.

        Returns:
            False if another driver has begun a run here in the meantime.
        """
        content = manifest if isinstance(manifest, bytes) else _parquet(manifest)
        digest = sha256(content).hexdigest()
        key = f"manifest/{digest[:24]}.parquet"
        self.store.create(key, content)
        named = record.model_copy(update={"manifest": ManifestRecord(key=key, sha256=digest)})
        created = self.store.create(document, content_of(named, defaults=True, indent=2))
        if created:
            save_configuration(self.store, record)
        return created

    def record(self) -> RunRecord | None:
        """run.json; None if there is none.

        Raises:
            UserError: it is not as camrobust writes it.
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
        """The record that declares the run complete; None if the run is not, or no longer, complete."""
        number = self.generation()
        if number:
            return read_record(self.store, f"done/{number:08}.json", DoneRecord)
        return read_record(self.store, "done.json", FinishedRecord)

    def finish(self, number: int, finished: FinishedRecord) -> None:
        """Declare the run complete under a lease, with its counts and the list of the files that count.

        Raises:
            RunFailed: another driver has already declared it complete, with other contents.
        """
        committed = self.committed()
        done = DoneRecord(
            **dict(finished), lease=number, commits=tuple(committed.commits), files=tuple(committed.records())
        )
        if not self.store.create(f"done/{number:08}.json", content_of(done, defaults=True)):
            raise RunFailed(f"run: {self.uri} was completed by another driver; run again to see what is there")

    def generation(self) -> int:
        """Number of the newest lease; 0 before the first lease, and in a run that only version 0.1 has written."""
        return newest_lease(self.store).generation

    def place(self, name: str) -> str:
        """Folder of the summary or report of the results that count now."""
        return numbered(name, self.generation())

    def manifest(self) -> pl.DataFrame:
        """The images that are measured in this folder: those of its shard, where it is one.

        Raises:
            UserError: as `whole_manifest` does, or it has another number of images than run.json plans.
        """
        run, images = self.run(), self.whole_manifest()
        if run.shard is not None:
            images = of_shard(images, run.shard)
        if images.height != run.planned.images:
            raise UserError(
                f"run: {self.store.locate(run.manifest.key)} lists {images.height:,} images, but run.json plans "
                f"{run.planned.images:,}; put back the one that belongs to the other"
            )
        return images

    def manifest_content(self) -> bytes:
        """The file with the list of images.

        Raises:
            UserError: it is missing, or is not the one that run.json names.
        """
        named = self.run().manifest
        try:
            content = self.store.read(named.key)
        except MissingObjectError as error:
            raise UserError(f"run: {self.uri} holds no {named.key}; run again with --fresh") from error
        if named.sha256 not in ("", sha256(content).hexdigest()):
            raise UserError(f"run: {self.store.locate(named.key)} has changed since the run began; put it back")
        return content

    def whole_manifest(self) -> pl.DataFrame:
        """The list of images, as it was when the run began; in a shard, the images of all shards.

        Raises:
            UserError: the manifest is missing, or is not the one that run.json names.
        """
        named = self.run().manifest
        self.manifest_content()
        images, _ = read_frame(self.store, named.key, MANIFEST)
        if images["dataset"].n_unique() > MOST_DATASETS:
            raise UserError(f"run: {self.store.locate(named.key)} names more than {MOST_DATASETS:,} datasets")
        return images

    def write_table(self, name: str, table: pl.DataFrame) -> str:
        """Write a parquet table and return its address."""
        self.store.write(name, _parquet(table))
        return self.store.locate(name)

    def write_together(self, tables: Mapping[str, pl.DataFrame]) -> None:
        """Write parquet tables; each holds a hash of all of them, so that a reader sees if only some were written."""
        digest = sha256(b"".join(map(_parquet, tables.values()))).hexdigest()
        for name, table in tables.items():
            self.store.write(name, _parquet(table, {TOGETHER: digest}))

    def write_csv(self, name: str, table: pl.DataFrame) -> None:
        """Write a csv table."""
        self.store.write(name, csv_of(table))

    def committed(self) -> Committed:
        """The results that count now."""
        return read_committed(self.store)

    def table(self, name: str, committed: Committed) -> pl.DataFrame:
        """The images, failures or maps table."""
        return read_small(self.store, name, committed.tables(name))

    def scores(self, committed: Committed, images: pl.DataFrame | None = None) -> pl.DataFrame:
        """All score rows, or those of some images; raises as `read_scores` does."""
        record = self.record()
        return read_scores(self.store, committed, images, SCORES if record is None else record.score_columns())

    def score_files(self, committed: Committed) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of the score files, and the options with which polars opens them."""
        return self.addresses(committed.tables("scores"))

    def addresses(self, keys: Sequence[str]) -> tuple[list[str], dict[str, Any] | None]:
        """Addresses of some files, and the options with which polars opens them."""
        return [self.store.locate(key) for key in keys], polars_options(self.uri)

    def check_ours(self) -> None:
        """Refuse a folder without a run that has other files where a run puts its own.

        Raises:
            UserError: there are such files; the message names some.
        """
        others = [
            entry.key for folder in (*RESULTS, *OTHERS) for entry in self.store.list(folder) if not is_begun(entry.key)
        ]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"output: {self.uri} holds no run, but {', '.join(others[:3])}{more}, where a run puts its own files; "
                "choose an empty folder"
            )

    def check_links(self) -> None:
        """Refuse a folder in which a run would write through a link; called before anything is measured.

        Raises:
            UserError: there is such a link; the message names it.
        """
        for folder in (*RESULTS, *OTHERS):
            self.store.locate(folder)

    def check_same(self, run: RunRecord, config: RunConfig) -> None:
        """Refuse to continue a run of another configuration.

        Raises:
            UserError: the configurations differ; the message names the keys.
        """
        digest = config.digest()
        if digest == run.digest.removeprefix(FENCED) or digest == _digest_under_todays_names(run):
            return
        keys = differing_keys(run.numbers.plain, config.numbers())
        raise UserError(
            f"output: {self.uri} holds a run of another configuration (different: {', '.join(keys[:5]) or 'version'}); "
            "choose another output, or --fresh to start in a new folder beside it"
        )

    def check_metric(self) -> None:
        """Refuse to measure more images of a run whose other rows are of another version of the metric.

        Raises:
            UserError: the versions differ.
        """
        run = self.run()
        if run.metric != METRIC:
            raise UserError(
                f"output: {self.uri} was begun with version {run.metric} of the metric, and this camrobust measures "
                f"with version {METRIC}; finish it with the camrobust that began it, or --fresh to start in a new "
                "folder beside it"
            )


def of_shard(images: pl.DataFrame, shard: ShardRecord) -> pl.DataFrame:
    """The images of a manifest that a shard measures, in the order of the manifest."""
    keys = images.select("dataset", "image_id").iter_rows()
    return images.filter(pl.Series([shard.holds(dataset, image_id) for dataset, image_id in keys], dtype=pl.Boolean))


def _digest_under_todays_names(run: RunRecord) -> str | None:
    """The digest that the run's configuration has in this version; None if it is not valid in this version."""
    try:
        return parse_config(run.config.plain).digest()
    except UserError:
        return None


def open_run(uri: str) -> RunFolder:
    """The run folder at an address; links inside it are not followed.

    Raises:
        UserError: the address cannot hold a run.
    """
    store = open_store(uri)
    if isinstance(store, (Bucket, Cloud)):
        refuse_odd(store.place, "output")
    return RunFolder(replace(store, links=False) if isinstance(store, Folder) else store)


def fresh_folder(uri: str) -> RunFolder:
    """The first of URI, URI-2, URI-3, … that holds no run; nothing is deleted."""
    folder = first = open_run(uri)
    number = 1
    while folder.holds("run.json") or folder.holds(SHARDS):
        if isinstance(first.store, (Bucket, Cloud)) and not first.store.place.key:
            raise UserError(f"output: beside {uri} there are only other buckets; give a prefix in it")
        number += 1
        folder = open_run(f"{first.uri}-{number}")
    return folder
