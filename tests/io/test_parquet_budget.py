"""A manifest may be a stranger's: it is held against a memory budget before it is read."""

import polars as pl
import pytest

from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_images


def test_a_small_manifest_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.parquet"
    names = pl.Series(["a"], dtype=pl.String).new_from_index(0, 30_000_000)
    pl.DataFrame({"uri": names, "image_id": names}).write_parquet(path, compression="zstd")
    assert path.stat().st_size < 400_000
    with pytest.raises(UserError, match=r"would unpack to more than \d{3} MiB"):
        list_images("d", str(path))


def test_an_id_of_any_length_is_shortened_where_it_is_told(tmp_path):
    path = tmp_path / "long.parquet"
    pl.DataFrame({"uri": ["x.jpg"], "image_id": ["a" * 10**6]}).write_parquet(path)
    with pytest.raises(UserError, match="must have at most 4096 bytes") as told:
        list_images("d", str(path))
    assert len(str(told.value)) < 500


def test_other_columns_of_a_manifest_are_left_alone(tmp_path):
    path = tmp_path / "table.parquet"
    pl.DataFrame({"uri": ["x.jpg"], "label": [3], "boxes": [[1, 2]], "note": ["n"]}).write_parquet(path)
    assert list_images("d", str(path)).select("image_id", "label").rows() == [("x.jpg", 3)]
    pl.DataFrame({"path": ["x.jpg"]}).write_parquet(path)
    with pytest.raises(UserError, match="has no column 'uri', only path; rename or add it"):
        list_images("d", str(path))
