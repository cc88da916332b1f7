from dataclasses import replace

import polars as pl
import pytest

from camrobust.errors import UserError
from camrobust.io.objects import MissingObjectError
from camrobust.io.results import (
    Unit,
    clear_stale,
    make_table,
    pack,
    read_committed,
    read_small,
    retract,
    unpack,
    write_commit,
)
from camrobust.io.runs import fresh_folder, open_run, pending_units
from camrobust.io.store import open_store
from camrobust.schema import FAILURES, IMAGES, MAPS, SCORES
from tests.runs import scores
from tests.synthetic import score_rows


def unit(image, models=("m", "n/o"), dataset="d", part=0):
    rows = score_rows(images=1, models=models, datasets=(dataset,), ids=[image])
    picture = {"dataset": dataset, "image_id": image, "segments": 3}
    return Unit(dataset, image, part, make_table(SCORES, rows), make_table(IMAGES, [picture]),
                make_table(FAILURES, []), make_table(MAPS, []))  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


def test_a_table_survives_the_journey_in_a_cell():
    table = make_table(SCORES, score_rows())
    assert unpack(pack(table)).equals(table)


def test_what_is_written_is_what_is_read(store, tmp_path):
    token = write_commit(store, [unit("a"), unit("b")])
    found = read_committed(store)
    assert found.units.select("image_id", "part", "rows").rows() == [("a", 0, 12), ("b", 0, 12)]
    assert found.tables("scores") == [f"scores/dataset=d/model={m}/{token}.parquet" for m in ("m", "n%2Fo")]
    assert found.stale == []
    assert read_small(store, "images", found.tables("images"))["image_id"].to_list() == ["a", "b"]
    assert read_small(store, "failures", found.tables("failures")).is_empty()


def test_the_same_images_twice_are_one_commit(store):
    assert write_commit(store, [unit("a"), unit("b")]) == write_commit(store, [unit("b"), unit("a")])
    assert read_committed(store).units.height == 2


def test_files_without_a_commit_do_not_count(store, tmp_path):
    token = write_commit(store, [unit("a")])
    store.delete(f"commits/{token}.parquet")
    found = read_committed(store)
    assert found.units.is_empty()
    assert found.files == []
    assert len(found.stale) == 3
    clear_stale(store, found)
    assert list(store.list()) == []


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_commit_whose_file_is_gone_or_cut_is_void(store, damage):
    kept = write_commit(store, [unit("a")])
    broken = write_commit(store, [unit("b"), unit("c")])
    victim = f"scores/dataset=d/model=m/{broken}.parquet"
    if damage == "gone":
        store.delete(victim)
    else:
        store.write(victim, store.read(victim)[:-20])
    found = read_committed(store)
    assert found.units["image_id"].to_list() == ["a"]
    assert all(kept in key for key in found.files)
    assert all(broken in key for key in found.stale)


def test_a_damaged_commit_is_void(store):
    token = write_commit(store, [unit("a")])
    store.write(f"commits/{token}.parquet", b"PAR1 no")
    assert read_committed(store).units.is_empty()


def test_an_image_in_two_commits_counts_once(store):
    write_commit(store, [unit("a"), unit("b")])
    write_commit(store, [unit("b"), unit("c")])
    found = read_committed(store)
    assert found.units["image_id"].is_unique().all()
    assert found.units.height == 2
    clear_stale(store, found)
    assert read_committed(store).stale == []


def test_retracted_images_are_pending_again_and_the_rest_of_their_commit_stays(store):
    failed = make_table(FAILURES, [{"dataset": "d", "image_id": "b", "model": "m", "stage": "explain", "kind": "error",
                                    "message": "x"}])  # fmt: skip
    write_commit(store, [unit("a", part=0), replace(unit("b", models=("n/o",)), failures=failed), unit("c")])
    write_commit(store, [unit("z")])
    before = scores(store.uri)
    gone = pl.DataFrame({"dataset": ["d"], "image_id": ["b"]})
    assert retract(store, read_committed(store), gone) == 1
    found = read_committed(store)
    assert sorted(found.units["image_id"]) == ["a", "c", "z"]
    assert found.units.sort("image_id")["rows"].to_list() == [12, 12, 12]
    assert found.stale == []
    assert found.tables("failures") == []
    assert scores(store.uri).equals(before.filter(pl.col("image_id") != "b"))
    assert retract(store, found, gone) == 0
    assert retract(store, found, pl.DataFrame({"dataset": ["d"], "image_id": ["z"]})) == 1
    assert sorted(read_committed(store).units["image_id"]) == ["a", "c"]


def test_a_retraction_that_dies_halfway_loses_nothing(store, monkeypatch):
    write_commit(store, [unit("a"), unit("b")])
    monkeypatch.setattr(type(store), "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        retract(store, read_committed(store), pl.DataFrame({"dataset": ["d"], "image_id": ["b"]}))
    monkeypatch.undo()
    found = read_committed(store)
    assert sorted(found.units["image_id"]) in (["a"], ["a", "b"])
    clear_stale(store, found)
    assert sorted(scores(store.uri)["image_id"].unique()) == sorted(found.units["image_id"])


def test_pending_are_the_parts_that_no_commit_holds(store):
    manifest = pl.DataFrame(
        {"dataset": "d", "image_id": ["a", "b", "c"], "uri": ["x", "y", "z"], "label": [None, 1, 2]},
        schema={"dataset": pl.String, "image_id": pl.String, "uri": pl.String, "label": pl.Int32},
    )
    write_commit(store, [unit("a", part=0), unit("a", part=1), unit("b", part=1)])
    found = pending_units(manifest, 2, read_committed(store))
    assert found.select("image_id", "parts").rows() == [("b", [0]), ("c", [0, 1])]
    assert found.select("image_id", "label").rows() == [("b", 1), ("c", 2)]


def test_a_folder_writes_all_or_nothing_and_lists_only_what_is_whole(tmp_path):
    store = open_store(str(tmp_path))
    store.write("a/b.txt", b"1")
    (tmp_path / "a" / ".c.txt.99.tmp").write_bytes(b"half")
    assert [entry.key for entry in store.list()] == ["a/b.txt"]
    with pytest.raises(MissingObjectError, match="there is no file"):
        store.read("a/c.txt")
    with pytest.raises(UserError, match="cannot write"):
        store.write("a/b.txt/c", b"")


def test_fresh_takes_the_next_free_name(tmp_path):
    first = tmp_path / "run"
    assert fresh_folder(str(first)).uri == str(first)
    open_run(str(first)).write_json("run.json", {})
    open_run(f"{first}-2").write_json("run.json", {})
    assert fresh_folder(str(first)).uri == f"{first}-3"


def test_a_damaged_run_json_is_told(tmp_path):
    folder = open_run(str(tmp_path))
    folder.store.write("run.json", b"{")
    with pytest.raises(UserError, match=r"run\.json is damaged; run again with --fresh"):
        folder.run()
