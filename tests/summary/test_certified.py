"""Certified consistency, compared with adding up image by image."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from camrobust.contract.certificates import CERTIFICATES, CERTIFIED
from camrobust.results.arrow import make_table
from camrobust.summary.certified import certified_consistency

IMAGES, SIGMAS, SHARES = 40, (0.05, 0.25), (0.1, 0.5)


def rows():
    generator = np.random.default_rng(0)
    made = []
    for image in range(IMAGES):
        for sigma in SIGMAS:
            radius = None if image % 5 == 0 else sigma * float(generator.uniform(0, 1))
            for share in SHARES:
                for cam in ("gradcam", "random"):
                    adjusted = None if image % 7 == 0 else float(generator.uniform(-0.3, 1))
                    seen, attacked = generator.uniform(-0.3, 1, 2).tolist()
                    made.append(
                        {
                            "dataset": "d", "model": "m", "image_id": str(image), "cam": cam, "sigma": sigma,
                            "radius_share": share, "radius": share * sigma, "item": "rank", "n": 500, "alpha": 0.01,
                            "class_radius": radius, "abstained": radius is None, "certified_rbo_adjusted": adjusted,
                            "flat_share": 0.25, "undecided": 0.5,
                            "agreement_random": None if cam == "random" else seen,
                            "agreement_attacked": None if image % 3 else attacked,
                        }
                    )  # fmt: skip
    return pl.DataFrame(make_table(CERTIFICATES, made))


def test_the_table_is_that_of_a_plain_loop():
    table = certified_consistency([rows()])
    assert table.columns == [column.name for column in CERTIFIED]
    assert table.height == 2 * len(SIGMAS) * len(SHARES)
    for group in table.iter_rows(named=True):
        chosen = rows().filter(
            (pl.col("cam") == group["cam"]) & (pl.col("sigma") == group["sigma"])
            & (pl.col("radius_share") == group["radius_share"])
        )  # fmt: skip
        every, certified = [], []
        seen = {name: ([], []) for name in ("agreement_random", "agreement_attacked")}
        for row in chosen.iter_rows(named=True):
            value = max(0.0, row["certified_rbo_adjusted"] or 0.0)
            sure = row["class_radius"] is not None and row["radius"] < row["class_radius"]
            every.append(value if sure else 0.0)
            certified += [value] if sure else []
            for name, (of_all, of_certified) in seen.items():
                if row[name] is not None:
                    of_all.append(max(0.0, row[name]))
                    of_certified += [max(0.0, row[name])] if sure else []
        for name, means in seen.items():
            for end, values in zip(("", "_only"), means, strict=True):
                assert group[f"{name}{end}"] == (pytest.approx(np.mean(values)) if values else None)
        for name, values in (("certified_consistency", every), ("certified_only", certified)):
            low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
            found = [group[f"{name}{end}"] for end in ("", "_lower", "_upper")]
            assert found == pytest.approx([np.mean(values), max(0, low), min(1, high)])
        assert (group["n_images"], group["n_certified"]) == (IMAGES, len(certified))
        assert group["class_certified_share"] == pytest.approx(len(certified) / IMAGES)
        assert (group["abstained_share"], group["flat_share"], group["undecided"]) == pytest.approx((0.2, 0.25, 0.5))
        assert (group["samples"], group["alpha"], group["item"]) == (500, 0.01, "rank")


def test_files_and_their_order_change_no_bit():
    whole, parts = rows(), [*rows().sample(fraction=1, shuffle=True, seed=1).iter_slices(17)]
    assert_frame_equal(certified_consistency([whole]), certified_consistency([whole.clear(), *parts]), check_exact=True)


def test_where_no_class_is_certified_nothing_is_guaranteed_and_one_image_has_no_interval():
    table = rows().with_columns(class_radius=pl.lit(None, pl.Float64))
    found = certified_consistency([table])
    assert found["certified_consistency"].to_list() == [0.0] * found.height
    assert found["certified_only"].null_count() == found.height
    alone = certified_consistency([rows().filter(pl.col("image_id") == "1")])
    assert alone["certified_consistency_lower"].null_count() == alone.height
    assert certified_consistency([]).height == 0
