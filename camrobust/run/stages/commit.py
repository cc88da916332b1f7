"""Results to the store. This module loads without torch: a worker that commits starts fast and stays small."""

import time

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from camrobust.contract.schema import COMMITS
from camrobust.io.retries import patient
from camrobust.results.arrow import TABLES, empty_frame
from camrobust.results.commits import put_commit
from camrobust.results.folder import open_run
from camrobust.run.stages.batches import COMMITTED, batch_of, rows_of


class Commit:
    """Writes the results of a batch as one commit; only counts go back to the driver.

    Args:
        output: address of the run folder.
        number: of the lease under which the results count.
    """

    def __init__(self, output: str, number: int) -> None:
        self.output, self.number = output, number

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `MEASURED` to one row of `COMMITTED`."""
        start = time.monotonic()
        lengths = {"rows": pc.list_value_length(batch["scores"]), "failures": pc.list_value_length(batch["failures"])}
        keys = {name: batch[name] for name in ("dataset", "image_id", "part")}
        parts = pl.DataFrame(pa.table(keys | lengths)).select(empty_frame(COMMITS).columns)
        scores = pl.DataFrame(rows_of(batch["scores"]))
        small = {name: rows_of(batch[name]) for name in TABLES}
        with patient():
            put_commit(open_run(self.output).store, parts, scores, small, self.number)
        counts = {"parts": batch.num_rows, "rows": scores.height, "failures": small["failures"].num_rows}
        seconds = time.monotonic() - start
        return batch_of(COMMITTED, {name: [value] for name, value in (counts | {"seconds": seconds}).items()})
