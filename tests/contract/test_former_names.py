"""Old names of settings: refused in a configuration with the new name, translated in a run.json."""

import pytest

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.former_names import BUILDERS, SETTINGS, renamed_settings

CONFIG = {"output": "x", "datasets": [{"name": "d", "images": "i"}], "models": ["a:b"], "cams": ["gradcam"],
          "perturbations": ["contrast:1"]}  # fmt: skip


@pytest.mark.parametrize("old", SETTINGS)
def test_a_configuration_with_an_old_name_is_told_the_new_one(old):
    *parents, name = old.split(".")
    changes = {parents[0]: {name: 1}} if parents else {name: 1}
    with pytest.raises(UserError, match=f"^config: the key '{old}' is now called '{SETTINGS[old]}'$"):
        parse_config(CONFIG | changes)


def test_a_run_of_version_0_1_is_read_under_the_new_names():
    old = {"seed": 1, "jpeg_after": 85, "gallery": 3, "max_failures": 0.5,
           "metric": {"target": "clean", "ties": "b", "intervals": "bootstrap"}}  # fmt: skip
    new = {"seed": 1, "metric": {"ties": "b", "explained_class": "clean"}, "resave_jpeg_quality": 85,
           "gallery_images": 3, "max_failure_share": 0.5, "summary": {"intervals": "bootstrap"}}  # fmt: skip
    assert renamed_settings(old) == new
    assert renamed_settings(new) == new
    assert old["metric"]["target"] == "clean"


def test_todays_name_wins_and_odd_shapes_are_left_alone():
    assert renamed_settings({"gallery": 3, "gallery_images": 4}) == {"gallery_images": 4}
    assert renamed_settings({"metric": 5, "summary": 6}) == {"metric": 5, "summary": 6}
    assert renamed_settings({"metric": {"intervals": "delta"}, "summary": 6}) == {"metric": {}, "summary": 6}


def test_a_builder_of_ours_that_has_moved_is_found_where_it_is():
    old, new = next(iter(BUILDERS.items()))
    config = CONFIG | {"models": [{"name": "m", "builder": old}]}
    assert parse_config(config).models[0].builder == new
    assert parse_config(config).digest() == parse_config(CONFIG | {"models": [{"name": "m", "builder": new}]}).digest()
    assert renamed_settings(config)["models"] == [{"name": "m", "builder": new}]
    assert renamed_settings({"models": [3, {"builder": []}]})["models"] == [3, {"builder": []}]
