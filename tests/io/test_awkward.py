"""A hundred awkward manifests and folders, made from a seed: each gives the right table, or one right sentence."""

import bz2
import csv
import gzip
import io
import json
import random
import re

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_dataset

NAMES = ("a.jpg", "b c.png", "0012.jpg", "Größe.jpg", "x,y.jpg", "semi;colon.jpg", "p|q.jpg", "#1.jpg", "-3.tif")


def truth(dice):
    """Image ids, paths and labels, as the manifest means them."""
    names = dice.sample(NAMES, dice.randint(1, len(NAMES)))
    ids = [f"{number:04}" for number in dice.sample(range(100), len(names))]
    labels = [dice.choice([None, 0, 7, 999]) for _ in names]
    return names, ids if dice.random() < 0.5 else None, labels if dice.random() < 0.8 else None


def told(dice, label):
    """A label as a spreadsheet may write it."""
    if label is None:
        return dice.choice(["", "NA", "NaN", "null", " "])
    return dice.choice([str(label), f"{label}.0", f" {label}", f"{label} "])


def cells_of(dice, names, ids, labels):
    """Rows of text, the columns in any order and with others among them."""
    columns = {"uri": [f"photos/{name}" for name in names]}
    if ids:
        columns["image_id"] = ids
    if labels:
        columns[dice.choice(["label", "class_index"])] = [told(dice, label) for label in labels]
    for other in dice.sample(["url", "width", "", "table", "imagery", "Notes"], dice.randint(0, 3)):
        columns[other] = [dice.choice(["", "x", "1.5", 'say "hi", then']) for _ in names]
    order = dice.sample(list(columns), len(columns))
    header = [dice.choice([name, f" {name}", f"{name} ", f" {name}\u00a0"]) for name in order]
    return [header, *(list(row) for row in zip(*(columns[name] for name in order), strict=True))]


def as_text(dice, rows):
    """The bytes of a table as some program writes it, and whether it says how."""
    # With one column nothing separates, and a comma must be quoted.
    separator = dice.choice(",;\t|") if len(rows[0]) > 1 else ","
    blank = dice.random() < 0.5
    end = dice.choice(["\n", "\r\n"])
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=separator, lineterminator=end, quoting=dice.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    )
    for row in rows:
        writer.writerow(row)
        if blank and dice.random() < 0.4:
            text.write(dice.choice(["", " ", separator * (len(row) - 1)]) + end)
    written = text.getvalue() + dice.choice(["", end, f"{end}  {end}", "\x1a"])
    if dice.random() < 0.3:
        written = dice.choice([end, f"sep={separator}{end}"]) + written
    encoding = dice.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    return written.encode(encoding)


def as_lines(dice, names, ids, labels):
    """Line JSON, or a list in JSON; a label that is missing is null or not there."""
    records = []
    for place, name in enumerate(names):
        record = {"uri": f"photos/{name}", "more": {"deep": [place]}}
        if ids:
            record["image_id"] = ids[place]
        if labels and (labels[place] is not None or place == 0 or dice.random() < 0.5):
            record["label"] = labels[place]
        records.append(record)
    if dice.random() < 0.3:
        return json.dumps(records).encode()
    return "".join(f"{json.dumps(record)}{dice.choice(['', chr(10)])}\n" for record in records).encode()


def as_parquet(dice, names, ids, labels):
    def text(values):
        column = pa.array(values, pa.string())
        return dice.choice(
            [column, column.dictionary_encode(), column.cast(pa.large_string()), column.cast(pa.binary())]
        )

    table = {
        dice.choice(["uri", " uri"]): text([f"photos/{name}" for name in names]),
        "boxes": pa.array([[1]] * len(names)),
    }
    if ids:
        table["image_id"] = text(ids)
    if labels:
        numbers = pa.array(labels, pa.int64())
        kinds = [numbers, numbers.cast(pa.float64()), numbers.cast(pa.decimal128(20, 1)), numbers.dictionary_encode()]
        table["label "] = dice.choice([*kinds, text([None if label is None else str(label) for label in labels])])
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue()


def packed(dice, content):
    def zstd(one):
        return pa.compress(one, "zstd", asbytes=True)

    return dice.choice([lambda one: one, gzip.compress, bz2.compress, zstd])(content)


@pytest.mark.parametrize("number", range(60))
def test_a_manifest_gives_the_right_table(number, tmp_path):
    dice = random.Random(number)
    names, ids, labels = truth(dice)
    kind = dice.choice(["text", "text", "text", "lines", "parquet"])
    if kind == "text":
        content = as_text(dice, cells_of(dice, names, ids, labels))
    else:
        content = (as_lines if kind == "lines" else as_parquet)(dice, names, ids, labels)
    # The content decides, not the name.
    path = tmp_path / dice.choice(["m.csv", "m.csv.gz", "m.txt", "m.TSV", "m.parquet", "m.jsonl.zst", "m", "m.dat"])
    path.write_bytes(packed(dice, content))
    listing = list_dataset("d", str(path))
    right = pl.DataFrame(
        {
            "image_id": ids or [f"photos/{name}" for name in names],
            "uri": [f"{tmp_path}/photos/{name}" for name in names],
            "label": labels or [None] * len(names),
        },
        schema={"image_id": pl.String, "uri": pl.String, "label": pl.Int32},
    )
    assert listing.images.drop("dataset", "place").equals(right.sort("image_id"))
    missing = (labels or []).count(None)
    assert len(listing.remarks) == bool(missing)
    if missing:
        assert listing.remarks[0].startswith(f"dataset 'd': {path} has no label in row{'s' * (missing > 1)} ")


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def near(given, name):
    return f"manifest: M has a column '{given}', which is not read; did you mean '{name}'? rename it"


WORKBOOK = "manifest: M is a workbook or a zip archive; save it as CSV (UTF-8), or unpack it"
NAMED = "give label_names, a file with the number of each name"
INTEGERS = "manifest: labels must be class indices (integers), got "
SENTENCES = {
    "a near miss": ("uri,labels\na,1\n", near("labels", "label")),
    "a swapped letter": ("uri,lable\na,1\n", near("lable", "label")),
    "capitals": ("URI,label\na,1\n", near("URI", "uri")),
    "a name in two words": (
        "uri,Image ID\na,1\n", near("Image ID", "image_id")
    ),
    "a near miss in parquet": (
        parquet(uri=["a"], Label=[1]), near("Label", "label")
    ),
    "a near miss in JSON": (
        '{"uri": "a", "class-index": 3}',
        near("class-index", "class_index"),
    ),
    "no column": ("path;label\na;1\n", "manifest: M has no column 'uri', only path, label; rename or add it"),
    "no header": ("a.jpg,3\nb.jpg,4\n", "manifest: M has no column 'uri', only a.jpg, 3; rename or add it"),
    "a column twice": ("uri,label, label\na,1,2\n", "manifest: M has the column 'label' twice; keep one"),
    "a column twice in parquet": (
        parquet(**{"uri": ["a"], "label": [1], "label ": [2]}), "manifest: M has the column 'label' twice; keep one"
    ),
    "no uri": ("uri,label\na,1\n,2\n\nb,3\n ,4\n", "manifest: M has no uri in rows 3, 6; fill or drop what is blank"),
    "no image_id": (
        "uri,image_id\na,1\nb,\n", "manifest: M has no image_id in row 3; fill it, or leave the column out"
    ),
    "a name as a label": ("uri,label\n\na,1\nb,cat\n", f"{INTEGERS}'cat' in row 4 of M; {NAMED}"),
    "half a label": ("uri\tlabel\na\t1\nb\t2.5\n", f"{INTEGERS}'2.5' in row 3 of M; {NAMED}"),
    "a half in parquet": (parquet(uri=["a", "b"], label=[1, 2.5]), f"{INTEGERS}2.5 in row 2 of M; {NAMED}"),
    "a huge label": (parquet(uri=["a"], label=[2**40]), f"{INTEGERS}{2**40} in row 1 of M; {NAMED}"),
    "true": ('{"uri": "a", "label": true}', f"{INTEGERS}Boolean; {NAMED}"),
    "categories that are names": (
        parquet(uri=["a", "b"], label=pa.array(["7", "cat"]).dictionary_encode()),
        f"{INTEGERS}'cat' in row 2 of M; {NAMED}",
    ),
    "Windows-1252": (
        "uri,label\na,1\nü,2\n".encode("cp1252"),
        "manifest: M is not UTF-8 text (line 3 holds the byte 0xfc), but perhaps Windows-1252 or Latin-1; save it as "
        "CSV (UTF-8)",
    ),
    "too many cells": (
        "uri,label\na.jpg,1\nb,c.jpg,2\n",
        "manifest: M has more cells in row 3 than the 2 of its header; quote cells that hold a separator",
    ),
    "too many cells, of which the last is empty": (
        "\nuri,note\na,1\n\nb,c.jpg,\n",
        "manifest: M has more cells in row 5 than the 2 of its header; quote cells that hold a separator",
    ),
    "a quote that does not end": (
        'uri,label\n"a,1\nb,2\n',
        "manifest: M holds quotes that do not match; quote cells that hold a quote, and write it twice",
    ),
    "half a line of JSON": (
        '{"uri": "a"}\n{"uri"\n',
        "manifest: M is neither line JSON nor a list of objects (line 2); write one object in each line",
    ),
    "no objects": ("[]", "manifest: M is empty; its first row must name the columns"),
    "nothing": ("", "manifest: M is empty; its first row must name the columns"),
    "blank lines": ("\n \n,,\n", "manifest: M is empty; its first row must name the columns"),
    "only a header": ("uri,label\n", "dataset 'd': M names no image; a manifest has a row for each"),
    "a workbook": (b"PK\x03\x04....", WORKBOOK),
    "an old workbook": (b"\xd0\xcf\x11\xe0", "manifest: M is a workbook of an old Excel; save it as CSV (UTF-8)"),
    "xz": (b"\xfd7zXZ\0", "manifest: M is compressed with xz; unpack it, or compress it with gzip or zstd"),
    "a web page": ("\n<!DOCTYPE html>", "manifest: M is a page of HTML or XML; download the table itself"),
    "bytes": (
        bytes(range(256)),
        "manifest: M is no table, and no image that is read; a table is csv, tsv, line JSON or parquet, also as .gz, "
        ".bz2, .zst or .lz4",
    ),
    "cut off": (gzip.compress(b"uri\na\n")[:-9], "manifest: M is not a readable table (Truncated compressed stream)"),
    "lists": (
        parquet(uri=[["a"]]),
        "manifest: M is not a readable table (the column 'uri' must hold one value in each row, not "
        "list<element: string>)",
    ),
    "dates": (
        parquet(uri=pa.array([1], pa.date32())), "manifest: M holds Date in the column 'uri', which must hold text"
    ),
    "one file twice": (
        "uri\nphotos/a.jpg\nb.jpg\n./photos/a.jpg\n",
        "dataset 'd': 'photos/a.jpg' and './photos/a.jpg' are one file (rows 2, 4); keep one",
    ),
    "one file by its address": (
        "uri\nfile:///x/a.jpg\n/x/y/../a.jpg\n",
        "dataset 'd': 'file:///x/a.jpg' and '/x/y/../a.jpg' are one file (rows 2, 3); keep one",
    ),
    "one row twice": (
        "uri,label\na.jpg,1\na.jpg,1\n",
        "dataset 'd': image_id 'a.jpg' occurs twice (rows 2, 3); give each image its own"
    ),
    "a second file twice": (
        "uri,image_id\na.jpg,1\nb.jpg,2\nb.jpg,2\n",
        "dataset 'd': image_id '2' occurs twice (rows 3, 4); give each image its own",
    ),
    "NUL": (
        '{"uri": "b.jpg"}\n{"uri": "p\\u0000q/x.jpg"}',
        "manifest: M has a NUL character in the uri of row 2; correct it",
    ),
    "text in each row and none in known columns": (
        "uri,a,b\nx,,\n,,\n,,y\n", "manifest: M has no uri in row 4; fill or drop what is blank"
    ),
    "a list in JSON": (
        '{"uri": "a", "label": 1}\n{"uri": ["b"]}',
        "manifest: M holds a list or an object in the column 'uri' (row 2); write text",
    ),
    "deep JSON": (
        '{"uri": "a", "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "manifest: M is neither line JSON nor a list of objects (line 1); write one object in each line",
    ),
    "columns without end": (
        b"uri," + b"," * 9000 + b"\n" + b"N\n" * 30_000,
        "manifest: M has 30,002 lines and 9,002 columns, too many for a table of its size; keep what names images",
    ),
    "columns without end in JSON": (
        "".join(f'{{"uri": "{n}", "k{n}": 1}}\n' for n in range(10_001)),
        "manifest: M has more than 10,000 columns; keep what names images",
    ),
    "backslashes": ("uri\nphotos\\a.jpg\n", "manifest: M writes paths with backslashes (row 2); write / instead"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_manifest_is_refused_with_one_sentence(kind, tmp_path):
    content, sentence = SENTENCES[kind]
    path = tmp_path / "m.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    pattern = re.escape(sentence.replace("M ", f"{path} ").replace("M;", f"{path};")).replace("…", ".*")
    with pytest.raises(UserError, match=f"^{pattern}$"):
        list_dataset("d", str(path))
