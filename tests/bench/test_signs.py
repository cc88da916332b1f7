"""Counting opposite maps in a run."""

import json

import polars as pl

from camrobust.bench import signs as module
from camrobust.interface.cli import main
from tests.synthetic import scores


def test_opposite_ambiguous_and_flat_pairs_are_counted(tmp_path, monkeypatch, capsys):
    rows = scores(images=4, cams=("eigencam", "eigencam-salient"), levels=(1, 2), bad=0).with_columns(
        pl.when(pl.col("image_id") == "image-0").then(-0.9).otherwise(0.9).cast(pl.Float32).alias("pearson"),
        pl.when((pl.col("cam") == "eigencam-salient") & (pl.col("severity") == 2))
        .then(pl.lit("ambiguous"))
        .otherwise(pl.lit("ok"))
        .alias("status"),
    )

    class Folder:
        def committed(self):
            return None

        def scores(self, _):
            return rows

    monkeypatch.setattr(module, "open_run", lambda _: Folder())
    assert main(["bench", "signs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"model": "m", "cam": "eigencam", "pairs": 8, "opposite": 2, "ambiguous": 0, "flat": 0},
        {"model": "m", "cam": "eigencam-salient", "pairs": 8, "opposite": 2, "ambiguous": 4, "flat": 0},
    ]


def test_a_folder_without_rows_is_one_sentence(tmp_path, capsys):
    assert main(["bench", "signs", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
