"""The rows of a manifest: addresses, image ids and labels, checked and in one form."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short, shown
from camrobust.contract.secrecy import refuse_address, without_query
from camrobust.io.addresses import ODD, SCHEME, parse
from camrobust.io.class_numbers import numbers_of
from camrobust.io.clouds import SCHEMES as CLOUDS
from camrobust.io.store import open_store
from camrobust.io.tables import LABELS, ROW, Table, bare_cells, rows_in_words

TEXTS = (pl.String, pl.Categorical, pl.Enum, pl.Binary, pl.Null)
SCHEMES = ("s3", "file", *CLOUDS)
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "-", "?")
"""What spreadsheets and programs write where there is no label, in small letters."""
WHOLE = r"^[+-]?[0-9]+(\.0*)?$"
"""A whole number, perhaps as a float prints it."""
COLUMNS = {
    "image_id": pl.String, "bare_id": pl.String, "uri": pl.String, "label": pl.Int32, ROW: pl.UInt32,
    "named": pl.Boolean, "trimmed": pl.Boolean,
}  # fmt: skip
SHORT_NAME = 5
"""Shorter names are not compared letter by letter, as url would be taken for uri."""
MOST_FOLDERS = 100_000
"""Folders of images whose links are resolved to find files that are named twice."""


def manifest_rows(
    table: Table, base: str, key: str, numbers: Mapping[str, int] | None = None, *, relabelled: bool = False
) -> tuple[pl.DataFrame, list[str]]:
    """The images that a table names.

    Args:
        table: with a column uri, and perhaps image_id and label or class_index.
        base: address of the folder at which relative paths start.
        key: of the table below the folder or pattern that was given; a folder `label=3` in it is a column.
        numbers: of the classes by name, for labels that are names; None for ImageNet's wnids only.
        relabelled: the labels come from another table, so that it does not matter if some are missing here.

    Returns:
        `COLUMNS`, where named is whether the table has image ids, bare_id is the image_id without blanks around it, if
        they may be layout, and trimmed is whether blanks around an address of a bucket were left out; and what is to be
        said.

    Raises:
        UserError: a column or value is missing, or an address cannot be read.
    """
    given = text_column(table, ("uri",))
    blank = (bare(table, given) == "").fill_null(value=True)
    if blank.any():
        raise table.error(f"has no uri in {table.rows(blank)}; fill or drop what is blank")
    spaced, given = given, _without_layout(table, given, base)
    uris = _absolute(given, base)
    _check_addresses(uris, table)
    named = column_of(table, ("image_id",)) is not None
    identity = text_column(table, ("image_id",)) if named else given
    bare_id = bare(table, identity) if named else given
    blank = (bare_id == "").fill_null(value=True)
    if blank.any():
        raise table.error(f"has no image_id in {table.rows(blank)}; fill it, or leave the column out")
    labels, remarks = label_column(table, numbers), []
    if labels is None:
        labels = _label_of_folder(table, key)
    elif labels.null_count() and not relabelled:
        remarks.append(f"{table.uri} has no label in {table.rows(labels.is_null())}")
    rows = {
        "image_id": identity, "bare_id": bare_id, "uri": uris, "label": labels, ROW: table.cells[ROW], "named": named,
        "trimmed": (spaced != given) & uris.str.contains(SCHEME) & ~uris.str.starts_with("file://"),
    }  # fmt: skip
    return pl.DataFrame(rows, schema=COLUMNS), remarks


def column_of(table: Table, names: Sequence[str]) -> str | None:
    """The first of some columns that a table has; None if it has none.

    Raises:
        UserError: instead of them it has one whose name is nearly the same.
    """
    for name in names:
        if name in table.names:
            return name
    for given in table.names:
        near = next((name for name in names if _nearly(given, name)), None)
        if near is not None:
            raise table.error(f"has a column '{short(given)}', which is not read; did you mean '{near}'? rename it")
    return None


def text_column(table: Table, names: Sequence[str]) -> pl.Series:
    """The first of some columns that a table has, as text.

    Raises:
        UserError: there is none, or it holds something else than text or numbers.
    """
    name = column_of(table, names)
    if name is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        only = ", ".join(short(without_query(name)) for name in table.names[:10])
        raise table.error(f"has no column {wanted}, only {only}; rename or add it")
    column = table.cells[name]
    if not (column.dtype.is_integer() or column.dtype in TEXTS):
        raise table.error(f"holds {column.dtype} in the column '{name}', which must hold text")
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise table.error(f"holds text that is not UTF-8 in the column '{name}'; write it as text") from error


def _nearly(given: str, name: str) -> bool:
    """Whether a name differs from another one by case, signs, a plural or one letter."""
    one, other = re.sub(r"[\W_]", "", given.casefold()), re.sub(r"[\W_]", "", name)
    if len(name) < SHORT_NAME or len(one) > 2 * len(other):
        return one in (other, f"{other}s")
    return not _shortened(one).isdisjoint(_shortened(other))


def _shortened(name: str) -> set[str]:
    """The name, and the name without any one of its letters."""
    return {name, *(name[:place] + name[place + 1 :] for place in range(len(name)))}


def label_column(table: Table, numbers: Mapping[str, int] | None = None) -> pl.Series | None:
    """The labels of a table, null where there is none; None if it has no column of labels.

    Args:
        table: the table.
        numbers: of the classes by name, for labels that are names; None for ImageNet's wnids only.

    Raises:
        UserError: a label is neither a whole number nor a known name.
    """
    name = column_of(table, LABELS)
    if name is None:
        return None
    column = table.cells[name]
    if column.dtype == pl.Boolean or column.dtype.is_temporal():
        raise _not_a_label(table, str(column.dtype))
    if column.dtype.is_float() or column.dtype.is_decimal():
        column = column.cast(pl.Float64).fill_nan(None)
        _refuse_labels(table, column, column != column.round())
        whole = column.cast(pl.Int64, strict=False)
    elif column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
    else:
        column = text_column(table, (name,)).str.strip_chars()
        column = column.set(column.str.to_lowercase().is_in(MISSING).fill_null(value=False), None)
        column = _numbered(table, column, numbers)
        _refuse_labels(table, column, ~column.str.contains(WHOLE))
        whole = column.str.replace(r"\.0*$", "").str.strip_prefix("+").cast(pl.Int64, strict=False)
    labels = whole.cast(pl.Int32, strict=False)
    _refuse_labels(table, column, labels.is_null() & column.is_not_null())
    return labels.alias("label")


def _numbered(table: Table, texts: pl.Series, known: Mapping[str, int] | None) -> pl.Series:
    """Labels as text, with the numbers of classes in the place of their names."""
    names = texts.filter((~texts.str.contains(WHOLE)).fill_null(value=False)).unique().to_list()
    names += [] if known is None else [name for name in texts.drop_nulls().unique() if name in known]
    numbers = numbers_of({*names}, known, table.what) if names else None
    if numbers is None:
        return texts
    return texts.replace({name: str(number) for name, number in numbers.items()})


def _refuse_labels(table: Table, column: pl.Series, wrong: pl.Series) -> None:
    wrong = wrong.fill_null(value=False)
    if wrong.any():
        value = column.filter(wrong)[0]
        raise _not_a_label(table, f"{shown(without_query(value))} in {table.rows(wrong)} of {table.uri}")


def _not_a_label(table: Table, got: str) -> UserError:
    return UserError(
        f"{table.what}: labels must be class indices (integers), got {got}; give label_names, a file with "
        "the number of each name"
    )


def _label_of_folder(table: Table, key: str) -> pl.Series:
    """The label in a folder's name, such as label=3, as Spark and Hive write it; null where there is none."""
    folders = dict(part.split("=", 1) for part in key.split("/")[:-1] if "=" in part)
    value = next((folders[name] for name in LABELS if name in folders), "")
    wrong = re.fullmatch(WHOLE, value) is None
    if wrong and value not in ("", "__HIVE_DEFAULT_PARTITION__"):
        raise _not_a_label(table, f"{shown(value)} in the folder of {table.uri}")
    return pl.repeat(None if wrong else int(float(value)), table.cells.height, dtype=pl.Int32, eager=True)


def bare(table: Table, texts: pl.Series) -> pl.Series:
    """Texts of a table without the blanks around them, where these may be layout only."""
    return bare_cells(texts) if table.loose else texts


def _without_layout(table: Table, uris: pl.Series, base: str) -> pl.Series:
    """The addresses without the blanks around them, except where there is a file of the very name."""
    inner = bare(table, uris)
    differ = uris != inner
    if not differ.any():
        return uris
    _refuse_nul(uris, table)
    exact = [differs and _exists(uri) for differs, uri in zip(differ, _absolute(uris, base), strict=True)]
    return pl.select(pl.when(pl.Series(exact)).then(uris).otherwise(inner)).to_series()


def _exists(uri: str) -> bool:
    return os.path.lexists(uri.removeprefix("file://"))


def _refuse_nul(uris: pl.Series, table: Table) -> None:
    odd = uris.str.contains("\0", literal=True)
    if odd.any():
        raise table.error(f"has a NUL character in the uri of {table.rows(odd)}; correct it")


def _absolute(uris: pl.Series, base: str) -> pl.Series:
    """The addresses as written; relative paths start at the base, and ~/ at the home folder."""
    # With a name appended, the address of a folder ends in a slash in every store.
    root = open_store(base).locate("_").removesuffix("_")
    whole = uris.str.contains(SCHEME) | uris.str.starts_with("/")
    below_home = uris.str.starts_with("~/")
    home = pl.lit(_home() if below_home.any() else "") + uris.str.strip_prefix("~")
    return pl.select(pl.when(whole).then(uris).when(below_home).then(home).otherwise(pl.lit(root) + uris)).to_series()


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError as error:
        raise UserError("manifest: there is no home folder, so that ~/ means nothing; write whole paths") from error


def _check_addresses(uris: pl.Series, table: Table) -> None:
    """Refuse addresses that no store can read, and addresses that hold a secret."""
    _refuse_nul(uris, table)
    for uri in uris.filter(uris.str.contains("(?s)://.*[?]")):
        refuse_address(uri)
    far = uris.filter(uris.str.contains(SCHEME))
    for place in far.str.extract("^([^/]*://[^/]*)").unique(maintain_order=True):
        refuse_address(place)
        scheme, _, host = place.partition("://")
        if scheme not in SCHEMES or (not host and scheme != "file"):
            raise UserError(
                f"{table.what}: a uri must be a path, file://, s3://bucket/…, gs://… or az://…, got {place}/…; copy it "
                "there"
            )
        parse(f"{place}/_")
    keys = far.str.replace("^[^/]*://[^/]*/?", "")
    odd = far.filter((keys == "") | (keys.str.contains(ODD) & ~far.str.contains("^(s3|file)://")))
    if not odd.is_empty():
        raise UserError(
            f"{table.what}: '{short(without_query(odd[0]))}' must name an object, and on gs:// and az:// hold no empty "
            "name, '.' or '..' between slashes and no control character; correct or rename it"
        )
    windows = ~uris.str.contains(SCHEME) & uris.str.contains("\\", literal=True)
    first = next(iter(uris.filter(windows)[:1]), None)
    if first is not None and not os.path.lexists(first):
        raise table.error(f"writes paths with backslashes ({table.rows(windows)}); write / instead")


def file_twice(table: pl.DataFrame, name: str) -> list[str]:
    """What is to be said of files that several rows name, perhaps under two spellings.

    Raises:
        UserError: the rows have no image ids of their own, so that the spelling alone would make two images.
    """
    found = table.with_columns(file=_files(table["uri"]))
    twice = found.filter(pl.col("file").is_duplicated())
    # Rows with one image_id are an error of their own.
    twice = twice.filter(pl.col("image_id").n_unique().over("file") > 1)
    unnamed = twice.filter(~pl.col("named"))
    unnamed = unnamed.filter(pl.col("image_id").n_unique().over("file") > 1)
    if not unnamed.is_empty():
        same = unnamed.filter(pl.col("file") == unnamed["file"][0]).unique(
            "image_id", keep="first", maintain_order=True
        )
        raise UserError(
            f"dataset '{name}': '{short(same['image_id'][0])}' and '{short(same['image_id'][1])}' are one file"
            f"{_where(same)}; keep one"
        )
    if twice.is_empty():
        return []
    files = twice["file"].n_unique()
    same = twice.filter(pl.col("file") == twice["file"][0])
    return [
        f"{files:,} file{'s are' if files > 1 else ' is'} named by more than one row, such as '{short(same['uri'][0])}'"
        f"{_where(same)}; each row counts as an image of its own"
    ]


def _where(rows: pl.DataFrame) -> str:
    return "" if rows[ROW].null_count() else f" ({rows_in_words(rows[ROW])})"


def _files(uris: pl.Series) -> pl.Series:
    """One spelling per file: without file://, and with the links and dots in the names of folders resolved."""
    paths = uris.str.strip_prefix("file://")
    table = pl.DataFrame({"path": paths}).with_columns(folder=pl.col("path").str.extract("(?s)^(/.*/)"))
    folders = table["folder"].unique().drop_nulls()
    resolve = os.path.realpath if len(folders) <= MOST_FOLDERS else os.path.normpath
    meant = pl.DataFrame({"folder": folders, "meant": pl.Series(map(resolve, folders), dtype=pl.String)})
    joined = table.join(meant, on="folder", how="left", maintain_order="left")
    near = pl.col("meant") + "/" + pl.col("path").str.strip_prefix(pl.col("folder"))
    return joined.select(near.fill_null(pl.col("path"))).to_series()
