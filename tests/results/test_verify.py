"""Whether a run is complete, compared with counting row by row."""

import polars as pl
import pytest

from camrobust.contract.schema import COMMITS, FAILURES
from camrobust.results import verify as module
from camrobust.results.arrow import empty_frame, make_table
from camrobust.results.commits import put_commit
from camrobust.results.folder import open_run
from tests.documents import run_document, write_json
from tests.reference.verify import completeness
from tests.synthetic import scores

DATASETS, MODELS, CAMS, LEVELS, IMAGES = ("d", "ü/2"), ("m", "n/o"), ("gradcam", "random"), (1, 3, 5), 6
IMAGE = ["dataset", "image_id"]
VARIANT = ["perturbation", "strength", "replicate"]
ALL = scores(images=IMAGES, datasets=DATASETS, models=MODELS, cams=CAMS, levels=LEVELS)


def run_folder(tmp_path, rows, failures=(), size=17):
    """A run whose commits hold exactly these rows, so many each, which cuts images in two, and these failures."""
    run = open_run(str(tmp_path / "run"))
    images = ALL.select(IMAGE).unique(maintain_order=True)
    variants = ALL.select(VARIANT).unique(maintain_order=True)
    run.write_table("manifest.parquet", images.with_columns(uri=pl.lit("x"), label=pl.lit(None, pl.Int32)))
    write_json(run, "run.json", run_document(images.height, MODELS, CAMS, variants.to_dicts()))
    for number, part in enumerate(rows.iter_slices(size)):
        units = part.select(IMAGE).unique(maintain_order=True)
        # Rows of one image in several commits are several parts of it.
        units = units.with_columns(part=pl.lit(number), rows=pl.lit(part.height), failures=pl.lit(0))
        put_commit(run.store, units.select(empty_frame(COMMITS).columns), part, {})
    if failures:
        rest = {"stage": "load", "kind": "error", "message": "x"}
        lines = [dict(zip((*IMAGE, "model"), failure, strict=True)) | rest for failure in failures]
        units = pl.DataFrame({"dataset": ["d"], "image_id": ["-"], "part": [-1], "rows": [0], "failures": [1]})
        put_commit(run.store, units, empty_rows(), {"failures": make_table(FAILURES, lines)})
    return run, completeness(
        images.rows(), MODELS, CAMS, variants.rows(), rows.select(*IMAGE, "model", "cam", *VARIANT).rows(), failures
    )


def empty_rows():
    return ALL.clear()


def without(image, model=None):
    gone = pl.col("image_id") == image
    return ALL.filter(~(gone & (pl.col("model") == model) if model else gone))


def twice(at):
    return pl.concat([ALL, ALL[at : at + 1]])


def renamed(column, value, at=7):
    row = ALL[at : at + 1].with_columns(pl.lit(value).cast(ALL.schema[column]).alias(column))
    return pl.concat([ALL[:at], row, ALL[at + 1 :]])


CASES = {
    "complete": (ALL, ()),
    "nothing": (empty_rows(), ()),
    "an image is missing": (without("image-2"), ()),
    "an image of one model is missing": (without("image-2", "n/o"), ()),
    "a row is missing": (ALL[1:], ()),
    "a row is there twice": (twice(3), ()),
    "one is missing, another there twice": (pl.concat([ALL[:6], ALL[7:], ALL[5:6]]), ()),
    "one is missing, its neighbour far away": (pl.concat([ALL[1:], ALL[2:3]]), ()),
    "a variant that was not planned": (renamed("strength", "sigma=9"), ()),
    "an image that was not planned": (renamed("image_id", "stranger"), ()),
    "a dataset that was not planned": (renamed("dataset", "stranger"), ()),
    "a model that was not planned": (renamed("model", "stranger"), ()),
    "named in failures": (without("image-2"), [("d", "image-2", None), ("ü/2", "image-2", None)]),
    "named twice in failures": (without("image-2", "m"), [("d", "image-2", "m"), ("ü/2", "image-2", "m")] * 2),
    "named for another model": (without("image-2", "m"), [("d", "image-2", "n/o"), ("ü/2", "image-2", "m")]),
    "scored and failed": (ALL, [("d", "image-2", None)]),
    "partly scored and failed": (ALL[1:], [("d", ALL["image_id"][0], None)]),
    "a failure of an image that was not planned": (ALL, [("d", "stranger", None)]),
}


@pytest.mark.parametrize("case", CASES)
def test_counts_equal_those_of_counting_row_by_row(tmp_path, monkeypatch, case):
    run, expected = run_folder(tmp_path, *CASES[case])
    whole = expected["score_rows"] + expected["failed_rows"] == expected["planned_rows"]
    for rows_at_once in (1, module.ROWS_AT_ONCE):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
        found = module.verify(run).as_dict()
        assert {name: found[name] for name in expected} == expected
        assert found["complete"] == (whole and not expected["missing"] and not expected["surplus"])


def test_examples_name_what_is_wrong(tmp_path):
    run, _ = run_folder(tmp_path, renamed("image_id", "stranger", at=0))
    found = module.verify(run)
    assert not found.complete
    assert {f"d / {ALL['image_id'][0]} / m", "d / stranger / m"} <= set(found.examples)
