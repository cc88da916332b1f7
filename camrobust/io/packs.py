"""Lists the photos of files that hold many: tars, zips, and parquet tables with pictures inside."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.io.archives import Photos, photos_in_archive
from camrobust.io.file_kinds import together
from camrobust.io.image_listing import Found
from camrobust.io.manifest_rows import label_column
from camrobust.io.objects import MissingObjectError
from camrobust.io.parquet_thrift import MAGIC
from camrobust.io.picture_tables import Columns, has_pictures, pictures_in_table
from camrobust.io.table_bytes import ENCRYPTED, REFUSED
from camrobust.io.tables import ROW, Table

READERS = 16
R = TypeVar("R")
DIGITS = 9
"""Of the number of a row where the rows of a table have no names."""
SHOWN_REMARKS = 3
_NO_ROW = pl.lit(None, pl.UInt32).alias(ROW)
Listed = tuple[pl.DataFrame, Mapping[str, int], tuple[str, ...]]
"""Photos (image_id, uri, place, label), what is left out, and what is to be said."""


@dataclass(frozen=True)
class _Samples(Table):
    """Labels of an archive; an error names the photo and not a row."""

    photos: Sequence[str] = field(default_factory=list)

    def rows(self, wanted: pl.Series) -> str:
        """The first of the photos whose labels are meant."""
        return f"the label of '{short(self.photos[self.cells[ROW].filter(wanted)[0] - 1])}'"


def tables_hold_pictures(found: Found, columns: Columns) -> bool:
    """Whether the first of the tables that were found is one with pictures inside; raises UserError if encrypted."""
    key = found.tables[0]
    head = found.store.head(key, len(MAGIC))
    if head == ENCRYPTED:
        raise UserError(f"images: {found.store.locate(key)} {REFUSED[ENCRYPTED]}")
    if head != MAGIC:
        return False
    return has_pictures(found.store, key, _size(found, key), columns)


def photos_in_tables(found: Found, columns: Columns, numbers: Mapping[str, int] | None = None) -> Listed:
    """The pictures inside some parquet tables.

    Their image ids are the column image_id, or the paths beside the pictures if all are there and different, or the
    numbers of the rows through all tables in the order of their names. So they do not change with the number of tables.

    Args:
        found: the tables.
        columns: which of their columns are read.
        numbers: of the classes by name, for labels that are names.

    Raises:
        UserError: a table is damaged or has no pictures.
    """
    keys = found.tables

    def read(key: str) -> pl.DataFrame:
        rows = pictures_in_table(found.store, key, _size(found, key), columns, numbers)
        return rows.with_columns(uri=pl.lit(found.store.locate(key)))

    table = pl.concat(_mapped(read, keys))
    remarks: tuple[str, ...] = ()
    if not table["image_id"].null_count():
        ids = table["image_id"]
    elif table["image_id"].null_count() < table.height:
        raise UserError(f"images: {found.store.uri} has rows without image_id; fill it, or leave the column out")
    elif not table["path"].null_count() and table["path"].n_unique() == table.height:
        ids = table["path"]
    else:
        ids = pl.int_range(table.height, eager=True).cast(pl.String).str.zfill(DIGITS)
        if table["path"].null_count() < table.height:
            remarks = ("the paths beside the pictures are not all there or not all different, so rows are numbered",)
    return table.select(ids.alias("image_id"), "uri", "place", "label", _NO_ROW), {}, remarks


def photos_in_archives(found: Found, photos: Collection[str], numbers: Mapping[str, int] | None = None) -> Listed:
    """The photos in some tars and zips.

    Args:
        found: the archives.
        photos: the extensions of photos.
        numbers: of the classes by name, for labels that are names.

    Raises:
        UserError: one of them is no archive or is damaged, compressed or encrypted; or a label is not a whole number.
    """
    keys = found.archives

    def read(key: str) -> tuple[pl.DataFrame, Photos]:
        inside = photos_in_archive(found.store, key, _size(found, key), photos)
        return _rows(inside, found.store.locate(key), numbers), inside

    several = _mapped(read, keys)
    remarks = [remark for _, inside in several for remark in inside.remarks]
    if len(remarks) > SHOWN_REMARKS:
        remarks[SHOWN_REMARKS:] = [f"there are {len(remarks) - SHOWN_REMARKS:,} more remarks like these on archives"]
    left_out = together(inside.left_out for _, inside in several)
    return pl.concat([rows for rows, _ in several]).with_columns(_NO_ROW), left_out, tuple(remarks)


def _rows(inside: Photos, uri: str, numbers: Mapping[str, int] | None) -> pl.DataFrame:
    texts = pl.Series("label", [None if one is None else str(one) for one in inside.labels], pl.String)
    cells = pl.DataFrame([texts]).with_row_index(ROW, 1)
    labels = label_column(_Samples("images", uri, ["label"], cells, photos=inside.names), numbers)
    return pl.DataFrame(
        {"image_id": inside.names, "uri": [uri] * len(inside.names), "place": inside.places, "label": labels},
        schema={"image_id": pl.String, "uri": pl.String, "place": pl.String, "label": pl.Int32},
    )


def check_packed_ids(table: pl.DataFrame, name: str) -> None:
    """Raise UserError if two photos have one image id, naming the files that hold them."""
    twice = table.filter(pl.col("image_id").is_duplicated())
    if twice.is_empty():
        return
    image = twice["image_id"][0]
    holders = twice.filter(pl.col("image_id") == image)["uri"]
    where = f"twice in {holders[0]}" if holders[0] == holders[1] else f"in {holders[0]} and in {holders[1]}"
    raise UserError(
        f"dataset '{name}': image_id '{short(image)}' is {where}; rename one, exclude it, or make a dataset of each "
        "file"
    )


def _size(found: Found, key: str) -> int:
    return found.sizes[key] if key in found.sizes else found.store.size_bytes(key)


def _mapped(read: Callable[[str], R], keys: Sequence[str]) -> list[R]:
    def one(key: str) -> R:
        try:
            return read(key)
        except MissingObjectError as error:
            raise UserError(f"images: {error} any more, which was there a moment ago; list the images again") from error

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, keys))
