"""Lists the members of a tar, whose headers alone are parsed, by Python's tarfile."""

import tarfile
from collections.abc import Iterator

from camrobust.io.places import Member, TarPlace, name_check
from camrobust.io.ranges import OddArchiveError, Ranged

LINKS, SPARSE, DEVICES = "links in archives", "sparse files in archives", "devices in archives"
TAIL_BYTES = 2**20
"""So far behind the end of an archive is looked for another one."""


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a member, of any dialect; or is an empty archive."""
    block = head[: tarfile.BLOCKSIZE]
    if len(block) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # not in the stub
        return True
    except (tarfile.TarError, ValueError):
        return False
    return True


def ends_as_tar(file: Ranged) -> bool:
    """Whether zeros end the file, as every finished tar has them; one that was cut off between two members has none."""
    return not file.at(max(0, file.size_bytes - tarfile.BLOCKSIZE), tarfile.BLOCKSIZE).strip(b"\0")


def tar_members(file: Ranged) -> Iterator[Member]:
    """Every member but folders; what is no regular file has no place.

    Raises:
        TarError: the archive is damaged.
        OddArchiveError: it goes on behind its end.
    """
    with tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8", errors="surrogateescape") as tar:
        last = -1
        while (info := tar.next()) is not None:
            # The list would grow with the archive.
            tar.members = []  # type: ignore[attr-defined] # not in the stub
            if info.size < 0 or tar.offset <= last:
                raise tarfile.ReadError("a member has a negative size")
            last = tar.offset
            if info.isdir():
                continue

            def read(count: int, start: int = info.offset_data, size: int = info.size) -> bytes:
                return file.at(start, min(count, size))

            start = info.offset_data - tarfile.BLOCKSIZE
            place = TarPlace(start, info.size, name_check(file.at(start, tarfile.BLOCKSIZE)))
            kind = _left_out(info)
            yield Member(info.name, info.size, None if kind else place, read, kind)
        _check_end(file, tar.offset)


def _left_out(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return SPARSE
    if info.islnk() or info.issym():
        return LINKS
    return "" if info.isreg() else DEVICES


def _check_end(file: Ranged, end: int) -> None:
    """Raise unless zeros end the archive, as tarfile ends without a word at a header that it cannot read."""
    for start in range(end, min(file.size_bytes, end + TAIL_BYTES), 2**16):
        if file.at(start, min(2**16, file.size_bytes - start)).strip(b"\0"):
            raise OddArchiveError(
                f"is damaged at byte {start:,} or behind it, or another archive follows there; pack its files again"
            )
