"""Outputs that cannot be written: one sentence, and nothing half-written that is later taken for whole."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import camrobust
from camrobust.contract.errors import RunFailed, UserError
from camrobust.interface.cli import main
from camrobust.interface.config_schema import FILE
from camrobust.interface.evaluation import Evaluation
from camrobust.io.local_folder import Folder, write_file
from camrobust.run.report_elsewhere import PAGE
from camrobust.run.summarise import aggregate, summaries
from tests.photos import write_photos
from tests.results.test_reduce import write_run
from tests.runs import environment

BYTES = 2000
"""Size at which files cannot grow in these tests."""


@contextmanager
def full_disk(limit=BYTES):
    """Files cannot grow beyond a size: writing fails as on a full disk, but with another number (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    target.chmod(0o640)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_file(target, b"x" * 2 * BYTES)
    assert files(tmp_path) == {"a.txt": b"before"}
    (tmp_path / "link").symlink_to(target)
    write_file(tmp_path / "link", b"after")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"after", 0o640)
    assert (tmp_path / "link").is_symlink()
    write_file(Path(os.devnull), b"x")
    assert not Path(os.devnull).is_file()


def test_init_leaves_no_half_of_a_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 1)
    for limit in (0, BYTES):
        with full_disk(limit):
            assert main(["init", "photos"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "camrobust: init: cannot write 'run.yaml' (File too large); choose another --config"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert main(["init", "photos"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "run.yaml", FILE}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two CAMs."""
    folder = write_run(tmp_path_factory.mktemp("run") / "my run")
    aggregate(folder)
    return Path(folder.uri)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (lambda result, place: result.save(place / "r.parquet"), "r.parquet"),
        (lambda result, place: result.report(place), "index.html"),
    ],
    ids=["save", "report"],
)
def test_a_result_that_cannot_be_written_leaves_the_earlier_one(run, save, name, tmp_path, monkeypatch):
    page = PAGE + b" " * BYTES
    drawn = SimpleNamespace(files=lambda: iter([("figures/curves.csv", b"a"), ("index.html", page)]))
    monkeypatch.setattr(Evaluation, "_report", lambda _: drawn)
    result = camrobust.load_run(run)
    save(result, tmp_path)
    before = files(tmp_path)
    with full_disk(), pytest.raises(UserError, match=r"cannot write '.*' \(File too large\); choose another"):
        save(result, tmp_path)
    assert files(tmp_path) == before
    assert name in before


def test_a_picture_that_cannot_be_written_leaves_the_earlier_one(tmp_path, capsys):
    write_photos(tmp_path, 1)
    typed = ["sheet", str(tmp_path / "photo-000.jpg"), "--perturb", "contrast", "--output", str(tmp_path / "s.png")]
    assert main(typed) == 0
    before = files(tmp_path)
    with full_disk():
        assert main(typed) == 2
    assert "s.png' (File too large); choose another --output" in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["aggregate"], "aggregate: nothing may be written in '{run}'; its tables belong in the run: correct"),
        (["report"], "report: nothing may be written in '{run}'; choose another --output"),
    ],
)
def test_a_run_folder_that_may_not_be_written_is_told_first(run, typed, sentence, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != run)
    monkeypatch.setattr("camrobust.results.shards.open_results", lambda uri: pytest.fail("read before it was told"))
    assert main([*typed, str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"camrobust: {sentence.format(run=run)}")


def test_tables_of_two_aggregations_are_not_drawn_together(tmp_path, monkeypatch, capsys):
    def write(folder, key, content):
        if key.endswith("by_model.parquet"):
            raise RunFailed("the disk is full")
        whole(folder, key, content)

    folder = write_run(tmp_path / "my run")
    aggregate(folder)
    place = tmp_path / "my run" / "summary"
    whole = Folder.write
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", write)
        assert main(["aggregate", folder.uri, "--intervals", "bootstrap"]) == 1
    assert main(["report", folder.uri]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f"camrobust: report: only some of the tables in {place} were written again; run camrobust aggregate "
        f"'{folder.uri}' first"
    )
    aggregate(folder)
    assert "by_model" in summaries(folder)


FULL = "camrobust: a disk is full (No space left on device); free some space and run the same command again\n"


@pytest.mark.linux
@pytest.mark.parametrize("typed", [["list", "segments"], ["list", "segments", "--json"], ["schema"], ["--version"]])
def test_a_full_disk_behind_standard_output_is_one_sentence(typed, monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        try:
            code = main(typed)
        except SystemExit as end:
            code = end.code
    assert (code, capsys.readouterr().err) == (1, FULL)


@pytest.mark.linux
def test_python_ends_without_a_traceback_of_its_own():
    shell = ["sh", "-c", f"{sys.executable} -m camrobust --version >/dev/full"]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, FULL)


def test_closed_streams_are_no_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["schema"]) == 0
    monkeypatch.setattr("sys.stderr", None)
    assert main(["status", "nowhere"]) == 2
