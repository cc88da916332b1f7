"""The batches that pass from stage to stage: Arrow tables whose columns are named, typed and explained here.

    PENDING → Load → LOADED → Perturb → PERTURBED → Explain → MEASURED → Commit → COMMITTED

A row is an image up to Perturb, and one part of an image (a group of its variants) from there on. An image that failed
goes on with its error and without pixels. Ray hands out shared memory, so nothing writes into a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from camrobust.contract.columns import Column
from camrobust.contract.defaults import RGB
from camrobust.contract.schema import FAILURES, IMAGES, MANIFEST, SCORES
from camrobust.results.arrow import TABLES, arrow_schema

if TYPE_CHECKING:
    import polars as pl

QUARANTINED = "quarantined"
"""The kind of failure of an image at which workers died."""


class Field(NamedTuple):
    """One column of a batch: its name, its type, what it holds."""

    name: str
    type: pa.DataType
    meaning: str


class Failure(NamedTuple):
    """Why an image cannot be measured."""

    stage: str
    kind: str
    message: str


def _fields(columns: Sequence[Column]) -> tuple[Field, ...]:
    """Columns of a result table as columns of a batch."""
    return tuple(Field(column.name, arrow_schema([column]).field(0).type, column.meaning) for column in columns)


def _rows_of(columns: Sequence[Column]) -> pa.DataType:
    """The type of a cell that holds rows of a result table."""
    return pa.list_(pa.struct(list(arrow_schema(columns))))


KEYS = ("dataset", "image_id", "label")
PROPERTIES = tuple(column.name for column in IMAGES if column.name not in KEYS)
TENSOR = {kind: pa.large_list(pa.from_numpy_dtype(kind)) for kind in ("uint8", "float32", "int32")}
"""The type of a cell that holds one tensor, flattened; its shape follows from the side of the crop."""
_PARTS = Field("parts", pa.list_(pa.int16()), "numbers of the parts that are still to be measured, ascending")
_SEGMENTS = Field("segments", TENSOR["int32"], "(H, W), the segment of every pixel, 0 … m-1; null where loading failed")
_FAILURE = _fields([column for column in FAILURES if column.name in Failure._fields])

PENDING = (*_fields(MANIFEST), _PARTS)


def pixel_type(channels: int) -> str:
    """The type of images of so many channels as they are measured."""
    return "uint8" if channels == RGB else "float32"


def loaded_fields(channels: int) -> tuple[Field, ...]:
    """The columns of `LOADED` where the run's images have so many channels."""
    return (
        *_fields(IMAGES),
        _PARTS,
        Field("pixels", TENSOR[pixel_type(channels)], "(C, H, W), the crop; null where loading failed"),
        _SEGMENTS,
        *_FAILURE,
    )


def perturbed_fields(channels: int) -> tuple[Field, ...]:
    """The columns of `PERTURBED` where the run's images have so many channels."""
    return (
        *_fields(IMAGES),
        Field("part", pa.int16(), "number of this part"),
        Field("first", pa.bool_(), "whether it is the image's first part that is still to be measured"),
        Field(
            "variants",
            TENSOR[pixel_type(channels)],
            "(P+1, C, H, W), the clean image and the part's P variants; null after a failure",
        ),
        _SEGMENTS,
        *_FAILURE,
    )


LOADED = loaded_fields(RGB)
PERTURBED = perturbed_fields(RGB)


def measured_fields(scores: Sequence[Column]) -> tuple[Field, ...]:
    """The columns of `MEASURED` where the run's score rows have these columns, the similarities of plugins included."""
    return (
        Field("dataset", pa.string(), "name of the dataset"),
        Field("image_id", pa.string(), "the image"),
        Field("part", pa.int16(), "number of this part"),
        Field("scores", _rows_of(scores), "its score rows, of all models"),
        *(Field(name, _rows_of(columns), f"its rows of the {name} table") for name, columns in TABLES.items()),
    )


MEASURED = measured_fields(SCORES)
COMMITTED = (
    Field("parts", pa.int64(), "parts of images in this commit"),
    Field("rows", pa.int64(), "score rows in it"),
    Field("failures", pa.int64(), "failure rows in it"),
    Field("seconds", pa.float64(), "how long it took to write"),
)


def batch_of(fields: Sequence[Field], data: Mapping[str, Any]) -> pa.Table:
    """A batch with exactly these columns, from arrays or lists."""
    return pa.table({field.name: data[field.name] for field in fields}, schema=pa.schema([f[:2] for f in fields]))


def pending_batch(pending: "pl.DataFrame") -> pa.Table:
    """Images as `results.counted.pending_parts` lists them, as rows of `PENDING`."""
    return batch_of(PENDING, pending.to_arrow())


def failure_columns(failures: Sequence[Failure | None]) -> dict[str, list[str | None]]:
    """The columns that say what failed, null where nothing did."""
    return {
        name: [None if failure is None else getattr(failure, name) for failure in failures] for name in Failure._fields
    }


def failures_of(batch: pa.Table) -> list[Failure | None]:
    """What failed, row by row; None where nothing did."""
    rows = zip(*(batch[name].to_pylist() for name in Failure._fields), strict=True)
    return [None if stage is None else Failure(stage, kind, message) for stage, kind, message in rows]


class TensorBuffer:
    """The buffer of a column of tensors. Each tensor is written to its place, and `column` copies nothing.

    Args:
        sizes: elements of every row's tensor.
        kind: their type, a key of `TENSOR`.
    """

    def __init__(self, sizes: Sequence[int], kind: str) -> None:
        self.offsets = np.cumsum([0, *sizes])
        # Memory of Arrow's pool has been used before; fresh memory costs the kernel a fault for every page.
        memory = pa.allocate_buffer(int(self.offsets[-1]) * np.dtype(kind).itemsize)
        self.flat: NDArray[Any] = np.frombuffer(memory, kind)

    def place(self, row: int) -> NDArray[Any]:
        """Where the tensor of this row goes: a flat view to write into."""
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    def column(self, missing: Sequence[bool]) -> pa.LargeListArray:
        """The column; the rows that are missing are null, and their places are zero."""
        for row in np.flatnonzero(missing).tolist():
            self.place(row)[:] = 0
        return pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.flat), mask=pa.array(missing))


def tensor_column(tensors: Sequence[NDArray[Any] | None], kind: str) -> pa.LargeListArray:
    """A column of tensors in one buffer, null for None.

    Args:
        tensors: of any shape.
        kind: their type, a key of `TENSOR`.
    """
    buffer = TensorBuffer([0 if tensor is None else tensor.size for tensor in tensors], kind)
    for row, tensor in enumerate(tensors):
        if tensor is not None:
            buffer.place(row)[:] = tensor.reshape(-1)
    return buffer.column([tensor is None for tensor in tensors])


def cells_of(column: pa.ChunkedArray, values_of: Callable[[pa.Array], Any], *shape: int) -> list[Any | None]:
    """The tensors in a column's cells, None where it is null.

    Args:
        column: as `tensor_column` makes it.
        values_of: the flat values of a chunk, as an array or a tensor over the same memory.
        shape: of every tensor; one side may be -1.
    """
    tensors: list[Any | None] = []
    for chunk in column.chunks:
        values, ends = values_of(chunk.values), chunk.offsets.to_pylist()
        for row, valid in enumerate(chunk.is_valid().to_pylist()):
            tensors.append(values[ends[row] : ends[row + 1]].reshape(shape) if valid else None)
    return tensors


def tensors_of(column: pa.ChunkedArray, *shape: int) -> list[NDArray[Any] | None]:
    """Read-only arrays over a column's tensors, None where it is null; arguments as for `cells_of`."""
    return cells_of(column, pa.Array.to_numpy, *shape)


def rows_column(table: pa.Table, counts: Sequence[int]) -> pa.ListArray:
    """A column whose cells hold a table's rows, in order: `counts` says how many lie in each cell."""
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    return pa.ListArray.from_arrays(offsets, table.combine_chunks().to_struct_array().combine_chunks())


def rows_of(column: pa.ChunkedArray) -> pa.Table:
    """The rows in all cells of a column, as one table."""
    batches = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in column.chunks]
    return pa.Table.from_batches(batches, pa.schema(list(column.type.value_type)))
