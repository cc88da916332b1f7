"""What the name of a file says: a photo, a table, a file that holds many photos, a hidden file, or something else."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

ARRAY = ".npy"
"""For images of other than three channels."""
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".xz")
OTHER_TABLES = (".xlsx", ".xls", ".xlsm", ".ods", ".feather", ".arrow", ".orc", ".avro")
"""Tables that are refused by name."""
ARCHIVES = (".tar", ".zip", ".tgz", ".tbz", ".tbz2", ".txz")
HIDDEN_NAME = re.compile(r"(?:^|/)(?:\.[^./][^/]*|\.\.[^/]+|lost\+found)(?=/|$)")
"""A name that begins with a dot, but is not `.` or `..`; or the folder of a file system's own."""
NO_SUFFIX, HIDDEN, EXCLUDED, OTHERS = "without extension", "hidden", "excluded", "with odd extensions"
MOST_KINDS = 50
"""Kinds of files that are told apart in run.json."""
SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9_+~-]{1,11}")
"""The extensions that are named; others are odd."""


def suffix_of(key: str) -> str:
    """The last extension of a name in small letters; empty if it has none."""
    return PurePosixPath(key.rpartition("/")[2]).suffix.lower()


def _suffixes(name: str) -> tuple[str, bool]:
    """The last extension but one that says how the file is compressed, and whether there is one of these."""
    path = PurePosixPath(name.lower().rstrip("/"))
    compressed = path.suffix in COMPRESSED
    return (path.with_suffix("") if compressed else path).suffix, compressed


def is_table_name(images: str) -> bool:
    """Whether the last name of an address is that of a table or of tables."""
    return _suffixes(images)[0] in (*TABLES, *OTHER_TABLES)


def is_archive_name(images: str) -> bool:
    """Whether the last name of an address is that of a tar or zip, perhaps compressed."""
    suffix, compressed = _suffixes(images)
    return suffix == ".tar" or (suffix in ARCHIVES and not compressed)


def holds_many(images: str) -> bool:
    """Whether the last name of an address is that of a tar, a zip or a parquet file."""
    return is_archive_name(images) or images.lower().endswith(".parquet")


def kind_of(key: str, size_bytes: int, photos: Collection[str]) -> str:
    """hidden, photo, unnamed (its content decides), table, archive or other.

    Args:
        key: name of a file.
        size_bytes: its size.
        photos: the extensions of photos.
    """
    if HIDDEN_NAME.search(key):
        return HIDDEN
    suffix = suffix_of(key)
    if suffix in photos:
        return "photo"
    if not suffix and size_bytes:
        return "unnamed"
    if is_archive_name(key):
        return "archive"
    return "table" if is_table_name(key) else "other"


def counted(rest: Iterable[str], hidden: Iterable[str], excluded: int = 0) -> dict[str, int]:
    """How many files are left out, by kind.

    Args:
        rest: names of files that are no photos.
        hidden: names with a hidden part; a hidden folder counts once.
        excluded: number of excluded files.
    """
    counts = Counter(_kind(key) for key in rest)
    left_out = Counter(dict(counts.most_common(MOST_KINDS)))
    left_out[OTHERS] += counts.total() - left_out.total()
    left_out[HIDDEN] = len({key[: found.end()] for key in hidden if (found := HIDDEN_NAME.search(key))})
    left_out[EXCLUDED] = excluded
    return {kind: count for kind, count in left_out.items() if count}


def together(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of some counts by kind, with hardly more kinds than are told apart."""
    counts: Counter[str] = Counter()
    for one in several:
        counts.update(one)
    odd = [kind for kind, _ in counts.most_common() if kind.startswith(".")][MOST_KINDS:]
    more = sum(counts.pop(kind) for kind in odd)
    counts[OTHERS] += more
    return {kind: count for kind, count in counts.items() if count}


def _kind(key: str) -> str:
    """What a file that is left out is called."""
    suffix = suffix_of(key)
    return NO_SUFFIX if not suffix else suffix if SUFFIX.fullmatch(suffix) else OTHERS
