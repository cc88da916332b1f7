from dataclasses import replace

import polars as pl
import pytest

from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.schema import FAILURES, IMAGES, MAPS, SCORES
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import open_store
from camrobust.results.arrow import make_table
from camrobust.results.commits import delete_uncounted, keep_rest
from camrobust.results.counted import pending_parts, read_committed, read_small
from camrobust.results.folder import fresh_folder, open_run
from camrobust.results.lease import acquire
from tests.commits import PartResult, write_commit
from tests.documents import write_json
from tests.runs import scores
from tests.synthetic import score_rows


def unit(image, models=("m", "n/o"), dataset="d", part=0, segments=3):
    rows = score_rows(images=1, models=models, datasets=(dataset,), ids=[image])
    picture = {"dataset": dataset, "image_id": image, "n_segments": segments}
    return PartResult(dataset, image, part, make_table(SCORES, rows), make_table(IMAGES, [picture]),
                make_table(FAILURES, []), make_table(MAPS, []))  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


def test_what_is_written_is_what_is_read(store):
    commit = write_commit(store, [unit("a"), unit("b")])
    found = read_committed(store)
    assert found.commits == [commit]
    assert found.parts.select("image_id", "part", "rows").rows() == [("a", 0, 12), ("b", 0, 12)]
    places = [key.rpartition("/")[0] for key in found.tables("scores")]
    assert places == [f"scores/dataset=d/model={m}" for m in ("m", "n%2Fo")]
    assert found.uncounted == []
    assert read_small(store, "images", found.tables("images"))["image_id"].to_list() == ["a", "b"]
    assert read_small(store, "failures", found.tables("failures")).is_empty()
    assert [(one.table, one.dataset, one.model) for one in found.records()] == [
        ("images", None, None), ("scores", "d", "m"), ("scores", "d", "n/o"),
    ]  # fmt: skip


def take(store, accepts):
    """The next lease, given back at once."""
    lease = acquire(store, accepts if callable(accepts) else lambda _: accepts)
    lease.release()
    return lease


def contents(store):
    return {entry.key: store.read(entry.key) for entry in store.list()}


def test_of_two_executions_with_the_same_images_the_first_counts_and_nothing_of_it_changes(store):
    first = write_commit(store, [unit("a"), unit("b")], 1)
    before = contents(store)
    assert write_commit(store, [unit("b", segments=4), unit("a", segments=4)], 1) is None
    assert before.items() <= contents(store).items()
    take(store, [first])
    found = read_committed(store)
    assert found.commits == [first]
    assert len(found.uncounted) == 3
    assert read_small(store, "images", found.tables("images"))["n_segments"].to_list() == [3, 3]


def test_files_without_a_commit_do_not_count_and_are_deleted_under_a_later_lease(store):
    commit = write_commit(store, [unit("a")])
    store.delete(commit)
    found = read_committed(store)
    assert found.parts.is_empty()
    assert found.files == []
    assert len(found.uncounted) == 3
    assert delete_uncounted(store, found, 0) == 0
    assert delete_uncounted(store, found, 1) == 3
    assert list(store.list()) == []


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_commit_whose_file_is_gone_or_cut_is_void(store, damage):
    kept = write_commit(store, [unit("a")])
    good = read_committed(store).files
    broken = write_commit(store, [unit("b"), unit("c")])
    victim = next(key for key in read_committed(store).tables("scores") if key not in good)
    if damage == "gone":
        store.delete(victim)
    else:
        store.write(victim, store.read(victim)[:-20])
    found = read_committed(store)
    assert found.parts["image_id"].to_list() == ["a"]
    assert found.commits == [kept]
    assert found.files == good
    assert broken in found.uncounted
    assert not set(good) & set(found.uncounted)


def test_a_damaged_commit_is_void(store):
    store.write(write_commit(store, [unit("a")]), b"PAR1 no")
    assert read_committed(store).parts.is_empty()


def test_an_image_in_two_commits_counts_once(store):
    write_commit(store, [unit("a"), unit("b")])
    write_commit(store, [unit("b"), unit("c")])
    found = read_committed(store)
    assert found.parts["image_id"].is_unique().all()
    assert found.parts.height == 2
    delete_uncounted(store, found, 1)
    assert read_committed(store).uncounted == []


def test_a_commit_counts_under_its_own_lease_and_later_only_where_it_is_listed(store):
    listed = write_commit(store, [unit("a")], 1)
    late = write_commit(store, [unit("b")], 1)
    assert read_committed(store).commits == []  # there is no lease 1 yet
    take(store, [])
    assert sorted(read_committed(store).parts["image_id"]) == ["a", "b"]
    take(store, [listed])
    assert read_committed(store).commits == [listed]
    assert late in read_committed(store).uncounted
    own = write_commit(store, [unit("c")], 2)
    assert read_committed(store).commits == sorted([listed, own])


def test_only_names_that_a_run_gives_are_ever_deleted(store):
    write_commit(store, [unit("a")])
    foreign = [
        "images/photo.jpg", "images/notes.txt", "maps/thesis.txt", "scores/taxes.parquet", "commits/0.parquet",
        "scores/dataset=d/model=m/table.parquet", "scores/dataset=d/model=m/deeper/" + "a" * 24 + ".parquet",
        "images/" + "a" * 23 + ".parquet", "images/" + "A" * 24 + ".parquet", "summary/" + "a" * 24 + ".parquet",
        "images/00000001-" + "a" * 24 + ".parquet", "images/00000001-" + "a" * 24 + "-" + "b" * 16 + ".csv",
    ]  # fmt: skip
    for key in foreign:
        store.write(key, b"not ours")
    left = ["images/" + "a" * 24 + ".parquet", "images/00000001-" + "a" * 24 + "-" + "b" * 16 + ".parquet"]
    for key in left:
        store.write(key, b"left by a writer that died")
    assert delete_uncounted(store, read_committed(store), 2) == 2
    kept = contents(store)
    assert all(kept[key] == b"not ours" for key in foreign)
    assert read_committed(store).parts.height == 1
    assert not set(left) & kept.keys()


FAILED = {"dataset": "d", "image_id": "b", "model": "m", "stage": "explain", "kind": "error", "message": "x"}


def test_images_that_a_new_lease_leaves_out_are_pending_again_and_the_rest_of_their_commit_stays(store):
    failed = replace(unit("b", models=("n/o",)), failures=make_table(FAILURES, [FAILED]))
    write_commit(store, [unit("a", part=0), failed, unit("c")], 1)
    write_commit(store, [unit("z")], 1)
    take(store, [])
    before = scores(store.uri)
    gone = pl.DataFrame({"dataset": ["d"], "image_id": ["b"]})
    accepts = keep_rest(store, read_committed(store), gone, 2)
    # A driver that dies here has changed nothing.
    assert scores(store.uri).equals(before)
    lease = take(store, accepts)
    found = read_committed(store)
    assert sorted(found.parts["image_id"]) == ["a", "c", "z"]
    assert found.parts.sort("image_id")["rows"].to_list() == [12, 12, 12]
    assert found.tables("failures") == []
    assert scores(store.uri).equals(before.filter(pl.col("image_id") != "b"))
    delete_uncounted(store, found, lease.number)
    assert read_committed(store).uncounted == []
    assert keep_rest(store, found, gone, 3) == found.commits
    whole = pl.DataFrame({"dataset": ["d"], "image_id": ["z"]})
    take(store, lambda number: keep_rest(store, read_committed(store), whole, number))
    assert sorted(read_committed(store).parts["image_id"]) == ["a", "c"]


def test_commits_prepared_for_a_lease_that_another_driver_took_do_not_count(store):
    write_commit(store, [unit("a"), unit("b")], 1)
    take(store, [])
    keep_rest(store, read_committed(store), pl.DataFrame({"dataset": ["d"], "image_id": ["b"]}), 2)
    lease = take(store, lambda _: read_committed(store).commits)
    assert lease.number == 2
    assert read_committed(store).parts["image_id"].to_list() == ["a", "b"]


def test_pending_are_the_parts_that_no_commit_holds(store):
    manifest = pl.DataFrame(
        {"dataset": "d", "image_id": ["a", "b", "c"], "uri": ["x", "y", "z"], "label": [None, 1, 2]},
        schema={"dataset": pl.String, "image_id": pl.String, "uri": pl.String, "label": pl.Int32},
    )
    write_commit(store, [unit("a", part=0), unit("a", part=1), unit("b", part=1)])
    found = pending_parts(manifest, 2, read_committed(store))
    assert found.select("image_id", "parts").rows() == [("b", [0]), ("c", [0, 1])]
    assert found.select("image_id", "label").rows() == [("b", 1), ("c", 2)]


def test_a_folder_writes_all_or_nothing_and_lists_whole_files_only(tmp_path):
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
    write_json(open_run(str(first)), "run.json", {})
    write_json(open_run(f"{first}-2"), "run.json", {})
    assert fresh_folder(str(first)).uri == f"{first}-3"


def test_a_damaged_run_json_gets_a_sentence(tmp_path):
    folder = open_run(str(tmp_path))
    folder.store.write("run.json", b"{")
    with pytest.raises(UserError, match=r"run\.json is damaged; run again with --fresh"):
        folder.run()


def test_a_run_that_version_0_1_has_touched_afterwards_keeps_all_that_was_committed(store):
    """Version 0.1 deletes older leases, knows nothing of lists, and leaves a lease of its own."""
    first = write_commit(store, [unit("a")], 1)
    take(store, [])
    take(store, [first])
    second = write_commit(store, [unit("b")], 2)
    assert read_committed(store).commits == [first, second]
    for number in (1, 2):
        store.delete(f"lease/{number:08}.json")
    store.write("lease/00000003.json", b'{"released": true}')
    found = read_committed(store)
    assert found.commits == [first, second]
    lease = take(store, found.commits)
    assert delete_uncounted(store, found, lease.number) == 0
    assert read_committed(store).parts.height == 2


def test_a_store_that_cannot_create_only_if_nothing_is_there_is_refused(store, monkeypatch):
    def overwrite(self, key, content):
        self.write(key, content)
        return True

    monkeypatch.setattr(type(store), "create", overwrite)
    with pytest.raises(RunFailed, match="does not know 'create only if nothing is there'"):
        acquire(store, lambda _: [])
