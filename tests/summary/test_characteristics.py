import numpy as np
import polars as pl
import pytest
from scipy import stats

from camrobust.contract.schema import CHARACTERISTICS
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.characteristics import PROPERTIES, characterise
from camrobust.summary.regression import adjusted_difference, share_interval, shares, spearman_interval
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
    assert found.columns == [one.name for one in CHARACTERISTICS]
    values = dict(zip(profile.images, profile.measures["consistency_adjusted"][:, 1], strict=True))
    for line in found.filter(pl.col("measure") == "consistency_adjusted").iter_rows(named=True):
        if line["property"] in ("confidence", "entropy"):
            continue
        kept = [
            row for row in pictures.to_dicts() if row["contrast"] is not None and not np.isnan(values[row["image_id"]])
        ]
        wanted = stats.spearmanr([row[line["property"]] for row in kept], [values[row["image_id"]] for row in kept])
        assert line["n_images"] == len(kept) < 25
        assert (line["effect"], line["p"]) == pytest.approx((wanted.statistic, wanted.pvalue))
        assert line["share"] == pytest.approx(line["effect"] ** 2)


def test_shares_are_those_of_least_squares():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 4)) @ generator.normal(size=(4, 4))
    y = X @ [1, 0, 2, 0.5] + generator.normal(size=200)
    whole = np.corrcoef(np.column_stack([X, y]).T)

    def fitted(columns):
        A = np.column_stack([columns, np.ones(200)])
        left = y - A @ np.linalg.lstsq(A, y, rcond=None)[0]
        return 1 - left @ left / ((y - y.mean()) ** 2).sum()

    R2, alone = shares(whole[:-1, :-1], whole[:-1, -1])
    assert pytest.approx(fitted(X)) == R2
    assert alone == pytest.approx([fitted(X) - fitted(np.delete(X, j, 1)) for j in range(4)])


def test_columns_that_say_the_same_add_nothing_alone():
    S = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]])
    R2, alone = shares(S, np.array([0.6, 0.6, 0.3]))
    assert pytest.approx(0.36 + 0.09) == R2
    assert alone == pytest.approx([0, 0, 0.09], abs=1e-9)


def test_intervals_cover_planted_correlations():
    # Normal with correlation ρ has the rank correlation 6/π·asin(ρ/2).
    generator, rho, n = np.random.default_rng(0), 0.6, 80
    truth = 6 / np.pi * np.arcsin(rho / 2)
    inside, inside_share = [], []
    for _ in range(400):
        x, e = generator.normal(size=(2, n))
        y = rho * x + np.sqrt(1 - rho**2) * e
        low, high = spearman_interval(np.array([stats.spearmanr(x, y).statistic]), n)
        inside.append(low[0] <= truth <= high[0])
        low, high = share_interval(np.corrcoef(x, y)[0, 1] ** 2, n, 1)
        inside_share.append(low <= rho**2 <= high)
    assert 0.92 <= np.mean(inside) <= 0.98
    assert 0.91 <= np.mean(inside_share) <= 0.98


def test_a_difference_that_is_all_segments_vanishes_at_equal_segments():
    generator = np.random.default_rng(1)
    belongs = np.repeat([1.0, 0.0], 300)
    segments = generator.normal(50, 8, 600) + 6 * belongs
    values = 0.01 * segments + generator.normal(0, 0.02, 600)
    plain, given = adjusted_difference(values, [belongs]), adjusted_difference(values, [belongs, segments])
    assert plain[0] == pytest.approx(values[:300].mean() - values[300:].mean())
    # HC1 of a single contrast is Welch's error, but for G/(G - 2) in place of each group's own correction.
    welch = np.sqrt(sum(part.var() / 300 for part in (values[:300], values[300:])) * 600 / 598)
    assert plain[1] == pytest.approx(welch)
    assert abs(given[0]) < 3 * given[1] < 0.02
    assert given[2] < 0.01 < plain[2]
    assert adjusted_difference(values, [belongs, 2 * belongs + 1]) is None
    assert adjusted_difference(values[:300], [belongs[:300]]) is None


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
        assert found.columns == [one.name for one in CHARACTERISTICS]
        assert not any(found.select(pl.col(pl.Float64).is_nan().any()).row(0))
    if keywords != {"images": 5}:
        assert found.is_empty()
