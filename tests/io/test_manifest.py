"""Manifests and labels as users have them."""

import polars as pl

from camrobust.io.manifest import list_images
from tests.photos import write_photos


def test_labels_that_some_images_lack_stay_unknown(tmp_path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "labels.csv").write_text("file,class_index\nphoto-001.jpg,7\n")
    table = list_images("d", str(tmp_path / "photos"), str(tmp_path / "labels.csv"))
    assert table.select("image_id", "label").rows() == [("photo-000.jpg", None), ("photo-001.jpg", 7)]


def test_a_parquet_manifest_keeps_its_ids_and_labels(tmp_path):
    write_photos(tmp_path / "photos", 2)
    table = pl.DataFrame({"uri": ["photos/photo-001.jpg", "s3://b/k.jpg"], "image_id": ["x", "y"], "label": [1, None]})
    table.write_parquet(tmp_path / "manifest.parquet")
    found = list_images("d", str(tmp_path / "manifest.parquet"))
    assert found["uri"].to_list() == [str(tmp_path / "photos/photo-001.jpg"), "s3://b/k.jpg"]
    assert found["label"].to_list() == [1, None]
