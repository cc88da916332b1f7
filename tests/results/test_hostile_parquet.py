"""Parquet files of a stranger hold pickles in every place where some reader has unpickled them; none may run.

The commands run in a process that has imported Ray Data, as `camrobust run` has when it verifies. This import registers
Ray's column types with pyarrow; Ray 2.49 to 2.54 unpickled them while reading a schema.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from camrobust.results.counted import FILES_KEY
from camrobust.run.summarise import aggregate
from tests.results.test_reduce import write_run
from tests.runs import ROOT, environment

KINDS = {
    "ray.data.arrow_tensor": pa.list_(pa.float64()),
    "ray.data.arrow_tensor_v2": pa.large_list(pa.float64()),
    "ray.data.arrow_variable_shaped_tensor": pa.struct({"data": pa.list_(pa.float64()), "shape": pa.list_(pa.int32())}),
    "ray.data.arrow_pickled_object": pa.large_binary(),
    "arrow.py_extension_type": pa.large_binary(),
    "POLARS_EXTENSION_TYPE": pa.large_binary(),
    "pandas": pa.large_binary(),
}
"""Names of column types, and the types in which their columns are stored."""
OPEN = {"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1"}
"""Makes Ray 2.60 unpickle as older versions did, which proves that the files hold working pickles."""
COMMANDS = """
import sys, traceback
import ray.data
from camrobust.interface.cli import main
from camrobust.io.manifest import list_images
from tests.hostile.fuzz import remember_drawings

remember_drawings()
for hostile in sys.argv[2:]:
    for arguments in (["verify", hostile], ["status", hostile], ["aggregate", hostile], ["report", hostile],
                      ["compare", sys.argv[1], hostile]):
        try:
            main(arguments)
        except BaseException:  # polars panics with one that is no Exception
            traceback.print_exc()
    try:
        list_images("d", hostile + "/manifest.parquet")
    except BaseException:
        traceback.print_exc()
"""


class Payload:
    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (self.made,)


def poison(path, kind, pickled):
    """Add a column whose type is described by a pickle, and whose cells are pickles if the type can hold them."""
    table = pq.ParquetFile(path).read()
    cell = pickled if KINDS[kind] == pa.large_binary() else None
    metadata = {} if kind == "pandas" else {"ARROW:extension:name": kind, "ARROW:extension:metadata": pickled}
    more = pa.field("more", KINDS[kind], metadata=metadata)
    table = table.append_column(more, pa.array([cell] * table.num_rows, more.type))
    described = {"columns": [{"name": name, "field_name": name, "pandas_type": "object", "numpy_type": "object",
                              "metadata": {"pickle": pickled.decode()}} for name in table.column_names],
                 "index_columns": [], "column_indexes": []}  # fmt: skip
    pq.write_table(
        table.replace_schema_metadata((table.schema.metadata or {}) | {"pandas": json.dumps(described)}), path
    )


@pytest.fixture
def hostile(tmp_path):
    """Two run folders per kind: one with poisoned tables and commits that name them, one with poisoned commits.

    A pickle that runs makes a folder with the name of its kind under `ran`.
    """
    (tmp_path / "ran").mkdir()
    run = write_run(tmp_path / "whole")
    aggregate(run)
    for kind in KINDS:
        # Protocol 0 is text; some places accept only text.
        pickled = pickle.dumps(Payload(str(tmp_path / "ran" / kind)), protocol=0)
        folder = shutil.copytree(tmp_path / "whole", tmp_path / kind)
        shutil.copytree(tmp_path / "whole", tmp_path / f"{kind} commits")
        commits = [*folder.glob("commits/*.parquet")]
        for path in {*folder.rglob("*.parquet")} - {*commits}:
            poison(path, kind, pickled)
        for path in commits:
            name_sizes(path, folder)
            poison(tmp_path / f"{kind} commits" / "commits" / path.name, kind, pickled)
    return tmp_path


def name_sizes(commit, folder):
    """Write the sizes of the files into their commit, because it counts only with the right sizes."""
    table = pq.ParquetFile(commit).read()
    metadata = table.schema.metadata
    sizes = {name: (folder / name).stat().st_size for name in json.loads(metadata[FILES_KEY])}
    pq.write_table(table.replace_schema_metadata(metadata | {FILES_KEY: json.dumps(sizes)}), commit)


def what_ran(folder, **variables):
    folders = [folder / f"{kind}{more}" for kind in KINDS for more in ("", " commits")]
    read = subprocess.run([sys.executable, "-c", COMMANDS, folder / "whole", *folders], capture_output=True, text=True,
                          check=False, env=environment(**variables), cwd=ROOT, timeout=300)  # fmt: skip
    assert read.returncode == 0, read.stderr
    return {path.name for path in (folder / "ran").iterdir()}


def test_reading_a_strangers_tables_runs_nothing(hostile):
    assert what_ran(hostile) == set()


def test_the_same_tables_run_code_where_ray_is_told_to_unpickle(hostile):
    assert what_ran(hostile, **OPEN) == {kind for kind in KINDS if "tensor" in kind}
