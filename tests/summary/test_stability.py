import polars as pl
import pytest

import camrobust
from camrobust.contract.schema import IMAGE_STABILITY, STABILITY
from camrobust.summary.stability import extremes, per_image
from tests.interface.test_api import images
from tests.synthetic import scores
from tests.toys import pooled


def rows():
    """Rows with a different value in every cell."""
    table = scores(images=4, levels=(1, 2, 3), bad=0.3, seed=3)
    count = pl.int_range(table.height)
    changed = [pl.when(pl.col("status") == "ok").then(count * 7 % 11 + number).alias(name).cast(pl.Float32)
               for number, name in enumerate(STABILITY)]  # fmt: skip
    return table.with_columns(changed)


@pytest.mark.parametrize("same_class", [True, False])
def test_maximum_and_mean_of_an_images_variants(same_class):
    table = rows()
    found = per_image(table.lazy(), same_class=same_class).collect()
    assert found.columns == ["dataset", "model", "cam", "image_id", *(column.name for column in IMAGE_STABILITY)]
    groups = {}
    for row in table.to_dicts():
        if row["kept_class"] or not same_class:
            groups.setdefault((row["cam"], row["image_id"]), []).append(row)
    assert len(found) == len(groups)
    for row in found.to_dicts():
        every = groups[row["cam"], row["image_id"]]
        assert row["n_pairs"] == sum(variant["status"] == "ok" for variant in every)
        for name in STABILITY:
            values = [variant[name] for variant in every if variant[name] is not None]
            assert row[f"max_{name}"] == (max(values) if values else None)
            assert row[f"mean_{name}"] == (pytest.approx(sum(values) / len(values)) if values else None)


def test_flat_maps_do_not_count():
    table = pl.DataFrame({"image_id": ["a", "a", "b"], "ris": [1.0, float("nan"), None]})
    found = table.group_by("image_id").agg(extremes(["ris"])).sort("image_id")
    assert found.rows() == [("a", 1.0, 1.0), ("b", None, None)]


def test_an_evaluation_tells_the_stability_of_every_image():
    result = camrobust.evaluate(pooled(), images(2), ["gradcam", "random"], ["gaussian_noise:1-3"])
    found = result.stability(same_class=False)
    assert found.height == 4
    assert (found["max_sensitivity"] >= found["mean_sensitivity"]).all()
    again = camrobust.evaluate(pooled(), images(2), ["gradcam", "random"], ["gaussian_noise:1-3"])
    assert again.stability(same_class=False).equals(found)
    stable = found.group_by("cam").agg(pl.col("max_sensitivity").mean()).sort("cam")["max_sensitivity"]
    assert stable[0] < stable[1]
