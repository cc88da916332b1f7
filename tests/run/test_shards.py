"""One run in three shards, each with a driver and a folder of its own, is the same as the run in one."""

import json
import shutil

import polars as pl
import pytest

import camrobust as package
from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.contract.schema import SUMMARIES
from camrobust.contract.sharding import SHARDS, parse_shard, shard_of
from camrobust.interface.cli import main
from camrobust.results.folder import fresh_folder, open_run
from camrobust.results.shards import open_results
from camrobust.run.summarise import summaries
from tests import in_process
from tests.documents import change_document
from tests.photos import write_photos
from tests.runs import KEYS, config
from tests.shards import SMALL, measured, refused

N = 3
TABLES = (*SUMMARIES, "tests", "characteristics")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "set"
    write_photos(folder, 13)
    (folder / "page.png").write_text("<html>503</html>")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, photos):
    return measured(tmp_path_factory.mktemp("whole"), photos, [None]).parent / "out"


@pytest.fixture(scope="module")
def shards(tmp_path_factory, photos):
    """The second shard planned the run; nothing was pooled yet."""
    return measured(tmp_path_factory.mktemp("shards"), photos, ["2/3", "3/3", "1/3"])


@pytest.fixture
def copied(shards, tmp_path):
    """A copy to be damaged: its configuration and its output."""
    shutil.copytree(shards.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "run.yaml"
    path.write_text(path.read_text().replace(str(shards.parent), str(tmp_path / "copy")))
    return path, tmp_path / "copy" / "out"


def command(capsys, *arguments):
    return in_process.camrobust(capsys, *arguments)


def test_every_row_and_every_summary_value_is_that_of_the_run_without_shards(whole, shards, capsys):
    out = shards.parent / "out"
    assert [record(out, number)["shard"] for number in (1, 2, 3)] == [{"number": n, "of": N} for n in (1, 2, 3)]
    assert min(record(out, number)["planned"]["images"] for number in (1, 2, 3)) > 0
    code, printed, _ = command(capsys, "compare", "--exact", out, whole, "--json")
    assert code == 0
    tables = json.loads(printed)["tables"]
    assert tables["scores"]["rows"] == tables["scores"]["equal"] == 13 * 2 * 3 * 5
    assert tables["failures"]["rows"] == 1
    for intervals in ("bootstrap", "delta"):
        assert command(capsys, "aggregate", out, "--intervals", intervals)[0] == 0
        assert command(capsys, "aggregate", whole, "--intervals", intervals)[0] == 0
        pooled, alone = (summaries(open_results(str(place))) for place in (out, whole))
        assert set(pooled) == set(TABLES)
        for name in TABLES:
            assert pooled[name].equals(alone[name]), name
    assert (out / "summary" / "00000006" / "by_cam.csv").is_file()
    assert package.load_run(out).scores.sort(KEYS).equals(package.load_run(whole).scores.sort(KEYS))
    assert package.load_run(out).summary().equals(package.load_run(whole).summary())


def record(out, number):
    return json.loads((out / f"shard-{number}-of-{N}" / "run.json").read_text())


def test_the_digest_is_that_of_the_run_without_shards(whole, shards):
    expected = json.loads((whole / "run.json").read_text())
    for number in (1, 2, 3):
        found = record(shards.parent / "out", number)
        for key in ("digest", "numbers", "pass_sizes", "weights_sha256", "target_layers", "manifest", "variants"):
            assert found[key] == expected[key], key
    assert expected["shard"] is None


def test_the_gallery_is_that_of_the_run_without_shards(whole, shards, capsys):
    out = shards.parent / "out"
    order = ["dataset", "image_id", "model", "perturbation", "strength", "replicate"]
    maps = [(run := open_results(str(place))).table("maps", run.committed()).sort(order) for place in (out, whole)]
    assert maps[0].equals(maps[1])
    assert maps[0]["image_id"].n_unique() == 3
    assert command(capsys, "aggregate", out)[0] == 0
    code, printed, _ = command(capsys, "report", out)
    page = (out / "report" / "00000006" / "index.html").read_text()
    assert (code, printed) == (0, f"{out}/report/00000006/index.html\n")
    assert page.count("<figure") == open_page(whole).count("<figure")
    assert "page.png" in page


def open_page(out):
    return (out / open_run(str(out)).place("report") / "index.html").read_text()


def test_verify_and_status_tell_of_every_shard(shards, copied, capsys):
    out = shards.parent / "out"
    code, printed, _ = command(capsys, "verify", out, "--json")
    counts = json.loads(printed)
    assert code == 0
    assert (counts["images"], counts["failed_images"], counts["planned_rows"]) == (14, 1, 14 * 2 * 3 * 5)
    code, _, said = command(capsys, "status", out)
    assert code == 0
    parts = [record(out, number)["planned"]["images"] for number in (1, 2, 3)]
    assert said.splitlines() == [
        f"shard {n}/3: complete: {count} of {count} images (100.0%)" for n, count in enumerate(parts, 1)
    ]
    path, out = copied
    victim = next((out / "shard-2-of-3" / "scores").rglob("*.parquet"))
    victim.unlink()
    code, _, said = command(capsys, "verify", out)
    first, last = said.splitlines()
    assert code == 1
    assert first.startswith("incomplete: ")
    assert first.endswith(f"({out}/shard-2-of-3)")
    assert last.startswith("incomplete: ")
    assert last.endswith(f"({out})")
    before = sorted((out / "summary").glob("*"))
    assert command(capsys, "aggregate", out)[0] == 1
    assert sorted((out / "summary").glob("*")) == before
    assert in_process.run(load_config(path), shard=parse_shard("2/3")).measured == 1
    assert command(capsys, "verify", out)[0] == 0
    assert command(capsys, "compare", "--exact", out, shards.parent / "out")[0] == 0


def test_a_missing_shard_is_named(copied, capsys):
    path, out = copied
    shutil.rmtree(out / "shard-3-of-3")
    sentence = f"shards: {out} holds a run in 3 shards, but not 3/3; run the same configuration with --shard 3/3"
    for name in ("aggregate", "report", "verify"):
        assert refused(capsys, name, out) == sentence
    with pytest.raises(UserError, match="but not 3/3"):
        package.load_run(out)
    _, _, said = command(capsys, "status", out)
    assert said.splitlines()[2] == "shard 3/3: not begun; run the same configuration with --shard 3/3"
    assert in_process.run(load_config(path), shard=parse_shard("3/3")).exit_code == 0
    assert command(capsys, "verify", out)[0] == 0


def test_a_folder_of_another_run_is_no_shard(copied, whole, capsys):
    _, out = copied
    expected = f"shards: {out}/shard-1-of-3 is not shard 1/3 of the run that shards.json beside it describes"
    shutil.rmtree(out / "shard-1-of-3")
    shutil.copytree(out / "shard-2-of-3", out / "shard-1-of-3")
    assert refused(capsys, "verify", out) == f"{expected} (different: shard); put back the folder that is"
    shutil.rmtree(out / "shard-1-of-3")
    shutil.copytree(whole, out / "shard-1-of-3")
    change_document(open_run(str(out / "shard-1-of-3")), digest="0" * 16)
    assert refused(capsys, "verify", out) == f"{expected} (different: digest, shard); put back the folder that is"


def test_runs_with_and_without_shards_do_not_mix(shards, whole, photos, copied, capsys):
    path, out = copied
    assert refused(capsys, "run", path) == (
        f"output: {out} holds a run in 3 shards; give --shard I/3, or choose another output"
    )
    assert refused(capsys, "run", path, "--shard", "1/2") == (
        f"--shard: {out} holds a run in 3 shards, got 1/2; give I/3, or choose another output"
    )
    assert refused(capsys, "run", path, "--shard", "1/3", "--fresh") == (
        "--fresh: every shard would choose a new folder of its own; choose another --output for all"
    )
    assert refused(capsys, "run", path, "--shard", "1/3", "--set", "seed=7") == (
        f"output: {out} holds a run of another configuration (different: seed); choose another output, or --fresh to "
        "start in a new folder beside it"
    )
    assert refused(capsys, "run", path, "--output", out / "shard-1-of-3") == (
        f"output: {out}/shard-1-of-3 holds only shard 1/3 of a run; give the folder above it and --shard 1/3"
    )
    assert refused(capsys, "run", path, "--output", whole, "--shard", "1/3") == (
        f"output: {whole} holds a run without shards; leave --shard out, or choose another output"
    )
    assert refused(capsys, "aggregate", whole, out, "--output", out.parent / "both").endswith("leave one of them out")
    assert fresh_folder(str(out)).uri == f"{out}-2"
    assert refused(capsys, "aggregate", whole, out, "--output", out) == (
        f"aggregate: {out} holds a run; choose another --output"
    )


def test_a_plan_of_a_shard_counts_its_images(shards, photos, tmp_path, capsys):
    path = config(tmp_path, photos, **SMALL)
    out = shards.parent / "out"
    price = ("--forwards-per-s", 10, "--dollars-per-hour", 3600, "--interruptions", 1e-9, "--replacement-s", 1)
    counts = []
    for number in (1, 2, 3):
        code, printed, _ = command(capsys, "plan", path, *price, "--shard", f"{number}/3", "--json")
        assert code == 0
        plan = json.loads(printed)
        counts.append(plan["images"])
        assert plan["dollars_with_interruptions"] == pytest.approx(plan["explain_dollars"], abs=0.02)
    assert counts == [record(out, number)["planned"]["images"] for number in (1, 2, 3)]
    assert not (tmp_path / "out").exists()


def test_failed_images_of_a_shard_are_measured_again(copied, capsys):
    """The number of the pooled tables grows with any shard's, so nobody takes old tables for new ones."""
    path, out = copied
    assert command(capsys, "aggregate", out)[0] == 0
    number = shard_of("made up", "page.png", N)
    assert command(capsys, "run", path, "--shard", f"{number}/3", "--retry-failures", "--quiet")[0] == 0
    assert "run camrobust aggregate" in refused(capsys, "report", out)
    assert command(capsys, "aggregate", out)[0] == 0
    assert sorted(one.name for one in (out / "summary").iterdir()) == ["00000006", "00000008"]
    table = pl.read_parquet(out / "summary" / "00000008" / "by_cam.parquet")
    assert set(table["n_images"]) == {13}


def test_shards_without_what_they_have_in_common_are_not_continued(copied, capsys):
    path, out = copied
    (out / SHARDS).unlink()
    assert refused(capsys, "run", path, "--shard", "1/3") == (
        f"output: {out}/shard-1-of-3 holds a run, but there is no shards.json beside it; put it back"
    )
    assert main(["verify", str(out / "shard-1-of-3")]) == 0
