"""Runs in shards, measured in this process, and what the command line says to mistakes."""

from camrobust.contract.config_file import load_config
from camrobust.contract.sharding import parse_shard
from tests import in_process
from tests.runs import config

SMALL = {"segments": {"method": "grid"}, "cams": ["gradcam", "eigencam", "random"], "max_failure_share": 0.5}
"""Changes of a configuration that make its run fast."""
ONE = SMALL | {"models": ["tests.toys:pooled"]}


def measured(folder, photos, shards, **changes):
    """The configuration, after these shards were measured; None stands for a run without shards."""
    folder.mkdir(parents=True, exist_ok=True)
    path = config(folder, photos, **SMALL | changes)
    for shard in shards:
        assert in_process.run(load_config(path), shard=shard and parse_shard(shard)).exit_code == 0
    return path


def refused(capsys, *arguments):
    """The only line that a command says when it refuses something."""
    code, printed, said = in_process.camrobust(capsys, *arguments)
    assert (code, printed) == (2, ""), said
    (line,) = said.splitlines()
    return line.removeprefix("camrobust: ")
