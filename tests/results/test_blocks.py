import polars as pl
import pytest

from camrobust.contract.schema import COMMITS, SUMMARIES
from camrobust.io.store import open_store
from camrobust.results.arrow import empty_frame
from camrobust.results.block_plan import image_counts
from camrobust.results.blocks import score_blocks
from camrobust.results.commits import put_commit
from camrobust.results.counted import read_committed
from camrobust.summary.aggregate import SummarySettings, reduce_scores, summarise
from camrobust.summary.rows import blocks_of
from tests.synthetic import scores


def commit(store, rows, part=0):
    units = rows.group_by("dataset", "image_id", maintain_order=True).agg(rows=pl.len())
    units = units.with_columns(part=pl.lit(part), failures=pl.lit(0)).select(empty_frame(COMMITS).columns)
    put_commit(store, units, rows, {})


def table(**keywords):
    keywords = {"images": 12, "models": ("m/1", "n"), "datasets": ("d", "e"), "seed": 4} | keywords
    return scores(**keywords)


def same(found, wanted):
    for name, keys in SUMMARIES.items():
        assert found[name].select(keys).equals(wanted[name].select(keys))
        pairs = zip(found[name].drop(keys).rows(), wanted[name].drop(keys).rows(), strict=True)
        assert all(a == pytest.approx(b, abs=1e-12) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True)
                   if a is not None or b is not None)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


def ids(*numbers):
    return pl.col("image_id").is_in([f"image-{number}" for number in numbers])


@pytest.mark.parametrize("rows", [1, 40, 10**6])
def test_blocks_of_any_size_give_the_tables_of_the_rows_in_memory(store, rows):
    whole = table()
    for images in (ids(0, 1, 2, 3), ids(4, 5), ids(6), ids(7, 8, 9, 10, 11)):
        commit(store, whole.filter(images))
    blocks = score_blocks([(store, read_committed(store))], rows)
    same(reduce_scores(blocks, SummarySettings()).tables, summarise(whole.lazy()))


@pytest.mark.parametrize("rows", [1, 40, 10**6])
def test_an_image_in_several_commits_is_averaged_once(store, rows):
    whole = table()
    hard = pl.col("severity") == 5
    commit(store, whole.filter(ids(0, 1, 2, 3) & ~hard))
    commit(store, whole.filter(ids(3, 4, 5, 6, 7) & hard), part=1)
    commit(store, whole.filter(ids(4, 5, 6, 7, 8, 9, 10, 11) & ~hard))
    commit(store, whole.filter(ids(0, 1, 2, 8, 9, 10, 11) & hard), part=1)
    blocks = list(score_blocks([(store, read_committed(store))], rows))
    seen = [(block.dataset, image) for block in blocks for image in block.images]
    assert len(seen) == len(set(seen)) == 24
    found = reduce_scores(score_blocks([(store, read_committed(store))], rows), SummarySettings())
    same(found.tables, summarise(whole.lazy()))
    assert sorted(found.profiles[0].images) == sorted(f"image-{number}" for number in range(12))


def test_several_runs_are_read_as_one(store, tmp_path):
    whole, other = table(), open_store(str(tmp_path / "other"))
    commit(store, whole.filter(ids(0, 1, 2, 3, 4) & (pl.col("cam") == "gradcam")))
    commit(store, whole.filter(ids(5, 6, 7, 8, 9, 10, 11) & (pl.col("cam") == "gradcam")))
    commit(other, whole.filter(pl.col("cam") == "random"))
    runs = [(one, read_committed(one)) for one in (store, other)]
    same(reduce_scores(score_blocks(runs, 20), SummarySettings()).tables, summarise(whole.lazy()))
    assert image_counts(runs) == {"d": 12, "e": 12}


def test_memory_is_by_blocks_not_by_the_run(store):
    whole = table()
    for number in range(12):
        commit(store, whole.filter(ids(number)))
    sizes = [
        (len(block.images), model, len(rows.image))
        for block in score_blocks([(store, read_committed(store))], 1)
        for model, rows in block.rows
    ]
    assert sizes == [(1, model, whole.height // 12 // 2 // 2) for _ in range(24) for model in ("m/1", "n")]


def test_failed_images_and_empty_tables(store):
    commit(store, table(images=2))
    units = pl.DataFrame({"dataset": "d", "image_id": "broken", "part": 0, "rows": 0, "failures": 1})
    put_commit(store, units.select(empty_frame(COMMITS).columns), table().clear(), {})
    runs = [(store, read_committed(store))]
    assert {image for block in score_blocks(runs) for image in block.images} == {"image-0", "image-1"}
    assert list(blocks_of(table().clear())) == []


def test_labels_and_predictions_are_read_where_they_are_asked_for(store):
    whole = table(flip=0.4).with_columns(label=pl.when(ids(2)).then(None).otherwise(pl.lit(1, pl.Int32)))
    commit(store, whole.filter(ids(0, 1, 2, 3)))
    commit(store, whole.filter(~ids(0, 1, 2, 3)))
    runs = [(store, read_committed(store))]
    found = reduce_scores(score_blocks(runs, 40, labelled=True), SummarySettings()).tables
    same(found, summarise(whole.lazy()))
    assert found["by_model"]["n_labelled"].min() > 0
    without = reduce_scores(score_blocks(runs, 40), SummarySettings()).tables["by_model"]
    assert without["n_labelled"].sum() == 0
