"""Images and models that end or hang their workers, in real processes of one Ray session; others that only fail."""

import shutil

import polars as pl
import pytest
from PIL import Image

from tests.in_process import camrobust, through_open_session
from tests.photos import write_photos
from tests.runs import ONE_WORKER, TINY, config, failures, scores

GOOD = 4
PER_PAIR = 2 * 2
"""Score rows of one image under one model: CAMs × variants."""
FEW = TINY | {"cams": ["gradcam", "random"], "perturbations": ["gaussian_noise:1,5"]}


@pytest.fixture
def run(capsys):
    """`camrobust run` through the session: its exit code, and what it said."""

    def through_session(*arguments):
        code, _, told = camrobust(capsys, "run", *arguments, by=through_open_session)
        return code, told

    return through_session


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_stops_a_run_is_told_in_the_last_line_and_is_exit_code_1(tmp_path, run):
    write_photos(tmp_path / "set", 1)
    code, told = run(config(tmp_path, tmp_path / "set", models=["tests.toys:only_on_the_driver"], **FEW))
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith("camrobust: ")
    assert "tests.toys:only_on_the_driver raised RuntimeError: this worker has no such file (toys.py, line " in last


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_that_kill_or_hang_their_worker_are_quarantined_and_can_be_tried_again(tmp_path, run, capsys):
    folder = tmp_path / "set"
    write_photos(folder, GOOD)
    Image.new("RGB", (256, 256), (0, 0, 0)).save(folder / "black.png")
    Image.new("RGB", (256, 256), (255, 255, 255)).save(folder / "white.png")
    models = ["tests.toys:pooled", {"name": "fragile", "builder": "tests.toys:fragile"}]
    path = config(tmp_path, folder, models=models, max_failure_share=1, cluster=ONE_WORKER | {"image_timeout_s": 3},
                  **FEW)  # fmt: skip
    code, told = run(path)
    assert code == 0, told
    found = failures(tmp_path / "out").sort("image_id")
    assert found.select("image_id", "model", "stage", "kind").rows() == [
        (name, "fragile", "explain", "quarantined") for name in ("black.png", "white.png")
    ]
    sentence = "the worker died 3 times at this image (crash, out of memory, or more than 3 s in the stage explain)"
    assert set(found["message"]) == {sentence}
    rows = scores(tmp_path / "out")
    assert rows.group_by("model").len().sort("model").rows() == [
        ("fragile", GOOD * PER_PAIR), ("tests.toys:pooled", (GOOD + 2) * PER_PAIR)
    ]  # fmt: skip
    assert "2 images failed" in told
    for name in ("black.png", "white.png"):
        shutil.copy(folder / "photo-000.jpg", folder / name)
    code, _, told = camrobust(capsys, "run", path, "--retry-failures")
    assert code == 0, told
    assert "measuring 2 failed images again" in told
    after = scores(tmp_path / "out")
    assert after.height == 2 * (GOOD + 2) * PER_PAIR
    assert not list((tmp_path / "out" / "failures").glob("*.parquet"))
    whole = ~pl.col("image_id").is_in(["black.png", "white.png"])
    assert after.filter(whole).equals(rows.filter(whole))


@pytest.mark.data
def test_every_bad_file_of_the_data_pack_is_scored_or_a_failure(tmp_path, capsys, shared_data):
    folder = tmp_path / "set"
    shutil.copytree(shared_data / "bad", folder)
    write_photos(folder, 3)
    # Sparse: a hundred gigabytes that take no room here, and that no worker could hold.
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(10**11)
    names = {"huge.jpg", *(file.name for file in (shared_data / "bad").iterdir())}
    path = config(tmp_path, folder, max_failure_share=1, models=["tests.toys:pooled"], **FEW)
    code, _, told = camrobust(capsys, "run", path)
    assert code == 0, told
    scored = set(scores(tmp_path / "out")["image_id"]) - {f"photo-{n:03}.jpg" for n in range(3)}
    failed = dict(failures(tmp_path / "out").select("image_id", "kind").rows())
    assert scored | failed.keys() == names
    assert not scored & failed.keys()
    assert len(scored) + len(failed) == 22
    bombs = ("bomb_50000x50000_1bit.png", "bomb_header_only.png", "huge.jpg")
    assert {failed[name] for name in bombs} == {"too_large"}
    assert failed["html_error_page.jpg"] == "not_an_image"
    assert failed["truncated_half.jpg"] == failed["corrupt_idat_crc.png"] == "truncated"
    assert {"alpha.png", "animated.gif", "cmyk.jpg", "gray16.png", "one_pixel.png", "palette.png"} <= scored


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_worker_with_another_network_ends_the_run_before_its_first_row(tmp_path, run):
    write_photos(tmp_path / "set", 2)
    code, told = run(config(tmp_path, tmp_path / "set", models=["tests.toys:drawn_elsewhere"], **FEW))
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith(
        "camrobust: model 'tests.toys:drawn_elsewhere': tests.toys:drawn_elsewhere does not build the "
    )
    assert last.endswith("name a file with `weights:`, or seed what the builder draws")
    assert not [*(tmp_path / "out").glob("scores/**/*.parquet")]
