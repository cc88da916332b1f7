"""What the bytes of a user's table are: compressed or not, which encoding, and which formats are refused by name."""

import codecs
from collections.abc import Mapping
from io import BytesIO

import pyarrow as pa

from camrobust.io.parquet_budget import FLOOR_BYTES, RATIO

MOST_BYTES = 2 * 2**30
"""Largest table, also unpacked: some ten million images."""
CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
ENCRYPTED = b"PARE"
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
"""By their byte order mark; that of UTF-32 comes first, as it begins like that of UTF-16."""
REFUSED: Mapping[bytes, str] = {
    b"PK\x03\x04": "is a workbook or a zip archive; save it as CSV (UTF-8), or unpack it",
    b"\xd0\xcf\x11\xe0": "is a workbook of an old Excel; save it as CSV (UTF-8)",
    b"\xfd7zXZ": "is compressed with xz; unpack it, or compress it with gzip or zstd",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    ENCRYPTED: "is an encrypted parquet file; write it without encryption",
    b"ARROW1": "is an Arrow or Feather file; save it as parquet",
    b"FEA1": "is a Feather file; save it as parquet",
    b"ORC": "is an ORC file; save it as parquet",
    b"Obj\x01": "is an Avro file; save it as parquet",
    b"\x89HDF": "is an HDF5 file; save it as parquet",
    b"SQLite format 3": "is an SQLite database; save the table as parquet or CSV",
    b"\x93NUMPY": "is a NumPy array; save the table as parquet or CSV",
    b"%PDF": "is a PDF; save the table as CSV (UTF-8)",
    b"\x80\x02": "is a pickle, which is never read; save it as parquet",
    b"\x80\x03": "is a pickle, which is never read; save it as parquet",
    b"\x80\x04": "is a pickle, which is never read; save it as parquet",
    b"\x80\x05": "is a pickle, which is never read; save it as parquet",
    b"<": "is a page of HTML or XML; download the table itself",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the table itself with git lfs pull",
}
"""Files that people have in the place of a table, by their first bytes."""
KINDS = "csv, tsv, line JSON or parquet, also as .gz, .bz2, .zst or .lz4"


class NotATableError(ValueError):
    """The file is not a table that is read; the message follows the name of the file and gives the remedy."""


def unpacked(content: bytes) -> bytes:
    """The content, unpacked if it is compressed.

    Raises:
        NotATableError: it unpacks to too much for a table of its size, or is of a refused format.
        OSError: it is damaged or cut off.
    """
    codec = next((name for magic, name in CODECS.items() if content.startswith(magic)), None)
    if codec is not None:
        most = min(MOST_BYTES, FLOOR_BYTES + RATIO * len(content))
        with pa.CompressedInputStream(pa.BufferReader(content), codec) as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise NotATableError(
                f"would unpack to more than {most // 2**20} MiB, too much for a table of its size; split it"
            )
    refused = next((sentence for magic, sentence in REFUSED.items() if content[:4096].lstrip().startswith(magic)), None)
    if refused is not None:
        raise NotATableError(refused)
    return content


def as_utf8(content: bytes) -> bytes:
    """Text in UTF-8 with line feeds between lines, from UTF-8, UTF-16 or UTF-32.

    Raises:
        NotATableError: it is binary, or text in another encoding.
    """
    mark, encoding = next(
        ((mark, name) for mark, name in ENCODINGS.items() if content.startswith(mark)), (b"", _wide(content))
    )
    content = content[len(mark) :]
    if encoding != "utf-8":
        try:
            content = content.decode(encoding).encode()
        except UnicodeError as error:
            raise NotATableError(f"is damaged {encoding.upper()} text; save it as CSV (UTF-8)") from error
    if b"\0" in content[:4096]:
        raise NotATableError(f"is no table, and no image that is read; a table is {KINDS}")
    if b"\r" in content and b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return content.rstrip(b"\x1a")


def _wide(content: bytes) -> str:
    """The encoding of a text without a byte order mark that begins with two characters of ASCII."""
    zeros = [byte == 0 for byte in content[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(
        tuple(zeros),  # type: ignore[arg-type]
        "utf-8",
    )


def check_utf8(content: bytes) -> None:
    """Raise NotATableError, naming the line, if the text is not UTF-8; slow, so only called for a text that failed."""
    for number, line in enumerate(BytesIO(content), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise NotATableError(
                f"is not UTF-8 text (line {number} holds the byte 0x{line[error.start]:02x}), but perhaps Windows-1252 "
                "or Latin-1; save it as CSV (UTF-8)"
            ) from error
