"""Picture files written by hand, byte by byte, as no library would write all of them."""

import struct
import zlib

import numpy as np

TYPES = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9, "f": 11, "d": 12}


def tiff(samples, tags, order="<"):
    """An uncompressed TIFF file of one strip.

    Args:
        samples: bytes of the strip, or an array, whose numbers are written in the file's order.
        tags: number to (type as in `struct`, *values); size and place of the strip are added for an array.
        order: < for Intel's, > for Motorola's.
    """
    if isinstance(samples, np.ndarray):
        tags = {256: ("I", samples.shape[1]), 257: ("I", samples.shape[0])} | tags
        samples = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    entries = {278: ("I", tags[257][1]), 273: ("I", 8), 279: ("I", len(samples))} | tags
    place = 8 + len(samples) + len(samples) % 2
    table, more = b"", b""
    after = place + 2 + 12 * len(entries) + 4
    for number, (kind, *values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            offset = struct.pack(f"{order}I", after + len(more))
            more += packed + b"\0" * (len(packed) % 2)
            packed = offset
        table += struct.pack(f"{order}HHI", number, TYPES[kind], len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place)
    return head + samples.ljust(place - 8, b"\0") + struct.pack(f"{order}H", len(entries)) + table + bytes(4) + more


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows, width, height, depth, colour, *before):
    """A PNG file.

    Args:
        rows: packed bytes of each row.
        width: px.
        height: px.
        depth: bits of a sample.
        colour: type of colour.
        before: chunks between the header and the pixels: kind and body.
    """
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    extra = b"".join(chunk(*one) for one in before)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")
