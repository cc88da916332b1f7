"""Attacks on maps in the summaries: what enters the measures, and what stands in columns of its own."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from camrobust.contract.run_record import VariantRecord
from camrobust.contract.schema import SUMMARIES, SUMMARY_ATTACKS
from camrobust.results.reduce import attacks_of
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.map_attacks import MapAttacks
from tests.documents import VARIANT, run_record
from tests.synthetic import scores

CAMS = ("gradcam", "hirescam", "layercam", "random")
SAME = {"m": {"hirescam": "gradcam"}}
KEYS = list(SUMMARIES["by_cam"])
ATTACKED = pl.col("attacked_cam")
OWN = (pl.col("cam") == ATTACKED) | ((pl.col("cam") == "hirescam") & (ATTACKED == "gradcam"))


def rows():
    """Attacks on Grad-CAM at severities 1 and 3 and on LayerCAM at severity 5, and noise."""
    table = scores(images=12, cams=CAMS, perturbations=("gaussian_noise", "cam_attack"), seed=3)
    cam = pl.when(pl.col("severity") < 5).then(pl.lit("gradcam")).otherwise(pl.lit("layercam"))
    return table.with_columns(
        attacked_cam=pl.when(pl.col("perturbation") == "cam_attack").then(cam),
        strength=pl.col("perturbation") + ":" + pl.col("strength"),
    )


def reduced(table, counted="apart", **settings):
    attacks = MapAttacks(same_as=SAME, counted=counted)
    return reduce_frame(table.lazy(), SummarySettings(attacks=attacks, seed=1, **settings))


def plain(table, **settings):
    """The same of rows in which nothing is known of attacks."""
    renamed = table.with_columns(attacked_cam=None, perturbation=pl.col("perturbation").replace("cam_attack", "shift"))
    return reduced(renamed, **settings).tables


@pytest.mark.parametrize("intervals", ["delta", "bootstrap"])
@pytest.mark.parametrize(
    ("counted", "kept"),
    [("apart", ATTACKED.is_null()), ("own", ATTACKED.is_null() | OWN), ("all", pl.lit(value=True))],
)
def test_the_measures_are_those_of_the_rows_that_count(counted, kept, intervals):
    table = rows()
    found = reduced(table, counted, intervals=intervals)
    wanted = plain(table.filter(kept), intervals=intervals)
    attacks = [column.name for column in SUMMARY_ATTACKS]
    for name in ("by_cam", "by_model", "by_dataset"):
        columns = [column for column in wanted[name].columns if column not in attacks]
        assert_frame_equal(found.tables[name].select(columns), wanted[name].select(columns), abs_tol=1e-12)
    for role, rule in (("attacked", OWN), ("transferred", ATTACKED.is_not_null() & ~OWN)):
        of_role = plain(table.filter(rule), intervals=intervals)["by_cam"]
        renamed = {
            f"consistency_adjusted{end}": f"{role}_consistency_adjusted{end}" for end in ("", "_lower", "_upper")
        }
        renamed["n_pairs"] = f"n_{role}"
        of_role = of_role.select(*KEYS, *renamed).rename(renamed)
        there = found.tables["by_cam"].filter(pl.col(f"n_{role}") > 0).select(*KEYS, *renamed.values())
        assert_frame_equal(there, of_role, abs_tol=1e-12)
    assert {*found.tables["by_cam"].filter(pl.col("n_attacked") > 0)["cam"]} == {"gradcam", "hirescam", "layercam"}


def test_levels_name_the_attacked_cam_and_perturbations_hold_attacks_on_the_own_map():
    table = rows()
    found, every = reduced(table).tables, plain(table)
    levels = found["by_level"]
    keys = list(SUMMARIES["by_level"])
    names = table.select("perturbation", "strength", "attacked_cam").unique()
    assert_frame_equal(levels.select(keys).join(names, on=["perturbation", "strength"]).sort(keys),
                       levels.select(*keys, "attacked_cam").sort(keys))  # fmt: skip
    assert levels.height == every["by_level"].height
    by_perturbation = found["by_perturbation"].filter(pl.col("perturbation") == "cam_attack")
    assert by_perturbation.select("cam", "n_pairs").rows() == [("gradcam", 24), ("hirescam", 24), ("layercam", 12)]
    wanted = plain(table.filter(OWN))["by_perturbation"].drop("perturbation")
    assert_frame_equal(by_perturbation.drop("perturbation"), wanted, abs_tol=1e-12)


def test_images_enter_tests_without_attacks_on_maps():
    table = rows()
    (found,), (wanted,) = (reduced(one).profiles for one in (table, table.filter(ATTACKED.is_null())))
    for name, values in wanted.measures.items():
        assert values.tobytes() == found.measures[name].tobytes()


def test_a_cam_that_was_only_attacked_has_a_row_without_measures():
    found = reduced(rows().filter(ATTACKED.is_not_null())).tables["by_cam"]
    assert found["cam"].to_list() == sorted(CAMS)
    assert found["n_pairs"].to_list() == found["n_images"].to_list() == [0] * 4
    for name in ("consistency", "robustness_adjusted", "flip_rate", "flat_share"):
        assert found[name].null_count() == 4
    assert found["n_transferred"].to_list() == [12, 12, 24, 36]


def test_rows_and_records_that_do_not_say_attacked_gradcam():
    table = rows().with_columns(strength=pl.col("severity").cast(pl.String))
    former = table.with_columns(attacked_cam=pl.when(ATTACKED.is_not_null()).then(pl.lit("gradcam")))
    for named in (table.drop("attacked_cam"), table.with_columns(attacked_cam=pl.lit(None, pl.String))):
        assert_frame_equal(reduced(named).tables["by_cam"], reduced(former).tables["by_cam"])
    attack = VARIANT | {"perturbation": "cam_attack_centre"}
    old, new = (run_record(1, variants=[attack | more]) for more in ({}, {"attacked_cam": "layercam"}))
    strength = VARIANT["strength"]
    assert attacks_of([old]).cams == {("cam_attack_centre", strength): "gradcam"}
    assert attacks_of([new]).cams == {("cam_attack_centre", strength): "layercam"}
    assert VariantRecord(**VARIANT).attacked is None


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="map_attacks must be one of apart, own, all, got 'none'"):
        MapAttacks(counted="none")
