"""run.yaml in a run folder: it can be run again from anywhere, and nobody's own file is touched."""

import pytest

from camrobust.contract.config_file import load_config, parse_config
from camrobust.contract.schema import MANIFEST
from camrobust.results.folder import open_run
from camrobust.results.saved import saved_configuration
from tests.documents import run_record
from tests.synthetic import frame


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return parse_config(
        {"output": "out", "datasets": [{"name": "d", "images": "photos"}, {"name": "e", "images": "s3://b/photos"}],
         "models": ["torchvision:resnet18"], "cams": ["gradcam"], "perturbations": ["gaussian_noise:1"]}
    )  # fmt: skip


def begun(config):
    run = open_run("out")
    record = run_record(1, config=config.model_dump(mode="json"))
    assert run.begin(record, frame(MANIFEST, [{"dataset": "d", "image_id": "a", "uri": "a", "label": None}]))
    return run


def test_it_is_the_configuration_with_paths_that_hold_from_everywhere(config, tmp_path):
    run = begun(config)
    path = saved_configuration(run.store)
    assert path == str(tmp_path / "out" / "run.yaml")
    again = load_config(path, output="again")
    assert [one.images for one in again.datasets] == [str(tmp_path / "photos"), "s3://b/photos"]
    assert again.model_copy(update={"datasets": config.datasets, "output": config.output}) == config


@pytest.mark.parametrize("content", ["seed: 1\n", "x" * 1_000_000, ""])
def test_a_file_of_the_users_own_stays_as_it_is_and_is_not_named(config, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.yaml").write_text(content)
    run = begun(config)
    assert (tmp_path / "out" / "run.yaml").read_text() == content
    assert saved_configuration(run.store) is None


def test_a_run_of_an_earlier_version_has_none(config):
    run = begun(config)
    run.store.delete("run.yaml")
    assert saved_configuration(run.store) is None
