"""Every command that reads a run folder reads an untrusted one or refuses it in one sentence."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from camrobust.contract.errors import UserError
from camrobust.contract.schema import COMMITS, IMAGES
from camrobust.interface.cli import main
from camrobust.io.parquet_budget import Budget, TooLargeTableError
from camrobust.io.store import open_store
from camrobust.results.counted import FORMAT_KEY
from camrobust.results.folder import open_run
from camrobust.results.tables import read_frame
from tests.documents import run_document, write_json
from tests.hostile.folders import repair, write
from tests.hostile.mutations import BOMBS, NASTY, bomb
from tests.runs import ROOT, environment

MUTATIONS = 500 if os.environ.get("CAMROBUST_ALL") else 40
"""Number of spoiled folders; `python -m tests.hostile.fuzz 5000` tries more and prints what it finds."""
COMMANDS = ("verify", "status", "report", "aggregate", "compare")
MOST_MIB = 2048


def run(command, folder):
    return main([command, str(folder), *([str(folder)] if command == "compare" else [])])


@pytest.mark.linux
def test_a_spoiled_folder_gives_at_most_one_sentence():
    done = subprocess.run([sys.executable, "-m", "tests.hostile.fuzz", str(MUTATIONS)], capture_output=True, text=True,
                          check=False, cwd=ROOT, timeout=3600,
                          env=environment(OMP_NUM_THREADS="1", POLARS_MAX_THREADS="1"))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["offenders"] == []
    assert result["peak_mib"] <= MOST_MIB
    # If every command ended alike, spoiling would be harmless or always stop at the first check.
    for command in COMMANDS:
        ended = {code: result["codes"].get(f"{command} {code}", 0) for code in (0, 2)}
        assert min(ended.values()) >= MUTATIONS // 20, result["codes"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "run").store.uri


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [0, 1])
def test_the_folders_are_sound_before_they_are_spoiled(number, tmp_path, capsys):
    write(tmp_path / "run", number=number)
    for command in COMMANDS:
        assert run(command, tmp_path / "run") == 0, capsys.readouterr().err


FIRST = [
    (b"{}", "models: Field required"),
    (b"[]", "Input should be an object"),
    (b"[" * 300_000, "Invalid JSON: recursion limit exceeded"),
    (b"", "Invalid JSON: EOF while parsing a value"),
    (b"[" + b"[]," * 5_000_000 + b"[]]", "it holds more than 4,000,000 values"),
]


@pytest.mark.parametrize(("content", "problem"), FIRST)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_invalid_run_json_is_one_sentence(folder, capsys, command, content, problem):
    (folder / "run.json").write_bytes(content)
    assert run(command, folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"camrobust: run: {folder}/run.json is damaged; run again with --fresh ({problem}")


CHANGES = [
    ({"models": "m"}, "models: Input should be a valid array"),
    ({"models": []}, "models: List should have at least 1 item after validation, not 0"),
    ({"models": ["m", "m"]}, "models must have different names"),
    ({"cams": ["x" * 1001]}, "cams.0: String should have at most 1000 characters"),
    ({"variants": [{"perturbation": "x"}]}, "variants.0.strength: Field required"),
    ({"planned": {"images": 0, "rows": 0}}, "planned.images must be at least 1, got 0"),
    ({"planned": {"images": 5, "rows": 6}}, "planned.rows must be images × models × variants × cams = 20, got 6"),
    ({"planned": {"images": 5, "rows": 20, "cams": 3}}, "planned.cams must be 2, got 3"),
    ({"config": {"metric": {"average": "median"}}}, "config.metric.average: Input should be 'macro' or 'micro'"),
    ({"config": {"metric": None}}, "config.metric: Input should be an object"),
    ({"config": {"x": float("nan")}}, "config: a number must be finite"),
    ({"config": {"x": 10**30}}, "config: a number must fit into 64 bits"),
    ({"config": {"x": [[[[]]]]}}, None),
    ({"numbers": {"datasets": [{"images": "x"}]}}, "numbers.datasets.0.name: Field required"),
    ({"manifest": {"key": "../../etc/passwd"}}, "manifest: a run gives no manifest the name '../../etc/passwd'"),
    ({"same_as": {"m": ["gradcam"]}}, "same_as.m: Input should be an object"),
    ({"classes": {"m": [1]}}, "classes.m.0: Input should be a valid string"),
]


@pytest.mark.parametrize(("changes", "problem"), CHANGES)
def test_a_wrong_value_in_run_json_is_named(folder, capsys, changes, problem):
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | changes))
    ended = {command: run(command, folder) for command in COMMANDS}
    if problem is None:
        assert set(ended.values()) == {0}
        return
    assert set(ended.values()) == {2}
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"camrobust: run: {folder}/run.json is damaged; run again with --fresh ({problem})"] * len(
        COMMANDS
    )


def test_a_run_of_a_later_version_is_recognised(folder, capsys):
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | {"format": 2}))
    assert run("verify", folder) == 2
    assert capsys.readouterr().err == (
        f"camrobust: run: {folder}/run.json was written by a later version of camrobust; update camrobust to read it\n"
    )
    (folder / "run.json").write_text(json.dumps(document))
    commit = next(folder.glob("commits/*.parquet"))
    table = pq.ParquetFile(commit).read()
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {FORMAT_KEY: b"2"}), commit)
    with pytest.raises(UserError, match="was written by a later version of camrobust"):
        open_run(str(folder)).committed()


def test_version_0_1_is_read_with_defaults(tmp_path):
    folder = open_run(str(tmp_path))
    kept = ("planned", "models", "cams", "variants")
    old = {key: value for key, value in run_document(3).items() if key in kept}
    write_json(folder, "run.json", old)
    found = folder.run()
    assert found.manifest.model_dump() == {"key": "manifest.parquet", "sha256": ""}
    read = found.config
    assert (read.seed, read.gallery_images, read.metric.average, read.summary.intervals) == (0, 0, "macro", "delta")
    assert (read.plain, found.controls, found.same_as, found.families) == ({}, [], {}, {})
    # Given values and their order are kept.
    config = {"z": 1, "metric": {"rbo_p": 0.9, "average": "micro"}, "a": [1, {"b": None}]}
    write_json(folder, "run.json", old | {"config": config})
    read = folder.run().config
    assert list(read.plain.items()) == list(config.items())
    assert read.metric.average == "micro"


@pytest.mark.parametrize("kind", ["zeros", "fifo"])
@pytest.mark.parametrize("what", ["run.json", "manifest", "commits", "scores", "lease", "done", "summary"])
def test_only_regular_files_are_read(folder, capsys, monkeypatch, kind, what):
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    path = folder / what if what.endswith(".json") else next(one for one in (folder / what).rglob("*") if one.is_file())
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for command in COMMANDS:
        assert run(command, folder) in (0, 1, 2)
        assert "stopped by" not in capsys.readouterr().err


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_file_cannot_fill_the_memory(folder, what):
    key, columns = {True: ("commits", COMMITS), False: ("images", IMAGES)}["commit" in what]
    path = next(folder.glob(f"{key}/*.parquet"))
    path.write_bytes(bomb(pq.ParquetFile(path).read(), "image_id", what))
    assert path.stat().st_size < 400_000
    store = open_store(str(folder))
    with pytest.raises(
        TooLargeTableError,
        match=r"would unpack to more than \d{3} MiB, too much for a table of its size, and is not read",
    ):
        read_frame(store, str(path.relative_to(folder)), columns)


def test_a_lying_footer_is_not_believed(folder, monkeypatch):
    """The sizes of the pages are added up, whatever the footer states."""
    path = next(folder.glob("images/*.parquet"))
    path.write_bytes(bomb(pq.ParquetFile(path).read(), "image_id", "one text, its footer lies"))
    metadata = pq.ParquetFile(path).metadata
    told = sum(metadata.row_group(0).column(place).total_uncompressed_size for place in range(metadata.num_columns))
    assert told < 2**20
    with pytest.raises(TooLargeTableError):
        read_frame(open_store(str(folder)), str(path.relative_to(folder)), IMAGES)


def test_a_budget_is_shared_and_grows_with_the_files():
    budget = Budget()
    budget.add(10)
    budget.take(256 * 2**20, "a")
    budget.take(256 * 10, "b")
    with pytest.raises(TooLargeTableError, match="run: c would unpack to more than 256 MiB"):
        budget.take(1, "c")
    budget.add(1)
    budget.take(31, "d")


TABLES = [
    (lambda table: table.drop_columns("width"), None),
    (lambda table: table.drop_columns("image_id"), "the column image_id is missing"),
    (lambda table: table.append_column("image_id", table["image_id"]), "the column image_id is there twice"),
    (lambda table: table.set_column(0, "dataset", pa.array([1] * table.num_rows)),
     "the column dataset must be of type string, got int64"),
    (lambda table: table.set_column(0, "dataset", pa.nulls(table.num_rows, pa.string())),
     "the column dataset has rows without a value"),
    (lambda table: table.set_column(0, "dataset", pa.array(["x" * 70_000] * table.num_rows)),
     "the column dataset holds a value of more than 65536 bytes"),
    (lambda table: table.set_column(0, "dataset", pa.array([["d"]] * table.num_rows)),
     "the column dataset must be of type string, got list<"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), TABLES)
def test_a_wrong_table_is_named(folder, capsys, change, problem):
    path = next(folder.glob("images/*.parquet"))
    pq.write_table(change(pq.ParquetFile(path).read()), path)
    repair(folder)
    ended = {command: run(command, folder) for command in ("report", "aggregate", "compare")}
    if problem is None:
        assert set(ended.values()) == {0}
        return
    assert set(ended.values()) == {2}
    for line in capsys.readouterr().err.splitlines():
        if line.startswith("camrobust: "):
            assert line.startswith(f"camrobust: run: {path} is not a table as camrobust writes it ({problem}")


def test_untrusted_pictures_are_redrawn_or_refused(folder, capsys):
    from io import BytesIO

    from PIL import Image

    sink = BytesIO()
    Image.new("RGB", (4100, 8)).save(sink, "JPEG")
    for photo, said in ((b"<svg onload=alert(1)>", "a picture in maps/ is no JPEG that can be read"),
                        (sink.getvalue(), "a picture in maps/ is larger than 4096 px")):  # fmt: skip
        for path in folder.glob("maps/*.parquet"):
            table = pq.ParquetFile(path).read()
            place = table.column_names.index("photo")
            pq.write_table(table.set_column(place, "photo", pa.array([photo] * table.num_rows, pa.binary())), path)
        repair(folder)
        assert run("report", folder) == 2
        assert capsys.readouterr().err.startswith(f"camrobust: report: {said}")


NAMES = ["../../x", "/etc/passwd", "..", NASTY, "é/日本", "%2e%2e%2f"]


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere(tmp_path, capsys, name):
    (tmp_path / "a" / "b").mkdir(parents=True)
    folder = tmp_path / "a" / "b" / "run"
    write(folder, dataset=name, model=name, identity=name)
    before = {str(path) for path in tmp_path.rglob("*") if folder not in path.parents}
    for command in COMMANDS:
        assert run(command, folder) == 0, capsys.readouterr().err
    assert {str(path) for path in tmp_path.rglob("*") if folder not in path.parents} == before
    page = next((folder / "report").rglob("index.html")).read_text()
    assert "<script>alert(1)" not in page
