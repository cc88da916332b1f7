"""The configurations that are shipped."""

from camrobust.contract.config_file import load_config
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import variants
from tests.runs import ROOT


def test_every_configuration_that_is_shipped_is_valid():
    shipped = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
    assert {path.stem for path in shipped} >= {"first", "paper", "spot"}
    for path in shipped:
        config = load_config(path)
        assert variants(config.perturbations)
        assert all(name in CAMS for name in config.cams)


def test_the_config_of_the_scale_page_is_what_it_says():
    config = load_config(ROOT / "jobs" / "configs" / "imagenet-val.yaml")
    assert (len(variants(config.perturbations)), len(config.cams), len(config.models)) == (95, 10, 5)
