"""Headers of pages that say one thing to us and another to pyarrow, which would unpack more than was allowed."""

from collections import Counter
from io import BytesIO
from random import Random

import polars as pl
import pyarrow.parquet as pq
import pytest

from camrobust.contract.errors import UserError
from camrobust.io.image_errors import ImageError
from camrobust.io.manifest import list_dataset
from camrobust.io.parquet_excerpt import (
    Pages,
    _list,
    _number,
    _schema,
    _structure,
    _text,
    values_of,
)
from camrobust.io.parquet_footer import row_groups
from camrobust.io.parquet_pages import pages_of
from camrobust.io.parquet_thrift import BINARY, FALSE, INT32, INT64, LIST, MAGIC, STRUCT, TRUE, PageError
from camrobust.io.picture_tables import Columns
from camrobust.io.tables import read_table

VALUE = bytes(40_000)
CONTENT = len(VALUE).to_bytes(4, "little") + VALUE


def size(value):
    return INT32, _number(value)


def header(*, unpacked=None, count=1, behind=b""):
    """That of a page with one value, stored as it is; `behind` are more fields."""
    inner = _structure((1, INT32, _number(count)), (2, *size(0)), (3, *size(1)), (4, *size(0)), (5, *size(0)),
                       (6, *size(0)), (7, FALSE, b""))  # fmt: skip
    first = ((1, *size(3)), (2, *size(unpacked or len(CONTENT))), (3, *size(len(CONTENT))))
    return _structure(*first, (8, STRUCT, inner))[:-1] + behind + b"\0"


def long_form(number, kind, value):
    """A field with its whole number, as the compact protocol writes one that does not follow closely."""
    return bytes([kind]) + _number(number) + value


DATA_PAGE = _structure((1, INT32, _number(3)), (2, *size(0)), (3, *size(3)), (4, *size(3)))
LIES = {
    "what belongs to another version says that all values are here": header(behind=long_form(5, STRUCT, DATA_PAGE)),
    "the size twice, in a type that pyarrow skips": header(behind=long_form(2, INT64, _number(1))),
    "the size again, its number 16 bits too long": header(
        unpacked=1, behind=long_form(2**16 + 2, INT32, _number(len(CONTENT)))
    ),
    "a number of values of which 32 bits are kept": header(count=2**32 + 1),
}


def read(head, most, monkeypatch):
    monkeypatch.setattr("camrobust.io.parquet_excerpt.MOST_UNPACKED", most)
    content = (head + CONTENT) * 3
    return values_of(Pages(4, len(content), "UNCOMPRESSED", 0, 3), content, {0, 2})


def test_honest_headers_are_read_within_the_limit(monkeypatch):
    assert read(header(), 2**18, monkeypatch) == {0: VALUE, 2: VALUE}
    with pytest.raises(ImageError, match="would unpack to more than"):
        read(header(), 2**16, monkeypatch)


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_means_two_things_unpacks_no_more_than_allowed(lie, monkeypatch):
    with pytest.raises(ImageError, match=r"are damaged or have changed|would unpack to more than"):
        read(LIES[lie], 2**16, monkeypatch)


def test_a_field_of_no_type_ends_a_header_as_it_does_for_pyarrow():
    head = header()[:-1] + b"\x10"
    content = head + b"\x05\0" + CONTENT
    (page,) = pages_of(BytesIO(content), 0, len(content), 1)
    assert page.length == len(head) + len(CONTENT)


@pytest.mark.parametrize("kind", [TRUE, BINARY, STRUCT])
def test_a_size_that_is_no_number_is_refused(kind):
    value = {TRUE: b"", BINARY: b"\x01x", STRUCT: b"\0"}[kind]
    content = _structure((1, *size(3)), (2, kind, value), (3, *size(0)), (8, STRUCT, _structure((1, *size(1)))))
    with pytest.raises(PageError, match="does not fit its column"):
        list(pages_of(BytesIO(content), 0, len(content), 1))


@pytest.mark.parametrize("count", [4, 2**31])
def test_a_page_holds_no_more_values_than_its_column(count):
    content = header(count=count) + CONTENT
    with pytest.raises(PageError, match="states more values than its column"):
        list(pages_of(BytesIO(content), 0, len(content), 3))


def table(columns, *encryption, facts=()):
    """A file of one column, whose row group says that it has so many; more fields of each, and of its facts."""
    known = ((1, *size(6)), (2, LIST, _list(INT32, [_number(0)])), (3, LIST, _list(BINARY, [_text("row")])),
             (4, *size(0)), *((field, INT64, _number(1)) for field in (5, 6, 7)), (9, INT64, _number(4)),
             *facts)  # fmt: skip
    chunk = _structure((2, INT64, _number(4)), (3, STRUCT, _structure(*known)), *encryption)
    chunks = [chunk] * columns
    group = _structure((1, LIST, _list(STRUCT, chunks)), (2, INT64, _number(1)), (3, INT64, _number(1)))
    footer = _structure((1, *size(2)), (2, LIST, _list(STRUCT, _schema(0))), (3, INT64, _number(1)),
                        (4, LIST, _list(STRUCT, [group])))  # fmt: skip
    return MAGIC + header() + CONTENT + footer + len(footer).to_bytes(4, "little") + MAGIC


KEY = _structure((2, STRUCT, _structure((1, LIST, _list(BINARY, [_text("row")])))))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (table(2), "a row group has another number of columns than the schema"),
        (table(0), "a row group has another number of columns than the schema"),
        (table(1, (8, STRUCT, KEY)), "its columns are encrypted; write it without encryption"),
    ],
)
def test_of_columns_that_would_end_the_process_pyarrow_is_not_asked(content, why, tmp_path):
    file = BytesIO(table(1))
    ((chunk,),) = (group.chunks for group in row_groups(pq.ParquetFile(file).metadata, file))
    assert (chunk.path, chunk.codec, chunk.start, chunk.nulls) == ("row", "UNCOMPRESSED", 4, None)
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError) as told:
        list_dataset("d", str(tmp_path / "x.parquet"), columns=Columns("row", "row"))
    assert str(told.value) == (
        f"images: {tmp_path}/x.parquet is not a readable parquet file ({why}); get an undamaged copy"
    )


@pytest.mark.parametrize("columns", [Columns("image"), Columns()])
def test_an_encrypted_file_is_told(columns, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PARE" + bytes(100) + b"PARE")
    with pytest.raises(UserError, match=r"x\.parquet is an encrypted parquet file; write it without encryption$"):
        list_dataset("d", str(tmp_path / "x.parquet"), columns=columns)


def test_facts_that_contradict_one_another_do_not_end_the_process(tmp_path):
    """Of a column with three numbers where its levels have one, pyarrow is not asked either."""
    levels = _structure((3, LIST, _list(INT64, [_number(0)] * 3)))
    (tmp_path / "x.parquet").write_bytes(table(1, facts=((16, STRUCT, levels),)))
    listed = list_dataset("d", str(tmp_path / "x.parquet"), columns=Columns("row")).images
    assert listed["image_id"].to_list() == ["000000000"]


def test_a_damaged_table_is_read_or_told(tmp_path):
    """With one byte in some hundred, polars panics, and prints the places in its source."""
    frame = pl.DataFrame({"image_id": [f"{number}.jpg" for number in range(9)], "label": range(9)})
    frame.write_parquet(tmp_path / "x.parquet")
    whole, dice, told = (tmp_path / "x.parquet").read_bytes(), Random(1), Counter()
    for _ in range(400):
        place, content = dice.randrange(4, len(whole) - 8), bytearray(whole)
        content[place] = dice.randrange(256)
        (tmp_path / "x.parquet").write_bytes(content)
        try:
            told[read_table(str(tmp_path / "x.parquet"), "labels").cells.height == 9] += 1
        except UserError:
            told["error"] += 1
    assert set(told) == {True, "error"}
