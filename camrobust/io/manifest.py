"""Lists the images to measure, from a folder, a prefix or a manifest, as one table."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath

import polars as pl
import pyarrow as pa

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.contract.secrecy import refuse_address
from camrobust.io.addresses import ODD, SCHEME, parse
from camrobust.io.clouds import SCHEMES as CLOUDS
from camrobust.io.local_folder import Folder
from camrobust.io.objects import Access, MissingObjectError, Store, TooLargeObjectError
from camrobust.io.parquet_budget import columns_within_budget
from camrobust.io.store import open_object, open_store, read_object

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
ARRAY = ".npy"
"""For images that do not have three channels."""
TABLES = (".csv", ".parquet")
LONGEST = 4096
"""Most bytes of an image_id or a uri. Paths and keys of stores are never longer."""
MOST_BYTES = 2 * 2**30
"""Largest table: some ten million images."""
TEXTS = ("image_id", "file", "uri")
KNOWN = (*TEXTS, "label", "class_index")
"""The columns that are read; others are ignored."""
SCHEMES = ("s3", "file", *CLOUDS)
SCHEMA = {"dataset": pl.String, "image_id": pl.String, "uri": pl.String, "label": pl.Int32}


def list_images(
    name: str, images: str, labels: str | None = None, access: Access = "credentials", *, arrays: bool = False
) -> pl.DataFrame:
    """List all images of one dataset, sorted by image_id; columns as `schema.MANIFEST`.

    Args:
        name: name of the dataset.
        images: a folder, an s3://, gs:// or az:// prefix, or a csv/parquet manifest with a column uri and perhaps
            image_id and label. Relative paths in a manifest start at the manifest's folder.
        labels: csv or parquet with image_id (or file) and label (or class_index).
        access: how a bucket is listed and read; a folder ignores it.
        arrays: .npy files are images, too.

    Raises:
        UserError: there are no images, a column or value is missing, an address is not that of a store or holds a
            secret, an image_id occurs twice, or labels are not integers or contradict each other.
    """
    suffixes = (*SUFFIXES, ARRAY) if arrays else SUFFIXES
    if images.lower().endswith(TABLES):
        table = _from_manifest(images, access)
    else:
        table = _from_listing(name, images, access, suffixes)
    if table.is_empty():
        raise UserError(
            f"dataset '{name}': there are no images in {images}; files must end in {', '.join(SUFFIXES[:6])}, …"
        )
    if labels is not None:
        table = _with_labels(table.drop("label"), labels, name)
    repeated = table.filter(pl.col("image_id").is_duplicated())
    if not repeated.is_empty():
        raise UserError(
            f"dataset '{name}': image_id '{short(repeated['image_id'][0])}' occurs twice; give each image its own"
        )
    long = table.filter((pl.col("image_id").str.len_bytes() > LONGEST) | (pl.col("uri").str.len_bytes() > LONGEST))
    if not long.is_empty():
        raise UserError(
            f"dataset '{name}': image_id and uri must have at most {LONGEST} bytes, got more for "
            f"'{short(long['image_id'][0])}'; shorten it"
        )
    return table.select(pl.lit(name).alias("dataset"), "image_id", "uri", "label").cast(SCHEMA).sort("image_id")  # type: ignore[arg-type]


def _from_listing(name: str, images: str, access: Access, suffixes: tuple[str, ...]) -> pl.DataFrame:
    store = open_store(images, access)
    if isinstance(store, Folder) and not Path(store.uri).is_dir():
        raise UserError(
            f"dataset '{name}': there is no folder {images}; give a folder, a prefix or a csv/parquet table"
        )
    keys = [entry.key for entry in store.list() if _suffix(entry.key) in suffixes]
    odd = next((key for key in keys if key != key.encode(errors="replace").decode()), None)
    if odd is not None:
        raise UserError(f"dataset '{name}': the file name {odd!a} is not valid UTF-8; rename it")
    names = pl.Series("image_id", keys, pl.String)
    return pl.select(names, _below(store, names).alias("uri"), pl.lit(None, pl.Int32).alias("label"))


def _suffix(key: str) -> str:
    return PurePosixPath(key.rpartition("/")[2]).suffix.lower()


def read_table(uri: str, what: str, access: Access = "credentials") -> pl.DataFrame:
    """Read a csv or parquet table from any store.

    Args:
        uri: address of the table.
        what: what the table is for; begins the sentence of an error.
        access: how a bucket is read.

    Raises:
        UserError: the table does not exist or cannot be read.
    """
    try:
        content = read_object(uri, access, MOST_BYTES)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"{what}: {error}; correct the path") from error
    try:
        if uri.lower().endswith(".parquet"):
            names, known = columns_within_budget(content, KNOWN, uri)
            if not known:
                return pl.DataFrame(schema=dict.fromkeys(names, pl.Null))
            return pl.read_parquet(BytesIO(content), columns=known)
        # An image_id may be 007.
        return pl.read_csv(BytesIO(content), infer_schema_length=None, schema_overrides=dict.fromkeys(TEXTS, pl.String))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{what}: {uri} is not a readable table ({first_line(error)})") from error


def _column(table: pl.DataFrame, names: tuple[str, ...], what: str, uri: str) -> str:
    for name in names:
        if name in table.columns:
            return name
    wanted = " or ".join(f"'{name}'" for name in names)
    raise UserError(f"{what}: {uri} has no column {wanted}, only {', '.join(table.columns[:10])}; rename or add it")


def _below(store: Store, keys: pl.Series) -> pl.Series:
    """The addresses of some keys of a store, as `Store.locate` gives them, but all at once."""
    # With a name appended, the address of a folder ends in a slash in every store.
    return pl.select(pl.lit(store.locate("_").removesuffix("_")) + keys).to_series()


def _absolute(uris: pl.Series, manifest: str) -> pl.Series:
    """The addresses as written; relative paths start at the manifest's folder."""
    store, _ = open_object(manifest)
    whole = uris.str.contains(SCHEME) | uris.str.starts_with("/")
    return pl.select(pl.when(whole).then(uris).otherwise(_below(store, uris))).to_series()


def _labelled(column: pl.Series, what: str) -> pl.Series:
    sentence = f"{what}: labels must be class indices (integers), got {{}}; map names first"
    if column.dtype == pl.Boolean:
        raise UserError(sentence.format(column.dtype))
    try:
        whole = column.cast(pl.Int32)
    except pl.exceptions.PolarsError as error:
        raise UserError(sentence.format(column.dtype)) from error
    if (column.dtype.is_float() or column.dtype.is_decimal()) and (column != whole).any():
        raise UserError(sentence.format(column.filter(column != whole)[0]))
    return whole


def _from_manifest(manifest: str, access: Access) -> pl.DataFrame:
    what = "manifest"
    table = read_table(manifest, what, access)
    uri = _column(table, ("uri",), what, manifest)
    if table[uri].null_count() or (table[uri].cast(pl.String) == "").any():
        raise UserError(f"{what}: {manifest} has rows without a uri; fill or drop them")
    uris = _absolute(table[uri].cast(pl.String), manifest)
    _check_addresses(uris, what)
    identity = table["image_id" if "image_id" in table.columns else uri].cast(pl.String)
    if identity.null_count() or (identity == "").any():
        raise UserError(f"{what}: {manifest} has rows without an image_id; fill them, or leave the column out")
    label = (
        _labelled(table["label"], what)
        if "label" in table.columns
        else pl.repeat(None, table.height, dtype=pl.Int32, eager=True)
    )
    return pl.DataFrame(
        {
            "image_id": identity,
            "uri": uris,
            "label": label.cast(pl.Int32),
        }
    )


def _check_addresses(uris: pl.Series, what: str) -> None:
    """Refuse addresses that no store can read, and addresses that hold a secret."""
    for uri in uris.filter(uris.str.contains("(?s)://.*[?]")):
        refuse_address(uri)
    far = uris.filter(uris.str.contains(SCHEME))
    for place in far.str.extract("^([^/]*://[^/]*)").unique(maintain_order=True):
        refuse_address(place)
        scheme, _, host = place.partition("://")
        if scheme not in SCHEMES or (not host and scheme != "file"):
            raise UserError(
                f"{what}: a uri must be a path, file://, s3://bucket/…, gs://… or az://…, got {place}/…; copy it there"
            )
        parse(f"{place}/_")
    keys = far.str.replace("^[^/]*://[^/]*/?", "")
    odd = far.filter((keys == "") | (keys.str.contains(ODD) & ~far.str.contains("^(s3|file)://")))
    if not odd.is_empty():
        raise UserError(
            f"{what}: '{odd[0]}' must name an object, and on gs:// and az:// hold no empty name, '.' or '..' between "
            "slashes and no control character; correct or rename it"
        )


def _with_labels(table: pl.DataFrame, labels: str, name: str) -> pl.DataFrame:
    what = f"labels of dataset '{name}'"
    given = read_table(labels, what)
    key = _column(given, ("image_id", "file"), what, labels)
    value = _column(given, ("label", "class_index"), what, labels)
    known = pl.DataFrame({"image_id": given[key].cast(pl.String), "label": _labelled(given[value], what)})
    known = known.drop_nulls("image_id").unique(maintain_order=True)
    repeated = known.filter(pl.col("image_id").is_duplicated())
    if not repeated.is_empty():
        raise UserError(f"{what}: {labels} gives '{short(repeated['image_id'][0])}' more than one label; keep one")
    joined = table.join(known, on="image_id", how="left")
    if joined["label"].null_count() == joined.height:
        raise UserError(f"{what}: none of the {known.height} entries of {labels} names an image; use their image_id")
    return joined


def check_labels(table: pl.DataFrame, classes: Mapping[str, int]) -> None:
    """Refuse labels outside the classes of a model.

    Args:
        table: the manifest.
        classes: number of classes by model name.

    Raises:
        UserError: a label is negative or too large.
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
