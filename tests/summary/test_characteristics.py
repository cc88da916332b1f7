import numpy as np
import polars as pl
import pytest
from scipy import stats

from camrobust.contract.comparison_schema import CHARACTERISTICS
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.characteristics import PROPERTIES, characterise
from tests.synthetic import images, scores


def photos(table, seed=0):
    found = images(table)
    generator = np.random.default_rng(seed)
    made = [pl.Series(name, generator.random(found.height) * 90).cast(found.schema[name]) for name in PROPERTIES]
    return found.with_columns(made)


def profiles(table, **settings):
    return reduce_frame(table.lazy(), SummarySettings(**settings)).profiles


def test_correlations_are_scipys_over_the_images_that_have_both():
    table = scores(images=25, cams=("a", "b"), flip=0.6, bad=0.2, seed=1)
    pictures = photos(table).with_columns(
        contrast=pl.when(pl.col("image_id") == "image-3").then(None).otherwise(pl.col("contrast"))
    )
    (profile,) = profiles(table)
    found = characterise([profile], pictures).filter((pl.col("analysis") == "spearman") & (pl.col("cam") == "b"))
    assert found.columns == [column.name for column in CHARACTERISTICS]
    values = dict(zip(profile.images, profile.measures["consistency_adjusted"][:, 1], strict=True))
    lines = found.filter((pl.col("measure") == "consistency_adjusted") & pl.col("property").is_in(PROPERTIES))
    assert lines.height > 5
    for line in lines.iter_rows(named=True):
        kept = [
            row for row in pictures.to_dicts() if row["contrast"] is not None and not np.isnan(values[row["image_id"]])
        ]
        wanted = stats.spearmanr([row[line["property"]] for row in kept], [values[row["image_id"]] for row in kept])
        assert line["n_images"] == len(kept) < 25
        assert (line["effect"], line["p"]) == pytest.approx((wanted.statistic, wanted.pvalue))
        assert line["share"] == pytest.approx(line["effect"] ** 2)


def test_copies_of_a_property_are_no_degrees_of_freedom():
    """Of 20 images, four properties of which two say what the others say explain as much as two."""
    table = scores(images=20, cams=("a",), flip=-1, bad=0)
    floats = [name for name in PROPERTIES if images(table).schema[name].is_float()]
    first, second, *others = floats
    missing = photos(table).with_columns(pl.lit(None, pl.Float32).alias(name) for name in others)
    copied = missing.with_columns((3 * pl.col(first)).alias(others[0]), (pl.col(second) - 1).alias(others[1]))
    lines = [
        characterise(profiles(table), pictures).filter(pl.col("analysis") == "all_properties")
        for pictures in (missing, copied)
    ]
    assert lines[0].height > 0
    for name in ("share", "share_lower", "share_upper", "p"):
        assert lines[1][name].to_list() == pytest.approx(lines[0][name].to_list())


def test_families_and_pooling():
    table = scores(images=12, cams=("a",), datasets=("d", "e"), perturbations=("p", "q", "r"), flip=-1, bad=0)
    found = characterise(profiles(table, families={"p": "noise", "q": "noise"}), photos(table))
    assert set(found["family"]) == {"all", "noise", "r"}
    assert set(found["dataset"]) == {"d", "e", None}
    assert set(found.filter(pl.col("analysis").str.starts_with("dataset"))["property"]) == {"d - e"}
    pooled = found.filter(pl.col("dataset").is_null() & (pl.col("analysis") == "all_properties"))
    assert set(pooled["n_images"]) == {24}


@pytest.mark.parametrize("keywords", [{"images": 1}, {"images": 3}, {"flip": 2}, {"bad": 2}, {"images": 5}])
def test_degenerate_runs_have_a_table_without_nonsense(keywords):
    table = scores(**keywords)
    for pictures in (photos(table), images(table), images(table).clear()):
        found = characterise(profiles(table), pictures)
        assert found.columns == [column.name for column in CHARACTERISTICS]
        assert not any(found.select(pl.col(pl.Float64).is_nan().any()).row(0))
    if keywords != {"images": 5}:
        assert found.is_empty()
