"""`camrobust compare --exact` finds a changed bit, a missing row and a null, whatever the files are called and hold."""

import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from camrobust.contract.former_names import COLUMNS
from camrobust.contract.schema import COMMITS, SCORES
from camrobust.interface.cli import main
from camrobust.results.arrow import empty_frame
from camrobust.results.commits import put_commit
from camrobust.results.exact import compare_exactly
from tests.results.test_reduce import write_run
from tests.synthetic import failures

ROWS = 8 * 3 * 2
FIRST = {"dataset": "d", "model": "m", "image_id": "image-2", "cam": "gradcam", "perturbation": "gaussian_noise",
         "strength": "sigma=0.1", "replicate": 0}  # fmt: skip


def chosen():
    return pl.all_horizontal(pl.col(name) == value for name, value in FIRST.items())


def with_value(column, value):
    """A function that changes one value of one score row."""
    kind = {field.name: field.type for field in SCORES}[column]
    written = pl.Series([value], dtype={"float32": pl.Float32, "int32": pl.Int32, "string": pl.String}[kind])
    return lambda table: table.with_columns(pl.when(chosen()).then(pl.lit(written)).otherwise(column).alias(column))


def pair(tmp_path, moved=lambda table: table, **changes):
    return write_run(tmp_path / "a"), write_run(tmp_path / "b", moved=moved, **changes)


def test_a_run_equals_itself_and_its_copy(tmp_path):
    first, second = pair(tmp_path)
    for other in (first, second):
        found = compare_exactly(first, other)
        assert found.is_equal
        assert found.lines() == [f"equal bit for bit: {ROWS} rows of scores, 8 rows of images, 0 rows of failures"]


@pytest.mark.parametrize("rows", [1, 10**6])
def test_commits_of_other_images_are_matched_by_key(tmp_path, rows):
    first = write_run(tmp_path / "a")
    table = first.scores(first.committed()).sort("cam", "image_id", descending=True)
    second = write_run(tmp_path / "b", moved=lambda table: table.filter(image_id="image-7"))
    for few in (["image-5", "image-0"], ["image-1", "image-2", "image-3", "image-4", "image-6"]):
        part = table.filter(pl.col("image_id").is_in(few))
        units = part.group_by("dataset", "image_id").agg(rows=pl.len())
        units = units.with_columns(part=pl.lit(0), failures=pl.lit(0)).select(empty_frame(COMMITS).columns)
        put_commit(second.store, units, part, {})
    scores = compare_exactly(first, second, rows).tables["scores"]
    assert scores.is_equal
    assert scores.rows == ROWS


def test_a_changed_last_bit_is_found(tmp_path):
    first, second = pair(tmp_path)
    (value,) = first.scores(first.committed()).filter(chosen())["rbo"].to_list()
    after = np.nextafter(np.float32(value), np.float32(2))
    second = write_run(tmp_path / "c", moved=with_value("rbo", float(after)))
    scores = compare_exactly(first, second).tables["scores"]
    assert (scores.rows, scores.equal, scores.only_first, scores.only_second) == (ROWS, ROWS - 1, 0, 0)
    assert {name: column.rows for name, column in scores.columns.items()} == {"rbo": 1}
    example = scores.columns["rbo"].example
    assert example["key"] == FIRST
    bits = [int(example[run].partition("bits ")[2].rstrip(")"), 16) for run in ("first", "second")]
    assert bits == [np.float32(value).view(np.uint32), after.view(np.uint32)]
    assert bits[1] - bits[0] == 1


@pytest.mark.parametrize(
    ("before", "after"), [(0.0, -0.0), (np.nan, None), (None, 0.0), (np.nan, 0.0), (np.nan, -np.nan)]
)
def test_values_that_differ_in_their_bits_only_are_different(tmp_path, before, after):
    first = write_run(tmp_path / "a", moved=with_value("pearson", before))
    second = write_run(tmp_path / "b", moved=with_value("pearson", after))
    assert compare_exactly(first, first).is_equal
    scores = compare_exactly(first, second).tables["scores"]
    assert {name: column.rows for name, column in scores.columns.items()} == {"pearson": 1}


def test_text_and_null_differ_by_column(tmp_path):
    def moved(table):
        return with_value("status", "flat_map")(with_value("label", 3)(table))

    first, second = pair(tmp_path, moved)
    columns = compare_exactly(first, second).tables["scores"].columns
    assert {
        name: (column.rows, column.example["first"], column.example["second"]) for name, column in columns.items()
    } == {
        "label": (1, "null", "3"),
        "status": (1, "ok", "flat_map"),
    }


def test_a_missing_row_is_found_on_either_side(tmp_path):
    first, second = pair(tmp_path, lambda table: table.filter(~chosen()))
    scores = compare_exactly(first, second).tables["scores"]
    assert (scores.rows, scores.equal, scores.only_first, scores.only_second) == (ROWS - 1, ROWS - 1, 1, 0)
    assert scores.missing == FIRST
    scores = compare_exactly(second, first).tables["scores"]
    assert (scores.only_first, scores.only_second) == (0, 1)


def test_a_row_twice_is_one_more(tmp_path):
    first, second = pair(tmp_path, lambda table: pl.concat([table, table.filter(chosen())]))
    scores = compare_exactly(first, second).tables["scores"]
    assert (scores.rows, scores.equal, scores.only_first, scores.only_second) == (ROWS, ROWS, 0, 1)


def test_other_models_have_no_row_in_common(tmp_path):
    first, second = pair(tmp_path, models=("n",))
    scores = compare_exactly(first, second).tables["scores"]
    assert (scores.rows, scores.only_first, scores.only_second) == (0, ROWS, ROWS)


def test_images_and_failures_are_compared(tmp_path):
    first, second = pair(tmp_path, other=lambda photos: photos.with_columns(contrast=pl.col("contrast") + 1e-8))
    units = pl.DataFrame({"dataset": "d", "image_id": "broken", "part": 0, "rows": 0, "failures": 1})
    for run, message in ((first, "cut off"), (second, "empty")):
        table = failures("broken", message=message).to_arrow()
        put_commit(run.store, units.select(empty_frame(COMMITS).columns), empty_frame(SCORES), {"failures": table})
    tables = compare_exactly(first, second).tables
    assert tables["scores"].is_equal
    assert {name: column.rows for name, column in tables["images"].columns.items()} == {"contrast": 8}
    assert {name: column.rows for name, column in tables["failures"].columns.items()} == {"message": 1}


def test_columns_of_version_0_1_are_compared_under_the_names_of_today(tmp_path):
    first, second = pair(tmp_path)
    old = {new: name for name, new in COLUMNS.items()}
    committed = second.committed()
    for key in committed.files:
        path = tmp_path / "b" / key
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.rename_columns([old.get(name, name) for name in table.column_names]), path)
    # The commit names the sizes of its files, so it is written again, too.
    first_commit = tmp_path / "b" / committed.commits[0]
    commit = pq.read_table(first_commit)
    sizes = {key: (tmp_path / "b" / key).stat().st_size for key in committed.files}
    meta = {**commit.schema.metadata, b"camrobust.files": json.dumps(sizes).encode()}
    pq.write_table(commit.replace_schema_metadata(meta), first_commit)
    assert "same" in pq.read_schema(tmp_path / "b" / committed.tables("scores")[0]).names
    found = compare_exactly(first, second)
    assert found.is_equal
    assert found.tables["scores"].rows == ROWS


def test_the_command_says_it_in_a_sentence_as_data_and_by_its_exit_code(tmp_path, capsys):
    pair(tmp_path, lambda table: with_value("rbo", 0.25)(table).filter(image_id="image-2"))
    a, b = (str(tmp_path / name) for name in "ab")
    assert main(["compare", "--exact", a, a]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"equal bit for bit: {ROWS} rows of scores, 8 rows of images, 0 rows of failures\n"
    assert main(["compare", "--exact", a, b]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "different: the two runs do not have the same scores, images"
    assert lines[1] == ("scores: 5 of 6 common rows are equal; 42 rows are only in the first run, 0 only in the second")
    assert lines[3].startswith("scores: rbo differs in 1 of 6 common rows, for example ")
    assert lines[3].endswith("0.25 (bits 0x3e800000) in the second (dataset d, model m, image_id image-2, cam gradcam, "
                             "perturbation gaussian_noise, strength sigma=0.1, replicate 0)")  # fmt: skip
    assert main(["compare", "--exact", a, b, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is False
    assert found["tables"]["scores"]["columns"]["rbo"]["example"]["key"] == FIRST
    assert found["tables"]["failures"]["is_equal"] is True
    assert main(["compare", "--exact", a, str(tmp_path / "nothing")]) == 2
    assert main(["compare", "--exact", a, b, "--raw"]) == 2
    err = capsys.readouterr().err
    assert "compare: --exact compares rows, so --by, --raw and --map have no meaning; leave them out" in err
