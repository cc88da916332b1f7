"""Certificates in a run: every planned one is there once, whatever was stopped, and they are priced and told."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from camrobust.contract.certificates import CERTIFICATE_KEYS, CERTIFIED
from camrobust.contract.certify_config import CertifyConfig
from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.contract.sharding import parse_shard
from camrobust.interface.evaluation import load_run
from camrobust.results.exact import compare_exactly
from camrobust.results.folder import open_run
from camrobust.results.lease import Lease
from camrobust.results.shards import open_results
from camrobust.results.verify import verify
from camrobust.run.batch_sizes import images_per_block, longest_image_s
from camrobust.run.plan import make_plan
from camrobust.run.summarise import summaries
from tests import in_process
from tests.photos import write_photos
from tests.results.test_hostile_parquet import name_sizes
from tests.runs import SMALL, config, report

ASKED = {"sigma": [0.02, 0.1], "samples": 40, "pilot": 4, "radii": [0.0, 0.1, 0.5], "alpha": 0.05}
PHOTOS, CAMS = 3, ["gradcam", "random"]
ROWS = PHOTOS * len(CAMS) * 2 * 3
CHANGES = SMALL | {"cams": CAMS, "perturbations": ["contrast:5"], "gallery_images": 1, "certify": ASKED}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    write_photos(folder / "set", PHOTOS, size=(90, 80))
    (folder / "set" / "empty.jpg").write_bytes(b"")
    return config(folder, folder / "set", max_failure_share=0.5, **CHANGES)


@pytest.fixture(scope="module")
def done(path):
    told = []
    outcome = in_process.run(path, say=told.append)
    assert outcome.exit_code == 0
    return outcome.folder, told


def rows_of(folder):
    return folder.table("certificates", folder.committed())


def test_every_certificate_is_there_once_is_counted_and_is_summarised(done, capsys):
    folder, told = done
    rows = rows_of(folder)
    assert rows.height == ROWS
    assert rows.select(CERTIFICATE_KEYS).is_unique().all()
    assert rows["membership"].is_not_null().sum() == ROWS // PHOTOS  # the gallery has one image
    assert f"certificates: {(PHOTOS + 1) * 2 * 44:,} noisy copies of images pass, for 48 rows" in told
    code, printed, _ = in_process.camrobust(capsys, "verify", folder.uri, "--json")
    counts = json.loads(printed)
    assert (code, counts["planned_certificates"], counts["certificate_rows"], counts["failed_certificates"]) == (
        0, 48, ROWS, 12,
    )  # fmt: skip
    assert folder.done().certificate_rows == ROWS
    assert (folder.run().planned.certificates, folder.run().planned.certificate_forwards) == (48, 4 * 2 * 44)
    summary = load_run(folder.uri).summary("certificates")
    assert summary.columns == [column.name for column in CERTIFIED]
    written = pl.read_parquet(folder.store.locate(folder.place("summary") + "certificates.parquet"))
    assert written.equals(summary)
    assert set(summary["n_images"]) == {PHOTOS}
    page = report(Path(folder.uri)).read_text()
    assert '<h2 id="guarantees">Guarantees</h2>' in page
    assert "Certain segments of gradcam" in page


def test_a_run_that_was_stopped_and_lost_a_file_is_in_the_end_equal_bit_for_bit(done, path, tmp_path, monkeypatch):
    again = load_config(str(path), output=str(tmp_path / "again"))
    check, calls = Lease.check, []

    def stopped(lease):
        calls.append(lease)
        if len(calls) == 2:
            raise KeyboardInterrupt
        check(lease)

    monkeypatch.setattr(Lease, "check", stopped)
    with pytest.raises(KeyboardInterrupt):
        in_process.run(again)
    monkeypatch.setattr(Lease, "check", check)
    half = open_run(str(tmp_path / "again"))
    assert 0 < rows_of(half).height < ROWS
    broken = verify(half)
    assert not broken.complete
    assert broken.missing
    assert in_process.run(again).exit_code == 0
    exact = compare_exactly(half, done[0])
    assert exact.is_equal
    assert exact.tables["certificates"].equal == ROWS
    assert f"{ROWS} rows of certificates" in exact.lines()[0]
    lost = half.committed().tables("certificates")[0]
    (tmp_path / "again" / lost).unlink()
    assert verify(half).missing == 1
    assert in_process.run(again).exit_code == 0
    assert compare_exactly(half, done[0]).is_equal


def test_a_run_in_shards_is_the_run_without_shards(done, path, tmp_path, capsys):
    whole, out = done[0], tmp_path / "out"
    config = load_config(str(path), output=str(out))
    for shard in ("2/2", "1/2"):
        assert in_process.run(config, shard=parse_shard(shard)).exit_code == 0
    pooled = open_results(str(out))
    assert min(rows_of(shard).height for shard in pooled.folders) > 0
    exact = compare_exactly(pooled, whole)
    assert exact.is_equal
    assert exact.tables["certificates"].equal == ROWS
    assert verify(pooled).as_dict() == verify(whole).as_dict()
    assert in_process.camrobust(capsys, "aggregate", out)[0] == 0
    assert summaries(pooled)["certificates"].equals(summaries(whole)["certificates"])
    assert load_run(out).summary("certificates").equals(load_run(whole.uri).summary("certificates"))
    code, _, err = in_process.camrobust(capsys, "report", out)
    assert code == 0, err
    assert guarantees(out / pooled.place("report")) == guarantees(Path(whole.uri) / whole.place("report"))


def guarantees(folder):
    """What a page says of certificates, its pictures included."""
    found = re.search(r'<h2 id="guarantees">.*?</section>', (folder / "index.html").read_text(), re.DOTALL)
    return found[0]


def test_a_run_from_before_something_was_tried_is_read_and_continued(done, path, tmp_path, capsys):
    out = shutil.copytree(done[0].uri, tmp_path / "old")
    columns = ["agreement_random", "agreement_attacked"]
    for file in out.glob("certificates/*.parquet"):
        pl.read_parquet(file).drop(columns).write_parquet(file)
    for commit in out.glob("commits/*.parquet"):
        name_sizes(commit, out)
    for file in out.glob("summary/*/*.parquet"):
        table = pl.read_parquet(file)
        table.select(pl.exclude(*columns, *(f"{name}_only" for name in columns))).write_parquet(file)
    folder, again = open_run(str(out)), load_config(str(path), output=str(out))
    document = json.loads((out / "run.json").read_text())
    assert document["config"]["certify"].pop("tries") == 0
    (out / "run.json").write_text(json.dumps(document))
    assert verify(folder).complete
    assert in_process.run(again).measured == 0
    code, _, err = in_process.camrobust(capsys, "report", out)
    assert code == 0, err
    assert compare_exactly(folder, done[0]).is_equal
    (out / folder.committed().tables("certificates")[0]).unlink()
    assert in_process.run(again).measured == 1
    assert compare_exactly(folder, done[0]).is_equal
    assert summaries(folder)["certificates"].equals(summaries(done[0])["certificates"])
    assert "Thin lines" not in report(out).read_text()


def test_a_run_prices_its_copies_and_takes_one_image_after_the_other(path, capsys):
    code, printed, _ = in_process.camrobust(
        capsys, "plan", path, "--forwards-per-s", "10", "--images", "100", "--dollars-per-hour", "36", "--json"
    )
    priced = json.loads(printed)
    assert (code, priced["certificates"], priced["certificate_forwards"]) == (0, 100 * 12, 100 * 88)
    assert priced["explain_dollars"] == pytest.approx(100 * (2 + 88) / 10 / 3600 * 36, abs=0.01)
    assert priced["certificate_bytes"] > 0
    plan = make_plan(load_config(str(path)))
    assert images_per_block(plan, 10_000, 1, "cpu") == 768 // 90
    assert longest_image_s(plan) > 90
    without = make_plan(load_config(str(path)).model_copy(update={"certify": None}))
    assert longest_image_s(without) == 0
    # Two sigmas at two radii that are not 0; nothing can be attacked without a CAM that can be climbed.
    assert make_plan(load_config(str(path), ["certify.tries=2"])).attack_passes == 2 * 2 * 80
    assert make_plan(load_config(str(path), ["certify.tries=2", "cams=[eigencam,random]"])).attack_passes == 0


def test_a_run_without_certificates_is_as_before(path):
    asked = load_config(str(path))
    without = asked.model_copy(update={"certify": None})
    assert "certify" in asked.numbers()
    assert "certify" not in without.numbers()
    assert "certificates" not in make_plan(without).counts()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("certify.sigma=[0]", "config: certify.sigma.0: must be a number above 0 and of at most 1, got 0"),
        ("certify.sigma=[0.1,0.1]", "config: certify.sigma: must be different numbers, got [0.1, 0.1]"),
        ("certify.samples=1", "config: certify.samples: must be a whole number from 2 to 1e+06, got 1"),
        ("certify.radius=[0.1]", "config: certify: unknown key 'radius'; did you mean 'radii'?"),
        ("certify.item=ranks", "config: certify.item: must be one of rank, top, got 'ranks'"),
    ],
)
def test_mistakes_are_one_sentence(path, change, sentence):
    with pytest.raises(UserError) as caught:
        load_config(str(path), [change])
    assert str(caught.value).startswith(sentence)


def test_all_defaults_are_an_empty_section(path):
    assert load_config(str(path), ["certify={}"]).certify == CertifyConfig()
