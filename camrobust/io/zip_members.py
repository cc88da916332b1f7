"""Lists the members of a zip by its central directory, parsed by Python's zipfile."""

import stat
import zipfile
from collections.abc import Iterator

from camrobust.contract.quoting import short
from camrobust.io.places import LOCAL_BYTES, Member, ZipPlace
from camrobust.io.ranges import OddArchiveError, Ranged
from camrobust.io.tar_members import LINKS

METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
ENCRYPTED = 1
"""Bit of a member's flags."""
SLACK_BYTES = 2**17
"""Most bytes of a local header beside its name, and what may stand behind a member."""


def zip_members(file: Ranged) -> Iterator[Member]:
    """Every member but folders; a link has no place.

    Raises:
        BadZipFile: the archive is damaged.
        OddArchiveError: it is encrypted or packed with another method than deflate.
    """
    with zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in infos), archive.start_dir][1:]
        for info, end in zip(infos, ends, strict=True):
            # Python's own is_dir fails where there is no name.
            if info.filename.endswith("/"):
                continue

            def read(count: int, info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as member:
                    return member.read(count)

            linked = stat.S_ISLNK(info.external_attr >> 16)
            place = None if linked else _place(info, end)
            yield Member(info.filename, info.file_size, place, read, LINKS * linked)


def _place(info: zipfile.ZipInfo, end: int) -> ZipPlace:
    if info.flag_bits & ENCRYPTED:
        raise OddArchiveError(f"holds '{short(info.filename)}' encrypted; make a zip without a password")
    if info.compress_type not in METHODS:
        raise OddArchiveError(
            f"holds '{short(info.filename)}' packed with method {info.compress_type}; make a zip that is stored or "
            "deflated"
        )
    most = LOCAL_BYTES + len(info.filename) * 4 + info.compress_size + SLACK_BYTES
    length = min(end - info.header_offset, most)
    if info.header_offset < 0 or length < LOCAL_BYTES:
        raise zipfile.BadZipFile(f"'{short(info.filename)}' lies outside the archive, or two members overlap")
    return ZipPlace(info.header_offset, length, METHODS[info.compress_type], info.file_size, info.CRC)
