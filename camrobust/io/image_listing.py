"""Finds what an address of images holds: photos in a folder or below a prefix, one photo, or tables that name photos.

Files are sorted by their names; only a file without an extension is looked into. Hidden files and folders are left out
alike in folders and on every store.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless
from camrobust.io.image_formats import HEIF_REMEDY, HEIF_SUFFIXES, format_of, suffixes
from camrobust.io.local_folder import Folder
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, Store
from camrobust.io.patterns import Exclusions, before_wildcard, depth, has_wildcard, matcher
from camrobust.io.store import open_object, open_store

ARRAY = ".npy"
"""For images of other than three channels."""
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
PACKED = (".gz", ".bz2", ".zst", ".lz4", ".xz")
OTHER_TABLES = (".xlsx", ".xls", ".xlsm", ".ods", ".feather", ".arrow", ".orc", ".avro")
"""Tables that are refused by name."""
_HIDDEN = re.compile(r"(?:^|/)(?:\.[^./][^/]*|\.\.[^/]+|lost\+found)(?=/|$)")
"""A name that begins with a dot, but is not `.` or `..`; or the folder of a file system's own."""
NO_SUFFIX, HIDDEN, EXCLUDED, OTHERS = "without extension", "hidden", "excluded", "with odd extensions"
KINDS = 8
"""Kinds of files that are told apart in the sentence about what is left out."""
MOST_KINDS = 50
"""Kinds of files that are told apart in run.json."""
SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9_+~-]{1,11}")
"""The extensions that are named; others are odd."""
HEAD_BYTES = 4096
MOST_UNNAMED = 100_000
"""Files without an extension that are looked into; each takes one request on a store."""
READERS = 32


@dataclass(frozen=True)
class Found:
    """What an address holds.

    Attributes:
        store: where the keys lie.
        images: keys of photos.
        tables: keys of tables that name photos, where there are no photos.
        base: address of the folder at which relative paths in the tables start.
        left_out: how many files are neither, or are excluded, by kind.
        excluded_folders: the first folders of excluded photos; where folders are classes, these are classes, too.
    """

    store: Store
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    base: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    excluded_folders: frozenset[str] = frozenset()

    def is_empty(self) -> bool:
        """Whether nothing at all lies there."""
        return not (self.images or self.tables or self.left_out)


def is_table_name(images: str) -> bool:
    """Whether the last name of an address is that of a table or of tables."""
    path = PurePosixPath(images.lower().rstrip("/"))
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix in (*TABLES, *OTHER_TABLES)


def find(name: str, images: str, access: Access, exclusions: Exclusions, *, arrays: bool = False) -> Found:
    """What the images of a dataset are.

    Args:
        name: of the dataset.
        images: a folder, a prefix, a pattern, one photo, a table, or a folder or pattern of tables.
        access: how a bucket is listed and read.
        exclusions: patterns of keys to leave out.
        arrays: .npy files are photos, too, of other than three channels.

    Raises:
        UserError: there is no such file or folder, or too much of it has no extension.
    """
    store = open_store(images, access)
    near = isinstance(store, Folder)
    photos = (*suffixes(), ARRAY) if arrays else (*suffixes(),)
    named = near or is_table_name(images) or suffix_of(images) in (*photos, *HEIF_SUFFIXES)
    if named and (alone := _file(images, access, photos)):
        return alone
    found = _sorted(store, _entries(store), photos, exclusions, images)
    if found.is_empty() and has_wildcard(images):
        folder, pattern = before_wildcard(images)
        below, wanted = open_store(folder or ".", access), matcher(pattern)
        if isinstance(below, Folder):
            below = replace(below, depth=depth(pattern))
        entries = (entry for entry in _entries(below) if wanted.match(entry.key))
        return _sorted(below, entries, photos, exclusions, images, pattern=True)
    if found.is_empty() and not named and (alone := _file(images, access, photos)):
        return alone
    if found.is_empty() and near:
        _check_folder(name, images)
    if found.is_empty() and is_table_name(images):
        raise UserError(f"manifest: there is no object {images}; correct the path")
    return found


def _check_folder(name: str, images: str) -> None:
    """Raise UserError unless a path is a folder; a link that leads nowhere, a pipe or a device is told from it."""
    path = Path(images.removeprefix("file://")).expanduser()
    if path.is_dir():
        return
    if not (path.exists() or path.is_symlink()):
        sentence = f"there is no file or folder {images}; give a folder, a prefix, an image or a table"
    elif not path.exists():
        sentence = f"{images} is a link that leads nowhere; correct it"
    else:
        sentence = f"{images} is not a regular file; give a folder, a prefix, an image or a table"
    raise UserError(f"dataset '{name}': {sentence}")


def _entries(store: Store) -> Iterator[Entry]:
    """Every object, and of a folder also the names of hidden ones."""
    return (replace(store, hidden=True) if isinstance(store, Folder) else store).list()


def suffix_of(key: str) -> str:
    """The last extension of a name in small letters; empty if it has none."""
    return PurePosixPath(key.rpartition("/")[2]).suffix.lower()


def _file(images: str, access: Access, photos: Sequence[str]) -> Found | None:
    """The one photo or table that an address names; None if there is no such file.

    Raises:
        UserError: it is a photo that is read only with an extra.
    """
    store, key = open_object(images, access)
    try:
        head = store.head(key, HEAD_BYTES) if key else None
    except MissingObjectError:
        return None
    except DeniedObjectError:
        if isinstance(store, Folder) or is_table_name(images):
            raise
        return None
    if head is None:
        return None
    if suffix_of(key) in photos or format_of(head) is not None:
        return Found(store, images=[key])
    if suffix_of(key) in HEIF_SUFFIXES:
        raise UserError(f"images: {images} is read only with an extra; {HEIF_REMEDY}")
    return Found(store, tables=[key], base=store.uri)


def _sorted(
    store: Store, entries: Iterable[Entry], photos: Sequence[str], exclusions: Exclusions, given: str,
    *, pattern: bool = False,
) -> Found:  # fmt: skip
    """Sort files into photos, tables and what is left out.

    Args:
        store: where they lie.
        entries: the files.
        photos: the extensions of photos.
        exclusions: patterns of keys to leave out.
        given: the address that the user gave.
        pattern: they match a pattern, so that tables of every kind are meant and not only parquet.

    Raises:
        UserError: the folder is a Delta table, or holds too many files without an extension.
    """
    kinds = (HIDDEN, EXCLUDED, "photo", "unnamed", "table", "excluded table", "other")
    piles: dict[str, list[str]] = {kind: [] for kind in kinds}
    for entry in entries:
        piles[_pile(entry, photos, exclusions)].append(entry.key)
    images = sorted([*piles["photo"], *_photos_among(store, piles["unnamed"], given)])
    # Patterns are those of image ids, so that no table of a manifest is left out by its own name.
    piles[EXCLUDED if images else "table"] += piles["excluded table"]
    tables = [] if images else sorted(key for key in piles["table"] if pattern or _is_part(key))
    rest = {*piles["unnamed"], *piles["table"], *piles["other"]}.difference(images, tables)
    if tables and any(key.startswith("_delta_log/") for key in rest):
        raise UserError(f"images: {given} is a Delta table, whose files may be outdated; export it as parquet")
    counts = Counter(_kind(key) for key in rest if not (tables and key.rpartition("/")[2].startswith("_")))
    left_out = Counter(dict(counts.most_common(MOST_KINDS)))
    left_out[OTHERS] += counts.total() - left_out.total()
    left_out[HIDDEN] = len({key[: found.end()] for key in piles[HIDDEN] if (found := _HIDDEN.search(key))})
    left_out[EXCLUDED] = len(piles[EXCLUDED])
    spark = tables and not pattern and store.uri.lower().endswith(".parquet")
    base = open_object(store.uri)[0].uri if spark else store.uri
    excluded = frozenset(key.partition("/")[0] for key in piles[EXCLUDED] if "/" in key and suffix_of(key) in photos)
    return Found(store, images, tables, base, {kind: count for kind, count in left_out.items() if count}, excluded)


def _pile(entry: Entry, photos: Sequence[str], exclusions: Exclusions) -> str:
    excluded = exclusions.match(entry.key)
    if _HIDDEN.search(entry.key):
        return HIDDEN
    if excluded:
        return "excluded table" if is_table_name(entry.key) else EXCLUDED
    suffix = suffix_of(entry.key)
    if suffix in photos:
        return "photo"
    if not suffix and entry.size_bytes:
        return "unnamed"
    return "table" if is_table_name(entry.key) else "other"


def _kind(key: str) -> str:
    """What a file that is left out is called."""
    suffix = suffix_of(key)
    return NO_SUFFIX if not suffix else suffix if SUFFIX.fullmatch(suffix) else OTHERS


def _is_part(key: str) -> bool:
    """Whether a file in a folder is a part of a parquet table; names of Spark's own files begin with `_`."""
    return key.lower().endswith(".parquet") and not any(part.startswith("_") for part in key.split("/"))


def _photos_among(store: Store, keys: list[str], given: str) -> list[str]:
    """Those of some files without an extension that begin like a photo."""
    if len(keys) > MOST_UNNAMED:
        raise UserError(
            f"images: {given} holds {len(keys):,} files without an extension, and at most {MOST_UNNAMED:,} are looked "
            "into; exclude them, or give a manifest with a column uri"
        )

    def is_photo(key: str) -> bool:
        try:
            return format_of(store.head(key, HEAD_BYTES)) is not None
        except MissingObjectError:
            return False
        except DeniedObjectError:
            # In a folder as for folders that may not be listed; a bucket may hold archived objects.
            if isinstance(store, Folder):
                raise
            return False

    with ThreadPoolExecutor(READERS) as pool:
        return [key for key, photo in zip(keys, pool.map(is_photo, keys), strict=True) if photo]


def in_words(left_out: Mapping[str, int]) -> str:
    """`3 files left out: 2 .heic, 1 without extension`; empty where there are none.

    >>> in_words({".txt": 2, "hidden": 1})
    '3 files left out: 2 .txt, 1 hidden'
    """
    total = sum(left_out.values())
    if not total:
        return ""
    counts = sorted(left_out.items(), key=lambda one: (not one[0].startswith("."), -one[1], one[0]))
    shown = [f"{count:,} {harmless(kind)}" for kind, count in counts[:KINDS]]
    shown += [f"{sum(count for _, count in counts[KINDS:]):,} others"] if len(counts) > KINDS else []
    remedy = f"; {HEIF_REMEDY}" if any(kind in HEIF_SUFFIXES for kind in left_out) else ""
    return f"{total:,} file{'s' * (total > 1)} left out: {', '.join(shown)}{remedy}"
