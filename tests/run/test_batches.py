"""What passes between the stages survives what Ray does to it: cutting, joining, sending."""

import numpy as np
import pyarrow as pa
import pytest

from camrobust.contract.schema import FAILURES
from camrobust.results.arrow import make_table
from camrobust.run.stages import batches
from camrobust.run.stages.batches import TensorBuffer, rows_column, rows_of, tensor_column, tensors_of

SIZES = (2, None, 1, None, 3)
BOUNDARIES = ("PENDING", "LOADED", "PERTURBED", "MEASURED", "COMMITTED")


def some_tensors(kind="uint8"):
    """Tensors of shape (n, 2, 3), with gaps."""
    return [None if size is None else np.arange(6 * size, dtype=kind).reshape(size, 2, 3) for size in SIZES]


@pytest.mark.parametrize("name", BOUNDARIES)
def test_every_column_of_a_batch_is_explained_and_stands_there_once(name):
    fields = getattr(batches, name)
    assert len({field.name for field in fields}) == len(fields)
    assert all(isinstance(field.type, pa.DataType) and field.meaning for field in fields)


@pytest.mark.parametrize("kind", ["uint8", "int32"])
def test_tensors_come_back_as_they_were_from_any_cut_of_a_column(kind):
    tensors = some_tensors(kind)
    column = pa.chunked_array([tensor_column(tensors, kind)])
    for start in range(len(tensors) + 1):
        for stop in range(start, len(tensors) + 1):
            joined = pa.chunked_array([*column.slice(start, stop - start).chunks, *column.chunks])
            back = tensors_of(joined, -1, 2, 3)
            for tensor, wanted in zip(back, [*tensors[start:stop], *tensors], strict=True):
                assert (tensor is None) == (wanted is None)
                if tensor is not None:
                    assert tensor.dtype == kind
                    np.testing.assert_array_equal(tensor, wanted)


def test_a_failed_image_takes_no_room_and_a_batch_of_failures_is_a_batch():
    assert len(tensor_column(some_tensors(), "uint8").values) == 6 * (2 + 1 + 3)
    assert tensors_of(pa.chunked_array([tensor_column([None, None], "uint8")]), 3, 4, 4) == [None, None]


def test_a_buffer_becomes_a_column_without_a_copy_and_what_was_not_written_is_null():
    buffer = TensorBuffer([6, 12, 6], "uint8")
    buffer.place(0)[:] = 1
    buffer.place(2)[:] = 3
    column = buffer.column([False, True, False])
    assert np.shares_memory(column.values.to_numpy(), buffer.flat)
    assert column.to_pylist() == [[1] * 6, None, [3] * 6]
    first, second, third = tensors_of(pa.chunked_array([column]), -1, 2, 3)
    assert (first.shape, second, third.shape) == ((1, 2, 3), None, (1, 2, 3))


def test_tensors_are_views_that_nobody_writes_into():
    (tensor,) = tensors_of(pa.chunked_array([tensor_column(some_tensors()[:1], "uint8")]), -1, 2, 3)
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1


def test_rows_in_cells_come_back_as_one_table_from_any_cut():
    rows = [
        {"dataset": "d", "image_id": str(n), "model": None, "stage": "load", "kind": "k", "message": "m"}
        for n in range(6)
    ]
    table = make_table(FAILURES, rows)
    column = pa.chunked_array([rows_column(table, [2, 0, 3, 1])])
    assert rows_of(column).equals(table)
    assert rows_of(column.slice(1, 2)).to_pylist() == rows[2:5]
    assert rows_of(column.slice(1, 1)).num_rows == 0
    joined = pa.chunked_array([*column.slice(2).chunks, *column.slice(0, 2).chunks])
    assert rows_of(joined).to_pylist() == rows[2:] + rows[:2]
