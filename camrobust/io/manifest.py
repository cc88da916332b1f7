"""Lists the images to measure, from a folder, a prefix, a pattern, one image or a manifest, as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.secrecy import without_query
from camrobust.io.class_numbers import FOLDERS, first_folders, folder_labels, read_class_numbers
from camrobust.io.file_kinds import EXCLUDED, together
from camrobust.io.ground_truth import labels_in_order
from camrobust.io.image_formats import suffixes
from camrobust.io.image_listing import Found, find, in_words
from camrobust.io.manifest_rows import bare, file_twice, label_column, manifest_rows, text_column
from camrobust.io.objects import Access
from camrobust.io.packs import Listed, check_packed_ids, photos_in_archives, photos_in_tables, tables_hold_pictures
from camrobust.io.patterns import Exclusions
from camrobust.io.picture_tables import BY_TYPE, Columns
from camrobust.io.tables import ROW, read_table, rows_in_words

LONGEST = 4096
"""Most bytes of an image_id or a uri. Paths and keys of stores are never longer."""
SHOWN_REMARKS = 3
"""Tables of one manifest whose missing labels are named one by one."""
SCHEMA = {"dataset": pl.String, "image_id": pl.String, "uri": pl.String, "label": pl.Int32, "place": pl.String}


@dataclass(frozen=True)
class Listing:
    """The images of one dataset, and what is to be said of the rest.

    Attributes:
        images: one row per image, `schema.MANIFEST`, sorted by image_id; those inside files that hold many in the
            order of these files, so that neighbours are read together.
        left_out: how many files are no images that are read, or were excluded, by kind (`image_listing.in_words`).
        remarks: sentences for the user, for example on labels that are missing or belong to no image.
    """

    images: pl.DataFrame
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def list_images(
    name: str, images: str, labels: str | None = None, access: Access = "credentials", *, arrays: bool = False
) -> pl.DataFrame:
    """The images of `list_dataset`, for those who have nobody to tell the rest."""
    return list_dataset(name, images, labels, access, arrays=arrays).images


def list_dataset(
    name: str, images: str, labels: str | None = None, access: Access = "credentials", exclude: Sequence[str] = (),
    *, arrays: bool = False, label_names: str | None = None, columns: Columns = BY_TYPE,
) -> Listing:  # fmt: skip
    """List all images of one dataset.

    Args:
        name: name of the dataset.
        images: a folder, an s3://, gs:// or az:// prefix, a pattern such as photos/*.jpg, one image, or a manifest:
            a table (`io.tables`), or a folder or pattern of tables, with a column uri and perhaps image_id and label.
            Relative paths in a manifest start at the manifest's folder. Or a tar, a zip or a parquet table with the
            images inside, or a folder, pattern or range (shard-{00..63}.tar) of them.
        labels: a table with image_id (or file) and label (or class_index), a text file with a number for each image in
            the order of their ids, or "folders" for the names of sub-folders.
        access: how a bucket is listed and read; a folder ignores it.
        exclude: patterns of image ids to leave out (`io.patterns`).
        arrays: .npy files are images, too.
        label_names: a file that gives names their numbers, for labels that are names (`io.class_numbers`).
        columns: of parquet tables with the images inside.

    Raises:
        UserError: there are no images, a column or value is missing, an address is not that of a store or holds a
            secret, an image_id or a file occurs twice, labels are not integers or contradict each other, or an archive
            is damaged.
    """
    exclusions = Exclusions(exclude)
    found = find(name, images, access, exclusions, arrays=arrays)
    known = None if label_names is None else read_class_numbers(label_names, f"label_names of dataset '{name}'")
    packed = _is_packed(name, found, columns)
    if packed or found.tables:
        # Names of files do not count, only image ids.
        exclusions = Exclusions(exclude)
    inside: Mapping[str, int] = {}
    said: Sequence[str] = ()
    if packed:
        table, inside, said = _from_packs(found, columns, known, arrays=arrays)
    elif found.tables:
        table, said = _from_tables(name, found, access, known, relabelled=labels is not None)
    else:
        table = _from_keys(name, found)
    left_out = together([found.left_out, inside])
    if exclude and (packed or found.tables):
        kept = pl.Series([not exclusions.match(image_id) for image_id in table["image_id"]], dtype=pl.Boolean)
        left_out = together([left_out, {EXCLUDED: table.height - int(kept.sum())}])
        found = replace(found, excluded_folders=frozenset(first_folders(table.filter(~kept)["image_id"])))
        table = table.filter(kept)
    if table.is_empty():
        raise UserError(f"dataset '{name}': {_nothing(found, images, left_out)}")
    table, more = _labelled(table, found, labels, name, known)
    _check_ids(table, name, packed=packed)
    unused = [f"exclude '{short(pattern)}' matches no image" for pattern in exclusions.unused]
    remarks = tuple(f"dataset '{name}': {remark}" for remark in (*said, *more, *unused))
    listed = pl.concat([pl.DataFrame(schema=SCHEMA), table], how="diagonal_relaxed").with_columns(dataset=pl.lit(name))
    listed = listed.select(list(SCHEMA)).cast(SCHEMA)  # type: ignore[arg-type]
    # Inside a pack, neighbours stay neighbours, so that they are read together.
    return Listing(listed if packed else listed.sort("image_id"), left_out, remarks)


def _is_packed(name: str, found: Found, columns: Columns) -> bool:
    """Whether the images lie inside archives or parquet; raises UserError if columns are named and they do not."""
    packed = bool(found.archives) or (bool(found.tables) and tables_hold_pictures(found, columns))
    if columns != BY_TYPE and (found.archives or not packed):
        raise UserError(
            f"dataset '{name}': image_column and label_column are for parquet with pictures inside; leave them out"
        )
    return packed


def _from_packs(found: Found, columns: Columns, known: Mapping[str, int] | None, *, arrays: bool) -> Listed:
    """The images inside archives or parquet."""
    if found.archives:
        return photos_in_archives(found, suffixes(arrays=arrays), known)
    return photos_in_tables(found, columns, known)


def _labelled(
    table: pl.DataFrame, found: Found, labels: str | None, name: str, known: Mapping[str, int] | None
) -> tuple[pl.DataFrame, list[str]]:
    """The images with the labels that are given beside them, and what is to be said."""
    if labels is None:
        return table, []
    if labels != FOLDERS:
        return _with_labels(table.drop("label"), labels, name, known)
    if found.tables:
        table_uri = found.store.locate(found.tables[0])
        raise UserError(
            f"dataset '{name}': labels: folders is for images in folders, and {table_uri} is a manifest; give it a "
            "column label"
        )
    given, said = folder_labels(table["image_id"], found.excluded_folders, known, f"dataset '{name}'")
    return table.with_columns(given), [said, *_unlabelled(given, table, "lie in no sub-folder")]


def _nothing(found: Found, images: str, left_out: Mapping[str, int]) -> str:
    """Why a dataset holds no image."""
    words = f" ({in_words(left_out)})" if any(left_out.values()) else ""
    if found.tables:
        return f"{images} names no image{words}; a manifest has a row for each"
    return f"there are no images in {images}{words}; they must be photos such as .jpg, .png, .tif or .webp"


def _from_keys(name: str, found: Found) -> pl.DataFrame:
    odd = next((key for key in found.images if key != key.encode(errors="replace").decode()), None)
    if odd is not None:
        raise UserError(f"dataset '{name}': the file name {odd!a} is not valid UTF-8; rename it")
    names = pl.Series("image_id", found.images, pl.String)
    # With a name appended, the address of a folder ends in a slash in every store.
    root = found.store.locate("_").removesuffix("_")
    return pl.select(
        names, (pl.lit(root) + names).alias("uri"), pl.lit(None, pl.Int32).alias("label"), pl.lit(None).alias(ROW)
    )


def _from_tables(
    name: str, found: Found, access: Access, known: Mapping[str, int] | None, *, relabelled: bool
) -> tuple[pl.DataFrame, list[str]]:
    """The rows of all tables of a manifest, and what is to be said of them."""
    parts, remarks = [], []
    for key in found.tables:
        given = read_table(found.store.locate(key), "manifest", access)
        rows, said = manifest_rows(given, found.base, key, known, relabelled=relabelled)
        parts.append(rows)
        remarks += said
    table = pl.concat(parts)
    # Blanks around an image_id are left out unless another one is the same without them.
    one = pl.when(pl.col("bare_id").is_duplicated()).then("image_id").otherwise("bare_id")
    table = table.with_columns(image_id=one).drop("bare_id")
    if len(remarks) > SHOWN_REMARKS:
        remarks[SHOWN_REMARKS:] = [
            f"{len(remarks) - SHOWN_REMARKS:,} more tables of {found.base} have rows without a label"
        ]
    trimmed = table.filter("trimmed")
    if trimmed.height:
        remarks.append(
            f"{trimmed.height:,} addresses have blanks around them, which are left out, such as "
            f"'{short(trimmed['uri'][0])}'"
        )
    if len(parts) > 1:
        # Rows of several tables have no numbers of their own.
        table = table.with_columns(pl.lit(None, pl.UInt32).alias(ROW))
    return table, remarks + file_twice(table, name)


def _check_ids(table: pl.DataFrame, name: str, *, packed: bool) -> None:
    if packed:
        check_packed_ids(table, name)
    repeated = table.filter(pl.col("image_id").is_duplicated())
    if not repeated.is_empty():
        image = repeated["image_id"][0]
        rows = repeated.filter(pl.col("image_id") == image)[ROW]
        where = "" if rows.null_count() else f" ({rows_in_words(rows)})"
        raise UserError(f"dataset '{name}': image_id '{short(image)}' occurs twice{where}; give each image its own")
    long = table.filter((pl.col("image_id").str.len_bytes() > LONGEST) | (pl.col("uri").str.len_bytes() > LONGEST))
    if not long.is_empty():
        raise UserError(
            f"dataset '{name}': image_id and uri must have at most {LONGEST} bytes, got more for "
            f"'{short(long['image_id'][0])}'; shorten it"
        )


def _with_labels(
    table: pl.DataFrame, labels: str, name: str, numbers: Mapping[str, int] | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """The images with the labels of a table, and what is to be said of the two."""
    what = f"labels of dataset '{name}'"
    ordered = labels_in_order(labels, table["image_id"], what)
    if ordered is not None:
        return table.with_columns(ordered), []
    given = read_table(labels, what)
    keys, rows = text_column(given, ("image_id", "file")), given.cells[ROW]
    # An image of the very name comes first; only other names are taken without the blanks around them.
    exact = keys.is_in(table["image_id"].to_list()).fill_null(value=False)
    keys = pl.select(pl.when(exact).then(keys).otherwise(bare(given, keys))).to_series()
    values = label_column(given, numbers)
    if values is None:
        raise given.error("has no column 'label' or 'class_index'; rename or add it")
    known = pl.DataFrame({"image_id": keys, "label": values}).drop_nulls("image_id").unique(maintain_order=True)
    known = known.filter(pl.col("image_id") != "")
    repeated = known.filter(pl.col("image_id").is_duplicated())
    if not repeated.is_empty():
        image = repeated["image_id"][0]
        where = rows_in_words(rows.filter((keys == image).fill_null(value=False)))
        raise UserError(
            f"{what}: {labels} gives '{short(without_query(image))}' more than one label ({where}); keep one"
        )
    joined = table.join(known, on="image_id", how="left", maintain_order="left")
    others = known.join(table, on="image_id", how="anti")
    if others.height == known.height:
        example = short(table["image_id"][0])
        raise UserError(
            f"{what}: none of the {known.height} entries of {labels} names an image; use their image_id, such as "
            f"'{example}'"
        )
    remarks = []
    if others.height:
        example = short(without_query(others["image_id"][0]))
        remarks.append(f"{others.height:,} entries of {labels} name no image, such as '{example}'")
    return joined, remarks + _unlabelled(joined["label"], joined, f"have no label in {labels}")


def _unlabelled(labels: pl.Series, table: pl.DataFrame, what: str) -> list[str]:
    without = table.filter(labels.is_null())
    if without.is_empty():
        return []
    return [f"{without.height:,} of {table.height:,} images {what}, such as '{short(without['image_id'][0])}'"]


def check_labels(
    table: pl.DataFrame, classes: Mapping[str, int], kept: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Refuse labels outside the classes of a model.

    Args:
        table: the manifest.
        classes: number of classes by model name.
        kept: numbers of the classes between which a model chooses, by its name, where not all.

    Raises:
        UserError: a label is negative or too large, or no class that is kept.
    """
    known = table.drop_nulls("label")
    for model, count in classes.items():
        outside = known.filter((pl.col("label") < 0) | (pl.col("label") >= count))
        if not outside.is_empty():
            row = outside.row(0, named=True)
            raise UserError(
                f"labels: label must be 0 to {count - 1} for model '{model}', got {row['label']} for "
                f"'{short(row['image_id'])}'; correct the labels or leave them out"
            )
    for model, numbers in (kept or {}).items():
        outside = known.filter(~pl.col("label").is_in(list(numbers)))
        if not outside.is_empty():
            row = outside.row(0, named=True)
            raise UserError(
                f"labels: label {row['label']} of '{short(row['image_id'])}' is not among the classes_kept of model "
                f"'{model}', so that it could never be right; keep the class, or leave out its images"
            )
