"""What stands above a run folder is its place, never a column; photos are told apart by their whole names."""

from io import BytesIO

import numpy as np
import polars as pl
from PIL import Image

import camrobust as package
from camrobust.interface.cli import main
from tests.in_process import run
from tests.runs import SMALL, config, report

NAMES = (
    "a%20b.png",
    "a b.png",
    "a#1.png",
    "a?1.png",
    "a.png",
    "model=x/e.png",
    "b[1]*.png",
    "back\\slash.png",
    "ü.png",
)


def test_key_value_folders_above_the_output_are_no_partitions(tmp_path, capsys):
    for number, name in enumerate(NAMES):
        sink = BytesIO()
        noise = np.random.default_rng(number).integers(0, 50, (240, 240, 3), dtype=np.uint8)
        Image.fromarray(np.uint8(20 * number) + noise).save(sink, "PNG")
        (tmp_path / "cam#2?" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cam#2?" / name).write_bytes(sink.getvalue())
    above = tmp_path / "sweep" / "lr=0.1" / "date=2026-01-01" / "dataset=mine" / "label=x" / "model=other"
    outputs = [above / "run#1 %20[2]?", above / "run#2 %20[2]?"]
    changes = {"cams": ["gradcam", "random"]} | SMALL
    for severity, output in zip((1, 2), outputs, strict=True):
        noise = [f"gaussian_noise:{severity}"]
        path = config(tmp_path, tmp_path / "cam#2?", output=f"{output}/", perturbations=noise, **changes)
        assert run(path).exit_code == 0
        found = package.load_run(output).scores
        assert found.height == len(NAMES) * 2
        assert set(found["dataset"]) == {"made up"}
        assert set(found["model"]) == {"tests.toys:pooled"}
        assert set(found["severity"]) == {severity}
        assert not {"lr", "date"} & {*found.columns}
        tables = [pl.read_parquet(file, glob=False) for file in (output / "images").iterdir()]
        measured = dict(pl.concat(tables).select("image_id", "brightness").iter_rows())
        for number, name in enumerate(NAMES):
            assert abs(measured[name] - (20 * number + 24.5) / 255) < 0.02, name
        assert report(output).exists()
    assert main(["verify", str(outputs[0])]) == 0
    assert main(["report", str(outputs[0])]) == 0
    assert main(["aggregate", *map(str, outputs), "--output", str(above / "both")]) == 0
    capsys.readouterr()
    table = pl.read_parquet(above / "both" / "summary" / "by_level.parquet")
    assert set(table["severity"]) == {1, 2}
    assert set(table["dataset"]) == {"made up"}
