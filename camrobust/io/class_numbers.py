"""Numbers of classes from their names: from a file of the user, from ImageNet's WordNet ids, or from folders."""

import re
from collections.abc import Collection, Mapping

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import wnids
from camrobust.contract.quoting import short
from camrobust.contract.registry import unknown
from camrobust.io.file_kinds import is_table_name
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import read_object
from camrobust.io.tables import LABELS, NAMES, read_table

FOLDERS = "folders"
"""`labels: folders`: an image's class is the sub-folder that it lies in."""
WHOLE = re.compile(r"[0-9]{1,9}")
FIRST_FOLDER = "(?s)^([^/]+)/"
SEVERAL = -1
"""Stands for the number of a name that several classes have."""
MOST_BYTES = 16 * 2**20
"""Largest file of names."""


def read_class_numbers(address: str, what: str) -> dict[str, int]:
    """The number of each class by its name; `SEVERAL` for a name of several classes.

    Args:
        address: a text file (.txt) with one name per line, in the order of the logits; or a table (csv, line JSON,
            parquet) with a column class_name or wnid, or both, and label or class_index.
        what: begins the sentence of an error.

    Raises:
        UserError: it cannot be read, or a number is none of a class.
    """
    if is_table_name(address) and not address.lower().endswith(".txt"):
        return _from_table(address, what)
    try:
        text = read_object(address, most=MOST_BYTES).decode("utf-8-sig")
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"{what}: {error}; correct label_names") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: '{short(address)}' is not UTF-8 text; save one name per line") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    return _once([(name, number) for number, name in enumerate(lines) if name], address, what)


def _from_table(address: str, what: str) -> dict[str, int]:
    table = read_table(address, what)
    columns = [name for name in NAMES if name in table.names]
    label = next((name for name in LABELS if name in table.names), None)
    if not columns or label is None:
        raise table.error("must have a column class_name or wnid, and one label or class_index; rename or add them")
    numbers = table.cells[label].cast(pl.String).str.strip_chars()
    wrong = (~numbers.str.contains(r"^[0-9]{1,9}$")).fill_null(value=True)
    if wrong.any():
        raise table.error(f"must give each class its number, counted from 0 ({table.rows(wrong)})")
    whole = numbers.cast(pl.Int64).to_list()
    names = [(name, number) for column in columns for name, number in zip(table.cells[column], whole, strict=True)]
    return _once([(str(name).strip(), number) for name, number in names if name is not None], address, what)


def _once(pairs: list[tuple[str, int]], address: str, what: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for name, number in pairs:
        if numbers.setdefault(name, number) != number:
            numbers[name] = SEVERAL
    if not numbers:
        raise UserError(f"{what}: '{short(address)}' is empty; write one name per line, in the order of the logits")
    return numbers


def numbers_of(names: Collection[str], known: Mapping[str, int] | None, what: str) -> dict[str, int] | None:
    """The numbers of some names of classes; None where nothing says them.

    Args:
        names: different names.
        known: numbers from a file of the user; None for ImageNet's, if all names are its WordNet ids.
        what: begins the sentence of an error.

    Raises:
        UserError: the user's file lacks a name, or only some names are WordNet ids of ImageNet.
    """
    if known is not None:
        strange = next((name for name in names if name not in known and not WHOLE.fullmatch(name)), None)
        if strange is not None:
            raise UserError(f"{what}: {unknown('name in label_names', strange, [*known])}")
        several = next((name for name in names if known.get(name) == SEVERAL), None)
        if several is not None:
            raise UserError(f"{what}: '{short(several)}' is the name of several classes; name them by their wnids")
        return {name: known[name] if name in known else int(name) for name in names}
    ours = wnids()
    strangers = sorted(name for name in names if name not in ours)
    if not strangers:
        return {name: ours[name] for name in names}
    if len(strangers) < len(names):
        raise UserError(
            f"{what}: {len(names) - len(strangers):,} of {len(names):,} names are classes of ImageNet-1k (wnids), but "
            f"'{short(strangers[0])}' is none; exclude it, or give label_names, a file with the number of each name"
        )
    return None


def first_folders(images: pl.Series) -> set[str]:
    """The first folder of each image id that has one."""
    return {*images.str.extract(FIRST_FOLDER).drop_nulls()}


def folder_labels(
    images: pl.Series, others: Collection[str], known: Mapping[str, int] | None, what: str
) -> tuple[pl.Series, str]:
    """Labels from the sub-folders that images lie in, as torchvision's ImageFolder numbers them.

    A sub-folder is the first folder of an image id. All of them in sorted order are the classes 0, 1, 2, …; wnids of
    ImageNet-1k have their usual numbers, also where only some of the 1000 are there.

    Args:
        images: image ids.
        others: sub-folders whose images are all left out; they count as classes.
        known: numbers of the sub-folders from a file of the user.
        what: begins the sentence of an error.

    Returns:
        Labels, null for an image in no sub-folder; and in a sentence how the sub-folders were numbered.

    Raises:
        UserError: no image lies in a sub-folder, or a sub-folder has no number.
    """
    classes = images.str.extract(FIRST_FOLDER)
    names = sorted({*classes.drop_nulls(), *others})
    if not classes.count():
        raise UserError(f"{what}: labels: folders needs images in sub-folders, one for each class; name a labels file")
    numbers = numbers_of(names, known, what)
    way = "numbered by label_names" if known is not None else "wnids of ImageNet-1k"
    if numbers is None:
        numbers = {name: number for number, name in enumerate(names)}
        way = "numbered in sorted order, as ImageFolder does"
        if all(map(WHOLE.fullmatch, names)) and names != sorted(names, key=int):
            way += ", so that their own numbers do not count"
    shown = ", ".join(f"{short(name)} = {numbers[name]}" for name in [*dict.fromkeys((names[0], names[-1]))])
    labels = classes.replace_strict(numbers, default=None, return_dtype=pl.Int32)
    return labels.alias("label"), f"labels are {len(names):,} sub-folders, {way} ({shown})"
