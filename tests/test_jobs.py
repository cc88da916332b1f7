"""The configurations and the cluster file that are shipped."""

import yaml

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


def test_the_cluster_file_is_valid_by_rays_own_schema():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))


def test_the_clusters_nodes_start_with_a_token(tmp_path, monkeypatch):
    """What Ray's launcher makes of the file: the command that starts a container, and the files that it brings."""
    from ray.autoscaler._private.docker import docker_start_cmds
    from ray.autoscaler._private.util import hash_runtime_conf, prepare_config

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    read = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    docker = read["docker"]
    started = docker_start_cmds("ubuntu", docker["image"], {}, "name", docker["run_options"], "host", "docker", "home")
    assert " --env RAY_AUTH_MODE=token " in started
    # Where Ray looks for it unless it is told otherwise.
    assert read["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert hash_runtime_conf(read["file_mounts"], [], [])
