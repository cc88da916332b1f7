"""A run in shards in an object store, pooled there."""

import json

import pytest

import camrobust as package
from camrobust.results.shards import open_results
from camrobust.run.summarise import summaries
from tests import in_process
from tests.photos import write_photos
from tests.shards import ONE, measured

pytestmark = pytest.mark.s3


def test_shards_in_a_bucket_are_the_run_in_a_folder(bucket, tmp_path, capsys):
    write_photos(tmp_path / "set", 6)
    uri = f"s3://{bucket}/runs/lr=0.1 #2"
    measured(tmp_path / "a", tmp_path / "set", ["2/2", "1/2"], **ONE, output=uri)
    measured(tmp_path / "b", tmp_path / "set", [None], **ONE)
    whole = tmp_path / "b" / "out"
    code, printed, _ = in_process.camrobust(capsys, "compare", "--exact", uri, whole, "--json")
    assert (code, json.loads(printed)["tables"]["scores"]["rows"]) == (0, 6 * 3 * 5)
    for command in ("status", "verify", "aggregate", "report"):
        assert in_process.camrobust(capsys, command, uri)[0] == 0, command
    pooled, alone = (summaries(open_results(str(place))) for place in (uri, whole))
    assert all(pooled[name].equals(alone[name]) for name in alone)
    assert package.load_run(uri).scores.height == 6 * 3 * 5
