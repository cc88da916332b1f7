"""How a shard begins: who plans the run, what is refused, and shards with few images or none."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.contract.sharding import parse_shard, shard_of
from camrobust.run import planned as planned_module
from tests import in_process
from tests.photos import write_photos
from tests.runs import config
from tests.shards import ONE, measured, refused
from tests.toys import pooled

WRONG = ("0/3", "4/3", "a/b", "3", "1/1001", "-1/3", "1/3/5", "1/ 3", "")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "set"
    write_photos(folder, 4)
    return folder


def test_an_image_is_on_one_shard_whoever_asks():
    """The rule is part of the format: shards measured by two versions must not overlap."""
    names = [f"photo-{number:03}.jpg" for number in range(12)]
    assert [shard_of("made up", name, 3) for name in names] == [1, 2, 1, 2, 1, 1, 2, 3, 1, 2, 3, 3]
    assert {shard_of("d", str(number), 7) for number in range(200)} == set(range(1, 8))
    assert [shard_of("a", "b", 1), shard_of("ü", "x/ÿ", 1)] == [1, 1]


@pytest.mark.parametrize("given", WRONG)
def test_a_shard_must_be_one_of_them(photos, tmp_path, capsys, given):
    path = config(tmp_path, photos)
    assert refused(capsys, "run", path, f"--shard={given}") == (
        "--shard: must be I/N with I from 1 to N and N at most 1,000, for example 2/3, got "
        f"{given!r}; see camrobust run --help"
    )


def test_foreign_files_and_links_are_refused_before_anything_is_written(photos, tmp_path, capsys):
    path = config(tmp_path, photos, **ONE)
    (tmp_path / "out" / "summary").mkdir(parents=True)
    (tmp_path / "out" / "summary" / "mine.csv").write_text("mine")
    assert refused(capsys, "run", path, "--shard", "1/3", "--quiet") == (
        f"output: {tmp_path}/out holds no run, but summary/mine.csv, where a run puts its own files; choose an empty "
        "folder"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "shard-1-of-3").symlink_to(tmp_path / "elsewhere")
    line = refused(capsys, "run", path, "--shard", "1/3", "--quiet", "--output", tmp_path / "linked")
    assert line.startswith(f"store: {tmp_path}/linked/shard-1-of-3 is a link")
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["summary"]


def test_a_photo_that_appears_between_two_shards_belongs_to_none(photos, tmp_path, capsys):
    """The first shard lists the images for all; another list would leave images out or measure them twice."""
    shutil.copytree(photos, tmp_path / "set")
    measured(tmp_path, tmp_path / "set", ["1/3"], **ONE)
    write_photos(tmp_path / "set" / "late", 5, seed=9)
    path = measured(tmp_path, tmp_path / "set", ["2/3", "3/3"], **ONE)
    code, printed, _ = in_process.camrobust(capsys, "verify", path.parent / "out", "--json")
    assert (code, json.loads(printed)["images"]) == (0, 4)


def planned_meanwhile(monkeypatch, other, shard):
    """While a driver lists images and checks models, another one plans the run for its own shard."""
    real, begun = planned_module.planned, []

    def planned(*arguments, **keywords):
        found = real(*arguments, **keywords)
        if not begun:
            begun.append(other)
            assert in_process.run(other, shard=parse_shard(shard)).exit_code == 0
        return found

    monkeypatch.setattr(planned_module, "planned", planned)


def test_of_two_shards_that_begin_at_once_one_plans_the_run(photos, tmp_path, monkeypatch, capsys):
    loaded = load_config(config(tmp_path, photos, **ONE))
    planned_meanwhile(monkeypatch, loaded, "2/2")
    assert in_process.run(loaded, shard=parse_shard("1/2")).exit_code == 0
    assert in_process.camrobust(capsys, "verify", tmp_path / "out")[0] == 0
    assert len([*(tmp_path / "out" / "manifest").iterdir()]) == 1


def test_two_that_begin_at_once_must_mean_the_same_run(photos, tmp_path, monkeypatch):
    loaded = load_config(config(tmp_path, photos, **ONE))
    planned_meanwhile(monkeypatch, loaded, "1/3")
    with pytest.raises(UserError, match="holds a run in 3 shards, got 1/2; give I/3"):
        in_process.run(loaded, shard=parse_shard("1/2"))
    assert not (tmp_path / "out" / "shard-1-of-2" / "run.json").exists()


def test_a_shard_with_other_weights_is_not_begun(photos, tmp_path, capsys):
    weights = tmp_path / "w.safetensors"
    save_file(pooled().state_dict(), weights)
    models = [{"name": "m", "builder": "tests.toys:pooled", "weights": str(weights)}]
    path = measured(tmp_path, photos, ["1/2"], models=models)
    save_file({name: value + 1 for name, value in pooled().state_dict().items()}, weights)
    line = refused(capsys, "run", path, "--shard", "2/2", "--quiet")
    assert line == f"model 'm': {weights} has changed since this run began; put it back, or use --fresh"
    assert not (tmp_path / "out" / "shard-2-of-2" / "run.json").exists()


def test_an_empty_shard_is_complete(photos, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "photo-000.jpg", tmp_path / "one")
    path = config(tmp_path, tmp_path / "one", **ONE)
    said = []
    for number in (1, 2):
        outcome = in_process.run(load_config(path), shard=parse_shard(f"{number}/2"), say=said.append)
        assert outcome.exit_code == 0
    own = shard_of("made up", "photo-000.jpg", 2)
    counts = [f"shard {number}/2: {int(number == own)} of 1 images" for number in (1, 2)]
    assert [line for line in said if line.startswith("shard ")] == counts
    for command in ("verify", "aggregate", "report", "status"):
        assert in_process.camrobust(capsys, command, tmp_path / "out")[0] == 0
    assert in_process.camrobust(capsys, "run", path, "--shard", f"{3 - own}/2")[0] == 0


def test_what_the_shards_have_in_common_must_be_readable(photos, tmp_path, capsys):
    path = config(tmp_path, photos, **ONE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shards.json").write_text('{"shards": 3}')
    for command in (("run", path, "--shard", "1/3"), ("verify", tmp_path / "out"), ("status", tmp_path / "out")):
        line = refused(capsys, *command)
        assert line.startswith(f"run: {tmp_path}/out/shards.json is damaged; choose another output (models: Field requ")
