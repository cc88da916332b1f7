"""Commits written part by part, as tests want them; a run writes whole batches, see `run.stages.commit`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.schema import COMMITS
from camrobust.io.objects import Store
from camrobust.results.arrow import TABLES, empty_frame, make_table
from camrobust.results.commits import put_commit


@dataclass(frozen=True)
class PartResult:
    """The results of one part of an image (a group of its variants), under all models.

    Attributes:
        dataset: its dataset.
        image_id: the image.
        part: number of the group of variants.
        scores: score rows, `schema.SCORES` and the similarities of plugins.
        images: none or one row, `schema.IMAGES`.
        failures: failure rows, `schema.FAILURES`.
        maps: gallery rows, `schema.MAPS`.
        certificates: `certificates.CERTIFICATES`.
    """

    dataset: str
    image_id: str
    part: int
    scores: pa.Table
    images: pa.Table
    failures: pa.Table
    maps: pa.Table
    certificates: pa.Table = field(default_factory=lambda: make_table(CERTIFICATES, []))


def write_commit(store: Store, parts: Sequence[PartResult], number: int = 0) -> str | None:
    """Write the files of some parts, then the commit that makes them count; returns the same as `put_commit`."""
    counts = [(part.dataset, part.image_id, part.part, part.scores.num_rows, part.failures.num_rows) for part in parts]
    table = pl.DataFrame(counts, schema=empty_frame(COMMITS).schema, orient="row")
    small = {name: pa.concat_tables([getattr(part, name) for part in parts]) for name in TABLES}
    return put_commit(store, table, pl.DataFrame(pa.concat_tables([part.scores for part in parts])), small, number)
