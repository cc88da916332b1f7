"""The right object under the right name on S3, for keys that a URL would decode, cut off or normalise."""

import json
from io import BytesIO

import boto3
import numpy as np
import polars as pl
import pytest
from PIL import Image

import camrobust as package
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.io.images import decode
from camrobust.io.manifest import list_images
from camrobust.io.store import open_store, read_object
from camrobust.results.folder import fresh_folder
from camrobust.run.stages.batches import pending_batch, tensors_of
from camrobust.run.stages.load import Load
from tests.documents import write_json
from tests.in_process import camrobust
from tests.runs import SMALL, config

pytestmark = pytest.mark.s3
FOLDER = "cam#2?v=1"
NAMES = (
    "a%20b.png", "a b.png", "a+b.png", "a%2Bb.png", "a#1.png", "a?1.png", "a.png", "ü.png", "u\u0308.png", "sub//c.png",
    "sub/c.png", "sub/./c.png", "sub/../d.png", "d.png", "/lead.png", "lead.png", "lr=0.1/e.png", "b[1]*.png",
    "back\\slash.png", "s3://b/x.png", "a:b@c;d&e.png",
)  # fmt: skip


def photo(seed):
    """A photo whose brightness depends on the seed."""
    sink = BytesIO()
    noise = np.random.default_rng(seed).integers(0, 50, (240, 240, 3), dtype=np.uint8)
    Image.fromarray(np.uint8(9 * seed) + noise).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def photos(bucket):
    """Content by image id. Other photos lie where a cut-off or normalised address of the folder would lead."""
    found = {name: photo(number) for number, name in enumerate(NAMES)}
    client = boto3.client("s3")
    for name, content in found.items():
        client.put_object(Bucket=bucket, Key=f"{FOLDER}/{name}", Body=content)
        for other in ("cam", "cam#2", "cam#2?v=12"):
            client.put_object(Bucket=bucket, Key=f"{other}/{name}", Body=photo(22))
    client.put_object(Bucket=bucket, Key=f"{FOLDER}/marker.png/", Body=b"")
    client.close()
    return found


@pytest.mark.parametrize("slash", ["", "/"])
def test_photos_with_odd_names_are_listed_and_not_mixed_up(bucket, photos, slash):
    images = f"s3://{bucket}/{FOLDER}{slash}"
    listed = list_images("x", images)
    assert listed["image_id"].to_list() == sorted(NAMES)
    assert listed["uri"].to_list() == [f"s3://{bucket}/{FOLDER}/{name}" for name in sorted(NAMES)]
    document = {
        "output": "unused", "datasets": [{"name": "x", "images": images}], "models": ["tests.toys:pooled"],
        "cams": ["gradcam"], "perturbations": ["contrast:5"], "segments": {"method": "grid"},
    }  # fmt: skip
    pending = pending_batch(listed.with_columns(parts=pl.lit([0])))
    loaded = Load(parse_config(document))(pending)
    for name, pixels in zip(listed["image_id"], tensors_of(loaded["pixels"], 3, 224, 224), strict=True):
        assert np.array_equal(pixels, decode(photos[name], 256, 224).pixels), name


def test_a_manifest_names_objects_byte_for_byte_too(bucket, photos):
    table = pl.DataFrame({"uri": [*NAMES[:3], *(f"s3://{bucket}/{FOLDER}/{name}" for name in NAMES[3:])]})
    store = open_store(f"s3://{bucket}/{FOLDER}/")
    store.write("set.csv", table.write_csv().encode())
    listed = list_images("x", f"s3://{bucket}/{FOLDER}/set.csv")
    assert {uri: read_object(uri) for uri in listed["uri"]} == {
        f"s3://{bucket}/{FOLDER}/{name}": content for name, content in photos.items()
    }


def test_a_prefix_is_a_folder_and_keys_are_exact(bucket):
    store = open_store(f"s3://{bucket}")
    for key in ("cam/1", "cam2/2", "cam//3", "/cam/4", "cam", "cam/", "cam#/5"):
        store.write(key, key.encode())
        assert read_object(f"s3://{bucket}/{key}") == key.encode()

    def keys(uri):
        return [entry.key for entry in open_store(uri).list()]

    assert keys(f"s3://{bucket}/cam") == keys(f"s3://{bucket}/cam/") == ["/3", "1"]
    assert keys(f"s3://{bucket}/cam//") == ["3"]
    assert keys(f"s3://{bucket}//cam") == ["4"]
    assert keys(f"s3://{bucket}/cam#") == ["5"]
    assert keys(f"s3://{bucket}") == ["/cam/4", "cam", "cam#/5", "cam//3", "cam/1", "cam2/2"]


def test_a_manifest_that_names_only_the_bucket_is_refused(bucket, tmp_path):
    (tmp_path / "set.csv").write_text(f"uri\ns3://{bucket}/x.png\ns3://{bucket}/\n")
    with pytest.raises(UserError, match=f"manifest: 's3://{bucket}/' must name an object, and on gs:// and az:// hold"):
        list_images("x", str(tmp_path / "set.csv"))


def test_a_whole_bucket_has_no_fresh_folder_beside_it(bucket):
    folder = fresh_folder(f"s3://{bucket}/")
    write_json(folder, "run.json", {})
    with pytest.raises(UserError, match=f"^output: beside s3://{bucket}/ there are only other buckets; give a prefix"):
        fresh_folder(f"s3://{bucket}/")


def test_outputs_with_odd_names_are_separate_runs(bucket, photos, tmp_path, capsys):
    outputs = [f"s3://{bucket}/dataset=mine/lr=0.1/exp#{number}?a%20b +[1]*" for number in (1, 2)]
    images = [{"name": "odd/#1", "images": f"s3://{bucket}/{FOLDER}"}]
    changes = {"datasets": images, "cams": ["gradcam", "random"], "gallery_images": 2} | SMALL
    for seed, output in enumerate(outputs):
        noise = [f"gaussian_noise:{1 + seed}"]
        path = config(tmp_path, "", output=output, perturbations=noise, **changes)
        code, printed, told = camrobust(capsys, "run", path, "--json")
        assert code == 0, told
        assert json.loads(printed)["score_rows"] == len(NAMES) * 2
        _, _, told = camrobust(capsys, "run", path.with_name("run.yaml"))
        assert "nothing to do" in told
    brightness = {
        name: float(np.asarray(Image.open(BytesIO(content))).mean() / 255) for name, content in photos.items()
    }
    for severity, output in zip((1, 2), outputs, strict=True):
        found = package.load_run(output).scores
        assert set(found["severity"]) == {severity}
        assert set(found["dataset"]) == {"odd/#1"}
        assert set(found["image_id"]) == set(NAMES)
        keys = [entry.key for entry in open_store(output).list()]
        assert "report/00000002/index.html" in keys
        tables = [pl.read_parquet(BytesIO(open_store(output).read(key))) for key in keys if key.startswith("images/")]
        measured = dict(pl.concat(tables).select("image_id", "brightness").iter_rows())
        assert all(abs(measured[name] - brightness[name]) < 0.01 for name in NAMES)
    assert main(["verify", outputs[0]]) == 0
    assert main(["aggregate", *outputs, "--output", f"s3://{bucket}/both#/"]) == 0
    assert main(["compare", *outputs]) == 2
    capsys.readouterr()
    assert {entry.key for entry in open_store(f"s3://{bucket}/both#").list()} >= {"summary/by_cam.csv"}
    beside = {entry.key.partition("/")[0] for entry in open_store(f"s3://{bucket}").list()}
    assert beside == {"dataset=mine", "both#", "cam", "cam#2", "cam#2?v=12", FOLDER}
