"""An evaluation as one parquet file: the score rows, and in its metadata the settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.record import content_of, new_record, parse_record, problem
from camrobust.contract.saved import KEY, SavedRecord
from camrobust.contract.schema import SCORES
from camrobust.interface.outputs import check_file
from camrobust.io.local_folder import Folder, write_file
from camrobust.io.objects import MissingObjectError
from camrobust.results.tables import read_frame


def write_saved(path: str | Path, scores: pl.DataFrame, settings: Mapping[str, Any]) -> None:
    """Write scores and settings.

    Raises:
        UserError: the file cannot be written.
    """
    check_file(str(path), "save", "path")
    known = {column.name for column in SCORES}
    record = new_record(SavedRecord, more_columns=[name for name in scores.columns if name not in known], **settings)
    # Arrow's newest form of text is not known to every reader of parquet.
    table = scores.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata({KEY: content_of(record)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    try:
        write_file(Path(path), sink.getvalue().to_pybytes())
    except OSError as error:
        raise UserError(f"save: cannot write '{short(str(path))}' ({error.strerror}); choose another path") from error


def read_saved(path: str | Path) -> tuple[pl.DataFrame, SavedRecord]:
    """Read scores and settings; a stranger may have written them, so sizes and columns are checked first.

    Raises:
        UserError: the file is not a saved evaluation.
    """
    file, what = Path(path).absolute(), f"load: '{short(str(path))}'"
    store = Folder(str(file.parent))
    try:
        _, metadata = read_frame(store, file.name, ())
        if KEY not in metadata:
            raise UserError(f"{what} is not a saved evaluation; give a file of Evaluation.save, or a run folder")
        record = parse_record(metadata[KEY], SavedRecord, what)
        return read_frame(store, file.name, record.columns())[0], record
    except MissingObjectError as error:
        raise UserError(f"load: {error}; correct the path") from error
    except ValueError as error:
        raise UserError(f"{what} is not a saved evaluation ({problem(error)}); save it again") from error
