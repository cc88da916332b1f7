"""The benchmark of shards, with few images."""

import pytest

from camrobust.bench.scale import shards
from camrobust.contract.errors import UserError


@pytest.mark.s3
@pytest.mark.usefixtures("bucket")
def test_every_form_is_listed_and_loaded_with_few_requests(monkeypatch):
    monkeypatch.setattr(shards, "SHARDS", 2)
    rows = shards.shards(300)
    assert [(row["form"], row["images"], row["files"], row["wrong"]) for row in rows] == [
        ("tar", 300, 2, 0), ("zip", 300, 2, 0), ("parquet", 300, 2, 0)
    ]  # fmt: skip
    # A request to look whether the address is a folder, one for each file, and one for each block and file in it.
    tar = rows[0]
    assert (tar["listing_requests"], tar["loading_requests"]) == (3, 6)
    for row in rows:
        requests = row["listing_requests"] + row["loading_requests"]
        assert row["requests_per_100"] == pytest.approx(requests / 3, abs=0.01)
    assert not shards.passed([{"requests_per_100": 3, "wrong": 0}])
    assert not shards.passed([{"requests_per_100": 1, "wrong": 1}])


def test_the_benchmark_wants_a_store(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(UserError, match=r"^bench: the shards need an S3 store on this machine; set AWS_ENDPOINT_URL$"):
        shards.shards(10)
