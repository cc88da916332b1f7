"""Finds what an address of images holds: photos below a folder or prefix, one photo, tables, or archives.

Files are sorted by their names; only a file without an extension is looked into. Hidden files and folders are left out
alike in folders and on every store.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless, short
from camrobust.io.braces import before_braces, expanded, has_braces
from camrobust.io.file_kinds import (
    EXCLUDED,
    HIDDEN,
    counted,
    is_archive_name,
    is_table_name,
    kind_of,
    suffix_of,
)
from camrobust.io.image_formats import HEIF_REMEDY, HEIF_SUFFIXES, format_of, suffixes
from camrobust.io.local_folder import Folder
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, Store
from camrobust.io.patterns import Exclusions, before_wildcard, depth, has_wildcard, matcher
from camrobust.io.store import open_object, open_store
from camrobust.io.tar_members import is_tar

KINDS = 8
"""Kinds of files that are told apart in the sentence about what is left out."""
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
        tables: keys of tables that name or hold photos, where there are no photos.
        archives: keys of tars and zips, where there are neither photos nor parquet tables.
        sizes: bytes of the tables and archives, where known.
        base: address of the folder at which relative paths in the tables start.
        left_out: how many files are neither, or are excluded, by kind.
        excluded_folders: the first folders of excluded photos; where folders are classes, these are classes, too.
    """

    store: Store
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    sizes: Mapping[str, int] = field(default_factory=dict)
    base: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    excluded_folders: frozenset[str] = frozenset()

    def is_empty(self) -> bool:
        """Whether nothing at all lies there."""
        return not (self.images or self.tables or self.archives or self.left_out)


def find(name: str, images: str, access: Access, exclusions: Exclusions, *, arrays: bool = False) -> Found:
    """What the images of a dataset are.

    Args:
        name: of the dataset.
        images: a folder, a prefix, a pattern, one photo, a table or an archive, or a folder or pattern of these.
        access: how a bucket is listed and read.
        exclusions: patterns of keys to leave out.
        arrays: .npy files are photos, too, of other than three channels.

    Raises:
        UserError: there is no such file or folder, or too much of it has no extension.
    """
    store = open_store(images, access)
    near = isinstance(store, Folder)
    photos = suffixes(arrays=arrays)
    named = near or is_table_name(images) or is_archive_name(images) or suffix_of(images) in (*photos, *HEIF_SUFFIXES)
    if named and (alone := _file(images, access, photos)):
        return alone
    found = _sorted(store, _entries(store), photos, exclusions, images)
    if found.is_empty() and (has_wildcard(images) or has_braces(images)):
        below, entries = _matching(images, access)
        return _sorted(below, entries, photos, exclusions, images, pattern=True)
    if found.is_empty() and not named and (alone := _file(images, access, photos)):
        return alone
    if found.is_empty() and near:
        _check_folder(name, images)
    if found.is_empty() and (is_table_name(images) or is_archive_name(images)):
        raise UserError(f"manifest: there is no object {images}; correct the path")
    return found


def _matching(images: str, access: Access) -> tuple[Store, Iterable[Entry]]:
    """The store of a pattern, and the files in it that the pattern names.

    Raises:
        UserError: braces name a file that is not there.
    """
    folder, pattern = min(before_wildcard(images), before_braces(images), key=lambda parts: len(parts[0]))
    names = expanded(pattern)
    below = open_store(folder or ".", access)
    if isinstance(below, Folder):
        depths = [depth(name) for name in names]
        below = replace(below, depth=None if None in depths else max(one for one in depths if one is not None))
    if any(map(has_wildcard, names)):
        wanted = matcher(*names)
        return below, (entry for entry in _entries(below) if wanted.match(entry.key))
    literal = set(names)
    entries = [entry for entry in _entries(below) if entry.key in literal]
    missing = sorted(literal.difference(entry.key for entry in entries))
    if missing and entries:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UserError(
            f"images: there is no {short(below.locate(missing[0]))}{more}, which {short(images)} stands for; correct "
            "the range"
        )
    return below, entries


def _check_folder(name: str, images: str) -> None:
    """Raise UserError unless a path is a folder; a link that leads nowhere, a pipe or a device is told from it."""
    path = Path(images.removeprefix("file://")).expanduser()
    try:
        if path.is_dir():
            return
        leads = path.exists()
        there = leads or path.is_symlink()
    except OSError as error:
        raise UserError(
            f"dataset '{name}': {short(images)} cannot be looked at ({error.strerror}); correct the path or its "
            "permissions"
        ) from error
    if not there:
        sentence = f"there is no file or folder {images}; give a folder, a prefix, an image or a table"
    elif not leads:
        sentence = f"{images} is a link that leads nowhere; correct it"
    else:
        sentence = f"{images} is not a regular file; give a folder, a prefix, an image or a table"
    raise UserError(f"dataset '{name}': {sentence}")


def _entries(store: Store) -> Iterator[Entry]:
    """Every object, and of a folder also the names of hidden ones."""
    return (replace(store, hidden=True) if isinstance(store, Folder) else store).list()


def _file(images: str, access: Access, photos: Collection[str]) -> Found | None:
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
    if is_archive_name(key) or (is_tar(head) and not is_table_name(key)):
        return Found(store, archives=[key])
    return Found(store, tables=[key], base=store.uri)


def _sorted(
    store: Store, entries: Iterable[Entry], photos: Collection[str], exclusions: Exclusions, given: str,
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
    kinds = (HIDDEN, EXCLUDED, "photo", "unnamed", "table", "excluded table", "archive", "other")
    piles: dict[str, list[str]] = {kind: [] for kind in kinds}
    sizes = {}
    for entry in entries:
        pile = _pile(entry, photos, exclusions)
        piles[pile].append(entry.key)
        if pile in ("table", "excluded table", "archive"):
            sizes[entry.key] = entry.size_bytes
    images = sorted([*piles["photo"], *_photos_among(store, piles["unnamed"], given)])
    # Patterns are those of image ids, so that no table of a manifest is left out by its own name.
    piles[EXCLUDED if images else "table"] += piles["excluded table"]
    parts = [] if images else sorted(key for key in piles["table"] if _is_part(key))
    archives = [] if images or parts else sorted(piles["archive"])
    tables = sorted(piles["table"]) if pattern and not images and not archives else parts
    rest = {*piles["unnamed"], *piles["table"], *piles["archive"], *piles["other"]}.difference(images, tables, archives)
    if tables and any(key.startswith("_delta_log/") for key in rest):
        raise UserError(f"images: {given} is a Delta table, whose files may be outdated; export it as parquet")
    # Spark's own files in a folder of tables begin with this sign.
    names = (key for key in rest if not (tables and key.rpartition("/")[2].startswith("_")))
    left_out = counted(names, piles[HIDDEN], len(piles[EXCLUDED]))
    spark = tables and not pattern and store.uri.lower().endswith(".parquet")
    base = open_object(store.uri)[0].uri if spark else store.uri
    excluded = frozenset(key.partition("/")[0] for key in piles[EXCLUDED] if "/" in key and suffix_of(key) in photos)
    return Found(store, images, tables, archives, sizes, base, left_out, excluded)


def _pile(entry: Entry, photos: Collection[str], exclusions: Exclusions) -> str:
    excluded = exclusions.match(entry.key)
    kind = kind_of(entry.key, entry.size_bytes, photos)
    if not excluded or kind in (HIDDEN, "archive"):
        return kind
    return "excluded table" if is_table_name(entry.key) else EXCLUDED


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
