"""Tables of version 0.1 are read under today's column names."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from camrobust.contract.columns import Column
from camrobust.contract.schema import IMAGES, SCORE_FILE
from camrobust.io.local_folder import Folder
from camrobust.io.parquet_budget import TableError, TooLargeTableError
from camrobust.results.tables import read_coded, read_frame
from tests.synthetic import frame

OLD = {"kept_class": "same", "n_segments": "segments", "strength": "parameter"}


def rows():
    """One score row under today's names."""
    row = {"image_id": "a", "cam": "gradcam", "perturbation": "contrast", "strength": "factor=0.4", "replicate": 0}
    return frame(SCORE_FILE, [row | {"kept_class": True, "status": "ok", "n_segments": 30}]).to_arrow()


def test_an_old_table_is_read_under_the_new_names(tmp_path):
    table = rows()
    pq.write_table(table, tmp_path / "new.parquet")
    pq.write_table(table.rename_columns([OLD.get(name, name) for name in table.column_names]), tmp_path / "old.parquet")
    store = Folder(tmp_path)
    new, old = (read_frame(store, f"{name}.parquet", SCORE_FILE)[0] for name in ("new", "old"))
    assert old.columns == [column.name for column in SCORE_FILE]
    assert old.equals(new)
    assert old.select(list(OLD)).row(0) == (True, 30, "factor=0.4")


def test_both_names_at_once_are_refused(tmp_path):
    table = pa.table({"dataset": ["d"], "image_id": ["a"], "segments": [1], "n_segments": [2]})
    pq.write_table(table, tmp_path / "both.parquet")
    with pytest.raises(TableError, match="the column n_segments is there twice"):
        read_frame(Folder(tmp_path), "both.parquet", IMAGES)


def test_columns_that_a_file_lacks_are_held_against_the_budget(tmp_path):
    """Nulls take memory, too: a stranger's run.json may list columns that a tiny file of many rows does not have."""
    count = 3_000_000
    table = pa.table({"dataset": pa.array(["d"] * count), "image_id": pa.array(["a"] * count)})
    pq.write_table(table, tmp_path / "many.parquet")
    columns = (*IMAGES[:2], *(Column(f"made_up_{number}", "float32", "") for number in range(100)))
    with pytest.raises(TooLargeTableError, match="would unpack to more than"):
        read_coded(Folder(tmp_path), "many.parquet", columns)
