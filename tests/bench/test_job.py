"""What `camrobust bench job` makes of the ledger's answers, and the runs that it plans; no cluster, no clock."""

import pytest

from camrobust.bench.scale import job
from camrobust.bench.scale.job import Point
from camrobust.contract.config_file import load_config
from camrobust.core.perturb import variants
from camrobust.interface.cli import main
from tests.runs import ROOT

POINTS = [
    Point(10.0, 8, (1.0, 2.0, 3.0)),
    Point(14.0, 40, (3.0, 4.0, 6.0)),
    Point(18.0, 72, (5.0, 2.8, 11.0)),
    # The job ends later than Explain.
    Point(30.0, 72, (5.0, 2.8, 11.0)),
]


def test_the_rate_leaves_out_the_start_and_the_end():
    assert job.rate(POINTS) == (72 - 8) / (18 - 10)
    assert job.busy(POINTS) == "load 0.5, perturb 0.1, explain 1.0"


def test_one_batch_tells_no_rate():
    assert job.rate(POINTS[:1]) == 0
    assert job.busy(POINTS[:1]) == "–"


def test_the_variants_are_as_many_as_they_are_called():
    assert {count: len(variants(specs)) for count, specs in job.VARIANTS.items()} == {15: 15, 95: 95}
    assert variants(job.VARIANTS[95]) == variants(load_config(ROOT / "jobs/configs/imagenet-val.yaml").perturbations)


def test_few_photographs_stand_for_many_images(tmp_path):
    config = job._config(str(tmp_path), "cpu", "fp32", "squeezenet1_1", 15, "grid", compiled=False)
    plan = job._plan(config, 2 * job.PHOTOS)
    assert plan.manifest["image_id"].n_unique() == 2 * job.PHOTOS
    assert plan.manifest["uri"].n_unique() == job.PHOTOS
    assert plan.config.cluster.gpus_per_explainer == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--variants", "16"], "bench: variants must be 15 or 95, got 16"),
        (["--device", "cuda"], "bench: this machine has no CUDA device; use --device cpu"),
    ],
)
def test_mistakes_are_named(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "job", *arguments]) == 2
    assert capsys.readouterr().err == f"camrobust: {sentence}\n"
