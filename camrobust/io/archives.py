"""Finds the photos in a tar or a zip, and the labels beside them; nothing is unpacked to a disk.

The image id is the name of the member, as it would be the path below a folder. Members of one sample, as WebDataset
names them, share their name up to its first dot: `a/7.jpg`, `a/7.cls` (a class index), `a/7.json` (with `label`).
"""

import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from tarfile import TarError
from zipfile import BadZipFile

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.contract.secrecy import sentence
from camrobust.io.file_kinds import HIDDEN, counted, kind_of, together
from camrobust.io.image_formats import format_of
from camrobust.io.objects import Store
from camrobust.io.places import LOCAL_HEADER, Member
from camrobust.io.ranges import OddArchiveError, Ranged
from camrobust.io.table_bytes import CODECS
from camrobust.io.tables import LABELS
from camrobust.io.tar_members import ends_as_tar, is_tar, tar_members
from camrobust.io.zip_members import zip_members

HEAD_BYTES = 4096
SIDECAR_BYTES = 2**20
"""Largest file of a sample that is read for its label."""
SIDECARS = ("cls", "json")
"""The first one that holds a label counts."""
COMPRESSED = {**CODECS, b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


@dataclass(frozen=True)
class Photos:
    """The photos of one file that holds many.

    Attributes:
        names: their names.
        places: where they lie.
        labels: as texts or numbers, None where there is none.
        left_out: how many other members there are, by kind.
        remarks: what is to be said.
    """

    names: list[str]
    places: list[str]
    labels: list[str | int | None]
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def photos_in_archive(store: Store, key: str, size_bytes: int, photos: Collection[str]) -> Photos:
    """List the photos of an archive; raises UserError if it is none, or compressed, encrypted or damaged.

    Args:
        store: where it lies.
        key: its key.
        size_bytes: its size.
        photos: the extensions of photos.
    """
    file, where = Ranged(store, key, size_bytes), store.locate(key)
    with _explained(where):
        head = file.at(0, HEAD_BYTES)
        if head.startswith((LOCAL_HEADER, b"PK\x05\x06")):
            return _sorted(zip_members(file), photos, where)
        if not is_tar(head):
            raise _no_archive(head, where)
        found = _sorted(tar_members(file), photos, where)
        if ends_as_tar(file):
            return found
    cut = f"{where} lacks the zeros that end a tar; if it was cut off, the photos behind the cut are missing"
    return replace(found, remarks=(*found.remarks, cut))


def _no_archive(head: bytes, where: str) -> UserError:
    codec = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    if codec in ("7z", "rar"):
        return UserError(f"images: {where} is a {codec} archive; pack the photos as tar or zip instead")
    if codec is not None:
        return UserError(
            f"images: {where} is compressed with {codec}, so that single photos cannot be read from it; unpack it to a "
            ".tar, which is hardly larger, as photos are compressed already"
        )
    return UserError(f"images: {where} is not a tar or zip archive; correct the path, or give a folder or a table")


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what parsers raise into a sentence."""
    try:
        yield
    except OddArchiveError as error:
        raise UserError(f"images: {where} {error}") from error
    except (TarError, BadZipFile, zlib.error, NotImplementedError, RecursionError, ValueError, EOFError) as error:
        said = sentence(first_line(error))
        raise UserError(f"images: {where} is not a readable archive ({said}); get an undamaged copy") from error


def _sorted(members: Iterator[Member], photos: Collection[str], where: str) -> Photos:
    """The photos among some members, with the labels beside them."""
    found = _Piles()
    for member in members:
        name = _plain(member.name, where)
        if member.place is None:
            found.special[member.kind] += 1
            continue
        kind = kind_of(name, member.size_bytes, photos)
        if kind == "unnamed" and format_of(member.read(HEAD_BYTES)) is not None:
            kind = "photo"
        if kind == "photo":
            found.names.append(name)
            found.places.append(str(member.place))
        elif kind == HIDDEN:
            found.hidden.append(name)
        else:
            found.add_other(name, member)
    labels, remarks, used = _labels(found.names, found.beside, where)
    left_out = counted((name for name in found.rest if name not in used), found.hidden)
    return Photos(found.names, found.places, labels, together([left_out, found.special]), remarks)


@dataclass
class _Piles:
    """What an archive holds.

    Attributes:
        names: of the photos.
        places: of the photos.
        rest: names of other files.
        hidden: names of hidden files.
        special: numbers of members that are no files, by kind.
        beside: labels by sample and kind of file.
    """

    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: Counter[str] = field(default_factory=Counter)
    beside: dict[str, dict[str, str | int]] = field(default_factory=dict)

    def add_other(self, name: str, member: Member) -> None:
        """Take a file that is no photo, and the label in it."""
        self.rest.append(name)
        key, extension = _sample(name)
        if extension in SIDECARS and member.size_bytes <= SIDECAR_BYTES:
            label = _label(extension, member.read(SIDECAR_BYTES))
            if label is not None:
                self.beside.setdefault(key, {})[extension] = label


def _plain(name: str, where: str) -> str:
    """The name without `./` before it, as `tar cf x.tar .` writes it; it is never used as a path."""
    if name != name.encode(errors="replace").decode():
        raise UserError(f"images: the name {name!a} in {where} is not valid UTF-8; rename it")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    if not name:
        raise OddArchiveError("holds a file without a name; pack its files again")
    return name


def _sample(name: str) -> tuple[str, str]:
    """The name up to the first dot behind the last slash, and the rest in small letters.

    >>> _sample("a.b/7.seg.png")
    ('a.b/7', 'seg.png')
    """
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _label(extension: str, content: bytes) -> str | int | None:
    """The label in a file beside a photo; None if it holds none."""
    try:
        text = content.decode()
        if extension == "cls":
            return text.strip()
        known = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = next((known[name] for name in LABELS if name in known), None) if isinstance(known, dict) else None
    return found if isinstance(found, (str, int)) and not isinstance(found, bool) else None


def _labels(
    names: list[str], beside: Mapping[str, Mapping[str, str | int]], where: str
) -> tuple[list[str | int | None], tuple[str, ...], set[str]]:
    """The label of every photo, what is to be said, and the names of the files that hold labels."""
    labels: list[str | int | None] = []
    first: dict[str, str] = {}
    used: set[str] = set()
    remarks: tuple[str, ...] = ()
    for name in names:
        key, _ = _sample(name)
        known = beside.get(key, {})
        labels.append(next((known[kind] for kind in SIDECARS if kind in known), None))
        used.update(f"{key}.{kind}" for kind in known)
        other = first.setdefault(key, name) if known else name
        if other != name and not remarks:
            remarks = (
                f"a sample of {where} holds more than one photo ('{short(other)}' and '{short(name)}'), and each "
                "counts as an image; exclude those that are none",
            )
    return labels, remarks, used
