"""Lists the members of a tar, whose headers alone are parsed, by Python's tarfile."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from camrobust.io.places import Member, TarPlace, name_check
from camrobust.io.ranges import OddArchiveError, OddRangeError, Ranged

LINKS, SPARSE, DEVICES = "links in archives", "sparse files in archives", "devices in archives"
TAIL_BYTES = 2**20
"""So far behind the end of an archive is looked for another one."""
MOST_HEADER = 2**20
"""Largest header that is read: names and facts of one member."""
MOST_DIGITS = 200
DIGITS = bytes.maketrans(b"123456789", b"000000000")


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


@dataclass(eq=False)
class _Headers(io.RawIOBase):
    """An archive as tarfile is given it, which reads nothing but headers."""

    file: Ranged

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes.

        Raises:
            OddRangeError: a header is larger, or holds a longer number, than any archive needs. For the latter, tarfile
                takes a time that grows with the square of its digits (CVE-2024-6232).
        """
        if size is None or not 0 <= size <= MOST_HEADER:
            raise OddRangeError(f"it asks for {size or 0:,} bytes at once")
        content = self.file.read(size)
        if b"0" * MOST_DIGITS in content.translate(DIGITS):
            raise OddRangeError(f"a header holds a number of {MOST_DIGITS} digits or more")
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next read begins."""
        return self.file.tell()


def ends_as_tar(file: Ranged) -> bool:
    """Whether zeros end the file, as every finished tar has them; one that was cut off between two members has none."""
    return not file.at(max(0, file.size_bytes - tarfile.BLOCKSIZE), tarfile.BLOCKSIZE).strip(b"\0")


def tar_members(file: Ranged) -> Iterator[Member]:
    """Every member but folders; what is no regular file has no place.

    Raises:
        TarError: the archive is damaged.
        OddArchiveError: it goes on behind its end.
    """
    with tarfile.TarFile(fileobj=_Headers(file), mode="r", encoding="utf-8", errors="surrogateescape") as tar:
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
