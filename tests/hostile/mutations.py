"""Seeded random ways to spoil a run folder: its documents, tables, files and file names."""

import json
import os
import random
import shutil
import socket
import struct
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.hostile.folders import repair

NASTY = "a\x1b[2J\u202egnp.exe\n\r\x00</script><script>alert(1)</script>\u200b=cmd|' /C calc'!A0"
TEXTS = ["", " ", NASTY, "../../x", "/etc/passwd", "..", "a/b", "x" * 70_000, "{{ 7 * 7 }}", "%s%n", "\U0001f4a9" * 50,
         "None", "clean", "random", "d", "m", "C:\\x", "file:///etc/passwd", "s3://b/k?sig=1"]  # fmt: skip
VALUES = [None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, -1e308, float("nan"),
          float("inf"), "", "text", "-1", [], {}, [[]], [None], {"": None}, {"name": 1}, [1, "a"], *TEXTS]  # fmt: skip
BOMB_BYTES = 400 * 2**20
"""Size of one text. Three readers that unpack it at once would exceed 2 GiB."""
BOMB_ROWS = 12_000_000


def mutate(folder, seed, bombs):
    """Spoil a folder in one way and return a description."""
    dice = random.Random(seed)
    kind = dice.choices([document, table, binary, file, extra, several], [5, 6, 4, 3, 2, 1])[0]
    told = kind(folder, dice, bombs)
    if dice.random() < 0.7:
        repair(folder)
        told += ", repaired"
    return told


def several(folder, dice, bombs):
    ways = dice.choices([document, table, binary, file, extra], k=3)
    return "; ".join(way(folder, dice, bombs) for way in ways)


def documents(folder):
    return sorted(path for path in folder.rglob("*.json") if path.is_file() and not path.is_symlink())


def tables(folder):
    return sorted(path for path in folder.rglob("*.parquet") if path.is_file() and not path.is_symlink())


def nodes(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(below, (*path, key))


def document(folder, dice, _bombs):
    """Spoil a JSON document, run.json half of the time."""
    choices = documents(folder)
    if not choices:
        return "no document"
    path = folder / "run.json" if dice.random() < 0.5 else dice.choice(choices)
    if path not in choices:
        path = choices[0]
    content = path.read_bytes()
    way = dice.choice([_value, _value, _value, _value, _raw, _raw, _key])
    try:
        changed, told = way(content, dice)
    except (ValueError, RecursionError):
        changed, told = _raw(content, dice)
    path.write_bytes(changed)
    return f"{path.relative_to(folder)}: {told}"


def _value(content, dice):
    found = json.loads(content)
    path = dice.choice(list(nodes(found)))
    value = dice.choice(VALUES)
    if not path:
        return json.dumps(value).encode(), f"all {value!r}"[:80]
    place = found
    for key in path[:-1]:
        place = place[key]
    what = dice.choice(["drop", "replace", "replace", "replace", "nest", "many", "deep", "long"])
    if what == "drop":
        del place[path[-1]]
    elif what == "deep":
        place[path[-1]] = "DEEP"
    else:
        place[path[-1]] = {
            "replace": value, "nest": {"a": [place[path[-1]]]}, "many": [place[path[-1]]] * 3_000, "long": "y" * 2**20,
        }[what]  # fmt: skip
    depth = dice.choice([50, 500, 100_000])
    written = json.dumps(found).replace('"DEEP"', "[" * depth + "]" * depth)
    return written.encode(), f"{what} {path} {value!r}"[:120]


def _key(content, dice):
    """Repeat a key with another value, first or last, or add an unknown key."""
    key = dice.choice(list(json.loads(content)) or ["a"])
    more = f"{json.dumps(key)}: {json.dumps(dice.choice(VALUES))}".encode()
    inner = content.strip()[1:-1]
    both = [more, inner] if dice.random() < 0.5 else [inner, more]
    return b"{" + b",".join(both) + b"}", f"{key} twice"


def _raw(content, dice):
    place = dice.randrange(len(content) + 1)
    flipped = bytearray(content or b"{")
    flipped[place % len(flipped)] ^= 1 << dice.randrange(8)
    ways = {
        "empty": b"", "{}": b"{}", "[]": b"[]", "null": b"null", "text": b'"x"', "cut": content[:place],
        "flipped": bytes(flipped), "deep": b"[" * 300_000, "deep keys": b'{"a":' * 100_000,
        "BOM": b"\xef\xbb\xbf" + content,
        "no UTF-8": content.replace(b"a", b"\xff", 3), "half": content.replace(b"a", rb"\ud800", 2),
        "UTF-16": content.decode(errors="replace").encode("utf-16"), "zeros": bytes(len(content)),
        "large": b'{"x":"' + b"z" * 3_000_000 + b'"}', "many": b"[" + b"[]," * 5_000_000 + b"[]]", "NaN": b"NaN",
    }  # fmt: skip
    name = dice.choice(list(ways))
    return ways[name], name


def binary(folder, dice, _bombs):
    """Spoil bytes of a parquet file."""
    choices = tables(folder)
    if not choices:
        return "no table"
    path = dice.choice(choices)
    content = bytearray(path.read_bytes())
    size = len(content)
    if size < 12:
        return "too small"
    what = dice.choice(["flip", "flip footer", "flip pages", "cut", "cut front", "zeros", "length", "swap", "noise"])
    if what.startswith("flip"):
        _flip(content, dice, what)
    else:
        start, length = dice.randrange(size), dice.choice([1, 16, 200])
        size_told = struct.pack("<I", dice.choice([0, 1, size, 2**31 - 1, 2**32 - 1, start]))
        content = {
            "cut": content[:start], "cut front": content[start:], "swap": dice.choice(choices).read_bytes(),
            "zeros": content[:start] + bytes(min(length, size - start)) + content[start + length :],
            "length": content[:-8] + size_told + content[-4:], "noise": b"PAR1" + dice.randbytes(length) + b"PAR1",
        }[what]  # fmt: skip
    path.write_bytes(content)
    return f"{path.relative_to(folder)}: {what}"


def _flip(content, dice, what):
    size = len(content)
    footer = size - 8 - min(size - 12, int.from_bytes(content[-8:-4], "little"))
    low, high = {"flip": (0, size), "flip footer": (footer, size), "flip pages": (4, max(5, footer))}[what]
    for _ in range(dice.choice([1, 1, 1, 3, 30])):
        content[dice.randrange(low, high)] ^= 1 << dice.randrange(8)


def table(folder, dice, bombs):
    """Change columns or rows of a parquet file."""
    choices = tables(folder)
    if not choices:
        return "no table"
    path = dice.choice(choices)
    try:
        found = pq.ParquetFile(path).read()
    except Exception:  # noqa: BLE001 - spoiled before
        return binary(folder, dice, bombs)
    ways = [_drop, _retype, _null, _cells, _rows, _metadata, _bomb]
    (way,) = dice.choices(ways, [10, 20, 10, 30, 20, 10, 3])
    try:
        changed, told = way(found, dice, bombs)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        changed, told = found.slice(0, 0), f"empty, as {type(error).__name__}"
    if isinstance(changed, bytes):
        path.write_bytes(changed)
    else:
        pq.write_table(changed, path, compression=dice.choice(["zstd", "snappy", "gzip", "none"]),
                       use_dictionary=dice.random() < 0.7, row_group_size=dice.choice([1, 3, 10_000]))  # fmt: skip
    return f"{path.relative_to(folder)}: {told}"


def _drop(found, dice, _bombs):
    name = dice.choice(found.column_names)
    place = found.column_names.index(name)
    if dice.random() < 0.3:
        return found.append_column(name, found[name]), f"{name} twice"
    if dice.random() < 0.3:
        return found.rename_columns(
            [one + "x" if one == name else one for one in found.column_names]
        ), f"{name} renamed"
    return found.remove_column(place), f"without {name}"


def _retype(found, dice, _bombs):
    name = dice.choice(found.column_names)
    place, count = found.column_names.index(name), found.num_rows
    made = {
        "int": pa.array([dice.randrange(-5, 5) for _ in range(count)]), "text": pa.array(["x"] * count, pa.string()),
        "large": pa.array([2**62] * count), "list": pa.array([[1]] * count, pa.list_(pa.int64())),
        "struct": pa.array([{"a": 1}] * count, pa.struct({"a": pa.int64()})),
        "half": pa.array(np.zeros(count, np.float16)),
        "time": pa.array([0] * count, pa.timestamp("us")), "bytes": pa.array([b"\xff\xfe"] * count),
        "null": pa.nulls(count), "codes": pa.array(["x"] * count, pa.string()).dictionary_encode(),
        "decimal": pa.array([1] * count, pa.decimal128(10, 2)),
        "map": pa.array([[("a", 1)]] * count, pa.map_("string", "int8")),
        "float": pa.array([0.5] * count), "bool": pa.array([True] * count),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * count, pa.binary(16))),
    }  # fmt: skip
    kind = dice.choice(list(made))
    return found.set_column(place, name, made[kind]), f"{name} as {kind}"


def _null(found, dice, _bombs):
    name = dice.choice(found.column_names)
    column = found[name]
    mask = pa.array([dice.random() < dice.choice([0.3, 1]) for _ in range(found.num_rows)], pa.bool_())
    changed = pc.if_else(mask, pa.scalar(None, column.type), column)
    return found.set_column(found.column_names.index(name), name, changed), f"nulls in {name}"


def _cells(found, dice, _bombs):
    """Other values of the same type, in one row or in all."""
    name = dice.choice(found.column_names)
    kind = found.schema.field(name).type
    values = found[name].to_pylist()
    if not values:
        return found, "nothing"
    if pa.types.is_integer(kind):
        bits = kind.bit_width - 1
        fresh = dice.choice([0, 1, -1, 2**bits - 1, -(2**bits)])
    elif pa.types.is_floating(kind):
        fresh = dice.choice([0.0, -1.0, float("nan"), float("inf"), float("-inf"), 3e38, 1e-40])
    elif pa.types.is_boolean(kind):
        fresh = dice.random() < 0.5
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        fresh = dice.choice(
            [b"", b"x", pictures(dice), (values[0] or b"")[: dice.randrange(1, 400)], b"\xff\xd8" + b"0" * 99]
        )
    else:
        fresh = dice.choice([*TEXTS, *(str(one) for one in values[:3])])
    several_rows = dice.random() < 0.5
    for place in range(len(values)) if several_rows else [dice.randrange(len(values))]:
        values[place] = fresh
    array = pa.array(values, kind)
    return found.set_column(found.column_names.index(name), name, array), f"{name} = {fresh!r}"[:100]


def pictures(dice):
    """A picture of a format that maps never hold, or of a wrong size."""
    from io import BytesIO

    from PIL import Image

    sink = BytesIO()
    form, size = dice.choice([("PNG", (8, 8)), ("GIF", (8, 8)), ("BMP", (3, 3)), ("PNG", (5000, 5000)),
                              ("JPEG", (4, 4)),
                              ("TIFF", (5, 5)), ("JPEG", (5000, 10)), ("PPM", (2, 2))])  # fmt: skip
    Image.new("L", size).save(sink, form)
    return sink.getvalue()


def _rows(found, dice, _bombs):
    what = dice.choice(["none", "twice", "many", "first", "shuffled"])
    order = list(range(found.num_rows))
    dice.shuffle(order)
    changed = {
        "none": lambda: found.slice(0, 0), "twice": lambda: pa.concat_tables([found, found]),
        "many": lambda: pa.concat_tables([found] * 300), "first": lambda: found.slice(0, 1),
        "shuffled": lambda: found.take(order),
    }[what]()  # fmt: skip
    return changed, f"rows {what}"


def _metadata(found, dice, _bombs):
    """Change what a commit states about its files, or a table about its columns."""
    told = dict(found.schema.metadata or {})
    key = dice.choice([*told, b"camrobust.files", b"camrobust.format", b"ARROW:schema", b"pandas"])
    files = json.loads(told.get(b"camrobust.files", b"{}"))
    name = dice.choice([*files, "images/x.parquet"])
    value = dice.choice([
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"NaN", b"-1", b"1", b"2", b"999999999999999999999",
        json.dumps(files | {"../../outside/secret.txt": 6}).encode(), json.dumps(files | {"/etc/passwd": 1}).encode(),
        json.dumps(dict.fromkeys(files, -1)).encode(), json.dumps(files | {name: "12"}).encode(),
        json.dumps(files | {name: 1e308}).encode(), json.dumps({name: files.get(name, 1)}).encode(),
        json.dumps(files | {f"scores/dataset=..%2F..%2Fx/model=m/{'0' * 8}-{'a' * 24}-{'b' * 16}.parquet": 1}).encode(),
    ])  # fmt: skip
    return found.replace_schema_metadata(told | {key: value}), f"metadata {key!r} = {value[:60]!r}"


def _bomb(found, dice, bombs):
    """A small file with the columns of this table whose text would fill the memory."""
    names = [name for name in found.column_names if pa.types.is_string(found.schema.field(name).type)
             or pa.types.is_large_string(found.schema.field(name).type)]  # fmt: skip
    if not names:
        return found.slice(0, 0), "rows none"
    what = dice.choice(list(BOMBS))
    return bombs(found, dice.choice(names), what), f"bomb: {what}"


BOMBS = ("one text", "one text, its footer lies", "a long text in many rows", "many rows", "many rows of a commit")


def bomb(found, name, what):
    """The bytes of a bomb, made in a separate process, as making it takes as much memory as reading it."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(_made, (found, name, what))


def _made(found, name, what):
    place = found.column_names.index(name)
    sink = pa.BufferOutputStream()
    if what.startswith("one text"):
        values = pa.array(["x" * BOMB_BYTES] + ["y"] * (found.num_rows - 1), pa.large_string())[: found.num_rows]
        table = found.set_column(place, name, values)
    else:
        count = BOMB_ROWS if "many rows" in what and "text" not in what else 500_000
        text = "z" * (60_000 if "text" in what else 3)
        codes, columns = pa.array(np.zeros(count, np.int8)), {}
        for field in found.schema:
            value = text if field.name == name else found[field.name][0].as_py() if found.num_rows else None
            one = pa.array([value], pa.string() if field.name == name else field.type)
            coded = pa.DictionaryArray.from_arrays(codes, one)
            columns[field.name] = pa.nulls(count, field.type) if value is None else coded
        table = pa.table(columns, metadata=found.schema.metadata)
    plain = what.startswith("one text")
    pq.write_table(table, sink, compression="zstd", store_schema=False, row_group_size=2**31 - 1,
                   write_statistics=False, use_dictionary=not plain)  # fmt: skip
    content = sink.getvalue().to_pybytes()
    return lying(content) if "lies" in what else content


def lying(content):
    """The same file with a footer that states a few bytes for each large column, in a number of the same length."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    tail = content[footer:]
    metadata = pq.ParquetFile(pa.BufferReader(content)).metadata
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            size = metadata.row_group(group).column(place).total_uncompressed_size
            true = varint(2 * size)
            if size > 2**20:
                false = bytes([0x80 | 100, *[0x80] * (len(true) - 2), 0])
                tail = tail.replace(true, false)
    return content[:footer] + tail


def varint(value):
    found = []
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def file(folder, dice, _bombs):
    """Remove a file or folder, or replace it by something else."""
    choices = sorted(path for path in folder.rglob("*") if not path.is_symlink())
    path = dice.choice(choices)
    what = dice.choice(
        ["gone", "empty", "folder", "fifo", "socket", "zeros", "outside", "loop", "nowhere", "full", "link"]
    )
    where = f"{path.relative_to(folder)}: {what}"
    if what == "empty" and path.is_file():
        path.write_bytes(b"")
        return where
    aside = folder.parent / "outside" / "moved"
    if what == "link" and not aside.exists():
        shutil.move(path, aside)
        path.symlink_to(aside)
        return where
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    replace = {
        "folder": lambda: (path / "x").mkdir(parents=True), "fifo": lambda: os.mkfifo(path),
        "socket": lambda: bound(path),
        "zeros": lambda: path.symlink_to("/dev/zero"), "outside": lambda: path.symlink_to(folder.parent / "outside"),
        "loop": lambda: path.symlink_to(path), "nowhere": lambda: path.symlink_to("/nowhere/at/all"),
        "full": lambda: path.symlink_to("/dev/full"),
    }.get(what)  # fmt: skip
    if replace is not None:
        replace()
    return where


def bound(path):
    """Make a socket, by a short path, as the full path may be too long for a socket."""
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{here}/{path.name}"[:107])
    finally:
        os.close(here)


def extra(folder, dice, _bombs):
    """Add a file that is not the run's, under any kind of name."""
    units, nonce = "a" * 24, "b" * 16
    held = tables(folder)
    content = dice.choice(held).read_bytes() if held and dice.random() < 0.7 else dice.randbytes(50)
    name = dice.choice([
        b"notes.txt", b"scores/dataset=..%2F..%2Fx/model=m/x.parquet", b"summary/mine.txt", b"report/mine.html",
        f"scores/dataset=..%2F..%2Fx/model=%00/{'0' * 7}1-{units}-{nonce}.parquet".encode(),
        f"scores/dataset=d/model=m/{'0' * 7}1-{units}-{nonce}.parquet".encode(),
        f"commits/{'0' * 7}1-{units}.parquet".encode(), f"commits/{units}.parquet".encode(),
        f"images/{units}.parquet".encode(), f"maps/{'0' * 7}2-{units}-{nonce}.parquet".encode(),
        b"lease/00000002.json", b"lease/99999999.json", b"lease/00000000.json", b"beats/00000001.json",
        b"done/00000001.json", b"done.json", b"progress/00000009.json", b"progress/x", b"commits/\xff\xfe.parquet",
        "commits/\x1b[2J\u202e.parquet".encode(), b"scores/new\nline.parquet", b".hidden", b"commits/.hidden.parquet",
        b"/".join([b"scores", *[b"d" * 200] * 10, b"x.parquet"]), b"combined.json", b"manifest.parquet",
    ])  # fmt: skip
    path = folder / os.fsdecode(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.choice([content, b"", b"{}", b'{"accepts": []}', b'{"holder": "x", "machine": "y"}']))
    except OSError:
        return "no room for it"
    return f"extra {name[:80]!r}"
