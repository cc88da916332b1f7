"""A run from and to an object store on loopback, and the messages when the store refuses."""

import json
from concurrent.futures import ThreadPoolExecutor

import boto3
import polars as pl
import pytest
from ray import cloudpickle

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.io import retries, s3
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import open_store, read_object
from camrobust.io.store_errors import PassingError
from camrobust.results.folder import open_run
from camrobust.run.plan import make_plan
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.load import Load
from tests import in_process
from tests.photos import write_photos
from tests.runs import TINY, config

pytestmark = pytest.mark.s3


def test_a_bucket_is_a_store(bucket):
    store = open_store(f"s3://{bucket}/a/b")
    store.write("x/one.txt", b"1")
    store.write("x/two words.txt", b"22")
    store.write("y", b"")
    assert [(entry.key, entry.size_bytes) for entry in store.list()] == [
        ("x/one.txt", 1), ("x/two words.txt", 2), ("y", 0)
    ]  # fmt: skip
    assert [entry.key for entry in store.list("x/o")] == ["x/one.txt"]
    assert store.read("x/two words.txt") == b"22"
    assert read_object(f"s3://{bucket}/a/b/x/one.txt") == b"1"
    assert store.locate("y") == f"s3://{bucket}/a/b/y"
    assert store.read("x/two words.txt", 2) == b"22"
    with pytest.raises(TooLargeObjectError, match=r"words\.txt has more than 1 bytes"):
        store.read("x/two words.txt", 1)
    store.delete("y")
    store.delete("y")
    with pytest.raises(MissingObjectError, match=f"there is no object s3://{bucket}/a/b/y"):
        store.read("y")


def test_listings_go_beyond_a_thousand(bucket):
    store = open_store(f"s3://{bucket}/many")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write(f"{number:05}", b""), range(1005)))
    assert len(list(store.list())) == 1005


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_from_and_to_s3(bucket, cluster, object_store, tmp_path, capsys):
    write_photos(tmp_path / "set", 4)
    client = boto3.client("s3")
    for path in (tmp_path / "set").iterdir():
        client.upload_file(str(path), bucket, f"photos/{path.name}")
    client.put_object(Bucket=bucket, Key="photos/broken.jpg", Body=b"no image")
    client.put_object(Bucket=bucket, Key="labels.csv", Body=b"image_id,label\nphoto-000.jpg,3\n")
    client.close()
    photos = [{"name": "s3", "images": f"s3://{bucket}/photos", "labels": f"s3://{bucket}/labels.csv"}]
    models = ["tests.toys:pooled", "tests.toys:patient"]
    path = config(tmp_path, "", datasets=photos, output=f"s3://{bucket}/runs/one", max_failure_share=0.5, models=models,
                  **TINY)  # fmt: skip
    code, first, said = in_process.camrobust(capsys, "run", path, "--json", by=in_process.through_open_session)
    assert code == 0, said
    printed = json.loads(first)
    assert printed["complete"]
    assert (printed["score_rows"], printed["failed_images"]) == (4 * 2 * 25, 1)
    assert main(["run", str(path)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    run = open_store(f"s3://{bucket}/runs/one")
    keys = {entry.key for entry in run.list()}
    manifest = json.loads(run.read("run.json"))["manifest"]["key"]
    made = {"done/00000002.json", "summary/00000002/by_cam.csv", "report/00000002/index.html"}
    assert {"run.json", manifest, "lease/00000001.json", "lease/00000002.json"} | made <= keys
    assert {f"report/00000002/figures/heatmap.{kind}" for kind in ("svg", "png", "csv")} <= keys
    secret = object_store["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in run.read(key) for key in keys)
    assert secret.decode() not in first + said

    victim = next(key for key in sorted(keys) if key.startswith("scores/"))
    run.delete(victim)
    assert main(["verify", f"s3://{bucket}/runs/one"]) == 1
    healed = in_process.run(path)
    assert healed.exit_code == 0
    assert healed.verdict.score_rows == 4 * 2 * 25

    import camrobust as package

    scores = package.load_run(f"s3://{bucket}/runs/one").scores
    assert scores.height == 4 * 2 * 25
    assert scores.filter(pl.col("image_id") == "photo-000.jpg")["label"].unique().to_list() == [3]


def told(uri, capsys, tmp_path):
    path = config(tmp_path, "", datasets=[{"name": "x", "images": uri}], output=str(tmp_path / "out"))
    code = main(["run", str(path), "--quiet"])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if line.startswith("camrobust: ")]


def test_a_missing_bucket(bucket, capsys, tmp_path):
    code, lines = told(f"s3://no-{bucket}/x", capsys, tmp_path)
    sentence = f"camrobust: s3: there is no bucket 'no-{bucket}' (s3://no-{bucket}/x); create it or correct the address"
    assert (code, lines) == (2, [sentence])


def test_no_credentials(bucket, capsys, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    code, lines = told(f"s3://{bucket}/x", capsys, tmp_path)
    sentence = (
        f"camrobust: s3: no credentials for s3://{bucket}/x; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile "  # noqa: E501
        "or a role"
    )
    assert (code, lines) == (2, [sentence])


def test_an_empty_prefix(bucket, capsys, tmp_path):
    code, lines = told(f"s3://{bucket}/nothing", capsys, tmp_path)
    assert code == 2
    assert lines[0].startswith(
        f"camrobust: dataset 'x': there are no images in s3://{bucket}/nothing; they must be photos"
    )


def test_a_missing_endpoint(bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    code, lines = told(f"s3://{bucket}/x", capsys, tmp_path)
    sentence = f"camrobust: s3: cannot reach the endpoint for s3://{bucket}/x; check AWS_ENDPOINT_URL and the network"
    assert (code, lines) == (2, [sentence])


def test_wrong_secret_and_no_permission(bucket, object_store, capsys, tmp_path, monkeypatch):
    if object_store["AWS_ACCESS_KEY_ID"] == "camrobusttest":
        pytest.skip("moto accepts every secret; needs radosgw (apt-get install radosgw)")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, lines = told(f"s3://{bucket}/x", capsys, tmp_path)
    assert code == 2
    assert "the credentials are refused" in lines[0] or "no permission" in lines[0]


def test_error_codes_are_explained():
    refused = s3._refused("AccessDenied", 403, "s3://b/k")
    assert isinstance(refused, UserError)
    assert str(refused) == "s3: no permission for s3://b/k; these credentials need read, list and write on it"
    assert isinstance(s3._refused("NoSuchKey", 404, "s3://b/k"), MissingObjectError)
    slow = s3._refused("SlowDown", 503, "s3://b/k")
    assert str(slow) == "s3: s3://b/k answered SlowDown; the store may be overloaded, run again to resume"
    assert slow.exit_code == 1
    elsewhere = s3._refused("PermanentRedirect", 301, "s3://b/k")
    assert str(elsewhere) == (
        "s3: s3://b/k is in another region (PermanentRedirect); set AWS_REGION to the region of its bucket"
    )
    other = s3._refused("InvalidRequest", 400, "s3://b/k")
    assert str(other) == "s3: s3://b/k answered InvalidRequest, as it would again; check address and endpoint"
    for code, status, passes in (
        ("InternalError", 500, True), ("Unknown", 429, True), ("RequestTimeout", 400, True),
        ("ExpiredToken", 400, True),
        ("OperationAborted", 409, True), ("AccessDenied", 403, False), ("NoSuchBucket", 404, False),
        ("PermanentRedirect", 301, False), ("InvalidRequest", 400, False), ("RequestTimeTooSkewed", 403, False),
    ):  # fmt: skip
        assert isinstance(s3._refused(code, status, "s3://b/k"), PassingError) == passes, code


def test_an_address_without_a_bucket():
    with pytest.raises(UserError, match="names no bucket; write s3://bucket/prefix"):
        open_store("s3:///x")


def test_nothing_sent_to_workers_holds_a_credential(bucket, object_store):
    """Each worker finds the credentials itself."""
    plan = make_plan(
        parse_config(
            {
                "output": f"s3://{bucket}/run",
                "datasets": [{"name": "d", "images": f"s3://{bucket}/photos"}],
                "models": ["tests.toys:pooled"],
                "cams": ["gradcam"],
                "perturbations": ["contrast:1"],
            }
        ),
        pl.DataFrame({"dataset": ["d"], "image_id": ["a"], "uri": [f"s3://{bucket}/photos/a.jpg"], "label": [None]}),
    )
    folder = open_run(plan.config.output)
    folder.store.write("x", b"")  # now the client of this process holds the credentials
    sent = cloudpickle.dumps(
        [Load(plan.config), Commit(folder.uri, 1), folder, (plan.config, plan.parts, plan.weights, plan.manifest)]
    )
    assert bucket.encode() in sent
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert object_store[name].encode() not in sent
